"""How commands end after Ctrl-C at awkward moments."""
import argparse
import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import weakref

import pytest
import torch

from perception.apis.cli import resume_command, run_command, split_flags
from perception.utils.checkpoint import save_atomic
from perception.utils.errors import TrainingError


class Thing:
    """Something a weak reference can watch."""


def interrupt_in_a_callback():
    thing = Thing()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))  # Python drops exceptions raised there
    del thing
    return watch


def test_an_interrupt_that_python_drops_is_noticed(capsys):
    def work():
        interrupt_in_a_callback()
        for _ in range(200):
            time.sleep(0.01)
        pytest.fail('the interrupt was lost')

    with pytest.raises(SystemExit) as end:
        run_command(work)
    errors = capsys.readouterr().err
    assert end.value.code == 130
    assert 'Interrupted.' in errors and 'Traceback' not in errors


def test_what_breaks_because_of_an_interrupt_is_no_defect(capsys):
    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError('DataLoader worker exited unexpectedly') from error

    with pytest.raises(SystemExit) as end:
        run_command(work, resumable=True)
    assert end.value.code == 130
    assert '--resume' in capsys.readouterr().err


def test_sigterm_says_how_to_go_on_and_leaves_no_process(capsys):
    workers = []

    def work():
        for _ in range(2):
            workers.append(multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,), daemon=True))
            workers[-1].start()
        workers[0].terminate()  # as a parent ends a worker; it must not take itself for the command
        workers[0].join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(SystemExit) as end:
        run_command(work, resumable=True)
    errors = capsys.readouterr().err
    assert end.value.code == 143 and 'Stopped by SIGTERM. What was written is intact' in errors
    assert workers[0].exitcode == 143 and errors.count('SIGTERM') == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    workers[1].kill()


def test_sigterm_does_not_cut_off_the_sentence_of_an_error(capsys, monkeypatch):
    """As torchrun sends it to the processes that are left when one has died, which they notice themselves, too."""
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')

    sent = []

    class Closed(RuntimeError):
        def __str__(self):  # read while the sentence is made
            if not sent:
                sent.append(os.kill(os.getpid(), signal.SIGTERM))
            return '[/x/pair.cc:547] Connection closed by peer [127.0.0.1]:1'

    def work():
        raise Closed

    with pytest.raises((SystemExit, KeyboardInterrupt)) as end:
        run_command(work, resumable=True)
    errors = capsys.readouterr().err
    assert sent and end.type is SystemExit and end.value.code == 1
    assert errors.startswith('Process 0: another process of this run ended (Connection closed')
    assert 'SIGTERM' not in errors and '--resume' in errors


def test_sigterm_is_noticed_where_ctrl_c_is_ignored(capsys, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell script does for `command &`
    try:
        with pytest.raises(SystemExit) as end:
            run_command(os.kill, os.getpid(), signal.SIGTERM, resumable=True)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.value.code == 143 and 'Stopped by SIGTERM' in capsys.readouterr().err


@pytest.mark.parametrize('error, said', [
    (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 7 GiB.'),
     'CUDA out of memory. Tried to allocate 2.00 GiB, expected'),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to "
                  'allocate 400 bytes. Error code 12'), 'DefaultCPUAllocator: .* memory: .* 400 bytes.*, expected'),
    (MemoryError(), 'no memory, expected')])
