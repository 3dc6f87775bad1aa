"""The detection score against nuscenes-devkit's own evaluation, and cases by hand."""
import json

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval

from perception.bev.datasets.nuscenes.metric import (
    DISTANCES,
    ERRORS,
    Frame,
    NuScenesDetectionMetric,
    guess_attributes,
    score_frames,
)
from perception.bev.datasets.nuscenes.reader import (
    ATTRIBUTES,
    CLASSES,
    NuScenesRig,
    frame_to_world,
    from_world,
    to_world_boxes,
)
from perception.bev.datasets.nuscenes.submission import NuScenesDetectionResults, NuScenesDetectionSubmission
from perception.common.nuscenes.poses import transforms
from perception.common.structures import RigSample
from perception.utils.errors import DataError


def samples_of(dataset, rng=None):
    """Samples without images and with predictions: the truth, shaken and with rivals where `rng` is given."""
    for index in range(len(dataset)):
        frame = dataset.frames[index]
        sample = bare_sample(dataset, frame)
        truth = sample.annotations
        world, labels = truth.boxes[truth.points != 0], truth.labels[truth.points != 0]
        boxes = from_world(world, sample.frame_to_world).astype(np.float32)
        scores = np.linspace(.9, .3, len(boxes))
        if rng is not None:
            boxes, labels = np.repeat(boxes, 3, 0), np.repeat(labels, 3)
            boxes += rng.normal(0, [1, 1, .3, 0, 0, 0, .4, .5, .5], boxes.shape)
            boxes[:, 3:6] *= rng.uniform(.8, 1.2, (len(boxes), 3))
            labels = np.where(rng.random(len(labels)) < .2, rng.integers(0, 10, len(labels)), labels)
            scores = np.round(rng.random(len(boxes)), 1)  # many are equal
        sample.pred_boxes, sample.pred_labels = torch.from_numpy(boxes), torch.from_numpy(labels)
        sample.pred_scores = torch.from_numpy(scores.astype(np.float32))
        if rng is None:
            sample.pred_attributes = torch.from_numpy(truth.attributes[truth.points != 0])
        yield sample


def bare_sample(dataset, frame):
    to_world = frame_to_world(dataset.index, frame.row, dataset.bev_frame)
    truth = dataset.truth(frame.row, to_world)
    return RigSample(metainfo=dict(sample_id=frame.sample, frame_to_world=to_world, bev_frame=dataset.bev_frame,
                                   ego_to_world=dataset.index.ego_to_world(frame.row),
                                   annotations=truth['annotations']))


def score(samples, metric):
    evaluator = Evaluator(metric)
    for sample in samples:
        evaluator.process(data_samples=[sample])
    return evaluator.evaluate(len(samples))


@pytest.fixture(scope='module')
def devkit(hard_nuscenes):
    return NuScenes('v1.0-mini', str(hard_nuscenes), verbose=False)


