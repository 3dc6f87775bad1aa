"""The tracking score of STCrowd: MOTA, MT and ML as its page has them, with identities, HOTA and AMOTA beside them.

The page gives the formulas and no distance at which a person counts as found: 1 m on the ground is taken, the largest
of the detection score, and 0.5 m beside it. Who is low or sits counts as nobody, as in detection.
"""
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.crowd.datasets.stcrowd.metric import DIMENSIONS, Filters, predictions_of, truth_of
from perception.crowd.tracking.scores import REACH, Tracks, add, averages, count, summary
from perception.crowd.tracking.trackers import make_tracker
from perception.registry import METRICS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

COUNTS = ('FP', 'FN', 'IDS', 'Frag')
SHOWN = ('MOTA', 'MOTP', 'MT', 'ML', *COUNTS, 'IDF1', 'HOTA', 'DetA', 'AssA')
CLOSE = ('MOTA', 'IDS', 'IDF1')  # also told of the further distances


@METRICS.register_module()
class STCrowdTrackMetric(BaseMetric):
    """Follows what was found through each sequence and scores the tracks; `--metrics tracking`.

    Predictions that come with tracks, such as those of a results file with `tracking_id`, are scored as they are,
    whatever the tracker.
    Results are shares, counts and metres, rounded to four digits; a table tells each sequence.

    Args:
        tracker: name or config of a Tracker; one of Kalman filters by default.
        again: predictions are followed anew though they come with tracks.
        distances: m at which a person is found, at most 2; the first is that of the plain names, the others end them,
            as in `MOTA_0.5`.
        dist: `'bev'`, distances on the ground, or `'3d'`.
        min_height, max_range, front, min_points, view, min_score, max_boxes: see Filters.
        collect_device, prefix: as in mmengine.

    Raises:
        ConfigError: an argument that is none of these.
    """

    default_prefix = 'STCrowd'
    less_is_better = ('*MOTP*', 'FP*', 'FN*', 'IDS*', 'Frag*', 'ML*')  # of its results, see ExportHook

    def __init__(self, tracker: Mapping | str | None = None, again: bool = False,
                 distances: Sequence[float] = (1.0, 0.5), dist: str = 'bev', min_height: float = 1.2,
                 max_range: float = 35.0, front: bool = True, min_points: int = 1, view: str = 'lidar',
                 min_score: float = 0.05, max_boxes: int = 200, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_choice('STCrowdTrackMetric: dist', dist, DIMENSIONS)
        if not len(distances) or not all(0 < distance <= REACH for distance in distances):
            raise ConfigError(f'STCrowdTrackMetric: distances={distances!r}, expected some above 0 and up to {REACH:g} '
                              'm. Correct them.')
        self.tracker, self.again, self.dims = make_tracker(tracker), again, DIMENSIONS[dist]
        self.distances = tuple(distances)
        self.filters = Filters(min_height, max_range, front, min_points, view, min_score, max_boxes)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Keep who is where in some frames.

        Args:
            data_batch: not used.
            data_samples: for each frame a dict with the fields of BoxSample, among them `boxes`, `track_ids`,
                `pred_boxes`, `pred_scores`, and `pred_track_ids` where it has them, and `sequence` and `frame`.

        Raises:
            DataError: truth or predictions are missing or broken.
        """
        self.results.extend(self._read(sample) for sample in data_samples)

    def _read(self, sample: Mapping) -> tuple:
        """Sequence, frame, its time, people (K, 3) and their tracks, predictions (P, 9), scores, and tracks or None."""
        where, filters = type(self).__name__, self.filters
        boxes, counts = truth_of(sample, filters, where)
        ids = sample.get('track_ids')
        if ids is None or len(ids) != len(boxes) or sample.get('sequence') is None or sample.get('frame') is None:
            raise DataError(f'{where}: {sample.get("sample_id")} has {0 if ids is None else len(ids)} track_ids for '
                            f'{len(boxes)} people, sequence {sample.get("sequence")!r}, frame {sample.get("frame")!r}, '
                            'expected all of them. Use a data set that knows who is who.')
        ids = np.asarray(ids.cpu() if hasattr(ids, 'cpu') else ids, np.int64)
        counts &= ids >= 0
        pred_boxes, scores = predictions_of(sample, where)
        chosen = filters.predictions(pred_boxes, scores, sample)
        pred_ids = None if self.again else sample.get('pred_track_ids')
        return (str(sample['sequence']), int(sample['frame']), sample.get('timestamp'), boxes[counts, :3], ids[counts],
                pred_boxes[chosen], scores[chosen],
                None if pred_ids is None else np.asarray(pred_ids, np.int64)[chosen])

    def compute_metrics(self, results: list[tuple]) -> dict[str, Any]:
        """Scores of all sequences; a table goes to the log."""
        by_sequence: dict[str, list[tuple]] = {}
        for result in sorted(results, key=lambda result: result[:2]):
            by_sequence.setdefault(result[0], []).append(result)
        truth, preds = zip(*(self._tracks(frames) for frames in by_sequence.values())) if by_sequence else ((), ())
        counts = [[count(*pair, distance) for pair in zip(truth, preds)] for distance in self.distances]
        whole = [summary(add(some)) for some in counts]
        scores = whole[0] | dict(zip(('AMOTA', 'AMOTP'), averages(truth, preds, self.distances[0])))
        for distance, others in zip(self.distances[1:], whole[1:]):
            scores |= {f'{name}_{distance:g}': others[name] for name in CLOSE}
        given = any(result[-1] is not None for result in results)
        print_log(f'{len(results):,} frames of {len(by_sequence)} sequences, '
                  f'{"given tracks (again=True: others)" if given else type(self.tracker).__name__}, found within '
                  f'{self.distances[0]:g} m, '
                  + ', '.join(f'{name} {value}' for name, value in asdict(self.filters).items())
                  + '\n' + table({**{name: summary(own) for name, own in zip(by_sequence, counts[0])}, 'all': scores})
                  + '\n' + ', '.join(f'{name} {_cell(name, value)}' for name, value in scores.items()
                                     if name not in SHOWN), 'current')
        return {name: round(value, 4) for name, value in scores.items()}

    def _tracks(self, frames: Sequence[tuple]) -> tuple[Tracks, Tracks]:
        """The true and the predicted tracks of a sequence's frames, in order of time."""
        self.tracker.begin()
        people, found = [], []
        for _, number, timestamp, centers, ids, boxes, scores, tracks in frames:
            tracks = self.tracker.update(boxes, scores, timestamp) if tracks is None else tracks
            own = tracks >= 0
            people.append((np.full(len(ids), number), ids, centers[:, :self.dims]))
            found.append((np.full(own.sum(), number), tracks[own], boxes[own, :self.dims], scores[own]))
        return Tracks(*map(np.concatenate, zip(*people))), Tracks(*map(np.concatenate, zip(*found)))


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each sequence."""
    rows = [['sequence', *SHOWN], *([name, *(_cell(key, own[key]) for key in SHOWN)] for name, own in scores.items())]
    first, *widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join(name.ljust(first) + ''.join(cell.rjust(width + 2) for cell, width in zip(cells, widths))
                     for name, *cells in rows)


def _cell(name: str, value: float) -> str:
    return '-' if np.isnan(value) else f'{value:.0f}' if name.split('_')[0] in COUNTS else f'{value:.4f}'
