"""Results for nuScenes' detection challenge in one JSON file: written, validated, read again.

    {"meta": {"use_camera": true, "use_lidar": false, "use_radar": false, "use_map": false, "use_external": false},
     "results": {"<sample token>": [{"sample_token": ..., "translation": [x, y, z], "size": [w, l, h],
                                     "rotation": [w, x, y, z], "velocity": [vx, vy], "detection_name": "car",
                                     "detection_score": 0.8, "attribute_name": "vehicle.moving"}, ...], ...}}

Each sample of the split has its list, empty where nothing was found, of 500 at most. Boxes are in the world's frame:
`translation` is the centre [m], `velocity` in m/s; a thing without an attribute has an empty text. The server takes the
file as a zip archive, which is written beside it. A file of others may have velocities of NaN, as the development kit
gives those of things that are seen once.
"""
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.bev.datasets.nuscenes.metric import MOST, Predictions, chosen, predictions_of
from perception.bev.datasets.nuscenes.reader import ATTRIBUTES, CLASSES, from_world
from perception.bev.map_metric import BEVSegMetric
from perception.common.formats.text import read_text
from perception.common.nuscenes.poses import RIGID, rotations
from perception.common.results import StoredResults
from perception.common.submission import Submission, zip_files
from perception.registry import METRICS, MODELS
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError

NAME = 'results_nusc.json'
FLAGS = ('use_camera', 'use_lidar', 'use_radar', 'use_map', 'use_external')
COLUMNS = dict(  # of the rows of numbers, and between what they lie
    translation=(slice(0, 3), -1e6, 1e6), size=(slice(3, 6), 1e-6, 1e3), rotation=(slice(6, 10), -1.001, 1.001),
    velocity=(slice(10, 12), -1e3, 1e3), detection_score=(slice(12, 13), 0.0, 1.0))
_SHOWN = 5  # samples that are missing or unknown, listed
_REAL = {int, float}


@METRICS.register_module()
class NuScenesDetectionSubmission(Submission):
    """Writes `results_nusc.json` and its zip: of each sample the best 500 predictions in range of their class.

    Args:
        out_dir: folder for the files.
        use_camera, use_lidar, use_radar, use_map, use_external: what the net looks at, for the server.
        collect_device, prefix: as in mmengine.
    """

    unit = 'samples'
    advice = 'Predict the whole split once, with a model of this data set.'
    upload = 'Send the zip file to the evaluation server, see https://www.nuscenes.org/object-detection.'

    def __init__(self, out_dir: str | Path, use_camera: bool = True, use_lidar: bool = False, use_radar: bool = False,
                 use_map: bool = False, use_external: bool = False, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(out_dir, collect_device, prefix)
        self.flags = dict(zip(FLAGS, (use_camera, use_lidar, use_radar, use_map, use_external)))

    def write(self, name: str, sample: dict) -> tuple[str, list[dict]]:
        found = predictions_of(sample, type(self).__name__)
        return name, to_records(name, found.of(chosen(found, sample['ego_to_world'])))

    def finish(self, results: list) -> tuple[Path, list[str]]:
        path, tokens = self.out_dir / NAME, [name for name, _ in results]
        twice = sorted({name for name in tokens if tokens.count(name) > 1}) if len(set(tokens)) < len(tokens) else []
        self.out_dir.mkdir(parents=True, exist_ok=True)
        path.with_suffix('.zip').unlink(missing_ok=True)  # of an earlier run, whose results may be others now
        with atomic_path(path, DataError) as part:
            part.write_text(json.dumps(dict(meta=self.flags, results=dict(results)), allow_nan=False) + '\n', 'ascii')
        count = (self.dataset_meta or {}).get('num_samples', len(tokens))  # of the whole split
        problems = [f'{len(tokens):,} samples, expected {count:,}'] * (len(tokens) != count) + [
            f'sample {name} was predicted twice' for name in twice] + validate_results(path, tokens)
        if not problems:
            zip_files(path.with_suffix('.zip'), self.out_dir, [NAME])
        return path, problems


def to_records(token: str, found: Predictions) -> list[dict]:
    """The list of a sample."""
    half = found.boxes[:, 6] / 2
    turns = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], 1)
    return [dict(sample_token=token, translation=row[:3], size=[row[4], row[3], row[5]], rotation=turn,
                 velocity=[0.0 if v != v else v for v in row[7:]], detection_name=CLASSES[label], detection_score=score,
                 attribute_name=ATTRIBUTES[attribute] if attribute >= 0 else '')
            for row, turn, score, label, attribute in zip(found.boxes.tolist(), turns.tolist(), found.scores.tolist(),
                                                          found.labels.tolist(), found.attributes.tolist())]


def validate_results(path: str | Path, tokens: Iterable[str]) -> list[str]:
    """Find what is wrong with a results file: flags, samples, fields, numbers and their ranges.

    Args:
        path: the file.
        tokens: of all samples that it should hold.

    Returns:
        a sentence for each problem.

    Raises:
        DataError: no such file, or no JSON.
    """
    results, problems = _parse(path)
    tokens = set(tokens)
    for what, names in (('missing', tokens - set(results)), ('unknown', set(results) - tokens)):
        problems += [f'sample {name[:40]} is {what}' for name in sorted(names)[:_SHOWN]]
        problems += [f'{len(names) - _SHOWN:,} more samples are {what}'] * (len(names) > _SHOWN)
    for token, records in results.items():
        problems += [f'sample {token[:40]}: {problem}' for problem in _sample(token, records)[1]]
    return problems