def test_too_little_memory_is_one_sentence(capsys, error, said):
    def work():
        raise error

    with pytest.raises(SystemExit) as end:
        run_command(work, resumable=True)
    text = capsys.readouterr().err
    assert end.value.code == 1 and re.match(said, text) and '--resume' in text and 'smaller batch_size' in text


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match='shapes'):
        run_command(torch.mm, torch.ones(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize('error, world, part', [
    (RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. '), 1, 'want of memory'),
    (RuntimeError('DataLoader worker (pid(s) 7, 8) exited unexpectedly'), 2, r'pid(s) 7, 8'),
    (RuntimeError('[gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:9\nmore'), 2, 'another process'),
    (torch.distributed.DistBackendError('NCCL error in: x.cpp'), 2, 'another process of this run ended')])
def test_what_ended_elsewhere_is_one_sentence(capsys, monkeypatch, error, world, part):
    def work():
        raise error

    monkeypatch.setenv('WORLD_SIZE', str(world))
    with pytest.raises(SystemExit) as end:
        run_command(work, resumable=True)
    errors = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 1 and len(errors) == 2 and part in errors[0] and 'continue with' in errors[0]


def test_a_broken_pipe_of_a_dead_worker_is_told_by_its_death(capsys):
    def told(*args):
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')

    def work():
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        raise ConnectionResetError(104, 'Connection reset by peer')

    before = signal.signal(signal.SIGALRM, told)
    try:
        with pytest.raises(SystemExit) as end:
            run_command(work)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert end.value.code == 1 and 'pid 7' in capsys.readouterr().err


def test_a_worker_that_dies_while_a_checkpoint_is_written_is_no_full_disk(tmp_path, monkeypatch):
    def save(*args):
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')

    monkeypatch.setattr(torch, 'save', save)
    with pytest.raises(RuntimeError, match='DataLoader worker'):
        save_atomic({}, tmp_path / 'x.pth')
    assert not list(tmp_path.iterdir())


def test_what_all_processes_know_is_said_once(capsys, monkeypatch):
    def work():
        error = TrainingError('the loss is nan')
        error.in_all_processes = True
        raise error

    for rank in '01':
        monkeypatch.setenv('RANK', rank)
        with pytest.raises(SystemExit):
            run_command(work)
    assert capsys.readouterr().err.count('the loss is nan') == 1


def test_a_package_that_a_library_asks_for_is_named(capsys):
    def work():
        raise ImportError('Please run "pip install future tensorboard" to install the dependencies')

    with pytest.raises(SystemExit) as end:
        run_command(work)
    assert end.value.code == 2
    said = 'MissingDependency: Please run "pip install future tensorboard" to install the dependencies.\n'
    assert capsys.readouterr().err == said


def test_how_to_go_on_is_said_by_the_first_process(capsys, monkeypatch):
    def work():
        raise KeyboardInterrupt

    for rank in '01':
        monkeypatch.setenv('RANK', rank)
        with pytest.raises(SystemExit):
            run_command(work, resumable=True)
    errors = capsys.readouterr().err
    assert errors.count('Interrupted.') == 2 and errors.count('--resume') == 1


def test_a_full_disk_ends_in_one_sentence(capsys):
    def work():
        raise OSError(errno.ENOSPC, 'No space left on device', '/runs/vis_data/config.py')

    with pytest.raises(SystemExit) as end:
        run_command(work, resumable=True)
    errors = capsys.readouterr().err
    assert end.value.code == 2 and '--resume' in errors
    assert errors.startswith('DataError: /runs/vis_data/config.py: No space left on device')
    with pytest.raises(OSError, match='Device or resource busy'):
        run_command(lambda: exec('raise OSError(16, "Device or resource busy")'))


def test_a_line_comes_before_torch_is_imported(run, root, tmp_path):
    done = run(root / 'tools/train.py', tmp_path / 'nothing.py')
    lines = done.stderr.strip().splitlines()
    assert lines[0] == 'train: loading PyTorch ...' and lines[-1].startswith('ConfigError') and len(lines) == 2


@pytest.mark.parametrize('given', [['--resume'], ['--resume', 'a.pth'], ['--resume=a.pth'], []])
def test_the_command_to_go_on_takes_the_newest_checkpoint(monkeypatch, given):
    monkeypatch.setattr('sys.argv', ['tools/train.py', 'c.py', *given, '--amp'])
    assert resume_command().endswith('tools/train.py c.py --amp --resume')


def test_a_defect_keeps_its_traceback_and_the_handler_is_put_back():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(('text', 'rest', 'flags'), [
    ('a b --out x', 'a b --out x', {}), ('--columns x,y,z a b', 'a b', {'columns': 'x,y,z'}),
    ('a --max-range=3 b', 'a b', {'max_range': '3'}), ('a --height -1.7 b', 'a b', {'height': '-1.7'}),
    ('a b --invert', 'a b', {'invert': 'True'}), ('a b --invert --out x', 'a b --out x', {'invert': 'True'}),
    ('a --ou x', 'a', {'ou': 'x'}), ('a -h --', 'a -h --', {}), ('a --key=a=b', 'a', {'key': 'a=b'})])
def test_flags_that_a_parser_does_not_know_are_taken_out(text, rest, flags):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('--out')
    assert split_flags(text.split(), parser) == (rest.split(), flags)


@pytest.mark.parametrize('size', [10, 10 ** 6])
def test_a_reader_that_goes_away_ends_the_command_silently(size):
    read, write = os.pipe()
    os.close(read)
    code = f'from perception.apis.cli import run_command; run_command(print, "x" * {size})'
    done = subprocess.run([sys.executable, '-c', code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141 and not done.stderr
