"""ResNet (torchvision; the backbone of ResNetSeg, PSPNet and SCNN).

Its classifier is left out; a training takes the rest by `load_from`.
"""
import argparse

from torch import Tensor

from perception.common.nets.resnet import LAYOUTS, ResNet
from perception.lanes.old_names import Conversion, take_weights
from perception.utils.errors import CheckpointError

OPTIONS = {}
CLASSIFIER = ('fc.weight', 'fc.bias')


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of torchvision's ResNets."""
    return 'layer1.0.conv1.weight' in weights


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Published weights as ours, and how nets start from them.

    Args:
        weights: a published state dict.
        options: not used.

    Raises:
        CheckpointError: incomplete or mis-shaped weights.
    """
    weights = {name: value for name, value in weights.items() if name not in CLASSIFIER}
    found = read_net(weights)
    return take_weights(weights, found, 'ResNet (torchvision)')[0], (
        f'a net with ResNet-{found.arguments["depth"]}: tools/train.py CONFIG --cfg-options load_from=FILE')


def read_net(source: dict[str, Tensor]) -> Conversion:
    """Which ResNet the weights are of."""
    counts = tuple(len({name.split('.')[1] for name in source if name.startswith(f'layer{n}.')}) for n in (1, 2, 3, 4))
    bottleneck = 'layer1.0.conv3.weight' in source
    depths = [depth for depth, (block, blocks) in LAYOUTS.items()
              if blocks == counts and (block.expansion == 4) == bottleneck]
    if not depths:
        raise CheckpointError(f'convert: a ResNet with {counts} blocks, expected one of depth '
                              f'{", ".join(map(str, LAYOUTS))}. Give the weights of such a net.')

    def rename(name: str) -> str:
        old = name.replace('stage', 'layer')
        return old.replace('stem.0.', 'conv1.').replace('stem.1.', 'bn1.')
    return Conversion(ResNet, dict(depth=depths[0]), rename)
