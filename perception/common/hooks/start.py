"""What a reader of the log wants to know before the first step."""
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from perception.ops.sparse import functional
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.registry import HOOKS


@HOOKS.register_module()
class StartHook(Hook):
    """Logs the size of each data set, beside its official size where the data set states one as `official_size`, and
    what computes the sparse convolutions of a net that has some."""

    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        """Log the training and validation sets."""
        self._log_backend(runner)
        self._log(runner, 'training', runner.train_dataloader)
        if runner.val_loop is not None:
            self._log(runner, 'validation', runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Log the test set."""
        self._log_backend(runner)
        self._log(runner, 'test', runner.test_dataloader)

    @staticmethod
    def _log_backend(runner: Runner) -> None:
        sparse = (SubMConv3d, SparseConv3d, SparseInverseConv3d)
        if any(isinstance(module, sparse) for module in runner.model.modules()):
            backend = functional._backend.__name__.rpartition('.')[2]
            runner.logger.info(f'sparse convolution by {backend}')

    @staticmethod
    def _log(runner: Runner, use: str, loader: Any) -> None:
        official = getattr(loader.dataset, 'official_size', None)
        beside = f' (official: {official:,})' if official else ''
        runner.logger.info(f'{use} data: {len(loader.dataset):,} samples{beside}, {type(loader.dataset).__name__}, '
                           f'{loader.num_workers} workers')
