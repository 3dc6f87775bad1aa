"""Results for STCrowd in one JSON file: written, validated, read again. No server takes them: people exchange them.

    {"meta": {...}, "results": {"33_0004": [{"translation": [x, y, z], "size": [l, w, h], "yaw": 1.2,
                                             "velocity": [vx, vy], "score": 0.8, "tracking_id": 7}, ...], ...}}

Each frame has its list, by sequence and number of the frame; it is empty where nobody was found. Boxes are in the
LiDAR's frame, x forward, y left, z up: `translation` is the centre of the box, not of its bottom [m], `yaw` counts from
+x towards +y [rad]. `velocity` [m/s] may be null or absent where unknown, `tracking_id`, a whole number or a text, is
optional. `meta` holds what the writer filtered by, see `Filters`, and may hold more.
"""
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.common.formats.text import read_text
from perception.common.results import StoredResults
from perception.common.submission import Submission
from perception.crowd.datasets.stcrowd.metric import Filters, predictions_of
from perception.crowd.tracking.trackers import make_tracker
from perception.registry import METRICS, MODELS
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError

NAME = 'results.json'
COLUMNS = dict(  # of the rows of numbers, and between what they lie
    translation=(slice(0, 3), -1000.0, 1000.0), size=(slice(3, 6), 1e-3, 100.0),
    yaw=(slice(6, 7), -2 * np.pi, 2 * np.pi), velocity=(slice(7, 9), -100.0, 100.0), score=(slice(9, 10), 0.0, 1.0))
MOST = 500  # predictions of a frame in a file of anybody; the score takes the best of them
_SHOWN = 5  # frames that are missing or unknown, listed
_UNKNOWN = [np.nan, np.nan]
_REAL = {int, float}


