"""Nets that see the camera: what a cell fetches from the image, alone and beside the LiDAR."""
import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from perception.common.boxes import within_image
from perception.common.nets.center_head import CenterHead
from perception.common.nets.fpn import FPN
from perception.common.nets.resnet import ResNet
from perception.common.nets.second import SECOND, SECONDFPN
from perception.common.nets.sparse_encoder import SparseEncoder
from perception.crowd.datasets.stcrowd.metric import Filters
from perception.crowd.datasets.stcrowd.reader import STCrowd, camera_inputs
from perception.crowd.models.camera import CameraCenterPoint, CameraEncoder, FusionCenterPoint
from perception.crowd.models.centerpoint import CenterPoint
from perception.crowd.models.flip import FlipDetector
from perception.crowd.predictor import CrowdPredictor
from perception.crowd.transforms import DropImage, WithinImage, ZoomImage
from perception.utils.errors import CheckpointError, ConfigError, DataError

RANGE, VOXEL = (0, -6.4, -2, 12.8, 6.4, 1.2), (.2, .2, .2)
MATRIX = np.array([[60., -60, 0, 2], [30, 2, -60, 1], [1, 0, 0, .1], [0, 0, 0, 1]])  # an image of 120 x 60
CAMERA = dict(backbone=dict(type=ResNet, depth=18, base_channels=4, output_stride=32, stages=2), levels=(0, 1),
              neck=dict(type=FPN, channels=6, finest_only=True))


class Same(nn.Module):
    """Gives the image itself; as a neck the first of its maps."""

    channels, out_channels = (3,), 3

    def __init__(self, in_channels=None):
        super().__init__()
        self.neck = in_channels is not None

    def forward(self, x):
        return x[0] if self.neck else [x]


def encoder(**changes):
    return CameraEncoder(RANGE, VOXEL, **{**dict(backbone=dict(type=Same), neck=dict(type=Same), levels=(0,), stride=2,
                                                 heights=(-1., 0.), mean=(0, 0, 0), std=(1, 1, 1)), **changes})


