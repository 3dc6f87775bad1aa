"""LSS (lift-splat-shoot).

Its maps have the car's x along rows and y along columns; ours have y along rows. So the kernels of everything that
sees a map are transposed. Its EfficientNet comes with a classifier, which is left out.
"""
import argparse

from torch import Tensor

from perception.bev.models.encoder import LSSEncoder, Up
from perception.bev.models.map_head import MapHead
from perception.bev.models.view_transforms.depth import LSS
from perception.bev.published import nested, size_of, take_net
from perception.common.nets.efficientnet import EfficientNet

OPTIONS = {}
PREFIXES = {'backbone': 'camencode.trunk', 'neck': 'camencode.up1', 'view_transform': 'camencode',
            'encoder.trunk': 'bevencode', 'encoder.up': 'bevencode.up1', 'heads.map.last': 'bevencode.up2.4',
            **nested('encoder.last', 'bevencode.up2', {'0': '1', '1': '2'})}
DROPPED = ('dx', 'bx', 'nx', 'frustum', *(f'camencode.trunk.{name}' for name in ('_conv_head.', '_bn1.', '_fc.')))


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of an LSS."""
    return 'camencode.depthnet.weight' in weights and 'bevencode.conv1.weight' in weights


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Published weights as ours, and the config that takes them.

    Args:
        weights: a published state dict.
        options: not used.

    Raises:
        CheckpointError: incomplete or mis-shaped weights.
    """
    context = size_of(weights, 'bevencode.conv1.weight', 1)
    bins, layers = size_of(weights, 'camencode.depthnet.weight') - context, size_of(weights, 'bevencode.up2.4.weight')
    model = dict(
        grid=dict(x=(-50, 50, .5), y=(-50, 50, .5), z=(-10, 10)), bev_frame='ego',
        backbone=dict(type=EfficientNet, version='b0'), levels=(3, 4), neck=dict(type=Up),
        view_transform=dict(type=LSS, out_channels=context, depth=(4, 4 + bins, 1), align='lss'),
        encoder=dict(type=LSSEncoder),
        heads=dict(map=dict(type=MapHead, classes=[f'layer{i}' for i in range(layers)], layers=0)))
    taken = take_net(weights, model, PREFIXES, DROPPED, 'convert (LSS)', 'LSS (lift-splat-shoot)', _transposed)
    options = ['model.view_transform.align=lss'] + [f'model.view_transform.depth=4,{4 + bins},1'] * (bins != 41)
    return taken, f'configs/bev/lss_b0_vehicle.py --cfg-options {" ".join(options)}'


def _transposed(name: str):
    """What turns a kernel over x, y into one over y, x."""
    if name.startswith(('encoder.', 'heads.')):
        return lambda value: value.transpose(2, 3) if value.dim() == 4 else value
    return None
