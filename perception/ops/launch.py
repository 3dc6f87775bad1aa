"""Start Triton kernels, and tell apart what Triton cannot compile for a device from all other errors."""
import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from mmengine.logging import print_log
from torch import Tensor

from perception.utils.optional import has_triton, import_optional

Made = TypeVar('Made')
_cannot_compile: set[torch.device] = set()  # GPUs that Triton has no programs for


class CannotCompile(RuntimeError):
    """Triton has no program for this device."""


def launch(what: str, kernel, grid: tuple[int, ...], *args, **options) -> None:
    """Start a kernel of `triton.jit` on the GPU of its tensors, which Triton by itself starts on the current one.

    Args:
        what: who asks, for the error.
        kernel: of `triton.jit`.
        grid: numbers of programs; nothing is started where one of them is 0.
        args: of the kernel, a tensor first.
        options: its constants and how it is compiled.

    Raises:
        CannotCompile: Triton has no program for this device.
    """
    if not all(grid):
        return
    failure = import_optional('triton.errors', what, 'pip install triton').TritonError
    try:
        with torch.cuda.device_of(args[0]):
            kernel[grid](*args, **options)
    except (failure, RuntimeError) as error:
        if isinstance(error, (torch.cuda.OutOfMemoryError, getattr(torch, 'AcceleratorError', ()))) or _recording():
            raise
        lines = str(error).strip().splitlines() or ['']
        raise CannotCompile(f'{what}: Triton cannot compile for this device ({type(error).__name__}: '
                            f'{lines[-1][:200]})') from error


def try_triton(function: Callable[..., Made], tensor: Tensor, *args) -> Made | None:
    """What a function that launches kernels makes; None where PyTorch has to: on a CPU, without Triton, and on a GPU
    that Triton has no programs for, which is said once.

    Args:
        function: launches kernels.
        tensor: its first argument.
        args: the others.
    """
    if not tensor.is_cuda or not has_triton() or tensor.device in _cannot_compile:
        return None
    try:
        return function(tensor, *args)
    except CannotCompile as error:
        _cannot_compile.add(tensor.device)
        print_log(f'{error}; PyTorch does it', 'current', logging.WARNING)
        return None


def _recording() -> bool:
    """Whether a CUDA graph is recorded, in which errors of a launch say nothing of the kernel."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
