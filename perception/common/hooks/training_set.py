"""What a model or a loss must know of the training set before it begins."""
import torch
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import Dataset

from perception.registry import HOOKS
from perception.utils.checkpoint import unwrap
from perception.utils.errors import ConfigError


@HOOKS.register_module()
class TrainingSetHook(Hook):
    """Tells each module with a method `know_training_set(labels, names)` the classes, (n,) int64, and names of the
    training samples.

    The data set has them as its attributes `labels` and `ids`. They are told before weights are loaded, so that
    memories in a checkpoint are compared with the samples that are there. It warns of a loss that counts in epochs of
    another length (its attribute `epoch`, iterations).
    """

    def before_run(self, runner: Runner) -> None:
        """Tell them, unless nothing is trained.

        Raises:
            ConfigError: the data set does not have them.
        """
        if not isinstance(runner._train_loop, BaseLoop):
            return
        loader = runner._train_loop.dataloader
        tell_training_set(unwrap(runner.model), loader.dataset)
        for name, module in unwrap(runner.model).named_modules():
            epoch = getattr(module, 'epoch', None)
            if isinstance(epoch, int) and epoch != len(loader):
                runner.logger.warning(
                    f'TrainingSetHook: model.{name}.epoch={epoch} in a training with {len(loader)} iterations an epoch,'
                    f' so that an epoch of it takes {epoch / len(loader):.3g} of them. Set it to {len(loader)}, and '
                    'begins of losses likewise, or give batches with which it fits.')


def tell_training_set(model: nn.Module, dataset: Dataset) -> None:
    """Tell the modules of a model that ask for it the classes and names of the training samples.

    Args:
        model: any.
        dataset: what it is trained on.

    Raises:
        ConfigError: the data set does not have them.
    """
    if not (hasattr(dataset, 'labels') and hasattr(dataset, 'ids')):
        raise ConfigError(f'TrainingSetHook: {type(dataset).__name__} came, expected a data set with the class of each '
                          'sample in `labels` and its name in `ids`. Leave the hook out, or use another data set.')
    labels = torch.as_tensor(dataset.labels, dtype=torch.int64)
    for module in model.modules():
        if hasattr(module, 'know_training_set'):
            module.know_training_set(labels, dataset.ids)
