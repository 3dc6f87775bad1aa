"""What numbers of a config may be: told by the names of arguments, and by what parts that share a grid check."""
import re
from math import inf, nan

import pytest

from perception.bev.datasets.nuscenes.reader import preset_with
from perception.bev.geometry import BEVGrid
from perception.bev.models.encoder import BEVDetEncoder, LSSEncoder
from perception.bev.models.view_transforms.ipm import IPM
from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.nets.center_head import CenterHead
from perception.common.nets.efficientnet import EfficientNet
from perception.common.nets.second import SECOND, SECONDFPN
from perception.distill.clips import ClipTeacher
from perception.distill.kd import KDLoss
from perception.distill.mimic import MimicLoss
from perception.distill.pvd import PVDLoss
from perception.lanes.datasets.culane.decoder import CULaneDecoder
from perception.ops.voxelize import check_grid, range_shape
from perception.steering.datasets.base import KeptFrames
from perception.steering.models.flownet_s import FlowNetS
from perception.steering.models.resnet3d import ResNet3d
from perception.utils.errors import ConfigError
from perception.utils.values import check_values

CUBE = (0, 0, 0, 4, 4, 4)


@pytest.mark.parametrize('kind, key, value, words', [
    (ImagePreprocessor, 'mean', (0., inf, 0.), 'a finite number'), (IPM, 'heights', [-inf], 'a finite number'),
    (CenterHead, 'nms_threshold', [.2, -1], 'a number of 0 or more'), (SECOND, 'layers', (3, -1), 'of 0 or more'),
    (PVDLoss, 'beta', (.1, inf), 'a finite number of 0 or more'), (CULaneDecoder, 'num_points', 0, 'of 1 or more'),
    (PVDLoss, 'minority_classes', [-1], 'of 0 or more'), (CenterHead, 'max_kept', 0, 'of 1 or more'),
    (CULaneDecoder, 'step', -1, 'of 1 or more'), (KDLoss, 'temperature', inf, 'a finite number above 0'),
    (SECONDFPN, 'strides', (1, inf), 'a finite number above 0'), (FlowNetS, 'unit', 0, 'a number above 0'),
    (CenterHead, 'voxel_size', (.1, .1, 0), 'a number above 0'), (EfficientNet, 'momentum', -1, 'a number from 0 to 1'),
    (EfficientNet, 'drop_connect', inf, 'a finite number from 0 to 1'), (CenterHead, 'overlap', nan, 'from 0 to 1')])
def test_what_the_name_of_a_number_allows(kind, key, value, words):
    with pytest.raises(ConfigError, match=rf'^x.py: part.{key}=(-1|0|-?inf|nan), expected .*{words}. Correct it.$'):
        check_values(dict(type=kind, **{key: value}), 'x.py: part')


@pytest.mark.parametrize('kind, values', [
    (CenterHead, dict(post_range=(-inf, -inf, -5, inf, inf, 5), ignore_radius=None, nms_threshold=0)),
    (SECOND, dict(layers=(0, 0, 0))), (SECONDFPN, dict(strides=(.5, 1, 2))), (KDLoss, dict(weight=0, ignore_index=-1)),
    (ImagePreprocessor, dict(mean=(0, -1, 0))), (EfficientNet, dict(drop_connect=0)), (PVDLoss, dict(beta=(0, 0))),
    (PVDLoss, dict(minority_classes=[0]))])
def test_a_number_with_a_meaning_is_left(kind, values):
    check_values(dict(type=kind, **values), 'x.py: part')


@pytest.mark.parametrize('make, message', [
    (lambda: BEVGrid((0, inf, 1), (0, 4, 1)), 'BEVGrid: x=(0.0, inf, 1.0), expected least'),
    (lambda: BEVGrid((0, 4, 1), (0, 4, 1), (0, inf)), 'BEVGrid: z=(0.0, inf), expected least'),
    (lambda: preset_with('lss_map', dict(x=(-4, 4, 0))), 'BEVGrid: x=(-4.0, 4.0, 0.0), expected least'),
    (lambda: range_shape(CUBE, (1, 0, 1)), 'of 4 x 0 x 4 voxels'),
    (lambda: range_shape((0, 0, 0, 4, 4, inf), (1, 1, 1)), 'of 4 x 4 x inf voxels'),
    (lambda: range_shape((0, 0, 0, 4, 4, -4), (1, 1, -1)), 'expected whole numbers along x, y and z'),
    (lambda: check_grid((4, 4, 4), (0, 0, -inf), (1, 1, 1)), 'expected finite numbers, each minimum'),
    (lambda: BEVDetEncoder(8, blocks=(2, 2, 0)), 'BEVDetEncoder: blocks=0, expected a number above 0'),
    (lambda: LSSEncoder(8, blocks=(2, 2, -1)), 'ResNetTrunk: blocks=-1, expected a number above 0'),
    (lambda: ResNet3d(blocks=(3, 4, 0, 3)), 'ResNet3d: blocks=0, expected a number above 0'),
    (lambda: MimicLoss('flow', dict(low=dict(tap='a', channels=(0, 4)))), "path 'low': channels=0"),
    (lambda: ClipTeacher({}, dict(low=dict(tap='a', channels=-1, size=(4, 4)))), "path 'low' has channels=-1,"),
    (lambda: ClipTeacher({}, dict(low=dict(tap='a', channels=4, size=(0, 4)))), "size of path 'low'=(0, 4), expected"),
    (lambda: PVDLoss('full', [1], rho_range=(0, inf)), 'expected 0 <= first < last')])
def test_a_part_refuses_what_it_cannot_work_with(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


def test_infinite_memory_keeps_all_frames():
    assert KeptFrames(3, (2, 2), inf).room == 3
