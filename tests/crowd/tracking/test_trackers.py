"""People are followed by what is found in each frame."""
import numpy as np
import pytest

from perception.crowd.tracking.trackers import GreedyTracker, KalmanTracker, Tracker, make_tracker
from perception.utils.errors import ConfigError, DataError

TRACKERS = (GreedyTracker, KalmanTracker)
INTERVAL = .4


def boxes(places, velocities=None):
    """(P, 9) boxes at places (P, 2); velocities NaN where there are none."""
    places = np.reshape(np.asarray(places, np.float64), (-1, 2))
    speeds = np.full(places.shape, np.nan) if velocities is None else np.broadcast_to(velocities, places.shape)
    return np.concatenate([places, np.tile([-.8, .7, .6, 1.7, .3], (len(places), 1)), speeds], 1)


def follow(tracker, frames, scores=None):
    """Ids of each frame."""
    return [tracker.update(frame, np.full(len(frame), .9) if scores is None else scores[n]).tolist()
            for n, frame in enumerate(frames)]


def walk(start, velocity, frames):
    return np.asarray(start) + np.arange(frames)[:, None] * np.asarray(velocity) * INTERVAL


@pytest.mark.parametrize('kind', TRACKERS)
@pytest.mark.parametrize('association', ['score', 'closest', 'hungarian'])
def test_two_who_cross_keep_their_numbers(kind, association):
    one, other = walk((0, 0), (1.5, .3), 9), walk((0, 1.3), (1.5, -.3), 9)
    frames = [boxes([a, b], [(1.5, .3), (1.5, -.3)])[::1 if t % 2 else -1] for t, (a, b) in enumerate(zip(one, other))]
    ids = follow(kind(association=association), frames)
    assert ids == [[0, 1] if t % 2 == 0 else [1, 0] for t in range(9)]


def test_velocities_are_learned_where_none_are_told():
    """A walker of 1.4 m a frame is lost by whoever does not foresee it."""
    steps = [boxes([(x, 0)]) for x in np.cumsum([0, .6, .9, 1.1, 1.3, 1.4, 1.4])]
    assert follow(KalmanTracker(), steps) == [[0]] * 7
    assert follow(GreedyTracker(), steps) == [[0], [0], [1], [2], [3], [4], [5]]


@pytest.mark.parametrize('kind, longest', [(GreedyTracker, 2), (KalmanTracker, 3)])
def test_who_was_missed_is_found_again_for_a_while(kind, longest):
    path = walk((2, 3), (1.2, 0), 20)
    for gap in range(1, longest + 2):
        seen = [boxes(place, (1.2, 0)) for place in path[:3]] + [boxes(np.zeros((0, 2)))] * gap \
            + [boxes(place, (1.2, 0)) for place in path[3 + gap:6 + gap]]
        ids = follow(kind(), seen)
        assert ids[2] == [0] and ids[3 + gap:][-1] == ([0] if gap <= longest else [1])


@pytest.mark.parametrize('kind, longest', [(GreedyTracker, 2), (KalmanTracker, 3)])
def test_frames_that_are_not_there_are_known_by_the_times(kind, longest):
    path = walk((2, 3), (1.9, 0), 20)
    for gap in range(longest + 2):
        times = [0, 1, 2, *range(3 + gap, 6 + gap)]
        tracker = kind(max_distance=.7)
        ids = [tracker.update(boxes(path[t], (1.9, 0)), np.ones(1), 1617249634.4 + INTERVAL * t).tolist()
               for t in times]
        assert ids[2] == [0] and ids[-1] == ([0] if gap <= longest else [1])
    assert kind().update(boxes(path[0]), np.ones(1), np.nan).tolist() == [0]


def test_a_track_counts_once_it_was_found_often_enough():
    far = boxes([(9, 9)])
    frames = [boxes([(0, 0)])] * 3 + [np.concatenate([boxes([(0, 0)]), far])] * 3
    assert follow(KalmanTracker(min_hits=3), frames) == [[0], [0], [0], [0, -1], [0, -1], [0, 1]]


def test_weak_boxes_continue_tracks_and_begin_none():
    frames, scores = [boxes([(0, 0), (5, 5)])] * 3, [(.9, .2), (.2, .2), (.2, .9)]
    assert follow(KalmanTracker(low_score=.1), frames, scores) == [[0, -1], [0, -1], [0, -1]]
    assert follow(KalmanTracker(), frames, scores) == [[0, -1], [-1, -1], [-1, -1]]
    assert follow(KalmanTracker(low_score=.1, min_hits=1), frames, scores)[2] == [0, 1]


