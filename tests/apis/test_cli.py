"""How commands end after Ctrl-C at awkward moments."""
import errno
import signal
import time
import weakref

import pytest

from perception.apis.cli import run_command


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


def test_a_full_disk_ends_in_one_sentence(capsys):
    def work():
        raise OSError(errno.ENOSPC, 'No space left on device', '/runs/vis_data/config.py')

    with pytest.raises(SystemExit) as end:
        run_command(work, resumable=True)
    errors = capsys.readouterr().err
    assert end.value.code == 2 and errors.count('\n') == 1
    assert errors.startswith('DataError: /runs/vis_data/config.py: No space left on device') and '--resume' in errors
    with pytest.raises(OSError, match='Device or resource busy'):
        run_command(lambda: exec('raise OSError(16, "Device or resource busy")'))


def test_a_line_comes_before_torch_is_imported(run, root, tmp_path):
    done = run(root / 'tools/train.py', tmp_path / 'nothing.py')
    lines = done.stderr.strip().splitlines()
    assert lines[0] == 'train: loading PyTorch ...' and lines[-1].startswith('ConfigError') and len(lines) == 2


def test_a_defect_keeps_its_traceback_and_the_handler_is_put_back():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)
    assert signal.getsignal(signal.SIGINT) is handler
