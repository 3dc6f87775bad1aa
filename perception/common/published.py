"""What converters of published weights share: take them by their old names, and say all that does not fit."""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from perception.utils.errors import CheckpointError


class Origin(NamedTuple):
    """Where one of our weights lies in a published file.

    Attributes:
        name: its name there.
        shape: its shape there.
        convert: its value there to ours; None leaves it as it is.
    """
    name: str
    shape: tuple[int, ...]
    convert: Callable[[Tensor], Tensor] | None = None


def take_weights(source: dict[str, Tensor], origins: dict[str, Origin], where: str, what: str) -> dict[str, Tensor]:
    """Our weights from published ones.

    Args:
        source: the published weights, all of them used; only `num_batches_tracked` may be missing, as in old files.
        origins: our name -> where it lies.
        where: file or function, for messages.
        what: the net, for messages.

    Raises:
        CheckpointError: names or shapes differ; the message counts and names what is missing, unexpected and
            mis-shaped or no floating-point numbers, by the names of the file.
    """
    old = {origin.name: origin for origin in origins.values()}
    missing = [name for name in old if name not in source and not name.endswith('num_batches_tracked')]
    unexpected = [name for name in source if name not in old]
    shapes = [f'{name} {tuple(source[name].shape)} for {tuple(origin.shape)}' for name, origin in old.items()
              if name in source and tuple(source[name].shape) != tuple(origin.shape)]
    kinds = [f'{name} {source[name].dtype}' for name in old if name in source and not _is_number(name, source[name])]
    parts = [f'{len(names)} {kind} ({", ".join(names[:4])}{", ..." if len(names) > 4 else ""})'
             for kind, names in (('missing', missing), ('unexpected', unexpected), ('mis-shaped', shapes),
                                 ('of another kind', kinds)) if names]
    if parts:
        raise CheckpointError(f'{where}: {", ".join(parts)} of {len(old)} weights of {what}, expected the same names '
                              'and shapes. Give a whole file of an unmodified net.')
    weights = {}
    for ours, origin in origins.items():
        value = source.get(origin.name, torch.tensor(0))
        weights[ours] = (origin.convert(value) if origin.convert else value).contiguous().clone()
    return weights


def _is_number(name: str, value: Tensor) -> bool:
    """Whether a tensor holds what such a weight can be: floating-point numbers, or a count."""
    counts = name.endswith('num_batches_tracked') and not value.is_complex()
    return value.layout == torch.strided and (value.is_floating_point() or counts)
