"""A progress bar on a terminal; elsewhere the log has its plain lines alone."""
import sys
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from perception.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows how far a training, a validation or a test is, where standard error is a terminal."""

    priority = 'VERY_LOW'

    def before_run(self, runner: Runner) -> None:
        """Let log lines pass above the bar."""
        self._bars, self._redirect = {}, None
        if sys.stderr.isatty() and runner.rank == 0:
            self._redirect = logging_redirect_tqdm([runner.logger])
            self._redirect.__enter__()

    def after_run(self, runner: Runner) -> None:
        """Give the log its own way back."""
        if self._redirect is not None:
            self._redirect.__exit__(None, None, None)
            self._redirect = None

    def before_train(self, runner: Runner) -> None:
        """Begin the bar of the training."""
        self._begin('train', runner.max_iters, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None):
        """One step more."""
        self._step('train', f'epoch {runner.epoch + 1}/{runner.max_epochs}' if runner.max_epochs else '')

    def after_train(self, runner: Runner) -> None:
        """End the bar of the training."""
        self._end('train')

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin the bar of a validation."""
        self._begin('val', len(runner.val_dataloader))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """One batch more."""
        self._step('val')

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """End the bar of a validation."""
        self._end('val')

    def before_test_epoch(self, runner: Runner) -> None:
        """Begin the bar of a test."""
        self._begin('test', len(runner.test_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """One batch more."""
        self._step('test')

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """End the bar of a test."""
        self._end('test')

    def _begin(self, use: str, total: int, done: int = 0) -> None:
        if self._redirect is not None:
            self._end(use)
            self._bars[use] = tqdm(total=total, initial=done, desc=use, leave=False, dynamic_ncols=True)

    def _step(self, use: str, note: str = '') -> None:
        if use in self._bars:
            self._bars[use].set_postfix_str(note, refresh=False)
            self._bars[use].update()

    def _end(self, use: str) -> None:
        if use in self._bars:
            self._bars.pop(use).close()
