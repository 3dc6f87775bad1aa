"""mmengine's training loops, which can start anywhere inside an epoch and stop at a loss that is not a number."""
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from perception.common.dataset import ConcatDataset, SeededDataset, parts
from perception.common.finite import FiniteSteps
from perception.common.samplers import EpochSampler
from perception.utils.errors import ConfigError


def check_steps(loop: EpochBasedTrainLoop | IterBasedTrainLoop) -> None:
    """See that a training takes a step at all, and warn where its augmentation does not know of the epochs.

    Raises:
        ConfigError: its batches are larger than the data, or it ends before it begins.
    """
    loader = loop.dataloader
    size, batch = len(loader.dataset), loader.batch_size
    if len(loader) == 0:
        share = f', {len(loader.sampler):,} for each process' if isinstance(loader.sampler, EpochSampler) else ''
        raise ConfigError(f'train_dataloader: {size:,} samples{share} in batches of batch_size={batch} with '
                          f'drop_last={loader.drop_last} give no step, expected one whole batch or more. Lower '
                          'train_dataloader.batch_size, set drop_last=False, or give more data.')
    for name in ('max_epochs', 'max_iters'):
        if getattr(loop, name) < 1:
            raise ConfigError(f'train_cfg: {name}={getattr(loop, name)} gives no step, expected 1 or more. Correct it.')
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    if isinstance(loader.dataset, (ConcatDataset, SeededDataset)) and not isinstance(sampler, EpochSampler):
        print_log(f'train_dataloader.sampler: a {type(sampler).__name__} does not tell the epoch, so that each sample '
                  'is augmented alike in all of them. Set train_dataloader.sampler.type=EpochSampler.', 'current',
                  logging.WARNING)
    length = loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else math.ceil(loop.max_iters / len(loader))
    for place, data in parts(loader.dataset):
        for i, step in enumerate(getattr(data, 'pipeline', ())):
            if getattr(step, 'epochs', length) != length:
                print_log(f'{place}.pipeline.{i}: {type(step).__name__} is told of {step.epochs} epochs in a training '
                          f'of {length}, whose end it is to know. Set its epochs={length}.', 'current',
                          logging.WARNING)


def rest_of(loader: DataLoader, done: int) -> Iterator[tuple[int, Any]]:
    """Number and batch of an epoch's steps, without the first ones.

    An `EpochSampler` leaves them out; batches of other samplers are read and forgotten.

    Args:
        loader: gives the whole epoch.
        done: how many steps to leave out.
    """
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.start = done * loader.batch_size
        return enumerate(loader, done)
    return itertools.islice(enumerate(loader), done, None)


class _Steps:
    """One step of either loop."""

    def _step(self, batch_idx: int, data_batch: Sequence[dict]) -> None:
        self.runner.call_hook('before_train_iter', batch_idx=batch_idx, data_batch=data_batch)
        outputs = self.take_step(data_batch)
        self.runner.call_hook('after_train_iter', batch_idx=batch_idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1


class EpochLoop(_Steps, EpochBasedTrainLoop):
    """mmengine's loop over epochs; `start` steps of the first one were taken before."""

    start = 0

    def run(self) -> torch.nn.Module:
        """Train until the last epoch."""
        self.take_step = FiniteSteps(self.runner, self.runner.allow_nan)
        return super().run()

    def run_epoch(self) -> None:
        """Train one epoch, or what is left of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done, self.start = self.start, 0
        for idx, data_batch in rest_of(self.dataloader, done):
            self._step(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


class IterLoop(_Steps, IterBasedTrainLoop):
    """mmengine's loop over iterations, which goes through the data again and again."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = self._batches()

    def run(self) -> torch.nn.Module:
        """Train until the last iteration."""
        self.take_step = FiniteSteps(self.runner, self.runner.allow_nan)
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self._step(self._iter, next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self.runner.val_loop is not None and self._iter >= self.val_begin and (
                    self._iter % self.val_interval == 0 or self._iter == self._max_iters):
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _batches(self) -> Iterator[Any]:
        """All batches from the present iteration on."""
        endless = isinstance(self.dataloader.sampler, InfiniteSampler)
        epoch, done = (0, self._iter) if endless else divmod(self._iter, len(self.dataloader))
        for now in itertools.count(epoch):
            if hasattr(self.dataloader.sampler, 'set_epoch'):
                self.dataloader.sampler.set_epoch(now)
            for _, data_batch in rest_of(self.dataloader, done):
                yield data_batch
            done = 0
