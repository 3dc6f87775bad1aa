"""Nets made ready for fast evaluation; what cannot be compiled or recorded runs as it is, and that is said."""
import logging

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from perception.utils.errors import ConfigError


def compile_net(model: nn.Module) -> None:
    """Compile the dense part of a net, its method `compute`, in place, on CUDA as a CUDA graph; or have a net of LiDAR
    scans, which has a method `use_graphs`, replay CUDA graphs.

    The first batch of what is compiled takes a minute or more; a batch of another size, such as the last one, is
    compiled anew.

    Args:
        model: in evaluation; the net itself, or what asks it, such as several that vote.

    Raises:
        ConfigError: nothing in it that can be compiled.
    """
    dense = [net for net in model.modules() if hasattr(net, 'compute') and hasattr(net, 'deployable')]
    sparse = [net for net in model.modules() if hasattr(net, 'use_graphs')]
    if not dense + sparse:
        raise ConfigError(f'--compile: {type(model).__name__} came, expected a net of images alone, such as those of '
                          'lanes, or one that labels LiDAR scans. Leave the option out.')
    for net in dense:
        _compile(net)
    for net in sparse:
        net.use_graphs()


def _compile(net: nn.Module) -> None:
    plain, graph = net.compute, next(net.parameters()).is_cuda
    compiled = torch.compile(plain, mode='reduce-overhead' if graph else None)

    def compute(*args, **kwargs):
        try:
            outputs = compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            net.compute = plain
            why = ' '.join(str(error).split())[:200]
            print_log(f'--compile: {type(net).__name__} cannot be compiled here ({type(error).__name__}: {why}) and '
                      'runs as it is.', 'current', logging.WARNING)
            return plain(*args, **kwargs)
        # a graph writes the next batch's outputs to the same place
        return tree_map_only(Tensor, Tensor.clone, outputs) if graph else outputs  # of grids also lists and tuples

    net.compute = compute