def image(height=60, width=120):
    """Red grows by one a column, green by one a row, blue is 200."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.full_like(rows, 200)], -1).astype(np.uint8)


def test_a_cell_fetches_what_the_image_shows_of_its_heights():
    model, inputs = encoder(), camera_inputs(image(), MATRIX)
    found = model({key: [value] for key, value in inputs.items()})[0].permute(1, 2, 0).numpy()
    assert found.shape == (32, 32, 3)
    y, x = np.mgrid[:32, :32] * .4 + np.array([-6.2, .2])[:, None, None]
    places = np.stack([np.stack([x, y, np.full_like(x, z), np.ones_like(x)], -1) for z in (-1., 0.)])
    u, v, depth = np.moveaxis(places @ MATRIX[:3].T, -1, 0)
    u, v = u / depth, v / depth
    seen = (depth > .1) & (u >= -.5) & (u < 119.5) & (v >= -.5) & (v < 59.5)
    inner = seen & (u >= 0) & (u <= 119) & (v >= 0) & (v <= 59)
    whole = (inner == seen).all(0) & seen.any(0)  # of cells at the border a part of the pixel lies outside
    expected = np.stack([u, v, np.full_like(u, 200)], -1) * seen[..., None]
    expected = expected.sum(0) / np.maximum(seen.sum(0), 1)[..., None]
    assert whole.sum() > 300 and (~seen.any(0)).sum() > 100
    np.testing.assert_allclose(found[whole], expected[whole], atol=1e-2)
    assert not found[~seen.any(0)].any()


@pytest.mark.parametrize('size', [(60, 120), (57, 115)])
def test_a_stride_that_does_not_divide_the_image_moves_nothing(size):
    """Of a net that halves and rounds up, as ResNet does; red tells the column, green the row."""
    model, inputs = encoder(), camera_inputs(image(*size), MATRIX)
    model.backbone.forward = lambda x: [nn.functional.avg_pool2d(x, 4, ceil_mode=True)]
    found = model({key: [value] for key, value in inputs.items()})[0, :2].movedim(0, -1)
    place, seen = model.project(inputs['to_image'][None])
    pixel = (place[0] + 1) / 2 * torch.tensor(size[::-1]) - .5
    inner = seen[0] & (pixel > 1.5).all(-1) & (pixel < torch.tensor(size[::-1]) // 4 * 4 - 2.5).all(-1)
    whole = (inner == seen[0]).all(0) & inner.any(0)
    expected = (pixel * inner[..., None]).sum(0) / inner.sum(0).clamp(min=1)[..., None]
    assert whole.sum() > 200
    torch.testing.assert_close(found[whole], expected[whole], rtol=0, atol=1e-2)


def test_places_are_exact_in_mixed_precision():
    """Of stripes in an image so wide that places of eight bits would be a stripe off."""
    stripes = np.tile((100 + 100 * np.sin(np.arange(1920) / 3)).astype(np.uint8)[:, None], (60, 1, 3))
    inputs = {key: [value] for key, value in camera_inputs(stripes, np.diag([16., 1, 1, 1]) @ MATRIX).items()}
    model = encoder()
    model.neck.forward = lambda x: x[0].bfloat16()
    found = model(inputs)
    model.neck.forward = lambda x: x[0]
    torch.testing.assert_close(found.float(), model(inputs), rtol=0, atol=2)


def test_a_smaller_image_shows_the_same_places():
    large, small = image(120, 240), image(120, 240)[::2, ::2]
    one, other = camera_inputs(large, MATRIX), camera_inputs(small, MATRIX, reduce=2)
    torch.testing.assert_close(one['to_image'], other['to_image'])
    grids = [encoder().project(inputs['to_image'][None])[0] for inputs in (one, other)]
    torch.testing.assert_close(*grids)


@pytest.mark.parametrize('seed', range(4))
def test_a_zoomed_image_shows_the_same_things_at_its_places(seed):
    """Colours tell the place of each pixel before; they have to be found where `to_image` says."""
    sample = dict(image=image(), rng=np.random.default_rng(seed))
    zoomed = ZoomImage(.7, 1.4)(sample)
    assert zoomed['image'].shape == (60, 120, 3) and zoomed['image_move'][0] != 1
    one, other = (camera_inputs(s['image'], MATRIX, move=s.get('image_move')) for s in (sample, zoomed))
    (place, seen), (moved, still) = (encoder().project(inputs['to_image'][None]) for inputs in (one, other))
    both = (seen & still)[0].numpy() & (torch.stack([place[0], moved[0]]).abs() < .95).all(-1).all(0).numpy()
    columns, rows = ((moved[0].numpy()[both] + 1) / 2 * (120, 60) - .5).T
    at = zoomed['image'][rows.round().astype(int), columns.round().astype(int), :2]
    expected = (place[0].numpy()[both] + 1) / 2 * (120, 60) - .5
    assert both.sum() > 100 and np.abs(at - expected).max() < 1.6  # half a pixel, magnified, and rounding
    assert ZoomImage(.5, .5)(dict(image=None, rng=np.random.default_rng(0)))['image'] is None


def batch(model_people=2, images=(True, True)):
    """Two scans with an image each, or without."""
    generator, inputs, samples = torch.Generator().manual_seed(0), dict(points=[], image=[], to_image=[]), []
    for number, there in enumerate(images):
        boxes = torch.tensor([[4. + 2 * k, -1 + k, -.8, .6, .5, 1.7, .4, 1, torch.nan] for k in range(model_people)])
        body = boxes[:, None, :3] + (torch.rand(model_people, 40, 3, generator=generator) - .5) * boxes[:, None, 3:6]
        inputs['points'].append(nn.functional.pad(body.flatten(0, 1), (0, 1), value=.5))
        for key, value in camera_inputs(image() if there else None, MATRIX).items():
            inputs[key].append(value)
        samples.append(BaseDataElement(
            boxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long),
            ignore=torch.zeros(len(boxes), dtype=torch.bool), metainfo=dict(sample_id=f'{number}')))
    return dict(inputs=inputs, data_samples=samples)


@pytest.fixture(scope='module')
def parts():
    """Configs of small nets, of the tests of CenterPoint."""
    return dict(
        point_cloud_range=RANGE, voxel_size=VOXEL,
        encoder=dict(type=SparseEncoder, channels=(4, 8), blocks=1, paddings=(1,), last_channels=4),
        backbone=dict(type=SECOND, channels=(8, 8), layers=(1, 1), strides=(1, 2)),
        neck=dict(type=SECONDFPN, channels=(8, 8), strides=(1, 2)),
        head=dict(type=CenterHead, tasks=[['pedestrian']], stride=2, shared_channels=8, head_channels=8, peak_window=3,
                  max_detections=50, score_threshold=.05))


@pytest.fixture(scope='module', params=['camera', 'camera_stacked', 'fusion'])
def make(request, parts):
    """Makes a net that sees the camera, of the same weights each time."""
    def make():
        torch.manual_seed(0)
        if request.param == 'fusion':
            return FusionCenterPoint(camera=dict(CAMERA, heights=(-1., 0.)), **parts)
        join = 'stack' if request.param == 'camera_stacked' else 'mean'
        return CameraCenterPoint(**{**parts, 'encoder': dict(CAMERA, type=CameraEncoder, stride=2, join=join)})
    return make


@pytest.mark.parametrize('images', [(True, True), (True, False), (False, False)])
def test_takes_a_step_and_predicts(make, images):
    model = make()
    total, _ = model.parse_losses(model(**batch(images=images), mode='loss'))
    total.backward()
    assert total.isfinite() and all(p.grad is not None for p in model.parameters())
    found = model.eval().test_step(batch(images=images))
    assert [sample.pred_boxes.shape[1] for sample in found] == [9, 9]


def test_the_image_counts_where_it_is_and_nowhere_else(make):
    model = make().eval()
    with torch.no_grad():
        data = batch()['inputs']
        one = model.features(data)
        other = model.features(dict(data, image=[255 - data['image'][0], data['image'][1]]))
        _, seen = model.camera.project(data['to_image'][0][None]) if hasattr(model, 'camera') else \
            model.encoder.project(data['to_image'][0][None])
    changed = (one[0] != other[0]).any(0)
    around = nn.functional.max_pool2d(seen.any(1).float(), 3, 1, 1)[0] > 0
    assert changed.any() and not changed[~around].any() and torch.equal(one[1], other[1])


def test_predictions_of_a_mirrored_world_are_mirrored(make):
    model, data, other = FlipDetector(make().eval()), batch(), batch()
    for scan, matrix in zip(other['inputs']['points'], other['inputs']['to_image']):
        scan[:, 1] *= -1
        matrix[:, 1] *= -1
    one, mirror = (model.test_step(part)[0] for part in (data, other))
    boxes = mirror.pred_boxes * torch.tensor([1, -1, 1, 1, 1, 1, -1, 1, -1.])
    assert len(one.pred_boxes) == len(boxes) > 0
    match = torch.cdist(one.pred_boxes[:, :2], boxes[:, :2]).argmin(1)
    torch.testing.assert_close(one.pred_boxes, boxes[match], rtol=0, atol=1e-3)


def test_weights_of_the_lidar_alone_have_their_places(parts):
    fused, alone = FusionCenterPoint(camera=CAMERA, **parts).state_dict(), CenterPoint(**parts).state_dict()
    assert {name: value.shape for name, value in alone.items()} == {
        name: value.shape for name, value in fused.items() if not name.startswith(('camera.', 'fuser.'))}


def test_an_image_net_starts_from_weights_of_its_own(parts, tmp_path):
    torch.manual_seed(5)
    net = ResNet(**{key: value for key, value in CAMERA['backbone'].items() if key != 'type'})
    weights = net.state_dict()
    torch.save(dict(weights, **{'fc.weight': torch.zeros(2, 2)}), tmp_path / 'x.pth')
    model = FusionCenterPoint(camera=dict(CAMERA, image_weights=str(tmp_path / 'x.pth')), **parts)
    model.init_weights()
    assert all(torch.equal(model.camera.backbone.state_dict()[name], value) for name, value in weights.items())
    del weights['stem.0.weight']
    torch.save(weights, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='stem.0.weight'):
        FusionCenterPoint(camera=dict(CAMERA, image_weights=str(tmp_path / 'x.pth')), **parts).init_weights()


@pytest.mark.parametrize('call, error, named', [
    (lambda: encoder(levels=(1,)), ConfigError, r'levels=\(1,\), expected some of 0,'),
    (lambda: encoder(levels=()), ConfigError, 'levels'), (lambda: encoder(mean=(1, 2)), ConfigError, 'mean'),
    (lambda: encoder(std=(1, 0, 1)), ConfigError, 'std'), (lambda: encoder(join='sum'), ConfigError, 'stack'),
    (lambda: encoder(heights=()), ConfigError, 'no heights'),
    (lambda: encoder(neck=dict(type=FPN, channels=6)), ConfigError, 'finest_only=True'),
    (lambda: encoder()(dict(points=[])), DataError, 'image_reduce'),
    (lambda: encoder()({key: [value, value[..., :50]] if key == 'image' else [value] * 2
                        for key, value in camera_inputs(image(), MATRIX).items()}), DataError, '120 x 60'),
    (lambda: camera_inputs(image()[:20], MATRIX), DataError, '120 x 20 pixels .* axis is at 60, 30'),
    (lambda: ZoomImage(1.2, .9), ConfigError, 'high=0.9'), (lambda: DropImage(1), ConfigError, 'share=1')])
def test_what_cannot_work_is_said(call, error, named):
    with pytest.raises(error, match=named):
        call()


# --- data ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def pictures(folder):
    """The images of all sequences, 1280 x 720, each of one grey."""
    for file in (folder / 'anno').glob('*.json'):
        for number, frame in enumerate(json.loads(file.read_text())['frames']):
            path = folder / frame['images'][0]['image_name']
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((720, 1280, 3), 40 + 10 * number, np.uint8))
    return folder


def test_the_reader_gives_image_and_projection(pictures):
    dataset = STCrowd(pictures, 'val', image_reduce=4)
    inputs = dataset[1]['inputs']
    assert inputs['image'].shape == (3, 180, 320) and inputs['image'].float().mean() == pytest.approx(50, abs=1)
    # places and pixels of STCrowd's calibration, worked out apart
    for place, pixel, depth in (((10, 0, 0), (683.67, 334.07), 9.92), ((5, -3, -1), (1104.21, 459.97), 4.94)):
        a, b, w = inputs['to_image'].numpy().astype(float) @ [*place, 1]
        assert (a / w * 1280 - .5, b / w * 720 - .5, w) == pytest.approx((*pixel, depth), abs=.01)
    assert 'image' not in STCrowd(pictures, 'val')[1]['inputs']


def test_frames_without_an_image(pictures, change, caplog):
    change('anno/33.json', lambda record: record['frames'][0].update(images=[]))
    dataset = STCrowd(pictures, 'val', image_reduce=2)
    assert dataset[0]['inputs']['image'].numel() == 0 and dataset[0]['inputs']['to_image'].isnan().all()
    assert dataset[1]['inputs']['image'].shape == (3, 360, 640)
    change('anno/33.json', lambda record: [frame.update(images=[]) for frame in record['frames']])
    with pytest.raises(DataError, match='no frame of the val split has an image'):
        STCrowd(pictures, 'val', image_reduce=2)
    assert len(STCrowd(pictures, 'val')) == 2
    with pytest.raises(ConfigError, match='image_reduce=3'):
        STCrowd(pictures, 'val', image_reduce=3)


def test_an_image_that_is_missing_is_said(pictures):
    dataset = STCrowd(pictures, 'val', image_reduce=2)
    next((pictures / 'left/33').glob('0_*')).unlink()
    with pytest.raises(DataError, match='left/33/0_.*No such file'):
        dataset[0]


def test_images_are_dropped_and_people_outside_too(pictures):
    dropped = [STCrowd(pictures, 'train', image_reduce=8, seed=seed, pipeline=[dict(type=DropImage, share=.5)])[0]
               for seed in range(20)]
    assert 0 < sum(sample['inputs']['image'].numel() == 0 for sample in dropped) < 20
    whole, seen = (STCrowd(pictures, 'train', image_reduce=8, pipeline=steps)
                   for steps in ([], [dict(type=WithinImage)]))
    index = next(i for i in range(len(whole)) if len(whole[i]['data_samples'].boxes) == 4)
    sample = whole[index]['data_samples']
    inside = within_image(sample.boxes.numpy(), sample.lidar_to_image, (1280, 720))
    assert inside.tolist().count(False) == 1
    np.testing.assert_array_equal(seen[index]['data_samples'].boxes, sample.boxes[torch.from_numpy(inside)])


@pytest.mark.parametrize('seed', range(4))
def test_nobody_is_learned_whom_the_zoom_has_led_out_of_the_image(seed):
    """The rest are those who are at a place of the image by the matrix that the net gets."""
    places = np.stack(np.meshgrid(np.arange(3., 12), np.arange(-12., 12, .5)), -1).reshape(-1, 2)
    boxes = np.concatenate([places, np.tile([-.5, .6, .6, 1.7, 0, 0, 0], (len(places), 1))], 1)
    sample = dict(image=image(), boxes=boxes, lidar_to_image=MATRIX, image_size=(120, 60),
                  rng=np.random.default_rng(seed))
    for low, high in ((1.2, 1.6), (.6, .8)):
        zoomed = ZoomImage(low, high)(sample)
        matrix = camera_inputs(zoomed['image'], MATRIX, move=zoomed['image_move'])['to_image'].numpy()
        a, b, depth = matrix @ np.c_[boxes[:, :3], np.ones(len(boxes))].T
        inside = (depth > 0) & (a > 0) & (a < depth) & (b > 0) & (b < depth)
        edge = np.abs(np.stack([a, b, a - depth, b - depth])).min(0) < .02 * depth  # half a pixel is nobody's matter
        kept = WithinImage()(zoomed)['boxes']
        found = (boxes[:, None] == kept).all(-1).any(1)
        assert inside.sum() > 20 and (found == inside)[~edge].all()


def test_nobody_is_learned_from_a_frame_without_an_image(pictures, change):
    change('anno/1.json', lambda record: record['frames'][0].update(images=[]))
    for reduce, people in ((8, 0), (None, 3)):  # a net that does not look at images is not concerned
        dataset = STCrowd(pictures, 'train', sequences=[1], image_reduce=reduce, pipeline=[dict(type=WithinImage)])
        assert len(dataset[0]['data_samples'].boxes) == people


def test_images_of_ones_own_have_their_own_size(pictures, change):
    """Twice as large, with the projection that belongs to them: the same people are shown."""
    expected = [STCrowd(pictures, 'train', sequences=[1], pipeline=[dict(type=WithinImage)])[i] for i in range(3)]
    for path in (pictures / 'left').rglob('*.jpg'):
        cv2.imwrite(str(path), np.full((1440, 2560, 3), 90, np.uint8))
    with pytest.raises(DataError, match='left/1/0_.*jpg: 2560 x 1440 pixels .* expected the 1280 x 720 of STCrowd'):
        STCrowd(pictures, 'train', sequences=[1], image_reduce=2)[0]
    change('camera.json', lambda camera: camera.update(p=(np.diag([2, 2, 1]) @ camera['p']).tolist()))
    dataset = STCrowd(pictures, 'train', sequences=[1], pipeline=[dict(type=WithinImage)])
    filters = Filters(view='camera')
    for i in range(3):
        sample = dataset[i]['data_samples']
        torch.testing.assert_close(sample.boxes, expected[i]['data_samples'].boxes, equal_nan=True)
        assert filters.region(sample.boxes.numpy(), sample.to_dict()).all() and sample.image_size == (2560, 1440)
    assert STCrowd(pictures, 'train', sequences=[1], image_reduce=2)[0]['inputs']['image'].shape == (3, 720, 1280)
    assert not filters.region(np.array([[8., 0, -1]]), dict(sample.to_dict(), image_path='')).any()


def test_samples_are_drawn_as_the_net_sees_them(pictures, monkeypatch):
    drawn = []
    monkeypatch.setattr('perception.crowd.predictor.draw_people', lambda points, people, palette, look, image, title:
                        drawn.append((image, people['lidar_to_image'])))
    for steps in ([], [dict(type=ZoomImage, low=.5, high=.5)], [lambda sample: dict(sample, image=None)]):
        dataset = STCrowd(pictures, 'val', image_reduce=4, pipeline=steps)
        CrowdPredictor(None, dict(type=STCrowd)).draw_sample(dataset[0])
    (whole, matrix), (zoomed, moved), (none, _) = drawn
    u, v, depth = matrix @ (10, 0, 0, 1)
    assert ((u / depth + .5) * 4 - .5, (v / depth + .5) * 4 - .5) == pytest.approx((683.67, 334.07), abs=.05)
    assert whole.shape == zoomed.shape == (180, 320, 3) and whole.min() > 0 == zoomed.min() and none is None
    column, row, depth = moved @ (10, 0, 0, 1)  # in the small picture, beside which it is black
    assert zoomed[round(row / depth), round(column / depth)].min() > 0 and not np.allclose(matrix, moved)


class Looker(nn.Module):
    """Keeps what comes and finds nobody."""

    def test_step(self, batch):
        self.came = batch['inputs']
        for sample in batch['data_samples']:
            sample.pred_boxes, sample.pred_scores = torch.zeros(0, 9), torch.zeros(0)
            sample.pred_labels = torch.zeros(0, dtype=torch.int64)
        return batch['data_samples']


def test_the_predictor_looks_at_the_image(pictures, caplog):
    predictor = CrowdPredictor(Looker(), dict(type=STCrowd, split='val', image_reduce=4))
    predictor(sorted((pictures / 'pcd/33').glob('*.bin'))[1])
    expected = STCrowd(pictures, 'val', image_reduce=4)[1]['inputs']
    for key in ('image', 'to_image', 'points'):
        torch.testing.assert_close(predictor.model.came[key][0], expected[key])
    predictor(np.zeros((5, 4), np.float32))
    assert predictor.model.came['image'][0].numel() == 0
