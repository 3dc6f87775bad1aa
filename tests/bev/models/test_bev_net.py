"""The whole net: tasks alone and together, frames, any rig, samples that do not see each other; what is refused."""
import pytest
import torch
from mmengine.model import convert_sync_batchnorm

from perception.bev.geometry import CameraGeometry
from perception.bev.models.bev_net import BEVNet
from perception.bev.models.encoder import BEVDepthEncoder, BEVDetEncoder, LSSEncoder, TinyEncoder, Up
from perception.bev.models.map_head import MapHead
from perception.bev.models.view_transforms.depth import LSS, BEVDepth
from perception.bev.models.view_transforms.ipm import VoxelPull
from perception.bev.preprocessor import RigPreprocessor
from perception.common.nets.center_head import CenterHead
from perception.common.nets.efficientnet import EfficientNet
from perception.common.nets.fpn import FPN
from perception.common.nets.resnet import ResNet
from perception.common.nets.second import SECONDFPN
from perception.common.structures import RigSample
from perception.registry import MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.errors import CheckpointError, ConfigError, DataError

GRID = dict(x=(-25.6, 25.6, 3.2), y=(-25.6, 25.6, 3.2), z=(-10, 10))  # 16 x 16 cells
BOXES = dict(type=CenterHead, tasks=[['car'], ['pedestrian']], shared_channels=8, head_channels=8, max_detections=500,
             score_threshold=.05, max_kept=83)
MAP = dict(type=MapHead, classes=['road', 'crossing'], channels=8)
TINY = dict(
    type=BEVNet, grid=GRID, backbone=dict(type=ResNet, depth=18, base_channels=4, output_stride=32),
    neck=dict(type=FPN, channels=8, finest_only=True), levels=(2, 3),
    view_transform=dict(type=LSS, out_channels=8, depth=(1, 33, 4)),
    encoder=dict(type=TinyEncoder, channels=(8, 8), out_channels=8), heads=dict(boxes=BOXES, map=MAP),
    data_preprocessor=dict(type=RigPreprocessor))


def net(**changes) -> BEVNet:
    """A small net of the same weights each time."""
    torch.manual_seed(0)
    return MODELS.build(TINY | changes)


@pytest.fixture
def batch(make_batch):
    """Two samples of 32 x 64 pixels and 16 x 16 cells."""
    return make_batch(2, size=(32, 64), cells=16)


@pytest.mark.parametrize('heads', ['boxes', 'map', 'both'])
def test_takes_a_step_and_predicts_each_task_alone_and_both(batch, heads):
    wanted = dict(boxes=dict(boxes=BOXES), map=dict(map=MAP), both=TINY['heads'])[heads]
    model = net(heads=wanted)
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode='loss')
    assert ('map.loss_road' in losses) == (heads != 'boxes') and ('boxes.task1.loss_bbox' in losses) == (heads != 'map')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite() and all(p.grad is not None for p in model.parameters() if p.requires_grad)
    for sample in model.eval().test_step(batch):
        fields = {key for key in sample.keys() if key.startswith('pred_')}  # noqa: SIM118
        expected = dict(boxes={'pred_boxes', 'pred_scores', 'pred_labels'}, map={'pred_map'})
        assert fields == {'pred_depth'}.union(*(expected[name] for name in wanted))
        assert sample.pred_depth.shape == (6, 2, 4)
        if heads != 'boxes':
            assert sample.pred_map.shape == (2, 16, 16) and 0 <= sample.pred_map.min() <= sample.pred_map.max() <= 1
        if heads != 'map':
            assert sample.pred_boxes.shape == (len(sample.pred_scores), 9) and len(sample.pred_scores) <= 2 * 83
            assert (sample.pred_scores.diff() <= 0).all()


def test_weights_of_losses(batch):
    plain, weighted = net(), net(loss_weights=dict(map=.5, boxes=0))
    first, second = (model(**model.data_preprocessor(batch), mode='loss') for model in (plain, weighted))
    assert second['map.loss_road'] == .5 * first['map.loss_road'] and second['boxes.task0.loss_bbox'] == 0
    with pytest.raises(ConfigError, match='loss_weights'):
        net(loss_weights=dict(maps=1))


