"""How commands end after Ctrl-C at awkward moments."""
import argparse
import signal
import time
import weakref

import pytest

from perception.apis.cli import run_command, split_flags


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
