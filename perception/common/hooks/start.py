"""What a reader of the log wants to know before the first step."""
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from perception.ops.sparse import functional
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.registry import HOOKS
from perception.utils.checkpoint import unwrap
from perception.utils.errors import ConfigError


@HOOKS.register_module()
class StartHook(Hook):
    """Logs the size of each data set, beside its official size where the data set states one as `official_size`, and
    what computes the sparse convolutions of a net that has some. Refuses a net with other classes than the data.

    The net's are its attribute `num_classes`, or `num_classes` of its config, those of the data the `classes` in their
    `metainfo`. A net whose classes are none of the data set's says `own_classes = True`.
    """

    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        """Log the training and validation sets.

        Raises:
            ConfigError: the net has other classes.
        """
        self._log_backend(runner)
        self._log(runner, 'training', runner.train_dataloader)
        if runner.val_loop is not None:
            self._log(runner, 'validation', runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Log the test set.

        Raises:
            ConfigError: the net has other classes.
        """
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
        _check_classes(runner, use, loader.dataset)
        official = getattr(loader.dataset, 'official_size', None)
        beside = f' (official: {official:,})' if official else ''
        runner.logger.info(f'{use} data: {len(loader.dataset):,} samples{beside}, {type(loader.dataset).__name__}, '
                           f'{loader.num_workers} workers')


def _check_classes(runner: Runner, use: str, dataset: Any) -> None:
    """Compare the number of classes of a net, or of a distiller's student, with that of a data set."""
    model, config, where = unwrap(runner.model), runner.cfg.get('model'), 'model'
    if hasattr(model, 'student'):
        model, config, where = model.student, config.get('student') if config else None, 'model.student'
    ours = getattr(model, 'num_classes', (config or {}).get('num_classes') if isinstance(config, dict) else None)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if isinstance(ours, int) and classes is not None and ours != len(classes) and not getattr(
            model, 'own_classes', False):
        raise ConfigError(f'{where}.num_classes={ours} came for the {len(classes)} classes of the {use} data '
                          f'({type(dataset).__name__}), expected {len(classes)}. Set {where}.num_classes={len(classes)}'
                          ', or correct the classes of the data.')
