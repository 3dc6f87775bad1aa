"""Pictures of people found, missed and found wrongly."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from perception.apis.config import load_config
from perception.common.structures import BoxSample
from perception.common.visual.points import vulkan_problem
from perception.crowd.datasets.stcrowd.metric import Filters, read_frame
from perception.crowd.draw import (
    FOUND,
    IGNORED,
    LOOK,
    MISSED,
    TRUTH,
    WRONG,
    DrawPeople,
    arrays_of,
    draw_people,
    draw_view,
    image_of,
    layers_of,
    make_look,
    outcome,
)
from perception.utils.errors import ConfigError, DataError

needs_vulkan = pytest.mark.skipif(vulkan_problem() is not None, reason=f'{vulkan_problem()} here')
PALETTE = ((0, 0, 230),)
CONFIGS = sorted((Path(__file__).parents[2] / 'configs/crowd').glob('*.py'))
CAMERA = np.array([[320, -300, 0, 0], [180, 0, -300, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
SMALL = LOOK._replace(width=320)


def people(*places):
    """(K, 9) upright people at x, y."""
    boxes = np.tile(np.float32([0, 0, -.6, .7, .6, 1.7, 0, np.nan, np.nan]), (len(places), 1))
    boxes[:, :2] = np.reshape(places, (-1, 2))
    return boxes


def sample(**changes):
    """Somebody found, somebody missed, one who sits, and a prediction each at the first, at the last and at nobody."""
    values = dict(boxes=people((10, 0), (10, 3), (10, -3)), labels=np.zeros(3, np.int64),
                  num_points=np.array([90, 17, 40]), ignore=np.array([False, False, True]),
                  pred_boxes=people((10.1, 0.1), (10, -3.2), (20, 5), (10.3, 0)),
                  pred_scores=np.float32([.6, .7, .8, .1]), pred_labels=np.zeros(4, np.int64))
    return {key: value for key, value in dict(values, **changes).items() if value is not None}


def scan(num=500):
    return np.random.default_rng(0).uniform((0, -20, -1.7, 0), (34, 20, 0, 1), (num, 4)).astype(np.float32)


def colors_in(picture):
    return {tuple(color) for color in picture.reshape(-1, 3)}


def test_found_wrong_missed_and_ignored_by_hand():
    found, wrong, missed, ignored = outcome(arrays_of(sample()), 0.5)
    assert found.tolist() == [True, False, False, False]  # the last one would need the first person again
    assert wrong.tolist() == [False, True, True, True]  # the score has no mercy for who finds somebody that sits
    assert ignored.tolist() == [False, False, True]
    assert missed.tolist() == [False, True, False]
    found, wrong, missed, _ = outcome(arrays_of(sample(), 0.3), 0.1)  # nobody is that near
    assert not found.any() and wrong.tolist() == [True, True, True] and missed.tolist() == [True, True, False]


@pytest.mark.parametrize('filters', [dict(), dict(max_range=19), dict(min_points=20), dict(view='camera')])
def test_a_picture_counts_whom_the_score_counts(filters):
    rng = np.random.default_rng(0)
    boxes, preds = (people(*rng.uniform((-5, -30), (40, 30), (60, 2))) for _ in range(2))
    boxes[:, 5] = rng.uniform(1, 1.8, 60)
    preds[:20] = boxes[:20]
    values = dict(boxes=boxes, labels=np.zeros(60, int), ignore=boxes[:, 5] < 1.2, num_points=rng.integers(0, 40, 60),
                  pred_boxes=preds, pred_scores=rng.uniform(.3, 1, 60), pred_labels=np.zeros(60, int),
                  lidar_to_image=CAMERA, image_path='a.png', image_size=(640, 360), sample_id='a')
    look = make_look(dict(counts=filters))
    scored = read_frame(values, Filters(**filters))
    found, wrong, missed, ignored = outcome(values, look.distance, look.counts)
    assert 0 < len(scored.boxes) < 50 and 0 < found.sum() == (~ignored & ~missed).sum()
    assert (~ignored).sum() == len(scored.boxes) and (found | wrong).sum() == len(scored.pred_boxes)
    assert layers_of(values, PALETTE, look)[1].startswith(f'found {found.sum()} of {len(scored.boxes)}, ')


@pytest.mark.parametrize('mini', [False, True])
@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_pictures_of_every_config_count_whom_its_test_counts(config, mini):
    cfg = load_config(config, mini)
    tested = {name: value for name, value in cfg.test_evaluator.items() if name in ('max_range', 'view')}
    assert Filters(**cfg.predictor.counts) == Filters(**cfg.draw.look.counts) == Filters(**tested)


def test_other_classes_are_not_found():
    found, wrong, missed, _ = outcome(arrays_of(sample(pred_labels=np.array([1, 0, 0, 0]))), 0.5)
    assert found.tolist() == [False, False, False, True] and missed.tolist() == [False, True, False]


@pytest.mark.parametrize('changes', [dict(boxes=people(), labels=np.zeros(0, np.int64), ignore=np.zeros(0, bool),
                                          num_points=np.zeros(0, np.int64)),
                                     dict(pred_boxes=people(), pred_scores=np.zeros(0), pred_labels=np.zeros(0, int))])
def test_nobody_there_or_nobody_found(changes):
    found, wrong, missed, _ = outcome(arrays_of(sample(**changes)), 0.5)
    assert not found.any() and wrong.all() and missed.sum() == (2 if len(missed) else 0)
    layers_of(sample(**changes), PALETTE, LOOK)


def test_each_kind_has_its_colour_dashes_and_text():
    layers, score = layers_of(sample(), PALETTE, LOOK)
    seen = {layer.name: (tuple(layer.ink), layer.dashed, list(layer.texts)) for layer in layers if layer.name}
    assert seen == dict(ignored=(IGNORED, True, []), person=(TRUTH, True, []), found=(FOUND, False, ['0.60']),
                        wrong=(WRONG, False, ['0.70', '0.80']), **{
                            'ignored prediction': (IGNORED, False, []),
                            'missed, with its points': (MISSED, True, ['17 pt'])})
    assert score == 'found 1 of 2, 1 missed, 2 wrong (within 0.5 m, score 0.3 or more)'


def test_one_is_counted_as_one_and_who_was_added_has_no_track():
    added = dict(boxes=people((5, 1)), labels=None, num_points=None, ignore=None, track_ids=np.array([-1]))
    (_, layer), score = layers_of(sample(pred_boxes=None, pred_scores=None, pred_labels=None, **added), PALETTE, LOOK)
    assert list(layer.texts) == [''] and score == '1 person'
    predicted = dict(boxes=None, labels=None, ignore=None, num_points=None)
    for min_score, count in ((.75, '1 prediction'), (.9, '0 predictions')):
        (layer,), score = layers_of(sample(**predicted), PALETTE, LOOK._replace(min_score=min_score))
        assert score == count and layer.ink[2] > layer.ink[0]  # the colour of the class, also where there is none


def test_truth_alone_tells_tracks_and_predictions_alone_scores():
    truth = sample(pred_boxes=None, pred_scores=None, pred_labels=None, track_ids=np.array([4, 5, 6]))
    layers, score = layers_of(truth, PALETTE, LOOK)
    assert [list(layer.texts) for layer in layers] == [[], ['4', '5']] and score == '3 people'
    assert (layers[1].rgb[0] != layers[1].rgb[1]).any()
    (layer,), score = layers_of(sample(boxes=None, labels=None, ignore=None, num_points=None), PALETTE, LOOK)
    assert layer.rgb[0, 2] > layer.rgb[0, 0] and list(layer.texts) == ['0.60', '0.70', '0.80']
    assert layers_of({}, PALETTE, LOOK) == ([], '')


def test_a_sample_of_tensors_is_the_same():
    values = sample()
    tensors = BoxSample(**{key: torch.as_tensor(value) for key, value in values.items()})
    for given, taken in ((values, arrays_of(values)), (values, arrays_of(tensors))):
        assert set(taken) == set(given) and all((taken[key] == given[key]).all() for key in ('labels', 'pred_scores'))


def test_fields_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match='2 ignore for 3 boxes'):
        arrays_of(sample(ignore=np.zeros(2, bool)))
    with pytest.raises(DataError, match='33_0004.*4 pred_scores for 0 pred_boxes'):
        arrays_of(dict(sample(pred_boxes=None), sample_id='33_0004'))


def test_boxes_lie_at_the_same_place_of_an_image_of_any_size():
    layers, _ = layers_of(dict(boxes=people((10, 3)), pred_boxes=people()), PALETTE, LOOK)
    image, middles = np.zeros((360, 640, 3), np.uint8), []
    for size in ((640, 360), (320, 180)):
        picture = draw_view('image', scan(), layers, LOOK, image, CAMERA, size=size)
        assert picture.shape == (size[1], size[0], 3)
        columns = np.nonzero((np.abs(picture.astype(int) - MISSED).max(-1) < 90).any(0))[0]
        middles.append((columns.min() + columns.max() + 1) / 2 / size[0])
    assert middles[0] == pytest.approx((320 - 300 * 3 / 10) / 640, abs=.01)
    assert middles[0] == pytest.approx(middles[1], abs=.005)


def test_image_and_view_from_above_stand_beside_each_other():
    image = np.full((90, 160, 3), 77, np.uint8)
    picture = draw_people(scan(), dict(sample(), lidar_to_image=CAMERA), PALETTE, SMALL, image, '33_0004',
                          ('image', 'bev'))
    assert picture.shape[1] == 2 * 320 + 4 and (77, 77, 77) in colors_in(picture[:, 324:])
    assert (77, 77, 77) not in colors_in(picture[:, :324])
    alone = draw_people(scan(), sample(), PALETTE, SMALL, image, views=('image', 'bev'))  # of an unknown camera
    assert alone.shape[1] == 320


@needs_vulkan
@pytest.mark.parametrize('num', [0, 500])
def test_all_three_views(num):
    image = np.full((90, 160, 3), 77, np.uint8)
    look = SMALL._replace(forward=np.pi / 2)
    picture = draw_people(scan(num), dict(sample(), lidar_to_image=CAMERA), PALETTE, look, image)
    assert picture.shape[1] == 320 + 4 + 192 and picture.shape[0] > 2 * 108


@needs_vulkan
def test_the_view_in_space_looks_forward_whatever_the_frame():
    turned = scan()[:, [1, 0, 2, 3]] * [-1, 1, 1, 1]
    pictures = [draw_view('3d', points, [], LOOK._replace(forward=forward), size=(96, 54))
                for points, forward in ((scan(), 0.0), (turned, np.pi / 2))]
    assert (pictures[0] == pictures[1]).all(-1).mean() > .98 and len(colors_in(pictures[0])) > 3


@pytest.mark.parametrize('bad', ['none.png', 'bad.png'])
def test_each_scan_of_a_batch_gets_its_file(tmp_path, bad):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((90, 160, 3), 77, np.uint8))
    first = dict(sample(), sample_id='33_0004', image_path=str(tmp_path / 'a.png'), lidar_to_image=CAMERA)
    (tmp_path / 'bad.png').write_bytes((tmp_path / 'a.png').read_bytes()[:40])
    second = dict(sample(), sample_id='33_0005', image_path=str(tmp_path / bad), lidar_to_image=CAMERA)
    metric = DrawPeople(tmp_path / 'out', views=['bev', 'image'], look=dict(width=320), num_colors=32, max_scans=2)
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = dict(classes=('pedestrian',), palette=PALETTE)
    batch = dict(inputs=dict(points=[torch.from_numpy(scan())] * 2))
    evaluator.process([BoxSample(metainfo={key: values[key] for key in ('sample_id', 'image_path', 'lidar_to_image')},
                                 **{key: torch.as_tensor(values[key]) for key in sample()})
                       for values in (first, second)], batch)
    evaluator.process([], batch)
    assert sorted(p.name for p in (tmp_path / 'out').glob('*.png')) == ['33_0004.png', '33_0005.png']
    assert [cv2.imread(str(tmp_path / f'out/33_000{i}.png')).shape[1] for i in (4, 5)] == [644, 320]
    assert evaluator.evaluate(2) == {}


def test_what_cannot_be_drawn_is_refused(tmp_path):
    for changes, named in ((dict(views=['bew']), "view='bew'.*bev"), (dict(views=[]), 'views='),
                           (dict(look=dict(min_scor=1)), 'min_score'), (dict(look=dict(side=-1)), 'side=-1')):
        with pytest.raises(ConfigError, match=named):
            DrawPeople(tmp_path, **changes)
    with pytest.raises(ConfigError, match='palette'):
        DrawPeople(tmp_path).process(dict(inputs=dict(points=[])), [])
    assert make_look(dict(side=20)).side == 20
    (tmp_path / 'bad.jpg').write_bytes(b'no image')
    with pytest.raises(DataError, match='bad.jpg'):
        image_of(dict(image_path=str(tmp_path / 'bad.jpg')))
    assert image_of({}) is None and image_of(dict(image_path='')) is None
