"""Scores of tracks: hand-made cases, and what TrackEval and nuScenes' devkit make of drawn ones."""
import tracemalloc

import numpy as np
import pytest

from perception.crowd.tracking.scores import Tracks, count, score_tracks

NAMES = ('MOTA', 'MOTP', 'FP', 'FN', 'IDS', 'Frag', 'MT', 'ML', 'IDF1', 'HOTA', 'DetA', 'AssA', 'LocA')


def tracks(rows, scores=False):
    """Of (frame, id, x) rows, and their scores."""
    rows = np.array(rows, np.float64).reshape(-1, 4 if scores else 3)
    centers = np.stack([rows[:, 2], np.zeros(len(rows))], 1)
    return Tracks(rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), centers, rows[:, 3] if scores else None)


def drive(seed, people=8, frames=15):
    """Walkers, some frames without labels, and tracks with misses, swaps, new numbers and wrong ones."""
    rng = np.random.default_rng(seed)
    start, step, names = rng.uniform(0, 10, (people, 2)), rng.normal(0, .4, (people, 2)), np.arange(people) + 7
    truth, preds, ids = [], [], names * 3
    for frame in range(frames):
        here, centers = rng.random(people) < .9, start + step * frame
        if frame % 7 == 3:
            here[:] = False
        truth += [(frame, name, *center) for name, center in zip(names[here], centers[here])]
        if frame % 4 == 1:
            ids = ids.copy()
            one, two = rng.permutation(people)[:2]
            ids[[one, two]] = ids[two], ids[one]
        if frame % 6 == 2:
            ids = ids.copy()
            ids[rng.integers(people)] = 100 + frame
        found = rng.random(people) < (0 if frame % 8 == 5 else .8)
        centers = centers + rng.normal(0, .3, centers.shape)
        preds += [(frame, *rest) for rest in zip(ids[found], *centers[found].T, rng.random(people))]
        preds += [(frame, 500 + k, *rng.uniform(0, 10, 2), rng.random() / 2) for k in range(2)]
    truth, preds = np.array(truth), np.array(preds)
    return (Tracks(truth[:, 0].astype(np.int64), truth[:, 1].astype(np.int64), truth[:, 2:]),
            Tracks(preds[:, 0].astype(np.int64), preds[:, 1].astype(np.int64), preds[:, 2:4], preds[:, 4]))


def drives(seed):
    return [drive([seed, k], people) for k, people in enumerate((8, 3, 12))]


# seed, distance -> NAMES by TrackEval 1.3.0; AMOTA and AMOTP by nuscenes-devkit 1.2.0
MEASURED = {
    (0, 1.0): (0, .40509926, 147, 84, 39, 66, .086956522, 0, .461028192, .330228823, .353925589, .310179261,
               .821782281),
    (0, .5): (-.351851852, .310057919, 201, 138, 26, 56, 0, 0, .334991708, .330228823, .353925589, .310179261,
              .821782281),
    (1, 1.0): (.032846715, .375628243, 139, 87, 39, 68, .130434783, 0, .46, .332083493, .368298862, .301215465,
               .832685525),
    (2, .5): (-.317164179, .28229697, 190, 138, 25, 65, 0, 0, .329931973, .33033925, .349020576, .314151063,
              .833283268)}
AVERAGES = {(0, 1.0): (.317720681, .694037696), (0, .5): (.045328738, .437076488), (1, 1.0): (.328519026, .682096161),
            (2, .5): (.013290129, .430612853)}


@pytest.mark.parametrize('seed, distance', MEASURED)
def test_counts_are_those_of_trackeval_and_the_devkit(seed, distance):
    scores = score_tracks(*zip(*drives(seed)), distance)
    np.testing.assert_allclose([scores[name] for name in NAMES], MEASURED[seed, distance], atol=1e-8)
    # the devkit joins equally good pairs by the lengths of whole runs, so that a few are joined otherwise
    np.testing.assert_allclose([scores['AMOTA'], scores['AMOTP']], AVERAGES[seed, distance], atol=.02)


