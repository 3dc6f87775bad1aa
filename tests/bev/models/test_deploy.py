"""A net at one calibration, as one graph and in three: what PyTorch and ONNX Runtime compute is what the net does."""
import pytest
import torch

from perception.bev.geometry import CameraGeometry
from perception.bev.models.bev_net import BEVNet
from perception.bev.models.deploy import parts
from perception.bev.models.encoder import TinyEncoder
from perception.bev.models.map_head import MapHead
from perception.bev.models.view_transforms.depth import LSS, BEVDepth
from perception.bev.models.view_transforms.ipm import IPM, VoxelPull
from perception.bev.preprocessor import RigPreprocessor
from perception.common.nets.center_head import CenterHead
from perception.common.nets.fpn import FPN
from perception.common.nets.resnet import ResNet
from perception.utils.errors import ConfigError

DEPTHS = dict(out_channels=6, depth=(1, 33, 4))
VIEWS = dict(
    lss=dict(type=LSS, **DEPTHS), ipm=dict(type=IPM, out_channels=6, heights=(-1.84, 0), mid_channels=4),
    bevdepth=dict(type=BEVDepth, mid_channels=8, blocks=1, aspp=True, **DEPTHS),
    aggregation=dict(type=BEVDepth, mid_channels=8, blocks=1, aspp=False, use_dcn=True, aggregation=True, **DEPTHS),
    voxel_pull=dict(type=VoxelPull, out_channels=6, layers=2))
NAMES = ['boxes_0_reg', 'boxes_0_height', 'boxes_0_dim', 'boxes_0_rot', 'boxes_0_vel', 'boxes_0_heatmap', 'map']


def net(view):
    torch.manual_seed(0)
    model = BEVNet(
        grid=dict(x=(-25.6, 25.6, 3.2), y=(-25.6, 25.6, 6.4), z=(-10, 10)), levels=(1, 2),
        backbone=dict(type=ResNet, depth=18, base_channels=4, output_stride=32, stages=3),
        neck=dict(type=FPN, channels=8, finest_only=True), view_transform=VIEWS[view],
        encoder=dict(type=TinyEncoder, channels=(8, 8), out_channels=8), data_preprocessor=dict(type=RigPreprocessor),
        heads=dict(boxes=dict(type=CenterHead, tasks=[['car']], shared_channels=4, head_channels=4),
                   map=dict(type=MapHead, classes=['road'], channels=4, label_grid=dict(x=(-20, 20, 4), y=(-8, 8, 4)))))
    return model.eval()


@pytest.fixture
def seen(make_batch):
    """Inputs of a net for two samples of the same rig, which is turned and whose images are cut and mirrored."""
    batch = make_batch(2, cameras=3, size=(32, 64), cells=16)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[.8, -.6], [.6, .8]])
    cut = torch.tensor([[-1.1, 0, 66], [0, 1.1, -3], [0, 0, 1]])
    batch['inputs'].update(bev_aug=[turn] * 2, image_aug=[cut.repeat(3, 1, 1)] * 2)
    return batch


def flat(outputs):
    return [*(value for task in outputs['boxes'] for value in task.values()), outputs['map']]


@pytest.mark.parametrize('view', VIEWS)
def test_one_graph_and_three_parts_compute_what_the_net_does(seen, view):
    model = net(view)
    images = torch.stack(seen['inputs']['images']).float()
    with torch.no_grad():
        expected = flat(model(**model.data_preprocessor(seen)))
        module, inputs, names = model.deployable()  # at the calibration that it has just seen
        assert names == NAMES and inputs['images'].shape == (1, 3, 3, 32, 64)
        for ours, wanted in zip(module(images), expected, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4)
        made = parts(model, model.seen_cameras)
        rows, *shares = made['images'].module(images)
        given = dict(made['pool'].inputs, rows=rows, **(dict(shares=shares[0]) if shares else {}))
        bev = made['pool'].module(*given.values())
        for ours, wanted in zip(made['bev'].module(bev), expected, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4)
    assert made['bev'].outputs == NAMES and made['images'].outputs == ['rows', 'shares'][:1 + len(shares)]


@pytest.mark.parametrize('view', ['lss', 'voxel_pull'])
def test_the_whole_graph_in_onnx_runtime(seen, view, tmp_path):
    pytest.importorskip('onnx', reason='the extra onnx is not installed')
    pytest.importorskip('onnxruntime', reason='the extra onnx is not installed')
    from perception.apis.export import compare, to_onnx
    model = net(view)
    geometry = CameraGeometry.from_inputs({key: torch.stack(value[:1]) for key, value in seen['inputs'].items()})
    module, inputs, names = model.deployable(geometry)
    to_onnx(module, inputs, names, tmp_path / 'x.onnx')
    assert compare(module, inputs, tmp_path / 'x.onnx', trials=2) < 1e-3


def test_the_pooling_of_any_calibration_in_onnx_runtime(seen, tmp_path):
    """Pairs of other cameras, of another number, go into the same graph."""
    pytest.importorskip('onnx', reason='the extra onnx is not installed')
    pytest.importorskip('onnxruntime', reason='the extra onnx is not installed')
    from perception.apis.export import open_session, to_onnx
    model = net('lss')
    geometry = CameraGeometry.from_inputs({key: torch.stack(value[:1]) for key, value in seen['inputs'].items()})
    pool = parts(model, geometry)['pool']
    to_onnx(*pool, tmp_path / 'pool.onnx')
    session = open_session(tmp_path / 'pool.onnx', threads=1)
    geometry.bev_aug[:] = torch.eye(4)
    geometry.frame_to_cam[..., :3, 3] += 2
    other = parts(model, geometry)['pool']
    assert len(other.inputs['pair_row']) != len(pool.inputs['pair_row'])
    found, = session.run(None, {name: value.numpy() for name, value in other.inputs.items()})
    torch.testing.assert_close(torch.from_numpy(found), other.module(*other.inputs.values()), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported(seen):
    model = net('lss')
    with pytest.raises(ConfigError, match='no calibration'):
        model.deployable()
    model.view_transform.reduce = 'mean'
    geometry = CameraGeometry.from_inputs({key: torch.stack(value[:1]) for key, value in seen['inputs'].items()})
    with pytest.raises(ConfigError, match='LSS came, expected .* that sum'):
        model.deployable(geometry)
