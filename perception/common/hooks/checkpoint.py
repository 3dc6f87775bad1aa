"""Checkpoints of a run: plain, atomic, never fewer than two, and what makes a resumed run complete."""
import inspect
import itertools
from collections import OrderedDict, deque
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import EarlyStoppingHook
from mmengine.logging import HistoryBuffer
from mmengine.runner import IterBasedTrainLoop, Runner

from perception.common.finite import check_model
from perception.common.hooks.buffers import sync_buffers
from perception.registry import HOOKS
from perception.utils.checkpoint import atomic_path, check_weights, to_plain, unwrap, weights_of
from perception.utils.errors import ConfigError


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's hook, made safe against a kill at any moment.

    Each checkpoint is written to a temporary file, synced and renamed before an old one is deleted. Its message hub is
    turned into plain values, and back after loading. Once a validation is complete the checkpoint of its epoch is
    written again with that knowledge; a run resumed from a checkpoint without it validates first. That a hook ended
    the training early is noted too, as `step_stopped`; mmengine's EarlyStoppingHook is told the scores so far again,
    by which it knows how long none was better.

    The best weights are `ExportHook`'s business; `save_best` and `published_keys` are not offered, nor is `out_dir`.

    Args:
        interval: epochs (iterations when `by_epoch=False`) between checkpoints.
        by_epoch: unit of `interval`; False for a loop over iterations.
        max_keep_ckpts: how many checkpoints stay; at least 2, or -1 for all.
        **kwargs: further arguments of mmengine's hook.

    Raises:
        ConfigError: fewer checkpoints than two, or what is not offered.
    """

    def __init__(self, interval: int = 1, by_epoch: bool = True, max_keep_ckpts: int = 2, **kwargs) -> None:
        if max_keep_ckpts in (0, 1):
            raise ConfigError(f'CheckpointHook: max_keep_ckpts={max_keep_ckpts} came, expected 2 or more, or -1 for '
                              f'all. A single file could be the one that a crash damages.')
        for name in ('save_best', 'published_keys', 'out_dir'):
            if kwargs.get(name):
                raise ConfigError(f'CheckpointHook: {name}={kwargs[name]!r} came, expected none. Name the metric in '
                                  f'ExportHook(metric=...), which writes model.pth; files go to the work dir.')
        super().__init__(interval=interval, by_epoch=by_epoch, max_keep_ckpts=max_keep_ckpts, **kwargs)
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Find the old files again and repeat a validation that was cut off.

        Raises:
            ConfigError: checkpoints by epoch in a loop over iterations, which has one epoch.
        """
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ConfigError('CheckpointHook: by_epoch=True came for a loop over iterations, expected by_epoch=False '
                              'with an interval of iterations; the first checkpoint would be the last.')
        self._training = True
        self.out_dir = runner.work_dir
        self.keep_ckpt_ids = deque(runner.message_hub.get_info('keep_ckpt_ids', []))
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')
        for hook in runner.hooks:
            scores = runner.message_hub.log_scalars.get(f'val/{getattr(hook, "monitor", "")}')
            for score in scores.data[0] if scores and isinstance(hook, EarlyStoppingHook) else ():
                hook.after_val_epoch(runner, {hook.monitor: float(score)})
        if self._validation_is_due(runner):
            unit = 'iteration' if isinstance(runner.train_loop, IterBasedTrainLoop) else 'epoch'
            runner.logger.info(f'Validation after {unit} {self._validated(runner)} was cut off; repeating it.')
            runner.val_loop.run()

    def before_val_epoch(self, runner: Runner) -> None:
        """Give all processes the same buffers."""
        if self._training:
            sync_buffers(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Note in the checkpoint of this epoch that its validation is complete, and the best score with it."""
        if not self._training:
            return
        step = runner.epoch if self.by_epoch else runner.iter
        runner.message_hub.update_info('step_validated', self._validated(runner))
        if self.last_ckpt and Path(self.last_ckpt).name == self.filename_tmpl.format(step):
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def after_train(self, runner: Runner) -> None:
        """Note in the last checkpoint that a hook, such as mmengine's EarlyStoppingHook, ended the training before."""
        if runner.train_loop.stop_training:
            step = runner.epoch if self.by_epoch else runner.iter
            runner.message_hub.update_info('step_stopped', self._validated(runner))
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add gradients that wait for a step, and turn everything into tensors and plain values."""
        if getattr(runner.optim_wrapper, '_accumulative_counts', 1) > 1 and 'optimizer' in checkpoint:
            waiting = {name: p.grad.cpu() for name, p in unwrap(runner.model).named_parameters() if p.grad is not None}
            if waiting and runner.world_size > 1:
                runner.logger.warning('Each process has accumulated gradients that a checkpoint does not hold; a run '
                                      'resumed from it differs. Save after whole steps of accumulative_counts.')
            elif waiting:
                checkpoint['gradients'] = waiting
        hub = checkpoint['message_hub']
        hub['log_scalars'] = {name: [torch.as_tensor(part) for part in scalar.data]
                              for name, scalar in hub['log_scalars'].items()}
        schedulers = checkpoint.get('param_schedulers') or []
        for state in itertools.chain(*schedulers.values()) if isinstance(schedulers, dict) else schedulers:
            for name in [name for name, value in state.items() if inspect.isroutine(value)]:
                del state[name]  # such as the curve of OneCycleLR, which the config names
        plain = to_plain(checkpoint)
        checkpoint.clear()
        checkpoint.update(plain)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint of another model; give the message hub its own types back."""
        check_weights(unwrap(runner.model), weights_of(checkpoint))
        if 'message_hub' not in checkpoint:
            return
        hub = checkpoint['message_hub']
        hub['log_scalars'] = OrderedDict((name, HistoryBuffer(values.tolist(), counts.tolist()))
                                         for name, (values, counts) in hub['log_scalars'].items())
        own = getattr(runner.train_dataloader.dataset, 'metainfo', None)
        if to_plain(own) == checkpoint['meta'].get('dataset_meta'):  # mmengine compares pickles, our types differ
            checkpoint['meta']['dataset_meta'] = own

    # --- details ---
    @staticmethod
    def _validated(runner: Runner) -> int:
        """What a validation belongs to: epochs or iterations so far, as the loop counts."""
        return runner.iter if isinstance(runner.train_loop, IterBasedTrainLoop) else runner.epoch

    def _validation_is_due(self, runner: Runner) -> bool:
        """Whether the resumed step should have been validated and was not."""
        loop, step = runner.train_loop, self._validated(runner)
        last = runner.max_iters if isinstance(loop, IterBasedTrainLoop) else runner.max_epochs
        return (runner.val_loop is not None and step >= max(loop.val_begin, 1)
                and (step % loop.val_interval == 0 or step == last)
                and runner.message_hub.get_info('step_validated') != step)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Write `epoch_<step>.pth`, then delete what is no longer wanted.

        Raises:
            TrainingError: weights are not finite.
        """
        path = Path(self.out_dir, self.filename_tmpl.format(step))
        sync_buffers(runner)
        check_model(runner, path)
        if step not in self.keep_ckpt_ids:
            self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.last_ckpt = str(path)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        if is_main_process():
            with atomic_path(path) as part:
                runner.save_checkpoint(str(part.parent), part.name, save_optimizer=self.save_optimizer,
                                       save_param_scheduler=self.save_param_scheduler, meta=meta,
                                       by_epoch=self.by_epoch)
            with atomic_path(Path(runner.work_dir, 'last_checkpoint')) as part:
                part.write_text(self.last_ckpt)
        while 0 < self.max_keep_ckpts < len(self.keep_ckpt_ids):
            old = Path(self.out_dir, self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            if is_main_process():
                old.unlink(missing_ok=True)
        runner.call_hook('after_save_checkpoint')