@pytest.mark.parametrize(('frame', 'reach'), [('lidar', None), ('ego', None), ('flat_ego', 25)])
def test_equals_the_development_kit(hard_nuscenes, devkit, tmp_path, frame, reach):
    dataset = NuScenesRig(hard_nuscenes, 'mini_val', bev_frame=frame)
    samples = list(samples_of(dataset, np.random.default_rng(0)))
    assert sum(len(sample.annotations.racks) for sample in samples) > 3
    ours = score(samples, NuScenesDetectionMetric(reach))
    score(samples, NuScenesDetectionSubmission(tmp_path / 'out'))
    settings = config_factory('detection_cvpr_2019')
    settings.class_range = {name: min(far, reach or far) for name, far in settings.class_range.items()}
    official = DetectionEval(devkit, settings, str(tmp_path / 'out/results_nusc.json'),
                             'mini_val', str(tmp_path / 'eval'), verbose=False)
    theirs, _ = official.evaluate()
    assert sum(len(boxes) for boxes in official.gt_boxes.boxes.values()) < sum(
        len(sample.annotations.boxes) for sample in samples), 'something is filtered'
    assert 0.05 < theirs.mean_ap < 0.95
    close = dict(rel=0, abs=1e-12)
    assert ours['NuScenes/NDS'] == pytest.approx(theirs.nd_score, **close)
    assert ours['NuScenes/mAP'] == pytest.approx(theirs.mean_ap, **close)
    for name, error in ERRORS.items():
        assert ours[f'NuScenes/{name}'] == pytest.approx(theirs.tp_errors[f'{error}_err'], **close)
        for label in CLASSES:
            assert ours.get(f'NuScenes/{name[1:]}_{label}', np.nan) == pytest.approx(
                theirs.get_label_tp(label, f'{error}_err'), nan_ok=True, **close)
    for label in CLASSES:
        for distance in DISTANCES:
            assert ours[f'NuScenes/AP_{label}_{distance:g}'] == pytest.approx(
                theirs.get_label_ap(label, distance), **close)
    # the same of the file as somebody else's
    stored = NuScenesDetectionResults(tmp_path / 'out/results_nusc.json')
    stored.check(len(samples))
    again = score(stored.test_step(dict(data_samples=[bare_sample(dataset, f) for f in dataset.frames])),
                  NuScenesDetectionMetric(reach))
    assert again == pytest.approx(ours, rel=0, abs=1e-12, nan_ok=True)


def test_unknown_velocities_of_a_file_count_as_in_the_development_kit(hard_nuscenes, devkit, tmp_path):
    dataset = NuScenesRig(hard_nuscenes, 'mini_val')
    score(list(samples_of(dataset, np.random.default_rng(0))), NuScenesDetectionSubmission(tmp_path / 'out'))
    path = tmp_path / 'out/results_nusc.json'
    content = json.loads(path.read_text())
    for records in content['results'].values():
        for record in records[::2]:
            record['velocity'] = [float('nan')] * 2
    path.write_text(json.dumps(content))
    official = DetectionEval(devkit, config_factory('detection_cvpr_2019'), str(path), 'mini_val',
                             str(tmp_path / 'eval'), verbose=False)
    for boxes in official.gt_boxes.boxes.values():
        for box in boxes:  # each scene has one key frame here, which tells no velocities
            box.velocity = (.3, .2)
    theirs, _ = official.evaluate()
    samples = [bare_sample(dataset, frame) for frame in dataset.frames]
    for sample in samples:
        sample.annotations.boxes[:, 7:] = .3, .2
    ours = score(NuScenesDetectionResults(path).test_step(dict(data_samples=samples)), NuScenesDetectionMetric())
    assert any(0 < theirs.get_label_tp(label, 'vel_err') < 1 for label in CLASSES[:8])
    for label in CLASSES:
        assert ours.get(f'NuScenes/AVE_{label}', np.nan) == pytest.approx(
            theirs.get_label_tp(label, 'vel_err'), nan_ok=True, rel=0, abs=1e-12)
    assert ours['NuScenes/NDS'] == pytest.approx(theirs.nd_score, rel=0, abs=1e-12)


def test_the_truth_itself_is_perfect(hard_nuscenes):
    dataset = NuScenesRig(hard_nuscenes, 'mini_val')
    scores = score(list(samples_of(dataset)), NuScenesDetectionMetric())
    there = {CLASSES[label] for frame in dataset.frames for label in bare_sample(dataset, frame).annotations.labels}
    for name in there:
        if scores[f'NuScenes/AP_{name}'] > 0:  # of all out of range there is none
            assert scores[f'NuScenes/AP_{name}'] == pytest.approx(1)
            assert scores[f'NuScenes/ATE_{name}'] < 1e-5
            assert scores.get(f'NuScenes/AOE_{name}', 0) < 1e-5