def test_association_by_score_by_closeness_and_by_all():
    """Tracks at 0 and 1; boxes at 0.6 (the better) and 1.1, and what each rule makes of them."""
    frames = [boxes([(0, 0), (1, 0)]), boxes([(.6, 0), (1.1, 0)])]
    scores = [(.9, .9), (.9, .8)]
    made = {how: follow(GreedyTracker(association=how), frames, scores)[1] for how in ('score', 'closest', 'hungarian')}
    assert made == dict(score=[1, 2], closest=[0, 1], hungarian=[0, 1])
    frames[1] = boxes([(.45, 0), (-.7, 0)])  # only one rule serves both
    wide = {how: follow(GreedyTracker(association=how), frames, scores)[1] for how in ('score', 'closest', 'hungarian')}
    assert wide == dict(score=[0, 2], closest=[0, 2], hungarian=[1, 0])


def filtered(seen, noise):
    """The slow filter of one track: mean and spread after boxes (T, 7) x, y, z, yaw, l, w, h, one a frame."""
    move, look = np.eye(10), np.eye(7, 10)
    for axis in range(3):
        move[axis, 7 + axis] = 1
    mean, spread = np.concatenate([seen[0], np.zeros(3)]), np.diag([10.0] * 7 + [1e4] * 3)
    for box in seen[1:]:
        mean, spread = move @ mean, move @ spread @ move.T + np.diag(noise['change'])
        gain = spread @ look.T @ np.linalg.inv(look @ spread @ look.T + np.diag(noise['seen']))
        mean, spread = mean + gain @ (box - look @ mean), (np.eye(10) - gain @ look) @ spread
    return mean, spread


@pytest.mark.parametrize('noise', ['tuned', 'reference'])
def test_the_filter_is_the_textbooks(noise):
    rng = np.random.default_rng(0)
    seen = [np.array([*place, -.8, .3, .7, .6, 1.7]) + rng.normal(0, .03, 7) for place in walk((1, 2), (.9, -.4), 8)]
    tracker = KalmanTracker(noise=noise)
    follow(tracker, [box[[[0, 1, 2, 4, 5, 6, 3]]] for box in seen])
    mean, spread = filtered(seen, tracker.noise)
    np.testing.assert_allclose(tracker.tracks['mean'][0], mean, atol=1e-9)
    np.testing.assert_allclose(tracker.tracks['spread'][0], spread, atol=1e-6)


def test_a_box_turned_round_is_the_same_person():
    box, tracker = boxes([(0, 0)]), KalmanTracker()
    for yaw in (3.1, -3.1, .05, 3.12):
        box[0, 6] = yaw
        assert tracker.update(box, [.9]).tolist() == [0]
    assert abs(np.sin(tracker.tracks['mean'][0, 3])) < .1


@pytest.mark.parametrize('kind', TRACKERS)
def test_a_new_sequence_begins_with_number_zero(kind):
    tracker = kind()
    assert follow(tracker, [boxes([(0, 0), (3, 0)])]) == [[0, 1]]
    tracker.begin()
    assert follow(tracker, [boxes(np.zeros((0, 2))), boxes([(9, 0)])]) == [[], [0]]
    many = boxes(np.random.default_rng(1).uniform(0, 30, (200, 2)), (.5, .5))
    one, other = (follow(kind(), [many, many + .1]) for _ in range(2))
    assert one == other and sorted(one[0]) == list(range(200))


@pytest.mark.parametrize('arguments, named', [
    (dict(association='nearest'), 'closest'), (dict(max_distance=0), 'max_distance=0'), (dict(max_missed=-1), '-1'),
    (dict(low_score=.3), 'low_score=0.3'), (dict(min_score='0.3'), "min_score='0.3'"),
    (dict(min_score=np.nan), 'nan'), (dict(max_missed='a'), "max_missed='a'"), (dict(low_score='a'), "low_score='a'"),
    (dict(interval=0), 'interval=0'), (dict(noise='loud'), 'tuned')])
def test_what_cannot_be_is_refused(arguments, named):
    with pytest.raises(ConfigError, match=named):
        KalmanTracker(**arguments)


def test_trackers_have_names():
    assert type(make_tracker()) is KalmanTracker and make_tracker('GreedyTracker', interval=.1).interval == .1
    assert make_tracker(dict(type=GreedyTracker, max_missed=7, interval=.2), interval=.1).interval == .2
    for config, named in (('GredyTracker', 'Did you mean GreedyTracker'), (dict(max_mised=3), 'max_mised'),
                          ('CULaneDecoder', 'expected one of GreedyTracker, KalmanTracker'), (7, 'tracker=7'),
                          (['a'], 'a name or a config'), (dict(type=dict), "type=<class 'dict'>")):
        with pytest.raises(ConfigError, match=named):
            make_tracker(config)
    assert issubclass(KalmanTracker, Tracker)


@pytest.mark.parametrize('found, scores', [
    (np.zeros((2, 8)), [.5, .5]), (np.zeros((2, 9)), [.5]), (np.full((1, 9), np.nan), [.5]),
    (np.zeros((1, 7)), [np.nan])])
def test_broken_boxes_are_refused(found, scores):
    with pytest.raises(DataError, match='tracking: boxes of shape'):
        KalmanTracker().update(found, scores)
