"""Randomness that depends on the place in the training only, so that a resumed run repeats it."""
import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from perception.registry import HOOKS


@HOOKS.register_module()
class SeedHook(Hook):
    """Reseeds Python, NumPy and torch from (seed, epoch, iteration) before each step and each evaluation.

    Nothing random needs to be saved then. All ranks draw alike, unless `randomness.diff_rank_seed` is set.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Reseed before a training step."""
        self._reseed(runner, 0, runner.epoch, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        """Reseed before a validation."""
        self._reseed(runner, 1, runner.epoch)

    def before_test_epoch(self, runner: Runner) -> None:
        """Reseed before a test."""
        self._reseed(runner, 2)

    @staticmethod
    def _reseed(runner: Runner, *place: int) -> None:
        rank = runner.rank if runner._randomness_cfg.get('diff_rank_seed') else 0
        seed = int(np.random.SeedSequence([runner.seed, rank, *place]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the global state itself is meant)
        torch.manual_seed(seed)
