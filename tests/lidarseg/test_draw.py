"""Pictures of scans: what is drawn where, and in which colour."""
import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from perception.common.structures import PointSegSample
from perception.common.visual import canvas
from perception.common.visual.points import BEHIND, shaded, visible_points, vulkan_problem
from perception.lidarseg import draw
from perception.lidarseg.datasets.nuscenes.reader import NuScenesLidarSeg
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTI, SemanticKITTIMultiScan
from perception.lidarseg.datasets.waymo.reader import Waymo
from perception.lidarseg.draw import (
    DrawGains,
    DrawScans,
    draw_scan,
    error_colors,
    height_colors,
    label_colors,
    scan_score,
)
from perception.registry import METRICS
from perception.utils.errors import ConfigError, DataError

pytest.importorskip('open3d')
needs_vulkan = pytest.mark.skipif(vulkan_problem() is not None, reason=f'{vulkan_problem()} here')
CLASSES = ('car', 'road', 'building')
PALETTE = ((100, 150, 245), (255, 0, 255), (255, 200, 0))


def scan(num=4000, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform((-20, -15, -2, 0), (30, 15, 2, 1), (num, 4)).astype(np.float32)
    labels = rng.integers(0, 3, num)
    labels[::7] = 255
    pred_labels = np.where(rng.random(num) < 0.2, (labels + 1) % 3, labels % 3)
    return points, labels, pred_labels


def colors_in(image):
    return {tuple(c) for c in image.reshape(-1, 3)}


def test_labels_out_of_range_are_drawn_as_unlabelled():
    colors = label_colors(np.array([0, 2, 3, 255, -1, 10 ** 12]), PALETTE)
    assert colors.dtype == np.uint8
    assert [tuple(c) for c in colors] == [PALETTE[0], PALETTE[2], *[draw.UNLABELED] * 4]


@pytest.mark.parametrize('kind', [SemanticKITTI, SemanticKITTIMultiScan, NuScenesLidarSeg, Waymo])
def test_points_without_a_class_look_like_no_class(kind):
    assert np.abs(np.array(kind.METAINFO['palette']) - draw.UNLABELED).max(axis=1).min() > 25


def test_error_colours():
    colors = error_colors(np.array([0, 1, 2, 255]), np.array([0, 2, 255, 1]), 3)
    assert [tuple(c) for c in colors] == [draw.RIGHT, draw.WRONG, draw.IGNORED, draw.WRONG]


def test_height_colours_rise():
    colors = height_colors(np.array([[0, 0, -9.], [0, 0, -3.], [0, 0, 3.], [0, 0, 99.]]))
    assert (colors[0] == colors[1]).all() and (colors[2] == colors[3]).all() and (colors[1] != colors[2]).any()


def test_score_of_a_scan_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 255, 255])
    pred_labels = np.array([0, 0, 1, 1, 2, 0, 2])
    # car 2 / (3 + 2 - 2), road 1 / (2 + 2 - 1); building does not occur, ignored points do not count
    assert scan_score(pred_labels, labels, 3) == 'accuracy 60.0 %, mIoU 50.0 % over the 2 classes of this scan'
    assert scan_score(np.array([255, 7]), np.array([0, 1]), 3).startswith('accuracy 0.0 %, mIoU 0.0 %')
    assert scan_score(pred_labels[5:], labels[5:], 3) == 'no labelled point'


@needs_vulkan
def test_each_panel_shows_its_own_colours():
    points, labels, pred_labels = scan()
    image = draw_scan(points, CLASSES, PALETTE, pred_labels, labels, 'name', panel=(320, 180))
    prediction, truth, errors = image[:-60, :320], image[:-60, 324:644], image[60:-60, 648:]
    assert image.shape[1] == 3 * 320 + 8
    assert set(PALETTE) <= colors_in(prediction) and draw.UNLABELED not in colors_in(prediction)
    assert {*PALETTE, draw.UNLABELED} <= colors_in(truth)
    assert {draw.RIGHT, draw.WRONG, draw.IGNORED} <= colors_in(errors) and not set(PALETTE) & colors_in(errors)


@needs_vulkan
def test_pixels_of_a_panel_are_those_of_the_view():
    points, labels, pred_labels = scan()
    image = draw_scan(points, CLASSES, PALETTE, pred_labels, labels, panel=(320, 180))
    visible = visible_points(points, BEHIND, 320, 180)
    top = len(canvas.bar(968)) + len(canvas.bar(320))  # the title bar and the panel's own
    expected = shaded(label_colors(labels, PALETTE), points[:, 3])[visible]
    drawn = image[top:top + 180, 324:644]
    assert (drawn[visible >= 0] == expected[visible >= 0]).all()


