"""Mixed precision that works on a CPU and on a GPU."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper

from perception.registry import OPTIM_WRAPPERS
from perception.utils.errors import ConfigError


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; where it does not, convolutions in it take a hundred times as long."""
    known = getattr(torch.cpu, 'get_capabilities', dict)()
    if not known:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return any(there for name, there in known.items() if 'bf16' in name or name == 'avx_ne_convert')


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Optimiser steps under bfloat16 autocast; weights, gradients and the optimiser stay in float32.

    bfloat16 has float32's exponent range, so losses need no scaling. mmengine's `AmpOptimWrapper` does the same with
    float16 and needs CUDA.
    """

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Autocast on the device of the model.

        Raises:
            ConfigError: a CPU that does not compute in bfloat16.
        """
        device = next(model.parameters()).device.type
        if device == 'cpu' and not has_bfloat16():
            raise ConfigError('optim_wrapper: BFloat16OptimWrapper on a CPU without instructions for bfloat16, where '
                              'it would be many times slower, expected OptimWrapper. Leave the type out; --amp '
                              'computes in bfloat16 where that is faster.')
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
