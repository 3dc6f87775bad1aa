"""What a net looks at: points of its view transform in 3D, pixels that feed a cell, in each of two families."""
import numpy as np
import pytest
import torch

from perception.bev import seen as module
from perception.bev.datasets.nuscenes.reader import CLASSES, PALETTE
from perception.bev.draw import FORWARD, input_views, make_look
from perception.bev.models.bev_net import BEVNet
from perception.bev.models.encoder import TinyEncoder
from perception.bev.models.map_head import MapHead
from perception.bev.models.view_transforms.depth import LSS
from perception.bev.models.view_transforms.ipm import IPM
from perception.bev.preprocessor import RigPreprocessor
from perception.bev.seen import draw_cell, draw_frustum, look_through, pixels_of, points_seen
from perception.common.nets.fpn import FPN
from perception.common.nets.resnet import ResNet
from perception.utils.errors import ConfigError

VIEWS = dict(lss=dict(type=LSS, out_channels=6, depth=(1, 33, 1)), ipm=dict(type=IPM, out_channels=6))
LOOK = make_look(dict(width=320))


@pytest.fixture(params=VIEWS)
def seen(request, make_batch):
    """How a small net looks, and a sample whose images are red, green, blue ... all round; the first looks ahead."""
    batch = make_batch(1, cameras=6, size=(64, 176), cells=16)
    sample = {key: value[0] for key, value in batch['inputs'].items()}
    sample = dict(inputs=sample, data_samples=batch['data_samples'][0])
    colors = torch.tensor([[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0], [0, 200, 200], [200, 0, 200]])
    sample['inputs']['images'] = colors.byte()[:, :, None, None].expand(-1, -1, 64, 176).contiguous()
    sample['data_samples'].set_metainfo(dict(cameras=[*'abcdef']))
    torch.manual_seed(0)
    net = BEVNet(
        grid=dict(x=(-25.6, 25.6, 3.2), y=(-25.6, 25.6, 3.2), z=(-10, 10)), levels=(0, 1),
        backbone=dict(type=ResNet, depth=18, base_channels=4, output_stride=32, stages=2),
        neck=dict(type=FPN, channels=4, finest_only=True), view_transform=VIEWS[request.param],
        encoder=dict(type=TinyEncoder, channels=(8, 8), out_channels=8), data_preprocessor=dict(type=RigPreprocessor),
        heads=dict(map=dict(type=MapHead, classes=['road', 'crossing'], channels=4)))
    return look_through(net.eval(), sample), sample


def test_points_have_the_colours_of_their_images(seen):
    seen, sample = seen
    images = sample['inputs']['images'].numpy().transpose(0, 2, 3, 1)
    points, colors = points_seen(seen, images)
    assert len(points) == len(colors) > 50 and (np.abs(points[:, :2]) <= 25.6).all()
    ahead = (np.abs(points[:, 0]) < .3 * points[:, 1]) & (points[:, 1] > 4)
    assert ahead.sum() > 3 and (colors[ahead, 0] >= 99).all() and (colors[ahead, 1:] == 0).all()


def test_pixels_that_feed_a_cell(seen):
    """Straight ahead the first camera alone, behind the fourth; below the car none, and nothing outside of the grid."""
    seen, _ = seen
    for place, camera in (((.1, 12), 0), ((.1, -12), 3)):
        given = pixels_of(seen, place)
        assert given.shape == (6, *seen.size) and np.flatnonzero(given.sum((1, 2))).tolist() == [camera]
        columns = np.flatnonzero(given[camera].any(0))
        assert abs(columns.mean() - (seen.size[1] - 1) / 2) <= seen.size[1] / 5
    assert seen.depth is not None or pixels_of(seen, (.1, 12)).sum() == pytest.approx(1, abs=1e-5)  # a mean of pixels
    with pytest.raises(ConfigError, match='x -25.6 to 25.6'):
        pixels_of(seen, (30, 0))


@pytest.mark.parametrize('frame', FORWARD)
def test_pictures(seen, frame, monkeypatch):
    """From behind and above: what lies ahead is in the middle of the picture, above the car."""
    seen, sample = seen
    views, known = input_views(sample['data_samples'], sample['inputs']), dict(bev_frame=frame)
    asked = []

    def visible_points(points, view, width, height):
        asked.append(view)
        return np.full((height, width), -1)
    monkeypatch.setattr(module, 'visible_points', visible_points)
    images = sample['inputs']['images'].numpy().transpose(0, 2, 3, 1)
    assert draw_frustum(seen, images, known, PALETTE, LOOK).shape[1] == 320
    heading = np.subtract(asked[0].target, asked[0].eye)[:2]
    assert np.arctan2(*heading[::-1]) == pytest.approx(FORWARD[frame])
    picture = draw_cell(seen, views, known, (.1, 12), PALETTE, LOOK, 'x')
    assert picture.shape[1] == 320 and len(CLASSES) == len(PALETTE)


def test_nets_that_look_through_nothing():
    for net in (None, torch.nn.Identity()):
        with pytest.raises(ConfigError, match='expected a net with a view transform'):
            look_through(net, {})