def test_an_installed_trackeval_agrees():
    metrics = pytest.importorskip('trackeval.metrics')
    pairs, similar = drives(9), []
    for truth, preds in pairs:
        frames = np.unique(np.concatenate([truth.frames, preds.frames]))
        (known, ids), (others, pred_ids) = (np.unique(t.ids, return_inverse=True) for t in (truth, preds))
        of, by = [truth.frames == t for t in frames], [preds.frames == t for t in frames]
        similar.append(dict(
            num_timesteps=len(frames), num_gt_ids=len(known), num_tracker_ids=len(others), num_gt_dets=len(ids),
            num_tracker_dets=len(pred_ids), gt_ids=[ids[a] for a in of], tracker_ids=[pred_ids[b] for b in by],
            similarity_scores=[
                np.maximum(0, 1 - np.linalg.norm(truth.centers[a][:, None] - preds.centers[b], axis=-1) / 2)
                for a, b in zip(of, by)]))
    kinds = (metrics.HOTA(), metrics.CLEAR(dict(PRINT_CONFIG=False)), metrics.Identity(dict(PRINT_CONFIG=False)))
    hota, clear, identity = (kind.combine_sequences({str(n): kind.eval_sequence(one) for n, one in enumerate(similar)})
                             for kind in kinds)
    scores = score_tracks(*zip(*pairs))
    assert [scores[name] for name in ('MOTA', 'IDS', 'IDF1', 'HOTA')] == pytest.approx(
        [clear['MOTA'], clear['IDSW'], identity['IDF1'], hota['HOTA'].mean()])


def test_who_is_followed_perfectly():
    truth = tracks([(t, i, 5 * i + t) for t in range(4) for i in (3, 8)])
    preds = tracks([(t, 9 - i, 5 * i + t, .9) for t in range(4) for i in (3, 8)], True)
    scores = score_tracks([truth], [preds])
    assert {name: scores[name] for name in ('MOTA', 'MT', 'IDF1', 'HOTA', 'AMOTA')} == dict.fromkeys(
        ('MOTA', 'MT', 'IDF1', 'HOTA', 'AMOTA'), 1.0)
    assert [scores[name] for name in ('MOTP', 'FP', 'FN', 'IDS', 'Frag', 'ML', 'AMOTP')] == [0] * 7


def test_a_switch_and_a_gap_are_counted_apart():
    truth = tracks([(t, 1, t) for t in range(6)])
    preds = tracks([(0, 1, 0, .5), (1, 1, 1, .5), (1, 4, 30, .5), (3, 1, 3.1, .5), (4, 2, 4, .5), (5, 2, 5, .5)], True)
    scores = score_tracks([truth], [preds])
    assert [scores[name] for name in ('FP', 'FN', 'IDS', 'MT', 'ML')] == [1, 1, 1, 1, 0]
    assert scores['MOTA'] == pytest.approx(1 - 3 / 6) and scores['MOTP'] == pytest.approx(.1 / 5)
    assert scores['IDF1'] == pytest.approx(2 * 3 / (6 + 6))


def test_a_track_lies_nearer_than_the_distance_or_at_it():
    truth = tracks([(0, 1, 0)])
    assert [score_tracks([truth], [tracks([(0, 1, x, .5)], True)])['FN'] for x in (.99, 1.0, 1.01)] == [0, 0, 1]


def test_sequences_add_up_and_nobody_is_nan():
    one, other = (drive([3, k]) for k in range(2))
    both = score_tracks(*zip(one, other))
    parts = [score_tracks(*zip(part)) for part in (one, other)]
    assert both['FN'] == sum(part['FN'] for part in parts) and both['IDS'] == sum(part['IDS'] for part in parts)
    none, nothing = tracks(np.zeros((0, 3))), tracks(np.zeros((0, 4)), True)
    for scores, wrong in ((score_tracks([none], [one[1]]), len(one[1].ids)), (score_tracks([], []), 0)):
        assert [scores[name] for name in ('FP', 'FN', 'IDS', 'Frag')] == [wrong, 0, 0, 0]
        assert sum(np.isnan(value) for value in scores.values()) == len(scores) - 4
    missed = score_tracks([one[0]], [nothing])
    assert [missed[name] for name in ('MOTA', 'ML', 'IDF1', 'HOTA', 'AMOTA', 'AMOTP')] == [0, 1, 0, 0, 0, 1]
    assert np.isnan(missed['MOTP'])


def test_nobody_is_found_from_beyond_two_metres():
    """Of a track that found somebody and then leaves, at the largest distance, where no similarity is left."""
    truth, preds = tracks([(t, 1, 0) for t in range(4)]), tracks([(t, 5, 20 * t, .9) for t in range(4)], True)
    scores = score_tracks([truth], [preds], 2.0)
    assert [scores[name] for name in ('FN', 'FP', 'IDF1', 'MOTP')] == [3, 3, .25, 0]


def test_thousands_of_tracks_take_little_memory():
    """Such as those of a file where each box has a track of its own."""
    frames, ids = np.repeat(np.arange(60), 100), np.arange(6000)
    centers = np.random.default_rng(0).uniform(0, 35, (6000, 2))
    tracemalloc.start()
    counts = count(Tracks(frames, ids % 100, centers), Tracks(frames, ids, centers, np.ones(6000)))
    peak, counted = tracemalloc.get_traced_memory()[1], counts.hota[0]
    tracemalloc.stop()
    assert (counted == 6000).all() and counts.switches == 5900 and peak < 60e6
