"""What the converters of this room share: the published nets as BEVNets, and their weights by prefixes of names."""
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from perception.bev.models.bev_net import FRAMES, BEVNet
from perception.common.nets.center_head import CenterHead
from perception.common.nets.resnet import ResNet
from perception.common.published import Origin, take_weights
from perception.registry import MODELS
from perception.utils.errors import CheckpointError

TASKS = (('car',), ('truck', 'construction_vehicle'), ('bus', 'trailer'), ('barrier',), ('motorcycle', 'bicycle'),
         ('pedestrian', 'traffic_cone'))  # of the six-task head
BOXES = dict(type=CenterHead, tasks=TASKS)
RESNET50 = dict(type=ResNet, depth=50, output_stride=32)
RESNET_NAMES = {'stem.0': 'conv1', 'stem.1': 'bn1', **{f'stage{i}': f'layer{i}' for i in (1, 2, 3, 4)}}


def take_net(source: Mapping[str, Tensor], model: dict, prefixes: Mapping[str, str], dropped: Sequence[str], where: str,
             what: str, change: Callable[[str], Callable[[Tensor], Tensor] | None] | None = None) -> dict[str, Tensor]:
    """Weights of a BEVNet from published ones.

    Args:
        source: the published weights; all are used but what is dropped.
        model: config of the net.
        prefixes: start of our names -> start of the published ones; the longest that fits counts.
        dropped: starts of names that hold no weights, such as buffers.
        where: function, for messages.
        what: the net, for messages.
        change: gives for our name what changes the published value, or None.

    Raises:
        CheckpointError: names or shapes differ.
    """
    with torch.device('meta'):
        shapes = {name: value.shape for name, value in MODELS.build(dict(model, type=BEVNet)).state_dict().items()}
    frame = torch.tensor(FRAMES.index(model.get('bev_frame', FRAMES[0])))
    origins = {}
    for name, shape in shapes.items():
        if name != 'frame':
            start = max((prefix for prefix in prefixes if name.startswith(f'{prefix}.')), key=len)
            old = f'{prefixes[start]}.{name.removeprefix(f"{start}.")}'.removeprefix('.')
            origins[name] = Origin(old, tuple(shape), change(name) if change else None)
    source = {name: value for name, value in source.items() if not name.startswith(tuple(dropped))}
    return dict(frame=frame, **take_weights(source, origins, where, what))


def nested(prefix: str, old_prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    """Our name -> published one, of parts inside a module."""
    return {f'{prefix}.{ours}': f'{old_prefix}.{theirs}' for ours, theirs in names.items()}


def size_of(source: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    """Length of a weight along an axis.

    Raises:
        CheckpointError: there is no such weight.
    """
    if name not in source or source[name].dim() <= axis:
        raise CheckpointError(f'convert: {name} is missing or of another shape, expected a whole net. The file is '
                              'truncated or of another version.')
    return source[name].shape[axis]
