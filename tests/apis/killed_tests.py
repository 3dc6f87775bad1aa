"""Tests tiny LiDAR nets once per scenario, each in forked processes one of which may end at a chosen point.

Called by test_voting.py as `python killed_tests.py SCENARIOS`, a JSON list of dicts: `arguments` of
`perception.apis.test.test`, number of processes `world`, and `end`, `[kind, rank, count]` or null: that process ends
when it has written so many predictions, by 'kill' (SIGKILL), 'half' (SIGKILL in the middle of the next file), 'ctrl_c'
or a 'full' disk; or [`'zip'`, 0, 1]: SIGKILL just before the zip gets its name. Prints a JSON list of what happened:
`ends` of all processes (exit codes), `results` and `written` (scans) of those that came to their end.
"""
import errno
import json
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot  # noqa: F401  (here once, not in each child)
import torch
import torch._dynamo  # noqa: F401

from perception.apis.cli import run_command
from perception.apis.config import load_config
from perception.apis.test import test
from perception.common import saving as saving


def arm(kind, count):
    """End this process after `count` predictions; returns the list of those written."""
    written, write, replace = [], saving.write_prediction, os.replace

    def write_or_end(path, labels):
        if kind and kind != 'zip' and len(written) == count:
            if kind == 'half':
                path.with_name(f'.{path.name}.part').write_bytes(b'\x93NUMPY half a file')
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind == 'ctrl_c':
                signal.raise_signal(signal.SIGINT)
            else:
                saving.np.save = full_disk
        write(path, labels)
        written.append(path.stem)

    def full_disk(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def replace_or_end(source, target):
        if kind == 'zip' and Path(target).name == 'submission.zip':
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    saving.write_prediction, os.replace = write_or_end, replace_or_end
    return written


def child(scenario, rank, port, report):
    """One process of a scenario; it never returns."""
    log = os.open(f'{report}.log', os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        if scenario['world'] > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(scenario['world']),
                              MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        kind, who, count = scenario['end'] or (None, 0, 0)
        written = arm(kind if who == rank else None, count)
        results = run_command(test, launcher='pytorch' if scenario['world'] > 1 else 'none', **scenario['arguments'])
        Path(report).write_text(json.dumps(dict(results=results, written=written)))
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(scenario, port, folder):
    """All processes of a scenario; when one fails the others are killed, as torchrun does."""
    reports = [str(Path(folder, str(rank))) for rank in range(scenario['world'])]
    running = {}
    for rank, report in enumerate(reports):
        pid = os.fork()
        if pid == 0:
            child(scenario, rank, port, report)
        running[pid] = rank
    ends = [None] * scenario['world']
    while running:
        pid, status = os.wait()
        rank = running.pop(pid)
        ends[rank] = os.waitstatus_to_exitcode(status)
        if ends[rank]:
            time.sleep(0.2)
            for other in running:
                os.kill(other, signal.SIGKILL)
    found = [json.loads(Path(report).read_text()) for report in reports if Path(report).is_file()]
    logs = '\n'.join(Path(f'{report}.log').read_text()[-1500:] for report in reports)
    return dict(ends=ends, results=[one['results'] for one in found],
                written=sorted(scan for one in found for scan in one['written']), log=logs)


def free_port():
    """A port that no other test run uses."""
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


def main():
    torch.set_num_threads(1)
    done, scenarios = [], json.loads(sys.argv[1])
    for config in {scenario['arguments']['config'] for scenario in scenarios}:
        load_config(config)  # imports what it names
    for scenario in scenarios:
        with tempfile.TemporaryDirectory() as folder:
            done.append(run(scenario, free_port(), folder))
    sys.stdout.write(json.dumps(done))


if __name__ == '__main__':
    main()
