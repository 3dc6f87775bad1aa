"""Statistics of batch norms after channels were taken out: those of the whole net are no longer true."""
import copy

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from perception.registry import HOOKS
from perception.utils.checkpoint import unwrap
from perception.utils.checks import check_positive


@HOOKS.register_module()
class RecalibrateHook(Hook):
    """Runs a pruned net that inherits weights on some training batches before it is trained or validated.

    Nothing happens to one that starts from scratch or goes on.

    Args:
        batches: how many; fewer where an epoch is shorter.

    Raises:
        ConfigError: not a positive number.
    """

    priority = 'LOW'

    def __init__(self, batches: int = 200) -> None:
        check_positive('RecalibrateHook', batches=batches)
        self.batches = batches

    def before_train(self, runner: Runner) -> None:
        """Renew the statistics once."""
        if runner.iter or not runner._load_from or runner._resume:
            return
        model = unwrap(runner.model)
        count = recalibrate(getattr(model, 'student', model), runner.train_dataloader, self.batches)
        runner.logger.info(f'The statistics of the batch norms were renewed on {count} training batches.')


@torch.no_grad()
def recalibrate(model: nn.Module, loader, batches: int = 200) -> int:
    """Replace the running statistics of the batch norms by the mean over some batches.

    Args:
        model: an mmengine model.
        loader: gives batches for its data preprocessor.
        batches: how many at most.

    Returns:
        how many there were.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta, training, count = [norm.momentum for norm in norms], model.training, 0
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
    model.train()
    with torch.random.fork_rng():
        for _, data in zip(range(batches), loader):
            model(**model.data_preprocessor(copy.copy(data), True), mode='tensor')
            count += 1
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.train(training)
    return count
