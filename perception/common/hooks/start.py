"""What a reader of the log wants to know before the first step."""
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from perception.common.dataset import parts
from perception.ops.sparse import functional
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.registry import HOOKS
from perception.utils.checkpoint import unwrap
from perception.utils.errors import ConfigError


@HOOKS.register_module()
class StartHook(Hook):
    """Logs the size of each data set, beside its official size where the data set states one as `official_size`, and
    what computes the sparse convolutions of a net that has some. Warns of a loss that the training ends before, and of
    samples that are both trained and validated with, by the `path(index)` of data sets that have one. Refuses a net
    with other classes than the data.

    See `check_classes`; those of the data are the `classes` in their `metainfo`.
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
            self._warn_of_shared_samples(runner)
        self._warn_of_late_losses(runner)

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
            device = next(runner.model.parameters()).device
            runner.logger.info(f'sparse convolution by {functional.backend_name(device)}')

    @staticmethod
    def _warn_of_late_losses(runner: Runner) -> None:
        losses = getattr(unwrap(runner.model), 'losses', None)
        for name, loss in losses.items() if isinstance(losses, nn.ModuleDict) else ():
            first = getattr(loss, 'teaches_from', 0)
            if first >= runner.max_iters and getattr(loss, 'weight', 1):
                runner.logger.warning(f'model.losses.{name} teaches in full from iteration {first:,} on, expected one '
                                      f'before the end of the training at {runner.max_iters:,}. Train longer, or set '
                                      'its begins to earlier iterations.')

    @staticmethod
    def _warn_of_shared_samples(runner: Runner) -> None:
        said = shared_samples(runner.train_dataloader.dataset, runner.val_dataloader.dataset, 'validation')
        if said:
            runner.logger.warning(f'{said} Name others for one of both; of data sets in folds give all the same fold '
                                  'and folds: --cfg-options {train,val,test}_dataloader.dataset.fold=...')

    @staticmethod
    def _log(runner: Runner, use: str, loader: Any) -> None:
        _check_classes(runner, use, loader.dataset)
        for _, data in parts(loader.dataset):
            official = getattr(data, 'official_size', None)
            beside = f' (official: {official:,})' if official else ''
            runner.logger.info(f'{use} data: {len(data):,} samples{beside}, {type(data).__name__}, '
                               f'{loader.num_workers} workers')


def shared_samples(trained: Any, scored: Any, use: str) -> str:
    """A sentence where samples of one data set are in another, by their `path(index)`; else nothing.

    Args:
        trained: the data set that is, or was, trained with.
        scored: the one that is scored.
        use: of the latter, for the sentence.
    """
    before, now = ({data.path(i) for _, data in parts(one) if hasattr(data, 'path') for i in range(len(data))}
                   for one in (trained, scored))
    both = before & now
    return (f'{len(both):,} of {len(now):,} samples of the {use} are trained with too ({min(both)}), so that its '
            'scores say little.') if both else ''


def _check_classes(runner: Runner, use: str, dataset: Any) -> None:
    """Compare the classes of a net, or of a distiller's student, with those of a data set."""
    model, config, where = unwrap(runner.model), runner.cfg.get('model'), 'model'
    if hasattr(model, 'student'):
        model, config, where = model.student, config.get('student') if config else None, 'model.student'
    check_classes(model, (getattr(dataset, 'metainfo', None) or {}).get('classes'),
                  f'the {use} data ({type(dataset).__name__})', config, where)


def check_classes(model: nn.Module, classes: Sequence[str] | None, data: str, config: Any = None,
                  where: str = 'model') -> None:
    """See that a net has the classes of the data.

    Those of the net are the names in its attribute `class_names`, else its `num_classes`, or `num_classes` of its
    config. A net whose classes are none of the data set's says `own_classes = True`.

    Args:
        model: the net.
        classes: names of those of the data, None where they have none.
        data: what the data are called in the error.
        config: of the net.
        where: the net stands in a config.

    Raises:
        ConfigError: it has others.
    """
    if classes is None or getattr(model, 'own_classes', False):
        return
    names = getattr(model, 'class_names', None)
    if names is not None and [*names] != [*classes]:
        raise ConfigError(f'{where}.head: the classes {", ".join(names)} came for {data}, expected '
                          f'{", ".join(classes)}. Name them so in {where}.head.tasks, or in {where}.head.classes where '
                          'tasks have another order.')
    ours = getattr(model, 'num_classes', (config or {}).get('num_classes') if isinstance(config, dict) else None)
    if isinstance(ours, int) and ours != len(classes):
        raise ConfigError(f'{where}.num_classes={ours} came for the {len(classes)} classes of {data}, expected '
                          f'{len(classes)}. Set {where}.num_classes={len(classes)}, or correct the classes of the '
                          'data.')
