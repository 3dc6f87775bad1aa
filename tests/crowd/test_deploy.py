"""What is exported of a CenterPoint computes what the net does, for any number of points, and says what it is of."""
import pytest
import torch

from perception.common.nets.center_head import CenterHead
from perception.common.nets.fpn import FPN
from perception.common.nets.pillars import PillarEncoder
from perception.common.nets.resnet import ResNet
from perception.common.nets.second import SECOND, SECONDFPN
from perception.common.nets.sparse_encoder import SparseEncoder
from perception.crowd.models.camera import CameraCenterPoint, CameraEncoder, FusionCenterPoint
from perception.crowd.models.centerpoint import CenterPoint
from perception.crowd.models.dha import DHAHead
from perception.utils.errors import ConfigError

PARTS = dict(
    point_cloud_range=(0, -6.4, -2, 12.8, 6.4, 1.2),
    backbone=dict(type=SECOND, channels=(8,), layers=(1,), strides=(1,)),
    neck=dict(type=SECONDFPN, channels=(8,), strides=(1,)))
HEAD = dict(type=CenterHead, tasks=[['pedestrian'], ['cyclist']], stride=1, shared_channels=4, head_channels=4)
CAMERA = dict(
    backbone=dict(type=ResNet, depth=18, base_channels=4, stages=3, output_stride=16),
    neck=dict(type=FPN, channels=8, finest_only=True), levels=(1, 2), heights=(-1., 0.))
NAMES = ['heatmap', 'reg', 'height', 'dim', 'rot', 'vel']


def pillars(channels=(8,), kind=CenterPoint, **head):
    torch.manual_seed(0)
    return kind(voxel_size=(.4, .4, 3.2), encoder=dict(type=PillarEncoder, channels=channels),
                head=dict(HEAD, **head), **PARTS)


def voxels(kind=CenterPoint, **others):
    torch.manual_seed(0)
    encoder = dict(type=SparseEncoder, channels=(4, 8), blocks=1, paddings=(1,), last_channels=4)
    return kind(voxel_size=(.2, .2, .2), encoder=encoder, head=dict(HEAD, stride=2), **others, **PARTS)


def camera():
    torch.manual_seed(0)
    return CameraCenterPoint(voxel_size=(.2, .2, 3.2), encoder=dict(type=CameraEncoder, stride=2, **CAMERA),
                             head=dict(HEAD, stride=2), **PARTS)


def scans(*counts):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(count, 4, generator=generator) * torch.tensor([16, 16, 4, 1.]) - torch.tensor([1., 8, 2, 0])
            for count in counts]  # some out of range


def maps_of(model, **inputs):
    maps = model.eval().head.complete(model.maps(inputs))
    return [found[name] for found in maps for name in NAMES]


@pytest.mark.parametrize('channels', [(8,), (8, 8)])
@pytest.mark.parametrize('head', [{}, dict(type=DHAHead)])
@torch.no_grad()
def test_the_whole_net_of_pillars(channels, head):
    model = pillars(channels, **head)
    points = scans(500, 300, 0)
    expected = maps_of(model, points=points)
    part = model.deployable()
    assert part.outputs == [f'boxes_{task}_{name}' for task in (0, 1) for name in NAMES]
    filled = torch.nn.utils.rnn.pad_sequence(points, batch_first=True, padding_value=torch.nan)
    for ours, theirs in zip(part.module(filled), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert part.inputs['points'].shape == (1, 500, 4)  # as many as it has seen


@torch.no_grad()
def test_the_dense_part_of_any_net():
    points = scans(500, 0)
    image, to_image = [torch.full((3, 32, 64), 99, dtype=torch.uint8)] * 2, [torch.eye(4)[:3]] * 2
    fusion = voxels(FusionCenterPoint, camera=CAMERA)
    for model in (pillars(), voxels(), fusion):
        inputs = dict(points=points, image=image, to_image=to_image)
        part = model.eval().deployable_parts()['dense']
        features = model.features(inputs)
        assert part.inputs['features'].shape[1:] == features.shape[1:]
        for ours, theirs in zip(part.module(features), maps_of(model, **inputs)):
            assert torch.equal(ours, theirs)
    for model in (voxels(), fusion):
        with pytest.raises(ConfigError, match='SparseEncoder came, .*deployable_parts'):
            model.deployable()
    assert fusion.deployable_parts() and fusion.seen is None
    with pytest.raises(ConfigError, match='pad_below=20'):
        PillarEncoder(4, PARTS['point_cloud_range'], (.4, .4, 3.2), pad_below=20).on_grid(points[0][None])


@torch.no_grad()
def test_the_net_of_the_camera_alone():
    model = camera().eval()
    part = model.deployable()
    assert part.inputs['image'].shape == (1, 3, 360, 640)
    image = torch.randint(255, (2, 3, 32, 64), dtype=torch.uint8)
    to_image = part.inputs['to_image'].expand(2, -1, -1)
    _, seen = model.encoder.project(to_image)
    assert seen.any() and not seen.all()
    expected = maps_of(model, image=[*image], to_image=[*to_image])
    for ours, theirs in zip(part.module(image.float(), to_image), expected):
        torch.testing.assert_close(ours, theirs)
    assert model.deployable().inputs['image'].shape == (1, 3, 32, 64)


def test_in_onnx_runtime(tmp_path):
    pytest.importorskip('onnx', reason='the extra onnx is not installed')
    pytest.importorskip('onnxruntime', reason='the extra onnx is not installed')
    from perception.apis.export import compare, open_session, to_onnx
    model = pillars((8, 8), tasks=[['pedestrian']])
    module, inputs, outputs = model.deployable()
    to_onnx(module, inputs, outputs, tmp_path / 'x.onnx')
    assert compare(module, inputs, tmp_path / 'x.onnx', trials=2) < 1e-4
    session = open_session(tmp_path / 'x.onnx', threads=1)
    for points in scans(700, 1):
        found = session.run(None, dict(points=points[None].numpy()))
        for ours, theirs in zip(found, maps_of(model, points=[points])):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-5)
