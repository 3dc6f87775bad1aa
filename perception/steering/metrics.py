"""Scores of driving: errors of the steering wheel over all frames, each once, and of discrete actions.

Angles are of the steering wheel. Udacity's challenge counted the RMSE in radians on two halves of its test, public and
private; papers count MAE and RMSE in degrees over all frames.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.common.metrics.confusion import confusion_matrix
from perception.registry import METRICS
from perception.utils.checks import check_positive
from perception.utils.errors import DataError

HARD = ('shadow', 'glare', 'night')  # conditions in which the road is badly seen
UNKNOWN = 255  # action
SMALLEST = 1e-12  # probability, below which none is counted


def angle_errors(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """`MAE` and `RMSE` in degrees and `RMSE_rad` of angles (N,) in radians; NaN where there are none."""
    off = np.asarray(pred, np.float64) - np.asarray(truth, np.float64)
    if not len(off):
        return dict(MAE=np.nan, RMSE=np.nan, RMSE_rad=np.nan)
    rmse = float(np.sqrt(np.mean(off ** 2)))
    return dict(MAE=float(np.degrees(np.mean(np.abs(off)))), RMSE=float(np.degrees(rmse)), RMSE_rad=rmse)


def whiteness(angles: np.ndarray, same: np.ndarray | None = None) -> float:
    """Standard deviation of the difference of each frame to the one before it: how restless a wheel is, in degrees.

    Args:
        angles: (N,) in order of time [rad].
        same: (N - 1,) bool, whether frame i + 1 follows frame i in the same recording; all do by default.
    """
    steps = np.diff(angles)
    steps = steps if same is None else steps[same]
    return float(np.degrees(steps.std())) if len(steps) else np.nan


def steering_scores(pred: np.ndarray, truth: np.ndarray, public: np.ndarray | None = None,
                    same: np.ndarray | None = None) -> dict[str, float]:
    """All scores of a test.

    Args:
        pred, truth: (N,) angles in order of time [rad].
        public: (N,) 1 in the public half, 0 in the private one, -1 in none.
        same: see `whiteness`.

    Returns:
        `MAE`, `RMSE` [deg], `RMSE_rad` of the prediction; the same with `_zero` of a wheel that never turns and with
        `_constant` of the mean angle of this test; `RMSE_rad_public`, `RMSE_rad_private` and these of both baselines
        where frames belong to a half; `whiteness` and `whiteness_truth` [deg].
    """
    answers = {'': np.asarray(pred, np.float64), '_zero': np.zeros(len(truth)),
               '_constant': np.full(len(truth), np.mean(truth) if len(truth) else 0.0)}
    scores = {f'{key}{name}': value for name, answer in answers.items()
              for key, value in angle_errors(answer, truth).items()}
    for half, flag in (('public', 1), ('private', 0)):
        rows = np.zeros(len(truth), bool) if public is None else np.asarray(public) == flag
        if rows.any():
            scores.update({f'RMSE_rad_{half}{name}': angle_errors(answer[rows], truth[rows])['RMSE_rad']
                           for name, answer in answers.items()})
    return dict(scores, whiteness=whiteness(pred, same), whiteness_truth=whiteness(truth, same))


class FrameMetric(BaseMetric):
    """Base of the metrics over frames: one writes `frames_of` and `report`.

    The frames that a clip scores are collected; one that comes twice, as from a sampler that fills its last round,
    counts once.

    Args:
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Collect the scored frames of some clips.

        Args:
            data_batch: not used.
            data_samples: for each a dict of a SteeringSample with predictions.

        Raises:
            DataError: truth or predictions are missing or no numbers.
        """
        for sample in data_samples:
            rows = array_of(sample, 'scored', type(self).__name__).astype(bool)
            found = {key: value[rows] for key, value in self.frames_of(sample).items()}
            times = np.asarray(sample['timestamps'], np.float64)[rows]
            self.results.append(dict(found, recording=np.full(len(times), sample['recording'], object), time=times))

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Scores over all frames; the table goes to the log."""
        frames = {key: np.concatenate([result[key] for result in results]) for key in results[0]}
        names, number = np.unique(frames['recording'].astype(str), return_inverse=True)
        _, once = np.unique(np.stack([number, frames['time']]), axis=1, return_index=True)  # by recording, then time
        frames = {key: value[once] for key, value in frames.items()}
        scores, table = self.report(frames, number[once][1:] == number[once][:-1])
        print_log(f'{len(once):,} frames of {len(names):,} recordings\n{table}', 'current')
        return {key: value for key, value in scores.items() if not np.isnan(value)}

    def frames_of(self, sample: Mapping) -> dict[str, np.ndarray]:
        """What is collected of a clip, arrays with a row for each of its frames."""
        raise NotImplementedError(f'{type(self).__name__} has no frames_of; write one.')

    def report(self, frames: dict[str, np.ndarray], same: np.ndarray) -> tuple[dict[str, float], str]:
        """Scores and their table of N frames, ordered by recording and time; `same` is that of `whiteness`."""
        raise NotImplementedError(f'{type(self).__name__} has no report; write one.')


