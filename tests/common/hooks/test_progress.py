"""A bar on a terminal, nothing elsewhere."""
import io
import logging
import sys
from types import SimpleNamespace

import pytest

from perception.common.hooks.progress import ProgressHook


class Screen(io.StringIO):
    """A terminal, or not."""

    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


@pytest.mark.parametrize('is_terminal', [True, False])
def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch, is_terminal):
    screen = Screen(is_terminal)
    monkeypatch.setattr(sys, 'stderr', screen)
    logger = logging.Logger('run')
    logger.addHandler(logging.StreamHandler(screen))
    runner = SimpleNamespace(rank=0, logger=logger, max_iters=4, max_epochs=2, iter=0, epoch=0, val_dataloader=[1, 2])
    hook = ProgressHook()
    hook.before_run(runner)
    hook.before_train(runner)
    for runner.epoch in (0, 1):
        for step in range(2):
            hook.after_train_iter(runner, step)
            logger.warning('a line')
        hook.before_val_epoch(runner)
        hook.after_val_iter(runner, 0)
        hook.after_val_epoch(runner)
    hook.after_train(runner)
    hook.after_run(runner)
    text = screen.getvalue()
    assert text.count('a line') == 4 and not hook._bars
    assert all((part in text) is is_terminal for part in ('4/4', 'epoch 2/2', 'val'))
    assert [handler.stream for handler in logger.handlers] == [screen]
