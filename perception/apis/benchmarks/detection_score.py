"""The detection score on simulated boxes against nuscenes-devkit, in one process: CPU time, and whether all is equal.

Matching, average precisions and errors of ten classes at four distances are computed by `common/metrics/detection.py`
and by the development kit's `accumulate`, `calc_ap` and `calc_tp`, each from what it takes: arrays, and one Python
object for each box, which are made before the clock starts; what other processes do does not count. Scores have three
digits, so that many are equal; some velocities and attributes are unknown. The validation split of nuScenes has 6,019
samples: `--samples 6019` takes several minutes and 2.5 GB, nearly all of it the development kit's.
"""
import argparse
import time
from types import ModuleType
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

from perception.common.measure import machine
from perception.common.metrics.detection import Boxes, Curve, average_precision, evaluate, mean_error
from perception.common.nuscenes.reader import INSTALL_KIT
from perception.utils.checks import check_positive
from perception.utils.optional import import_optional

OPTIONS = {
    '--samples': {'type': 'int', 'default': 300, 'help': 'frames (default: 300; the validation split has 6019)'},
    '--preds': {'type': 'int', 'default': 300, 'help': 'predictions in each (default: 300)'},
    '--truth': {'type': 'int', 'default': 31, 'help': 'true boxes in each, in the mean (default: 31)'}}
DISTANCES = (0.5, 1.0, 2.0, 4.0)
ERRORS = ('trans', 'scale', 'orient', 'vel', 'attr')
ERROR_DISTANCE = 2  # index in DISTANCES
GOAL = 0.05
CLASSES = dict(  # share of the true boxes, size, an attribute
    car=(.43, (4.6, 1.9, 1.7), 'vehicle.moving'), truck=(.07, (6.9, 2.5, 2.8), 'vehicle.parked'),
    bus=(.01, (11, 2.9, 3.5), 'vehicle.stopped'), trailer=(.02, (12, 2.9, 3.9), 'vehicle.parked'),
    construction_vehicle=(.01, (6.4, 2.8, 3.2), 'vehicle.stopped'),
    pedestrian=(.2, (.7, .7, 1.8), 'pedestrian.moving'), motorcycle=(.01, (2.1, .8, 1.5), 'cycle.with_rider'),
    bicycle=(.01, (1.7, .6, 1.3), 'cycle.without_rider'), traffic_cone=(.1, (.4, .4, 1.1), ''),
    barrier=(.14, (.5, 2.5, 1.0), ''))


class Result(NamedTuple):
    """CPU seconds of both, how many numbers of how many are the same to the last digit, and how far others are off."""

    seconds: float
    kit_seconds: float
    equal: int
    numbers: int
    off: float


def run(args: argparse.Namespace) -> Result:
    """Compute the score in both ways, once, and log how long it took.

    Raises:
        ConfigError: a number below 1.
        MissingDependency: nuscenes-devkit is not installed.
    """
    check_positive('detection_score', samples=args.samples, preds=args.preds, truth=args.truth)
    purpose, install = 'the benchmark detection_score', INSTALL_KIT
    kit = {
        'detection.algo': import_optional('nuscenes.eval.detection.algo', purpose, install),
        'detection.data_classes': import_optional('nuscenes.eval.detection.data_classes', purpose, install),
        'common.utils': import_optional('nuscenes.eval.common.utils', purpose, install),
        'common.data_classes': import_optional('nuscenes.eval.common.data_classes', purpose, install)}
    turns = make_turns(kit['common.utils'])
    truth, preds = make_boxes(args.samples, args.preds, args.truth, np.array(list(turns)))
    names = list(CLASSES)
    periods = [np.pi if name == 'barrier' else 2 * np.pi for name in names]
    start = time.process_time()
    curves = evaluate(truth, preds, len(names), DISTANCES, periods=periods)
    ours = [scores_of(row) for row in curves]
    seconds = time.process_time() - start
    kit_truth, kit_preds = (kit_boxes(part, turns, args.samples, kit) for part in (truth, preds))
    start = time.process_time()
    theirs = [kit_scores(kit, kit_truth, kit_preds, name) for name in names]
    kit_seconds = time.process_time() - start
    result = Result(seconds, kit_seconds, *compare(np.array(ours), np.array(theirs)))
    print_log(f'{args.samples:,} samples, {len(truth.boxes):,} true boxes, {len(preds.boxes):,} predictions; '
              f'{machine()}')
    print_log(f'{seconds:.2f} s of CPU time, nuscenes-devkit {kit_seconds:.1f} s: {seconds / kit_seconds:.4f}x (goal '
              f'{GOAL}x); {result.equal} of {result.numbers} average precisions and errors are equal to the last '
              f'digit, the others within {result.off:.0e}')
    return result


def compare(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int, float]:
    """How many of how many numbers are the same, and how far others are off; infinitely where but one is NaN."""
    same = (ours == theirs) | np.isnan(ours) & np.isnan(theirs)
    off = np.abs(ours - theirs)[~same] / np.maximum(np.abs(theirs[~same]), 1e-12)  # one CPU rounds unlike another
    return int(same.sum()), ours.size, float(np.nan_to_num(off, nan=np.inf).max(initial=0))


