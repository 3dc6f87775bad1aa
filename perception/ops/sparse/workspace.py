"""Scratch memory that is kept between calls, since fresh large buffers cost more page faults than they hold work."""
import threading
from math import prod

import torch
from torch import Tensor

_local = threading.local()


def scratch(slot: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised tensor that lives until the next request for the same slot, dtype, device and thread.

    Only for intermediate results inside one call without gradients; it must never be returned to the user.

    Args:
        slot: name of the use; two tensors alive at once need two slots.
        shape: shape of the tensor.
        like: gives dtype and device.
    """
    buffers = _local.__dict__.setdefault('buffers', {})
    key = (slot, like.dtype, like.device)
    buffer = buffers.get(key)
    if buffer is None or buffer.numel() < prod(shape):
        buffers[key] = None  # free the old one before the new one is made
        with torch.inference_mode(False):  # usable in and out of inference mode
            buffer = buffers[key] = torch.empty(prod(shape), dtype=like.dtype, device=like.device)
    return buffer[:prod(shape)].view(shape)