@METRICS.register_module()
class STCrowdSubmission(Submission):
    """Writes `results.json`, with the predictions that count for the score; its own file gives the score of the net.

    Args:
        out_dir: folder for the file.
        max_range, front, view, min_score, max_boxes: see Filters.
        tracker: name or config of the Tracker that gives `tracking_id`; None for none. Predictions that come with
            tracks, such as those of another results file, keep them, numbered anew.
        collect_device, prefix: as in mmengine.
    """

    unit = 'frames'
    advice = 'Predict the whole split once, with a model of this data set.'

    def __init__(self, out_dir: str | Path, max_range: float = 35.0, front: bool = True, view: str = 'lidar',
                 min_score: float = 0.05, max_boxes: int = 200,
                 tracker: Mapping | str | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(out_dir, collect_device, prefix)
        self.tracker = None if tracker is None else make_tracker(tracker)
        self.filters = Filters(max_range=max_range, front=front, view=view, min_score=min_score, max_boxes=max_boxes)

    def write(self, name: str, sample: dict) -> tuple[str, float | None, np.ndarray, np.ndarray, np.ndarray | None]:
        boxes, scores = predictions_of(sample, type(self).__name__)
        chosen = self.filters.predictions(boxes, scores, sample)
        tracks = sample.get('pred_track_ids')
        return (name, sample.get('timestamp'), boxes[chosen], scores[chosen],
                None if tracks is None else np.asarray(tracks, np.int64)[chosen])

    def finish(self, results: list) -> tuple[Path, list[str]]:
        path, frames = self.out_dir / NAME, [name for name, *_ in results]
        twice = sorted({name for name in frames if frames.count(name) > 1}) if len(set(frames)) < len(frames) else []
        used = {key: value for key, value in asdict(self.filters).items() if key not in ('min_height', 'min_points')}
        meta = dict(dataset='STCrowd', **{key: None if value == np.inf else value for key, value in used.items()},
                    **(dict(tracker=type(self.tracker).__name__) if self.tracker is not None
                       and any(tracks is None for *_, tracks in results) else {}))
        self.out_dir.mkdir(parents=True, exist_ok=True)
        content = dict(meta=meta, results=self._records(results))
        with atomic_path(path, DataError) as part:
            part.write_text(json.dumps(content, allow_nan=False) + '\n', 'ascii')
        return path, [f'frame {name} was predicted twice' for name in twice] + validate_results(path, frames)

    def _records(self, results: list) -> dict[str, list[dict]]:
        """The list of each frame; the frames of a sequence, which its name begins, are followed in order."""
        records, last = {}, None
        for name, timestamp, boxes, scores, tracks in sorted(results, key=lambda result: _place(result[0])):
            if self.tracker is not None and tracks is None:
                sequence = _place(name)[0]
                if sequence != last:
                    self.tracker.begin()
                tracks, last = self.tracker.update(boxes, scores, timestamp), sequence
            records[name] = to_records(boxes, scores, tracks)
        return records


def _place(name: str) -> tuple[str, int, str]:
    """Sequence and number of a frame's name, the latter so that five digits come after four."""
    sequence, _, number = name.rpartition('_')
    return sequence, len(number), number


def to_records(boxes: np.ndarray, scores: np.ndarray, tracks: np.ndarray | None = None) -> list[dict]:
    """The list of a frame; yaws beyond half a turn are brought back into one.

    Args:
        boxes: (P, 9) x, y, z, l, w, h [m], yaw [rad], vx, vy [m/s], NaN where unknown.
        scores: (P,).
        tracks: (P,) int64 numbers of tracks, -1 for none.
    """
    turns = np.abs(boxes[:, 6]) > np.pi
    yaw = np.where(turns, (boxes[:, 6] + np.pi) % (2 * np.pi) - np.pi, boxes[:, 6])
    known = np.isfinite(boxes[:, 7:]).all(axis=1)
    ids = [{}] * len(boxes) if tracks is None else [dict(tracking_id=i) if i >= 0 else {} for i in tracks.tolist()]
    return [dict(translation=row[:3], size=row[3:6], yaw=angle, velocity=row[7:] if is_known else None, score=score,
                 **track) for row, angle, is_known, score, track in zip(
                     boxes.tolist(), yaw.tolist(), known.tolist(), scores.tolist(), ids)]


def validate_results(path: str | Path, frames: Iterable[str]) -> list[str]:
    """Find what is wrong with a results file: frames, fields, numbers and their ranges, what is there twice.

    Args:
        path: the file.
        frames: names of all frames that it should hold, such as `33_0004`.

    Returns:
        a sentence for each problem.

    Raises:
        DataError: no such file, or no JSON.
    """
    results, problems = _parse(path)
    frames = set(frames)
    for what, names in (('missing', frames - set(results)), ('unknown', set(results) - frames)):
        problems += [f'frame {name} is {what}' for name in sorted(names)[:_SHOWN]]
        problems += [f'{len(names) - _SHOWN:,} more frames are {what}'] * (len(names) > _SHOWN)
    for name, records in results.items():
        problems += [f'frame {name}: {problem}' for problem in _frame(records)[1]]
    return problems


@MODELS.register_module()
class STCrowdResults(StoredResults):
    """The predictions of a results file, `pred_boxes`, `pred_scores` and `pred_labels` of BoxSample, as float64.

    Where a prediction has a `tracking_id`, all have `pred_track_ids`.

    Args:
        path: the file, of anybody.

    Raises:
        DataError: it cannot be read, or something is wrong with it; the frames are compared as they are asked for.
    """

    def read(self, path: Path) -> dict[str, dict[str, Any]]:
        results, problems = _parse(path)
        fields, tracks = {}, {}
        for name, records in results.items():
            rows, wrong = _frame(records)
            problems += [f'frame {name}: {problem}' for problem in wrong]
            rows = torch.from_numpy(rows)
            fields[name] = dict(pred_boxes=rows[:, :9], pred_scores=rows[:, 9],
                                pred_labels=torch.zeros(len(rows), dtype=torch.int64))
            tracks[name] = [record.get('tracking_id') for record in records] if len(rows) else []
        known = dict.fromkeys(str(track) for own in tracks.values() for track in own if track is not None)
        numbers = {None: -1, **{track: number for number, track in enumerate(known)}}
        for name, own in tracks.items() if known else ():
            fields[name]['pred_track_ids'] = torch.tensor(
                [numbers[track if track is None else str(track)] for track in own], dtype=torch.int64)
        if problems:
            raise DataError(f'{path}: {problems[0]} ({len(problems):,} problem(s)), expected valid results of STCrowd. '
                            'Correct the file; the head of perception/crowd/datasets/stcrowd/submission.py describes '
                            'it.')
        return fields


def _parse(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    """What a file holds of each frame, and what is wrong with the whole.

    Raises:
        DataError: no such file, or no JSON object.
    """
    twice = []

    def to_dict(pairs: list[tuple[str, Any]]) -> dict:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(sorted({name for name in names if names.count(name) > 1}))
        return result

    try:
        content = json.loads(read_text(path, 'the results of STCrowd'), object_pairs_hook=to_dict)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f'{path}: no valid JSON ({error}), expected results of STCrowd. Write the file again.') \
            from error
    if not isinstance(content, dict) or not isinstance(content.get('results'), dict):
        came = ', '.join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(f'{path}: {came[:80] or "nothing"} came, expected an object with meta and results, the latter '
                        'an object of frames. Take a results file of STCrowd.')
    problems = [f'{name[:40]} is there twice' for name in twice]
    if not isinstance(content.get('meta'), dict):
        problems.append('meta is no object, which holds what was filtered by')
    return content['results'], problems


def _frame(records: Any) -> tuple[np.ndarray, list[str]]:
    """(P, 10) numbers of the list of a frame, in the order of COLUMNS, and what is wrong with it."""
    none = np.zeros((0, 10))
    if not isinstance(records, list) or len(records) > MOST:
        came = f'{len(records):,} predictions' if isinstance(records, list) else type(records).__name__
        return none, [f'{came}, expected a list of at most {MOST}']
    rows = [_row(record) for record in records]
    wrong = [f'item {k}: {row}' for k, row in enumerate(rows) if isinstance(row, str)]
    if wrong:
        return none, wrong
    rows = np.array(rows, np.float64).reshape(-1, 10)
    return rows, [*_out_of_range(rows), *_twice(rows, records)]


def _row(record: Any) -> list[float] | str:
    """The ten numbers of a prediction, or what is wrong with it."""
    if not isinstance(record, dict):
        return f'{type(record).__name__}, expected an object'
    row = []
    for name, (columns, *_) in COLUMNS.items():
        value, count = record.get(name), columns.stop - columns.start
        if value is None and name == 'velocity':
            row += _UNKNOWN
            continue
        values = [value] if count == 1 else value
        if not isinstance(values, list) or len(values) != count or not _REAL.issuperset(map(type, values)):
            return f'{name} {str(value)[:40]}, expected {"a number" if count == 1 else f"{count} numbers"}'
        row += [np.inf if abs(v) > 1e300 else float(v) for v in values]
    return row


def _out_of_range(rows: np.ndarray) -> Iterator[str]:
    for name, (columns, low, high) in COLUMNS.items():
        values = rows[:, columns]
        good = (values >= low) & (values <= high) | (np.isnan(values) if name == 'velocity' else False)
        bad = np.argwhere(~good)
        if len(bad):
            yield f'item {bad[0][0]}: {name} {values[tuple(bad[0])]:g}, expected {low:g} to {high:g}'


def _twice(rows: np.ndarray, records: list[dict]) -> Iterator[str]:
    """Boxes and tracks that a frame has twice."""
    _, first, counts = np.unique(rows[:, :7], axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        yield f'item {first[counts > 1].min()}: its box is there {counts.max()} times'
    tracks = [record['tracking_id'] for record in records if record.get('tracking_id') is not None]
    names = [str(track) for track in tracks if type(track) in (int, str)]
    if len(names) < len(tracks):
        wrong = next(track for track in tracks if type(track) not in (int, str))
        yield f'tracking_id {str(wrong)[:40]}, expected a whole number or a text'
    elif len(set(names)) < len(names):
        yield f'tracking_id {next(name for name in names if names.count(name) > 1)[:40]} is there twice'