def scores_of(curves: list[Curve]) -> list[float]:
    """Average precisions at all distances, then the mean errors, of a class."""
    return [*map(average_precision, curves), *(mean_error(curves[ERROR_DISTANCE], name) for name in ERRORS)]


def kit_scores(kit: dict[str, ModuleType], truth: object, preds: object, name: str) -> list[float]:
    """The same of a class, by the development kit."""
    algo, distance = kit['detection.algo'], kit['common.utils'].center_distance
    data = [algo.accumulate(truth, preds, name, distance, threshold) for threshold in DISTANCES]
    return [*(algo.calc_ap(part, .1, .1) for part in data),
            *(algo.calc_tp(data[ERROR_DISTANCE], .1, f'{error}_err') for error in ERRORS)]


def make_turns(utils: ModuleType, count: int = 1024) -> dict[float, tuple[float, ...]]:
    """Some headings [rad], as the development kit reads them off quaternions, and these, w, x, y, z."""
    half = np.random.default_rng(1).uniform(-np.pi, np.pi, count) / 2
    quaternions = [(float(np.cos(angle)), 0.0, 0.0, float(np.sin(angle))) for angle in half]
    return {float(utils.quaternion_yaw(utils.Quaternion(turn))): turn for turn in quaternions}


def make_boxes(samples: int, preds: int, truth: int, yaws: np.ndarray) -> tuple[Boxes, Boxes]:
    """Simulated boxes of all samples: three predictions of ten mean a true box, more or less exactly.

    Args:
        samples: how many.
        preds: predictions in each.
        truth: true boxes in each, in the mean.
        yaws: headings to draw from.

    Returns:
        true boxes and predictions. Attributes: 1 for the one of the class, 0 for another, -1 for none.
    """
    rng = np.random.default_rng(0)
    share = np.array([share for share, *_ in CLASSES.values()])
    has_attribute = np.array([bool(attribute) for *_, attribute in CLASSES.values()])
    counts = rng.poisson(truth, samples)
    frames, pred_frames = np.repeat(np.arange(samples), counts), np.repeat(np.arange(samples), preds)
    labels, pred_labels = (rng.choice(len(share), len(of), p=share / share.sum()) for of in (frames, pred_frames))
    places = rng.uniform(-50, 50, (len(frames), 2))
    pred_places = rng.uniform(-50, 50, (len(pred_frames), 2))
    scores = rng.beta(1, 6, len(pred_frames))
    near = np.flatnonzero((rng.random(len(pred_frames)) < .3) & (counts[pred_frames] > 0))
    meant = (np.cumsum(counts) - counts)[pred_frames[near]] + rng.integers(0, counts[pred_frames[near]])
    spread = rng.exponential(.8, len(near))
    pred_places[near] = places[meant] + rng.normal(0, 1, (len(near), 2)) * spread[:, None]
    pred_labels[near] = labels[meant]
    scores[near] = rng.beta(3, 3, len(near)) / (1 + .3 * spread)
    boxes, pred_boxes = (_boxes(rng, *part, yaws) for part in ((places, labels), (pred_places, pred_labels)))
    boxes[rng.random(len(boxes)) < .1, 7:] = np.nan
    attributes = np.where(has_attribute[labels] & (rng.random(len(labels)) < .95), 1, -1)
    pred_attributes = np.where(has_attribute[pred_labels], rng.integers(0, 2, len(pred_labels)), -1)
    return (Boxes(boxes, frames, labels, None, attributes),
            Boxes(pred_boxes, pred_frames, pred_labels, np.maximum(scores.round(3), .001), pred_attributes))


def _boxes(rng: np.random.Generator, places: np.ndarray, labels: np.ndarray, yaws: np.ndarray) -> np.ndarray:
    """(K, 9) boxes at places x, y, of sizes that are usual for their classes."""
    sizes = np.array([size for _, size, _ in CLASSES.values()])[labels] * rng.uniform(.8, 1.2, (len(labels), 3))
    return np.column_stack((places, np.ones(len(labels)), sizes, rng.choice(yaws, len(labels)),
                            rng.normal(0, 2, (len(labels), 2))))


def kit_boxes(part: Boxes, turns: dict[float, tuple[float, ...]], samples: int,
              kit: dict[str, ModuleType]) -> object:
    """The same boxes as the development kit's objects."""
    result, names = kit['common.data_classes'].EvalBoxes(), list(CLASSES)
    attributes = {name: ('pedestrian.standing', attribute, '')
                  for name, (*_, attribute) in CLASSES.items()}
    for sample in range(samples):
        result.add_boxes(str(sample), [])
    scores = np.full(len(part.boxes), -1.0) if part.scores is None else part.scores
    for row, frame, label, score, attribute in zip(part.boxes.tolist(), part.frames.tolist(), part.labels.tolist(),
                                                   scores.tolist(), part.attributes.tolist()):
        x, y, z, length, width, height, yaw, *velocity = row
        name = names[label]
        result.boxes[str(frame)].append(kit['detection.data_classes'].DetectionBox(
            sample_token=str(frame), translation=(x, y, z), size=(width, length, height), rotation=turns[yaw],
            velocity=tuple(velocity), detection_name=name, detection_score=score,
            attribute_name=attributes[name][attribute]))
    return result
