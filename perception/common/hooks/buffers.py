"""Buffers of several processes, made equal."""
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _NormBase

from perception.utils.checkpoint import unwrap


def sync_buffers(runner: Runner) -> None:
    """Give all processes the mean of their batch statistics, and the first one's other buffers.

    Afterwards each has what a checkpoint holds, so that it validates what is saved, and a resumed run goes on alike.
    The averaged models of mmengine's EMAHook are included.

    Args:
        runner: of one of the processes; all call this.
    """
    count = get_world_size()
    if count == 1:
        return
    models = [unwrap(runner.model), *(hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))]
    statistics, others = [], []
    for module in (module for model in models for module in model.modules()):
        for buffer in module.buffers(recurse=False):
            if buffer.numel():
                norm = isinstance(module, _NormBase) and buffer.is_floating_point()
                (statistics if norm else others).append(buffer.data)
    if statistics:  # in double precision, in which the mean of equal numbers is that number
        flat = torch.cat([buffer.double().flatten() for buffer in statistics])
        torch.distributed.all_reduce(flat)
        for buffer, mean in zip(statistics, (flat / count).split([buffer.numel() for buffer in statistics])):
            buffer.copy_(mean.view_as(buffer))
    for buffer in others:
        torch.distributed.broadcast(buffer, 0)