@METRICS.register_module()
class SteeringMetric(FrameMetric):
    """MAE and RMSE of the steering wheel; see `steering_scores` for what else, and FrameMetric for the arguments."""

    less_is_better = ('MAE*', 'RMSE*', 'whiteness*')  # of its results, see ExportHook

    def frames_of(self, sample: Mapping) -> dict[str, np.ndarray]:
        """Angles of a clip [rad] and what groups its frames."""
        where = type(self).__name__
        truth, pred = (np.radians(array_of(sample, key, where)[:, 0].astype(np.float64))
                       for key in ('targets', 'pred_targets'))
        rows = array_of(sample, 'scored', where).astype(bool)
        for what, values in (('true', truth), ('predicted', pred)):
            if len(values) != len(rows) or not np.isfinite(values[rows]).all():
                raise DataError(f'{where}: {sample.get("sample_id")} has {np.isfinite(values).sum()} {what} angles '
                                f'that are numbers in {len(rows)} frames, expected one in each that is scored. '
                                + ('Evaluate a split that has labels.' if what == 'true' else 'Train the net again.'))
        public = array_of(sample, 'public', where) if sample.get('public') is not None else np.full(len(truth), -1)
        return dict(truth=truth, pred=pred, public=public,
                    condition=np.full(len(truth), sample.get('condition') or '', object))

    def report(self, frames: dict[str, np.ndarray], same: np.ndarray) -> tuple[dict[str, float], str]:
        """Scores and their table."""
        scores = steering_scores(frames['pred'], frames['truth'], frames['public'], same)
        lines = [f'{"":<12}{"MAE [deg]":>12}{"RMSE [deg]":>12}{"RMSE [rad]":>12}{"public":>12}{"private":>12}']
        for title, name in (('prediction', ''), ('all zero', '_zero'), ('constant', '_constant')):
            values = [scores.get(f'{key}{name}', np.nan) for key in ('MAE', 'RMSE', 'RMSE_rad', 'RMSE_rad_public',
                                                                     'RMSE_rad_private')]
            lines.append(f'{title:<12}' + ''.join(f'{value:12.5f}' if np.isfinite(value) else f'{"-":>12}'
                                                  for value in values))
        lines.append(f'whiteness {scores["whiteness"]:.4f} deg, of the truth {scores["whiteness_truth"]:.4f} deg')
        return scores, '\n'.join(lines)


