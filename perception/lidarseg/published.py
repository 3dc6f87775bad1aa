"""What the converters share: take published weights by their old names, say all that does not fit, name a config."""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from perception.utils.errors import CheckpointError
from perception.utils.paths import from_root

DATA_SETS = {19: 'kitti', 16: 'nuscenes', 25: 'kitti_multiscan', 22: 'waymo'}  # by their numbers of classes


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


def data_set_of(net: str, num_classes: int) -> str:
    """The data set with so many classes that the net has a config for, else SemanticKITTI; as in names of configs."""
    name = DATA_SETS.get(num_classes, 'kitti')
    return name if from_root(f'configs/lidarseg/{net}_{name}.py').is_file() else 'kitti'


def fitting_config(net: str, num_classes: int, options: Sequence[str] = ()) -> str:
    """The config of a net for a number of classes, with the options that weights need.

    Args:
        net: as in names of configs, such as `minkunet_half`.
        num_classes: outputs without the ignored class.
        options: `KEY=VALUE` for `--cfg-options`.
    """
    name = data_set_of(net, num_classes)
    options = [*options, *([] if DATA_SETS.get(num_classes) == name else [f'model.num_classes={num_classes}'])]
    return ' '.join([f'configs/lidarseg/{net}_{name}.py', *(['--cfg-options', *options] if options else [])])