def test_goldens(shared):
    folder = shared / 'goldens/nuscenes_det_eval'
    truth, preds, results = (json.loads((folder / f'{name}.json').read_text()) for name in ('gt', 'pred', 'results'))

    def columns(rows):
        boxes = [[*row['translation'], row['size'][1], row['size'][0], row['size'][2],
                  2 * np.arctan2(row['rotation'][3], row['rotation'][0]),
                  *(np.nan if v is None else v for v in row['velocity'] or [None, None])] for row in rows]
        attributes = [ATTRIBUTES.index(row['attribute_name']) if row['attribute_name'] else -1 for row in rows]
        return (np.array(boxes).reshape(-1, 9), np.array([row['detection_score'] for row in rows]),
                np.array([CLASSES.index(row['detection_name']) for row in rows], np.int64),
                np.array(attributes, np.int64))
    frames = []
    for token in truth:
        boxes, _, labels, attributes = columns(truth[token])
        frames.append(Frame(boxes, labels, attributes, *columns(preds[token])))
    scores = score_frames(frames)
    assert scores['NDS'] == pytest.approx(results['nd_score'], abs=1e-9)
    assert scores['mAP'] == pytest.approx(results['mean_ap'], abs=1e-9)
    for name, error in ERRORS.items():
        assert scores[name] == pytest.approx(results['tp_errors_mean'][f'{error}_err'], abs=1e-9)


def test_nothing_predicted_and_nothing_true():
    none = Frame(np.zeros((0, 9)), *np.zeros((2, 0), np.int64), np.zeros((0, 9)), np.zeros(0), *np.zeros((2, 0), int))
    assert score_frames([none])['NDS'] == 0
    assert score_frames([])['mAP'] == 0


def test_boxes_one_metre_off_count_from_two_metres_on():
    truth = np.array([[5.0 * i, 3, 1, 4, 2, 1.5, 0, 0, 0] for i in range(10)])
    labels, none = np.arange(10), np.full(10, -1)
    scores = score_frames([Frame(truth, labels, none, truth + np.eye(9)[0], np.full(10, .5), labels, none)])
    assert {scores[f'AP_car_{distance:g}'] for distance in (.5, 1)} == {0}  # at 1 m it must be nearer than that
    assert scores['AP_car_2'] == scores['AP_car_4'] == pytest.approx(1) and scores['ATE_car'] == pytest.approx(1)
    assert scores['mAP'] == pytest.approx(.5)


def test_attributes_follow_from_speed():
    labels = np.array([CLASSES.index(name) for name in ('car', 'bus', 'pedestrian', 'bicycle', 'barrier', 'bus')])
    speeds = np.array([.21, .1, .3, .19, 9, 5])
    names = [ATTRIBUTES[row] if row >= 0 else '' for row in guess_attributes(labels, np.stack([speeds, 0 * speeds], 1))]
    assert names == ['vehicle.moving', 'vehicle.stopped', 'pedestrian.moving', 'cycle.without_rider', '',
                     'vehicle.moving']


def test_boxes_in_a_tilted_frame_and_back():
    rng = np.random.default_rng(1)
    quaternion = rng.normal(size=4) * (1, .03, .03, 1)
    pose = transforms(np.concatenate([rng.normal(0, 100, 3), quaternion / np.linalg.norm(quaternion)]))
    boxes = rng.normal(0, 1, (20, 9))
    back = to_world_boxes(from_world(boxes, pose), pose)
    np.testing.assert_allclose(back, boxes, atol=1e-12)


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(pred_scores=torch.rand(2)), r'shape \(2,\)'), (dict(pred_labels=torch.full((3,), 10)), '0 to 9'),
    (dict(pred_boxes=torch.full((3, 9), torch.nan)), 'finite'), (dict(pred_boxes=None), 'no pred_boxes'),
    (dict(annotations=None), 'no annotations')])
def test_refuses_what_it_cannot_score(hard_nuscenes, changes, message):
    dataset = NuScenesRig(hard_nuscenes, 'mini_val')
    sample = bare_sample(dataset, dataset.frames[0]).to_dict()
    sample.update(pred_boxes=torch.ones(3, 9), pred_scores=torch.rand(3), pred_labels=torch.zeros(3, dtype=int))
    with pytest.raises(DataError, match=message):
        NuScenesDetectionMetric().process(None, [dict(sample, **changes)])