@METRICS.register_module()
class HardFramesMetric(SteeringMetric):
    """Errors on hard frames: sharp curves, and recordings in shadow, glare and night, where the condition is known.

    Args:
        sharp: degrees of the steering wheel from which on a curve is sharp.
        collect_device, prefix: as in mmengine.
    """

    def __init__(self, sharp: float = 30.0, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        check_positive('HardFramesMetric', sharp=sharp)
        self.sharp = sharp

    def report(self, frames: dict[str, np.ndarray], same: np.ndarray) -> tuple[dict[str, float], str]:
        """`MAE_<group>`, `RMSE_<group>` and `whiteness_<group>` of each group that has frames."""
        groups = dict(curve=np.abs(frames['truth']) >= np.radians(self.sharp),
                      **{name: frames['condition'] == name for name in HARD})
        hard = np.any(list(groups.values()), axis=0)
        scores, lines = {}, [f'{"":<10}{"frames":>10}{"MAE [deg]":>12}{"RMSE [deg]":>12}{"whiteness [deg]":>18}']
        for name, rows in dict(normal=~hard, hard=hard, **groups).items():
            if rows.any():
                errors = angle_errors(frames['pred'][rows], frames['truth'][rows])
                white = whiteness(frames['pred'], same & rows[1:] & rows[:-1])
                scores.update({f'MAE_{name}': errors['MAE'], f'RMSE_{name}': errors['RMSE'],
                               f'whiteness_{name}': white})
                lines.append(f'{name:<10}{rows.sum():>10,}{errors["MAE"]:12.4f}{errors["RMSE"]:12.4f}{white:18.4f}')
        return scores, '\n'.join(lines)


@METRICS.register_module()
class ActionMetric(FrameMetric):
    """Accuracy and perplexity of discrete actions over all frames; see FrameMetric for the arguments.

    Accuracy is the share of frames whose most probable action is the true one; perplexity is exp of the mean
    cross-entropy in nats. Frames whose action is not known do not count. `_constant` are those of a net that says the
    same of all frames, how often each action is taken here.
    """

    less_is_better = ('perplexity*',)  # of its results, see ExportHook

    def frames_of(self, sample: Mapping) -> dict[str, np.ndarray]:
        """Actions of a clip and their probabilities."""
        where = type(self).__name__
        truth, probs = array_of(sample, 'actions', where), array_of(sample, 'pred_actions', where).astype(np.float64)
        if len(probs) != len(truth) or not np.isfinite(probs).all() or (probs < -1e-6).any() \
                or (np.abs(probs.sum(1) - 1) > 1e-3).any():
            raise DataError(f'{where}: {sample.get("sample_id")} has pred_actions of shape {probs.shape} whose rows '
                            f'sum up to {probs.sum(-1).min():g} to {probs.sum(-1).max():g}, expected probabilities for '
                            f'{len(truth)} frames. Give the softmax of the net.')
        known = truth != UNKNOWN
        if known.any() and not 0 <= truth[known].min() <= truth[known].max() < probs.shape[1]:
            raise DataError(f'{where}: {sample.get("sample_id")} has action {truth[known].max()}, expected '
                            f'0..{probs.shape[1] - 1}. Use a net with the actions of this data set.')
        return dict(truth=truth, probs=probs)

    def report(self, frames: dict[str, np.ndarray], same: np.ndarray) -> tuple[dict[str, float], str]:
        """Scores and their table."""
        known = frames['truth'] != UNKNOWN
        truth, probs = frames['truth'][known], frames['probs'][known]
        if not len(truth):
            raise DataError('ActionMetric: no frame with a known action, expected some. Evaluate a split with labels.')
        entropy = float(-np.log(np.maximum(probs[np.arange(len(truth)), truth], SMALLEST)).mean())
        count = confusion_matrix(probs.argmax(1), truth, probs.shape[1])
        names = (self.dataset_meta or {}).get('classes') or [str(k) for k in range(len(count))]
        lines = [f'{"action":<16}{"frames":>10}{"found":>10}']
        found = [f'{count[k, k] / total:.2%}' if total else '-' for k, total in enumerate(count.sum(0))]
        lines += [f'{name:<16}{count[:, k].sum():>10,}{found[k]:>10}' for k, name in enumerate(names)]
        share = count.sum(0) / len(truth)
        chance = float(-(share * np.log(np.maximum(share, SMALLEST))).sum())
        scores = dict(accuracy=float(np.trace(count) / len(truth)), perplexity=float(np.exp(entropy)),
                      accuracy_constant=float(share.max()), perplexity_constant=float(np.exp(chance)))
        lines.append(f'accuracy {scores["accuracy"]:.4f}, perplexity {scores["perplexity"]:.4f}; of one answer to all '
                     f'{scores["accuracy_constant"]:.4f}, {scores["perplexity_constant"]:.4f}')
        return scores, '\n'.join(lines)


def array_of(sample: Mapping, key: str, where: str) -> Any:
    """A field of a sample as an array.

    Raises:
        DataError: it is not there.
    """
    if sample.get(key) is None:
        raise DataError(f'{where}: {sample.get("sample_id", "a clip")} has no {key}, expected labels and predictions. '
                        'Evaluate a split that has labels, with a model of this data set.')
    value = sample[key]
    return np.asarray(value.detach().cpu() if hasattr(value, 'detach') else value)
