"""Start Triton kernels, and tell apart what Triton cannot compile for a device from all other errors."""
import torch

from perception.utils.optional import import_optional


class CannotCompile(RuntimeError):
    """Triton has no program for this device."""


def launch(what: str, kernel, grid: tuple[int, ...], *args, **options) -> None:
    """Start a kernel of `triton.jit`.

    Args:
        what: who asks, for the error.
        kernel: of `triton.jit`.
        grid: numbers of programs; nothing is started where one of them is 0.
        args: of the kernel.
        options: its constants and how it is compiled.

    Raises:
        CannotCompile: Triton has no program for this device.
    """
    if not all(grid):
        return
    failure = import_optional('triton.errors', what, 'pip install triton').TritonError
    try:
        kernel[grid](*args, **options)
    except (failure, RuntimeError) as error:
        if isinstance(error, (torch.cuda.OutOfMemoryError, getattr(torch, 'AcceleratorError', ()))) or _recording():
            raise
        lines = str(error).strip().splitlines() or ['']
        raise CannotCompile(f'{what}: Triton cannot compile for this device ({type(error).__name__}: '
                            f'{lines[-1][:200]})') from error


def _recording() -> bool:
    """Whether a CUDA graph is recorded, in which errors of a launch say nothing of the kernel."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