@MODELS.register_module()
class NuScenesDetectionResults(StoredResults):
    """The predictions of a results file, of anybody, in each sample's frame as float64.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or something is wrong with it; the samples are compared as they are asked for.
    """

    lacks = (BEVSegMetric,)
    data = dict(images=False, pipeline=(), points=False)  # the tables tell all that the score needs

    def read(self, path: Path) -> dict[str, dict[str, Any]]:
        results, problems = _parse(path)
        fields = {}
        for token, records in results.items():
            found, wrong = _sample(token, records)
            problems += [f'sample {token[:40]}: {problem}' for problem in wrong]
            fields[token] = dict(pred_boxes=found.boxes, pred_scores=torch.from_numpy(found.scores),
                                 pred_labels=torch.from_numpy(found.labels),
                                 pred_attributes=torch.from_numpy(found.attributes))
        if problems:
            raise DataError(f'{path}: {problems[0]} ({len(problems):,} problem(s)), expected valid results of '
                            'nuScenes. Correct the file; the head of perception/bev/datasets/nuscenes/submission.py '
                            'describes it.')
        return fields

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """See StoredResults; boxes are brought from the world into the frame of the sample."""
        samples = super().test_step(data)
        for sample in samples:
            boxes = from_world(self.results[sample.sample_id]['pred_boxes'], sample.frame_to_world)
            sample.pred_boxes = torch.from_numpy(boxes)
        return samples


def _parse(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    """What a file holds of each sample, and what is wrong with the whole.

    Raises:
        DataError: no such file, or no JSON object with results.
    """
    try:
        content = json.loads(read_text(path, 'the results of nuScenes'))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f'{path}: no valid JSON ({error}), expected results of nuScenes. Write the file again.') \
            from error
    if not isinstance(content, dict) or not isinstance(content.get('results'), dict):
        came = ', '.join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(f'{path}: {came[:80] or "nothing"} came, expected an object with meta and results, the latter '
                        'an object of samples. Take a results file of nuScenes.')
    meta = content.get('meta')
    wrong = [flag for flag in FLAGS if not isinstance(meta, dict) or not isinstance(meta.get(flag), bool)]
    return content['results'], [f'meta says neither true nor false of {", ".join(wrong)}'] if wrong else []


def _sample(token: str, records: Any) -> tuple[Predictions, list[str]]:
    """The list of a sample, in the world's frame, and what is wrong with it."""
    none = Predictions(np.zeros((0, 9)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
    if not isinstance(records, list) or len(records) > MOST:
        came = f'{len(records):,} predictions' if isinstance(records, list) else type(records).__name__
        return none, [f'{came}, expected a list of at most {MOST}']
    rows = [_row(token, record) for record in records]
    wrong = [f'item {k}: {row}' for k, row in enumerate(rows) if isinstance(row, str)]
    if wrong or not rows:
        return none, wrong
    values, labels, attributes = (np.array(column) for column in zip(*rows))
    problems = []
    for name, (columns, low, high) in COLUMNS.items():
        some = values[:, columns]
        bad = np.argwhere(~((some >= low) & (some <= high) | np.isnan(some) & (name == 'velocity')))
        if len(bad):
            problems.append(f'item {bad[0][0]}: {name} {some[tuple(bad[0])]:g}, expected {low:g} to '
                            f'{high:g}')
    lengths = np.linalg.norm(values[:, 6:10], axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= RIGID))
    if len(bad):
        problems.append(f'item {bad[0]}: rotation of length {lengths[bad[0]]:g}, expected 1')
    if problems:
        return none, problems
    heading = rotations(values[:, 6:10] / lengths[:, None])[:, :, 0]
    yaw = np.arctan2(heading[:, 1], heading[:, 0])
    boxes = np.concatenate([values[:, [0, 1, 2, 4, 3, 5]], yaw[:, None], values[:, 10:12]], 1)
    return Predictions(boxes, values[:, 12], labels, attributes), []


def _row(token: str, record: Any) -> tuple[list[float], int, int] | str:
    """The numbers of a prediction, its class and attribute, or what is wrong with it."""
    if not isinstance(record, dict):
        return f'{type(record).__name__}, expected an object'
    if record.get('sample_token') != token:
        return f'sample_token {str(record.get("sample_token"))[:40]}, expected that of its list'
    name, attribute, score = (record.get(key) for key in ('detection_name', 'attribute_name', 'detection_score'))
    if name not in CLASSES:
        return f'detection_name {str(name)[:40]}, expected one of {", ".join(CLASSES)}'
    if attribute != '' and attribute not in ATTRIBUTES:
        return f'attribute_name {str(attribute)[:40]}, expected one of nuScenes, or an empty text'
    if type(score) is not float:
        return f'detection_score {str(score)[:40]}, expected a number with a point, as the official tool demands'
    row = []
    for key, (columns, *_) in COLUMNS.items():
        values = [score] if key == 'detection_score' else record.get(key)
        if not isinstance(values, list) or len(values) != columns.stop - columns.start or \
                not _REAL.issuperset(map(type, values)):
            return f'{key} {str(values)[:40]}, expected {columns.stop - columns.start} numbers'
        row += [np.inf if abs(value) > 1e300 else float(value) for value in values]
    return row, CLASSES.index(name), ATTRIBUTES.index(attribute) if attribute else -1
