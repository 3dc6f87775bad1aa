"""Tracks of STCrowd's frames are made and scored."""
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from perception.crowd.datasets.stcrowd.track_metric import STCrowdTrackMetric
from perception.crowd.tracking.trackers import KalmanTracker
from perception.utils.errors import ConfigError, DataError


def box(x, y, height=1.7):
    return [x, y, -.8, .7, .6, height, 0, np.nan, np.nan]


def frame(sequence, number, people, found, **fields):
    """A sample of people, {track: (x, y)} or (x, y, height), and of what was found, the same with scores of 0.9."""
    rows = torch.tensor([box(*place) for place in people.values()]).reshape(-1, 9)
    preds = torch.tensor([box(*place) for place in found]).reshape(-1, 9)
    element = BaseDataElement(
        metainfo=dict(sample_id=f'{sequence}_{number:04d}', sequence=sequence, frame=number), boxes=rows,
        track_ids=torch.tensor(list(people), dtype=torch.int64), pred_boxes=preds,
        pred_scores=torch.full((len(preds),), .9))
    for name, value in fields.items():
        element.set_field(torch.tensor(value), name)
    return element.to_dict()


def score(frames, **arguments):
    metric = STCrowdTrackMetric(**arguments)
    metric.process(None, frames)
    return metric.evaluate(len(frames))


def drives(order=slice(None)):
    """Two drives whose people and frames have equal numbers; in one somebody is missed, in the other somebody sits."""
    one = [frame('33', t, {1: (5 + t / 5, 1), 2: (9, -3)}, [(5 + t / 5, 1.2)] + [(9, -3)] * (t != 2)) for t in range(5)]
    other = [frame('35', t, {1: (20, 4), 2: (7, 0, 1.0)}, [(20.7, 4)]) for t in range(5)]
    return [*one, *other][order]


def test_sequences_are_followed_one_by_one_whatever_the_order():
    scores = score(drives())
    assert scores == pytest.approx(score(drives(slice(None, None, -1))), nan_ok=True)
    assert [scores[f'STCrowd/{name}'] for name in ('FP', 'FN', 'IDS', 'Frag', 'MT', 'ML')] == [0, 1, 0, 1, .6667, 0]
    assert scores['STCrowd/MOTA'] == pytest.approx(1 - 1 / 15, abs=1e-4)
    assert scores['STCrowd/MOTP'] == pytest.approx((5 * .2 + 5 * .7) / 14, abs=1e-4)
    assert scores['STCrowd/MOTA_0.5'] == pytest.approx(1 - (1 + 2 * 5) / 15, abs=1e-4)  # 0.7 m is too far there


def test_people_who_do_not_count_are_nobody():
    """Who sits, is ignored, stands behind, beyond the range or has no track."""
    people = {1: (5, 0), 2: (6, 3, 1.0), 3: (-4, 0), 4: (40, 0), -1: (9, 9)}
    scores = score([frame('1', 0, people, [(5, 0)], ignore=[False] * 5)])
    assert scores['STCrowd/MOTA'] == 1 and scores['STCrowd/FN'] == 0
    assert score([frame('1', 0, people, [(5, 0)], ignore=[True] + [False] * 4)])['STCrowd/FP'] == 1
    assert score([frame('1', 0, people, [(5, 0)])], front=False)['STCrowd/FN'] == 1


def test_options_reach_the_tracker_and_the_filters():
    frames = [frame('1', t, {1: (5 + t * .9, 0)}, [(5 + t * .9, 0)]) for t in range(4)]
    assert score(frames)['STCrowd/IDS'] == 0
    assert score(frames, tracker=dict(type=KalmanTracker, max_distance=.8, min_hits=1))['STCrowd/IDS'] == 3
    assert score(frames, tracker='GreedyTracker')['STCrowd/IDS'] == 3
    assert score(frames, min_score=.95)['STCrowd/FN'] == 4
    assert score(frames, dist='3d', distances=[.25])['STCrowd/MOTA'] == 1
    for arguments, named in ((dict(distances=[3]), 'distances'), (dict(distances=[]), 'distances'),
                             (dict(dist='iou'), 'bev'), (dict(tracker='Sort'), 'KalmanTracker')):
        with pytest.raises(ConfigError, match=named):
            STCrowdTrackMetric(**arguments)


def test_samples_without_tracks_are_refused():
    sample = frame('1', 0, {1: (5, 0)}, [(5, 0)])
    for key in ('track_ids', 'sequence', 'frame'):
        with pytest.raises(DataError, match='1_0000 has .* expected all of them'):
            score([{name: value for name, value in sample.items() if name != key}])
    nobody = score([frame('1', 0, {}, [])])
    assert np.isnan(nobody['STCrowd/MOTA']) and np.isnan(nobody['STCrowd/AMOTA'])