@needs_vulkan
@pytest.mark.parametrize('given', ['labels', 'pred_labels', 'neither'])
def test_one_kind_alone_fills_the_width_with_two_views(given):
    points, labels, _ = scan()
    image = draw_scan(points, CLASSES, PALETTE, **({} if given == 'neither' else {given: labels}), panel=(320, 180))
    assert image.shape[1] == 644
    left, right = image[58:238, :320], image[58:238, 324:]
    for view in (left, right):
        assert (set(PALETTE) <= colors_in(view)) == (given != 'neither')
        assert len(colors_in(view)) > 3


@needs_vulkan
@pytest.mark.parametrize('num', [0, 1])
def test_scans_of_no_point_and_of_one(num):
    points, labels, pred_labels = (values[:num] for values in scan())
    assert draw_scan(points, CLASSES, PALETTE, pred_labels, labels, panel=(160, 90)).shape[1] == 488
    assert draw_scan(points, CLASSES, PALETTE, panel=(160, 90)).shape[1] == 324


@needs_vulkan
def test_wild_labels_do_not_crash():
    points, _, _ = scan(5)
    picture = draw_scan(points, CLASSES, PALETTE, np.array([-5, 99, 2 ** 40, 0, 1]), np.array([0, 1, -1, 70000, 255]),
                        panel=(160, 90))
    assert picture.ndim == 3 and picture.any()


def test_refuses_labels_of_another_number():
    points, labels, _ = scan()
    with pytest.raises(DataError, match=r'labels of shape \(10,\), expected \(4000,\)'):
        draw_scan(points, CLASSES, PALETTE, labels=labels[:10])


def batch(sample_ids, with_labels=True):
    points, labels, pred_labels = scan()
    samples = []
    for name in sample_ids:
        sample = PointSegSample(metainfo=dict(sample_id=name), pred_labels=torch.from_numpy(pred_labels))
        if with_labels:
            sample.labels = torch.from_numpy(labels)
        samples.append(sample)
    return dict(inputs=dict(points=[torch.from_numpy(points)] * len(samples))), samples


def evaluator(**kwargs):
    metric = Evaluator(METRICS.build(dict(type=DrawScans, panel=(160, 90), **kwargs)))
    metric.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    return metric


@needs_vulkan
def test_metric_draws_each_scan_and_scores_nothing(tmp_path):
    metric = evaluator(out_dir=tmp_path / 'new')
    for ids, with_labels in ((['08_000000', '08_000001'], True), (['11_000000'], False)):
        data, samples = batch(ids, with_labels)
        metric.process(samples, data)
    assert metric.evaluate(3) == {}
    files = sorted((tmp_path / 'new').glob('*.png'))
    assert [f.name for f in files] == ['08_000000.png', '08_000001.png', '11_000000.png']
    images = [cv2.imread(str(f))[..., ::-1] for f in files]
    assert [image.shape[1] for image in images] == [488, 488, 324]  # three panels where the truth is known


@needs_vulkan
def test_metric_stops_after_max_scans_and_starts_anew(tmp_path):
    metric = evaluator(out_dir=tmp_path, max_scans=1)
    for name in ('a', 'b'):
        data, samples = batch([f'{name}_0', f'{name}_1'])
        metric.process(samples, data)
    metric.evaluate(4)
    assert [f.name for f in tmp_path.glob('*.png')] == ['a_0.png']
    metric.process(samples, data)
    assert sorted(f.name for f in tmp_path.glob('*.png')) == ['a_0.png', 'b_0.png']


def test_metric_needs_names_and_colours(tmp_path):
    metric = DrawScans(tmp_path)
    metric.dataset_meta = dict(classes=CLASSES)
    data, samples = batch(['a'])
    with pytest.raises(ConfigError, match='expected classes and palette'):
        metric.process(data, [s.to_dict() for s in samples])


@needs_vulkan
def test_the_scans_with_the_largest_gains_are_drawn_with_the_errors_of_both(tmp_path, monkeypatch):
    batch, samples = dict(inputs=dict(points=[])), []
    for name, wrong in (('few', 0.1), ('many', 0.6), ('none', 0.0)):
        points, labels, pred_labels = scan()
        other = np.where(np.arange(len(labels)) < wrong * len(labels), (labels + 1) % 3, pred_labels)
        np.save(tmp_path / f'{name}.npy', other.astype(np.uint8))
        batch['inputs']['points'].append(torch.from_numpy(points))
        samples.append(dict(sample_id=name, labels=torch.from_numpy(labels), pred_labels=torch.from_numpy(pred_labels)))
    metric = DrawGains(tmp_path / 'out', against=tmp_path, most=2, panel=(160, 90))
    metric.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    metric.process(batch, samples)
    monkeypatch.setattr('mmengine.evaluator.metric.is_main_process', lambda: False)  # each process draws its own
    metric.evaluate(3)
    assert sorted(path.name for path in (tmp_path / 'out').glob('*.png')) == ['few.png', 'many.png']
    assert cv2.imread(str(tmp_path / 'out/many.png')).shape[1] > 4 * 160  # four panels side by side
    (tmp_path / 'many.npy').unlink()
    with pytest.raises(DataError, match='many.npy: no predictions for 4,000 points'):
        metric.process(batch, samples)