@pytest.mark.parametrize(('cameras', 'size'), [(1, (32, 64)), (3, (48, 80)), (8, (32, 64))])
def test_any_rig(make_batch, cameras, size):
    model = net().eval()
    with torch.no_grad():
        found = model.test_step(make_batch(1, cameras=cameras, size=size, cells=16))
    assert found[0].pred_map.shape == (2, 16, 16) and len(found[0].pred_depth) == cameras


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_keeps_projection_depths_pooling_and_losses_in_float32(batch, dtype):
    model = net().eval()
    data = model.data_preprocessor(batch, True)
    geometry = CameraGeometry.from_inputs(data['inputs'])
    exact, points = model(**data, mode='loss'), torch.rand(5, 3) * 20
    with torch.autocast('cpu', dtype):
        seen = model.compute(data['inputs']['images'], geometry)['seen']
        assert model.image_features(data['inputs']['images']).dtype == dtype
        assert seen.depth.dtype == seen.bev.dtype == geometry.project(points)[0].dtype == torch.float32
        torch.testing.assert_close(seen.depth.sum(2), torch.ones(2, 6, 2, 4))
        found = model(**data, mode='loss')
        total, _ = model.parse_losses(found)
    total.backward()
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=.1, atol=.05)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_statistics_can_be_shared_between_processes(batch):
    """What `sync_bn='torch'` makes of the net has its weights and predicts the same; training so wants GPUs."""
    model = net(view_transform=dict(type=BEVDepth, out_channels=8, depth=(1, 33, 4), mid_channels=8)).eval()
    inputs = model.data_preprocessor(batch)['inputs']
    with torch.no_grad():
        expected, names = model(inputs)['map'], list(model.state_dict())
        shared = convert_sync_batchnorm(model, 'torch').eval()
        norms = [part for part in shared.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
        assert {type(part) for part in norms} == {torch.nn.SyncBatchNorm}
        torch.testing.assert_close(shared(inputs)['map'], expected)
    assert list(shared.state_dict()) == names


def test_samples_do_not_see_each_other(batch):
    model = net().eval()
    data = model.data_preprocessor(batch)
    with torch.no_grad():
        both = model(data['inputs'])['map']
        single = [model({key: value[i:i + 1] for key, value in data['inputs'].items()})['map'] for i in (0, 1)]
    torch.testing.assert_close(both, torch.cat(single), rtol=1e-4, atol=1e-5)


def test_another_frame_is_refused(batch):
    model = net(bev_frame='ego')
    with pytest.raises(DataError, match="sample0 in the frame 'lidar' came, expected 'ego'"):
        model(**model.data_preprocessor(batch), mode='loss')
    with pytest.raises(CheckpointError, match="frame 'lidar' came, expected 'ego'"):
        load_weights(model, net().state_dict())
    load_weights(net(), net().state_dict())
    with pytest.raises(ConfigError, match='bev_frame'):
        net(bev_frame='world')


def test_without_samples(batch):
    model = net().eval()
    inputs = model.data_preprocessor(batch)['inputs']
    with torch.no_grad():
        found = model(inputs, mode='predict')
    assert len(found) == 2 and found[0].bev_frame == 'lidar' and 'pred_boxes' in found[0]
    with pytest.raises(DataError, match='without samples'):
        model(inputs, mode='loss')
    with pytest.raises(ConfigError, match="mode='guess'"):
        model(inputs, mode='guess')


def test_maps_of_another_place_are_not_predicted_for(batch):
    model, data = net().eval(), dict(batch)
    data['data_samples'] = [RigSample(metainfo=dict(sample_id=name, map_bounds=(-50, -50, 50, 50))) for name in 'ab']
    with pytest.raises(DataError, match=r'sample a with map_bounds \(-50, -50, 50, 50\), expected'):
        model.test_step(data)


def test_the_image_net_starts_from_a_file(tmp_path):
    backbone = ResNet(18, 4, 32)
    torch.save(backbone.state_dict() | {'fc.weight': torch.rand(3, 3)}, tmp_path / 'x.pth')
    model = net(image_weights=str(tmp_path / 'x.pth'))
    model.init_weights()
    assert torch.equal(model.backbone.stem[0].weight, backbone.stem[0].weight)
    torch.save({'stem.0.weight': backbone.stem[0].weight}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='missing'):
        net(image_weights=str(tmp_path / 'x.pth')).init_weights()


def test_heads_that_are_none(batch):
    with pytest.raises(ConfigError, match='MapHead as the head'):
        net(heads=dict(boxes=dict(MAP)))
    for heads in ({}, dict(lanes=MAP)):
        with pytest.raises(ConfigError, match='expected boxes or map'):
            net(heads=heads)
    assert net().class_names == ('car', 'pedestrian') and net(heads=dict(map=MAP)).class_names is None


@pytest.mark.parametrize(('name', 'change', 'message'), [
    ('images', lambda x: x.float(), 'float32'), ('images', lambda x: x[:, :1], r'\(6, 1, 32, 64\)'),
    ('images', lambda x: x[:5], '5 images of 32 x 64'), ('cam_to_img', lambda x: x[:5], r'cam_to_img of shape \(5'),
    ('bev_aug', lambda x: x[:3], r'bev_aug of shape \(3, 4\)')])
def test_a_batch_that_does_not_fit_is_refused(batch, name, change, message):
    batch['inputs'][name][1] = change(batch['inputs'][name][1])
    with pytest.raises(DataError, match=f'sample sample1.*{message}|{message}.*sample sample1'):
        net().data_preprocessor(batch)


def test_images_are_normalised_and_matrices_stacked(batch):
    data = RigPreprocessor(mean=(1, 2, 3), std=(2, 2, 2), bgr=True)(batch)['inputs']
    image = batch['inputs']['images'][1][3, 2].float()
    torch.testing.assert_close(data['images'][1, 3, 0], (image - 1) / 2)
    assert data['frame_to_cam'].shape == (2, 6, 4, 4) and data['bev_aug'].shape == (2, 4, 4)
    with pytest.raises(DataError, match='empty batch'):
        RigPreprocessor()(dict(inputs=dict(images=[])))


# ------------------------------------------------------------------------------------------------- encoders and necks

@pytest.mark.parametrize(('encoder', 'cells'), [
    (lambda: TinyEncoder(6, (8, 8), 12), (20, 12)), (lambda: BEVDetEncoder(6, out_channels=12), (24, 16)),
    (lambda: BEVDetEncoder(6, (8, 8), (1, 1), 12), (25, 50)),
    (lambda: BEVDepthEncoder(6, 8, (1, 1, 1), 3), (24, 16)), (lambda: LSSEncoder(6, 6), (25, 50))])
def test_encoders_keep_the_grid(encoder, cells):
    net = encoder()
    assert net(torch.randn(2, 6, *cells)).shape == (2, net.out_channels, *cells) and net.out_channels == 12


def test_published_widths_of_encoders():
    with torch.device('meta'):
        nets = BEVDetEncoder(64), BEVDepthEncoder(80), LSSEncoder(64)
    assert [net.out_channels for net in nets] == [256, 256, 128]
    shapes = [{name: tuple(value.shape) for name, value in net.state_dict().items()} for net in nets]
    assert shapes[0]['layers.0.0.downsample.weight'] == (128, 64, 3, 3) and 'layers.0.1.downsample' not in shapes[0]
    assert shapes[0]['up.conv.0.weight'] == (512, 640, 3, 3) and shapes[0]['last.3.bias'] == (256,)
    assert shapes[1]['trunk.layer3.0.conv1.weight'] == (640, 320, 3, 3)
    assert shapes[1]['neck.deblocks.3.0.weight'] == (640, 64, 8, 8)
    assert shapes[2]['up.conv.0.weight'] == (256, 320, 3, 3) and shapes[2]['last.0.weight'] == (128, 256, 3, 3)


def test_grids_that_encoders_cannot_take():
    with pytest.raises(ConfigError, match='20 x 16 cells, expected multiples of 8'):
        BEVDepthEncoder(4, 4)(torch.zeros(1, 4, 20, 16))
    with pytest.raises(ConfigError, match='1 channels and 2 blocks'):
        BEVDetEncoder(4, (8,), (1, 1))


@pytest.mark.parametrize(('backbone', 'neck', 'levels', 'channels'), [
    (lambda: ResNet(50, 4, 32), lambda n: FPN(n[2:], 6, finest_only=True), (2, 3), 6),  # BEVDet
    (lambda: ResNet(50, 4, 32), lambda n: SECONDFPN(n, (3, 3, 3, 3), (.25, .5, 1, 2)), (0, 1, 2, 3), 12),  # BEVDepth
    (lambda: EfficientNet(width=.25, depth=.3), lambda n: Up(n[3:], 6), (3, 4), 6)], ids=['bevdet', 'bevdepth', 'lss'])
def test_necks_give_one_map_at_stride_16(backbone, neck, levels, channels):
    backbone = backbone()
    neck = neck(backbone.channels)
    maps = backbone(torch.randn(2, 3, 64, 160))
    assert neck.out_channels == channels
    assert neck([maps[i] for i in levels]).shape == (2, channels, 4, 10)


@pytest.mark.parametrize('view', [dict(type=LSS, out_channels=16, depth=(1, 33, 4)),
                                  dict(type=VoxelPull, out_channels=16, layers=2)], ids=['lss', 'voxel_pull'])
def test_two_samples_are_learned_by_heart(make_batch, view):
    """Boxes and maps of random images: every part of the net passes on what it takes."""
    model = net(view_transform=view, encoder=dict(type=TinyEncoder, channels=(16, 16), out_channels=16))
    data = model.data_preprocessor(make_batch(2, cameras=2, size=(32, 64), cells=16), True)
    optimizer, sums = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for _ in range(40):
        optimizer.zero_grad()
        losses = model(**data, mode='loss')
        total = sum(losses.values())
        total.backward()
        optimizer.step()
        sums.append([sum(float(losses[key].detach()) for key in losses if part in key) for part in ('heatmap', 'map.')])
    (heat, layers), (last_heat, last_layers) = sums[0], sums[-1]
    assert last_heat < .4 * heat and last_layers < .7 * layers, sums
