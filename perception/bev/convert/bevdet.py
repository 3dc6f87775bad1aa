"""BEVDet-R50 (BEVDet 1.0, in the LiDAR's frame; BEVDet 2.0 and later, in the car's frame).

Later versions call the net of depths `depth_net`, by which they are known, and have a neck of 256 channels. All were
trained on images whose red and blue were swapped by their normalisation.
"""
import argparse

from torch import Tensor

from perception.bev.models.encoder import BEVDetEncoder
from perception.bev.models.view_transforms.depth import LSS
from perception.bev.published import BOXES, RESNET50, RESNET_NAMES, nested, size_of, take_net
from perception.common.nets.fpn import FPN

OPTIONS = {}
VIEW, BEV, NECK = 'img_view_transformer', 'img_bev_encoder_backbone', 'img_bev_encoder_neck'
PREFIXES = {**nested('backbone', 'img_backbone', RESNET_NAMES), 'neck': 'img_neck', 'heads.boxes': 'pts_bbox_head',
            'encoder.layers': f'{BEV}.layers', 'encoder.up.conv': f'{NECK}.conv',
            **nested('encoder.last', f'{NECK}.up2', {'0': '1', '1': '2', '3': '4'})}
DROPPED = tuple(f'{VIEW}.{name}' for name in ('dx', 'bx', 'nx', 'frustum'))


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of a BEVDet of one frame."""
    return any(f'{VIEW}.{name}.weight' in weights for name in ('depthnet', 'depth_net')) and (
        f'{BEV}.layers.0.0.conv1.weight' in weights)


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Published weights as ours, and the config that takes them.

    Args:
        weights: a published state dict.
        options: not used.

    Raises:
        CheckpointError: incomplete or mis-shaped weights, or another backbone.
    """
    later = f'{VIEW}.depth_net.weight' in weights
    depthnet = f'{VIEW}.depth_net' if later else f'{VIEW}.depthnet'
    context = size_of(weights, f'{BEV}.layers.0.0.conv1.weight', 1)
    bins, channels = size_of(weights, f'{depthnet}.weight') - context, size_of(weights, f'{depthnet}.weight', 1)
    model = dict(
        grid=dict(x=(-51.2, 51.2, .8), y=(-51.2, 51.2, .8), z=(-5, 3) if later else (-10, 10)),
        bev_frame='ego' if later else 'lidar', backbone=RESNET50, levels=(2, 3),
        neck=dict(type=FPN, channels=channels, finest_only=True),
        view_transform=dict(type=LSS, out_channels=context, depth=(1, 1 + bins, 1), align='lss'),
        encoder=dict(type=BEVDetEncoder), heads=dict(boxes=BOXES))
    prefixes = dict(PREFIXES, **{'view_transform.depthnet': depthnet})
    taken = take_net(weights, model, prefixes, DROPPED, 'convert (BEVDet)', 'BEVDet-R50')
    changes = ['model.view_transform.align=lss', 'model.data_preprocessor.bgr=True']
    changes += [f'model.neck.channels={channels}'] * (channels != 512)
    changes += ['model.bev_frame=ego', 'model.grid.z=-5,3', 'val_dataloader.dataset.bev_frame=ego',
                'test_dataloader.dataset.bev_frame=ego', 'submit_dataloader.dataset.bev_frame=ego'] * later
    # BEVDet 1.0 enlarges images by 0.04 more in its tests, to 0.48 of their size
    changes += [f'{part}_dataloader.dataset.pipeline.0.scale={.48 / .44:.10f},{.48 / .44:.10f}'
                for part in ('val', 'test', 'submit')] * (not later)
    return taken, f'configs/bev/bevdet_r50_nuscenes.py --cfg-options {" ".join(changes)}'
