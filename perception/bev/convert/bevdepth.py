"""BEVDepth-R50 (BEVDepth, one key frame).

It was trained in the car's frame, on images whose red and blue were swapped by their normalisation.
"""
import argparse

from torch import Tensor

from perception.bev.models.encoder import BEVDepthEncoder
from perception.bev.models.view_transforms.depth import BEVDepth
from perception.bev.published import BOXES, RESNET50, RESNET_NAMES, nested, size_of, take_net
from perception.common.nets.second import SECONDFPN
from perception.utils.errors import CheckpointError

OPTIONS = {}
PREFIXES = {**nested('backbone', 'backbone.img_backbone', RESNET_NAMES), 'neck': 'backbone.img_neck',
            'view_transform.depthnet': 'backbone.depth_net', 'heads.boxes': 'head', 'encoder.trunk': 'head.trunk',
            'view_transform.depth_aggregation_net': 'backbone.depth_aggregation_net', 'encoder.neck': 'head.neck'}
DROPPED = tuple(f'backbone.{name}' for name in ('voxel_size', 'voxel_coord', 'voxel_num', 'frustum'))


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of a BEVDepth; checkpoints of its training put `model.` before them."""
    return any(f'{start}backbone.depth_net.depth_mlp.fc1.weight' in weights for start in ('', 'model.'))


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Published weights as ours, and the config that takes them.

    Args:
        weights: a published state dict.
        options: not used.

    Raises:
        CheckpointError: incomplete or mis-shaped weights, or a net of several key frames.
    """
    source = {name.removeprefix('model.'): value for name, value in weights.items()}
    context = size_of(source, 'backbone.depth_net.context_conv.weight')
    seen = size_of(source, 'head.trunk.conv1.weight', 1)
    if seen != context:
        raise CheckpointError(f'convert (BEVDepth): an encoder of {seen} channels behind {context} of a frame, '
                              f'expected {context}. The file is of a net of several key frames, which is not built '
                              'here; give one of a single key frame.')
    dcn = 'backbone.depth_net.depth_conv.4.conv_offset.weight' in source
    aggregation = any(name.startswith('backbone.depth_aggregation_net.') for name in source)
    model = dict(
        grid=dict(x=(-51.2, 51.2, .8), y=(-51.2, 51.2, .8), z=(-5, 3)), bev_frame='ego', backbone=RESNET50,
        levels=(0, 1, 2, 3), neck=dict(type=SECONDFPN, channels=(128,) * 4, strides=(.25, .5, 1, 2)),
        view_transform=dict(type=BEVDepth, out_channels=context, align='lss', use_dcn=dcn, aggregation=aggregation),
        encoder=dict(type=BEVDepthEncoder), heads=dict(boxes=BOXES))
    taken = take_net(source, model, PREFIXES, DROPPED, 'convert (BEVDepth)', 'BEVDepth-R50')
    changes = ['model.view_transform.align=lss', f'model.view_transform.use_dcn={dcn}',
               f'model.view_transform.aggregation={aggregation}', 'model.data_preprocessor.bgr=True',
               'model.bev_frame=ego', *(f'{part}_dataloader.dataset.bev_frame=ego' for part in ('val', 'test',
                                                                                                'submit'))]
    return taken, f'configs/bev/bevdepth_r50_nuscenes.py --cfg-options {" ".join(changes)}'
