"""How well tracks were followed: CLEAR MOT, identities, HOTA, and AMOTA over the recall.

* Keni Bernardin, Rainer Stiefelhagen: Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics (2008).
* Ergys Ristani, Francesco Solera, Roger Zou, Rita Cucchiara, Carlo Tomasi: Performance Measures and a Data Set for
  Multi-Target, Multi-Camera Tracking (ECCVW 2016): IDF1.
* Jonathon Luiten, Aljoša Ošep, Patrick Dendorfer, Philip Torr, Andreas Geiger, Laura Leal-Taixé, Bastian Leibe: HOTA: A
  Higher Order Metric for Evaluating Multi-Object Tracking (IJCV 2021).
* Xinshuo Weng and others, as in `trackers.py`: AMOTA, in the form that nuScenes gave it.

A track and a person are as similar as 1 - their distance / 2 m, at least 0. CLEAR, identities and HOTA count as the
package TrackEval does, AMOTA as nuScenes' devkit. Sequences are counted one by one and their counts added up.
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

ALPHAS = np.arange(0.05, 0.99, 0.05)  # similarities at which HOTA is taken
REACH = 2.0  # m at which nothing is left of the similarity
EPS = np.finfo(float).eps
RECALLS = np.linspace(0.1, 1, 40).round(12)  # at which AMOTA is taken


class Tracks(NamedTuple):
    """Who is where in the frames of a sequence: K boxes of true or predicted tracks; a frame has a track once.

    Attributes:
        frames: (K,) int64, in which frame each is.
        ids: (K,) int64, of its track.
        centers: (K, D) [m].
        scores: (K,) float64 of predictions; None of the truth.
    """

    frames: np.ndarray
    ids: np.ndarray
    centers: np.ndarray
    scores: np.ndarray | None = None


class Counts(NamedTuple):
    """Counts of some sequences, as `score` gives them; they are added up number by number.

    Attributes:
        people, found, missed, wrong: boxes of the truth, those found and not found, predictions that found nobody.
        switches: people who were found by another track than the one that found them last.
        breaks: people found anew after frames in which they were not.
        tracks, most, least: tracks of the truth; of these, found in more than 80 % of their frames, in less than 20 %.
        distance: m, summed over those found.
        same: boxes that are found if each track may be but one person.
        predicted: boxes of predicted tracks.
        hota: (3, A) found, and the sums over these of how well their tracks agree, and of their similarities.
    """

    people: int
    found: int
    missed: int
    wrong: int
    switches: int
    breaks: int
    tracks: int
    most: int
    least: int
    distance: float
    same: int
    predicted: int
    hota: np.ndarray


class _Frames:
    """A sequence frame by frame: rows of the people and of the predictions in it, and how similar they are."""

    def __init__(self, truth: Tracks, preds: Tracks) -> None:
        (self.people, self.num_people), (self.tracks, self.num_tracks) = map(_numbered, (truth, preds))
        self.sizes = len(truth.ids), len(preds.ids)
        self.rows = []
        known = np.unique(np.concatenate([truth.frames, preds.frames]))
        for own, other in zip(_rows_of(truth.frames, known), _rows_of(preds.frames, known)):
            apart = truth.centers[own][:, None] - preds.centers[other]
            self.rows.append((own, other, np.maximum(0, 1 - np.sqrt((apart ** 2).sum(-1)) / REACH)))


def _numbered(tracks: Tracks) -> tuple[np.ndarray, int]:
    """(K,) ids from 0 without gaps, and how many there are."""
    known, ids = np.unique(tracks.ids, return_inverse=True)
    return ids, len(known)


def _rows_of(frames: np.ndarray, known: np.ndarray) -> list[np.ndarray]:
    """Rows of each known frame."""
    order = np.argsort(frames, kind='stable')
    return np.split(order, np.searchsorted(frames[order], known[1:])) if len(known) else []


def score_tracks(truth: Sequence[Tracks], preds: Sequence[Tracks], distance: float = 1.0) -> dict[str, float]:
    """All scores of some sequences together.

    Args:
        truth, preds: of each sequence.
        distance: m up to which a track has found a person, for CLEAR, identities and AMOTA; at most 2.

    Returns:
        MOTA; MOTP, the mean distance [m] of what was found; FP, FN, IDS (switches) and Frag as counts; MT and ML as
        shares of the true tracks; IDF1; HOTA, DetA, AssA and LocA, means over the similarities 0.05 ... 0.95; AMOTA
        and AMOTP [m]. NaN, but for the counts, where nobody is there.
    """
    counts = add([count(*pair, distance) for pair in zip(truth, preds)])
    return {**summary(counts), **dict(zip(('AMOTA', 'AMOTP'), averages(truth, preds, distance)))}


def add(counts: Sequence[Counts]) -> Counts:
    """The counts of several sequences together."""
    none = Counts(*[0] * 12, np.zeros((3, len(ALPHAS))))
    return Counts(*(sum(values) for values in zip(none, *counts)))


def summary(counts: Counts) -> dict[str, float]:
    """The scores that follow from counts; see `score_tracks`."""
    c = counts
    found, agree, similar = c.hota
    det = found / np.maximum(1, c.people + c.predicted - found)
    ass = agree / np.maximum(1, found)
    scores = dict(
        MOTA=1 - _share(c.missed + c.wrong + c.switches, c.people), MOTP=_share(c.distance, c.found), FP=c.wrong,
        FN=c.missed, IDS=c.switches, Frag=c.breaks, MT=_share(c.most, c.tracks), ML=_share(c.least, c.tracks),
        IDF1=_share(2 * c.same, c.people + c.predicted), HOTA=np.sqrt(det * ass).mean(), DetA=det.mean(),
        AssA=ass.mean(), LocA=(np.maximum(1e-10, similar) / np.maximum(1e-10, found)).mean())
    counted = ('FP', 'FN', 'IDS', 'Frag')
    return {name: float(value) if c.people or name in counted else np.nan for name, value in scores.items()}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else np.nan


def count(truth: Tracks, preds: Tracks, distance: float = 1.0) -> Counts:
    """What `summary` needs of a sequence; see `score_tracks`."""
    frames = _Frames(truth, preds)
    numbers, _ = _clear(frames, distance)
    return Counts(*numbers, _same(frames, distance), len(preds.ids), _hota(frames))


def _clear(frames: _Frames, distance: float, kept: np.ndarray | None = None) -> tuple[tuple, np.ndarray]:
    """CLEAR of a sequence.

    Args:
        frames: the sequence.
        distance: m.
        kept: (P,) bool, predictions that are looked at; all by default.

    Returns:
        the first ten of Counts; rows of the predictions that found somebody, without those that switched.
    """
    last = np.full(frames.num_people, -1)  # track that found each person last, and in the frame before
    before = np.full(frames.num_people, -1)
    seen, hit, starts = (np.zeros(frames.num_people, np.int64) for _ in range(3))
    found = wrong = switches = 0
    apart, rows = 0.0, []
    for own, other, similar in frames.rows:
        if kept is not None:
            similar, other = similar[:, kept[other]], other[kept[other]]
        people, tracks = frames.people[own], frames.tracks[other]
        seen[people] += 1
        if not len(people) or not len(tracks):  # as TrackEval: such a frame interrupts nothing
            wrong += len(tracks)
            continue
        good = (similar >= 1 - distance / REACH - EPS) & (similar > 0)  # at 2 m those beyond have 0 too
        value = np.where(good, 1000 * (tracks == before[people][:, None]) + similar, 0)
        one, two = linear_sum_assignment(-value)
        real = value[one, two] > EPS
        one, two = one[real], two[real]
        who, by = people[one], tracks[two]
        switched = (last[who] >= 0) & (last[who] != by)
        hit[who] += 1
        starts[who[before[who] < 0]] += 1
        last[who] = by
        before[:] = -1
        before[who] = by
        found, wrong, switches = found + len(who), wrong + len(tracks) - len(who), switches + int(switched.sum())
        apart += float((1 - similar[one, two]).sum()) * REACH
        rows.append(other[two[~switched]])
    share = hit / np.maximum(1, seen)
    numbers = (len(frames.people), found, len(frames.people) - found, wrong, switches,
               int(np.maximum(starts - 1, 0).sum()), frames.num_people, int((share > 0.8).sum()),
               int((share < 0.2).sum()), apart)
    return numbers, np.concatenate([np.zeros(0, np.int64), *rows])


def _same(frames: _Frames, distance: float) -> int:
    """Boxes that are found where each track is taken for the one person that makes the most of them right."""
    together = np.zeros((frames.num_people, frames.num_tracks))
    for own, other, similar in frames.rows:
        one, two = np.nonzero((similar >= 1 - distance / REACH) & (similar > 0))
        together[frames.people[own[one]], frames.tracks[other[two]]] += 1
    return int(together[linear_sum_assignment(-together)].sum())


def _hota(frames: _Frames) -> np.ndarray:
    """(3, A), see Counts."""
    together = np.zeros((frames.num_people, frames.num_tracks))
    for own, other, similar in frames.rows:
        either = similar.sum(0) + similar.sum(1)[:, None] - similar
        together[frames.people[own][:, None], frames.tracks[other]] += \
            np.divide(similar, either, out=np.zeros_like(similar), where=either > EPS)
    lengths = np.bincount(frames.people, minlength=frames.num_people)[:, None] + \
        np.bincount(frames.tracks, minlength=frames.num_tracks)
    aligned = together / (lengths - together)
    pairs, matched = [np.zeros(0, np.int64)], [np.zeros((len(ALPHAS), 0), bool)]
    similarities = np.zeros(len(ALPHAS))
    for own, other, similar in frames.rows:
        people, tracks = frames.people[own], frames.tracks[other]
        one, two = linear_sum_assignment(-aligned[people[:, None], tracks] * similar)
        value = similar[one, two]
        good = value >= ALPHAS[:, None] - EPS  # (A, M)
        pairs.append(people[one] * frames.num_tracks + tracks[two])
        matched.append(good)
        similarities += (good * value).sum(1)
    known, places = np.unique(np.concatenate(pairs), return_inverse=True)  # few of all people and tracks ever meet
    matches = np.stack([np.bincount(places, good, len(known)) for good in np.concatenate(matched, 1)])
    agree = (matches * matches / np.maximum(1, lengths.ravel()[known] - matches)).sum(1)
    return np.stack([matches.sum(1), agree, similarities])


def averages(truth: Sequence[Tracks], preds: Sequence[Tracks], distance: float = 1.0) -> tuple[float, float]:
    """AMOTA and AMOTP: means of MOTAR and of the distance [m] over 40 recalls from 0.1 to 1.

    A track's score is the mean of its boxes'. At each recall the tracks above the score that it takes are looked at;
    a recall that is not reached counts 0 and `distance`.
    """
    people = sum(len(tracks.ids) for tracks in truth)
    if not people:
        return np.nan, np.nan
    sequences = [_Frames(*pair) for pair in zip(truth, preds)]
    scores = [_track_scores(tracks) for tracks in preds]
    found = [values[_clear(frames, distance)[1]] for frames, values in zip(sequences, scores)]
    found = np.sort(np.concatenate([np.zeros(0), *found]))[::-1]
    if not len(found):
        return 0.0, distance
    reached = np.arange(1, len(found) + 1) / people
    wanted = RECALLS[:np.searchsorted(RECALLS, reached[-1], 'right')]
    thresholds, repeats = np.unique(np.interp(wanted, reached, found, right=0), return_counts=True)
    accuracy = distances = 0.0
    for threshold, repeat in zip(thresholds, repeats):
        numbers = np.sum([_clear(frames, distance, values >= threshold)[0]
                          for frames, values in zip(sequences, scores)], axis=0)
        _, hits, missed, wrong, switches = numbers[:5]
        recall = (hits - switches) / people
        if recall > 0:
            accuracy += repeat * max(0, 1 - (missed + wrong + switches - (1 - recall) * people) / (recall * people))
        distances += repeat * (numbers[9] / hits if hits else distance)
    return accuracy / len(RECALLS), (distances + distance * (len(RECALLS) - len(wanted))) / len(RECALLS)


def _track_scores(preds: Tracks) -> np.ndarray:
    """(K,) of each box the mean score of its track."""
    ids, count_ = _numbered(preds)
    return (np.bincount(ids, preds.scores, count_) / np.maximum(1, np.bincount(ids, minlength=count_)))[ids]
