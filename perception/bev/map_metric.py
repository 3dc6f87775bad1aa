"""Scores of maps seen from above, in the protocols of the papers, whose numbers cannot be compared with each other.

    lss_vehicle, lss_map      IoU at the probability 0.5 over all of a split (Lift, Splat, Shoot)
    cvt_vehicle_s2, cvt_road  the same at 0.4 and 0.5, of cells whose visibility counts, and of all (Cross-view
                              Transformers)
    bevfusion_map             six classes, of each the best IoU of seven thresholds, and their mean (BEVFusion)

Their labels are those of `perception/bev/datasets/nuscenes/map_presets.py`.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.bev.datasets.nuscenes import map_presets
from perception.registry import METRICS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

_RULES: dict[str, dict[str, Any]] = dict(
    lss=dict(thresholds=(0.5,), mode='fixed'), cvt=dict(thresholds=(0.4, 0.5), mode='fixed', masked=True),
    bevfusion=dict(thresholds=(0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65), mode='max'))
PRESETS = {name: dict(_RULES[preset.rule], classes=preset.classes) for name, preset in map_presets.PRESETS.items()}
MODES = ('max', 'fixed')


@METRICS.register_module()
class BEVSegMetric(BaseMetric):
    """IoU of each class of a map, over all cells of all samples, and their mean.

    Integers are counted for each sample, so results of several processes merge without loss. A cell is predicted from
    a threshold on. A class that is nowhere true or predicted is NaN and stays out of the mean.

    Args:
        preset: of `PRESETS`, which the arguments that follow change.
        classes: M names.
        thresholds: of the probabilities, ascending.
        mode: `'max'`, the best threshold of each class counts, or `'fixed'`, there is a score for each.
        masked: count the cells of `map_mask` alone where samples have one, and all beside, as `..._unmasked`.
        bounds: least x, y, greatest x, y of the map [m], for `rings`.
        rings: ascending distances from the frame's origin [m]; between each two of them there is a score.
        collect_device, prefix: as in mmengine.

    Raises:
        ConfigError: an argument that is none of these, or no classes and thresholds.
    """

    default_prefix = 'map'

    def __init__(self, preset: str | None = None, classes: Sequence[str] | None = None,
                 thresholds: Sequence[float] | None = None, mode: str | None = None, masked: bool | None = None,
                 bounds: Sequence[float] | None = None, rings: Sequence[float] = (), collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if preset is not None:
            check_choice('BEVSegMetric: preset', preset, PRESETS)
        given = dict(classes=classes, thresholds=thresholds, mode=mode, masked=masked)
        values = dict(dict(mode='fixed', masked=False), **PRESETS.get(preset, {})) | {
            key: value for key, value in given.items() if value is not None}
        if not values.get('classes') or not values.get('thresholds'):
            raise ConfigError('BEVSegMetric: neither a preset nor classes and thresholds, expected one of '
                              f'{", ".join(PRESETS)}, or both. Name them.')
        check_choice('BEVSegMetric: mode', values['mode'], MODES)
        self.preset = preset
        self.classes, self.mode, self.masked = tuple(values['classes']), values['mode'], values['masked']
        self.thresholds = np.array(values['thresholds'], np.float32)
        if not (np.diff(self.thresholds) > 0).all() or not 0 < self.thresholds[0] <= self.thresholds[-1] <= 1:
            raise ConfigError(f'BEVSegMetric: thresholds={values["thresholds"]}, expected probabilities above 0 that '
                              'ascend. Correct them.')
        self.bounds, self.rings = bounds, np.array(rings, np.float64)
        if len(self.rings) and (bounds is None or len(bounds) != 4 or len(rings) < 2 or
                                not (np.diff(self.rings) > 0).all()):
            raise ConfigError(f'BEVSegMetric: rings={list(rings)}, bounds={bounds}, expected two or more distances '
                              'that ascend, and least x, y, greatest x, y of the map. Give both.')

    @property
    def ring_names(self) -> list[str]:
        """Such as `0-20m`."""
        return [f'{low:g}-{high:g}m' for low, high in zip(self.rings, self.rings[1:])]

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Count the cells of some samples.

        Args:
            data_batch: not used.
            data_samples: for each a dict with `pred_map` and `map_labels` (M, Y, X), perhaps `map_mask` (Y, X).

        Raises:
            DataError: they are missing, of other shapes, or of another preset or place.
        """
        self.results.extend(self.count(sample) for sample in data_samples)

    def count(self, sample: Mapping) -> np.ndarray:
        """(2, R, M, 2, T + 1) int64 cells, masked and all, of R rings (the last one for what is in none), by class,
        truth and number of thresholds that the prediction reaches."""
        pred, labels = (_array(sample, key) for key in ('pred_map', 'map_labels'))
        num, name = len(self.classes), sample.get('sample_id', 'a sample')
        if pred.shape != labels.shape or pred.ndim != 3 or len(pred) != num:
            raise DataError(f'BEVSegMetric: {name} has pred_map of shape {pred.shape} and map_labels of shape '
                            f'{labels.shape}, expected ({num}, Y, X) of {", ".join(self.classes)}. Correct the head, '
                            'the labels or the classes.')
        if np.isnan(pred).any():
            raise DataError(f'BEVSegMetric: {name} has {np.isnan(pred).sum():,} NaN in pred_map, expected '
                            'probabilities. Correct the model.')
        for key, value in dict(map_preset=self.preset, map_bounds=self.bounds).items():
            if value is not None and sample.get(key) is not None and not np.array_equal(sample[key], value):
                raise DataError(f'BEVSegMetric: {name} has labels of {key}={sample[key]}, expected {value}, for which '
                                'the scores are named. Give data and metric the same preset and bounds.')
        reached = np.searchsorted(self.thresholds, pred.astype(np.float32), side='right')
        levels, parts = len(self.thresholds) + 1, len(self.rings[1:]) + 1
        ring = self._rings(pred.shape[1:])
        codes = ((ring * num + np.arange(num)[:, None, None]) * 2 + (labels > 0)) * levels + reached
        mask = np.ones(pred.shape[1:], bool) if not self.masked or sample.get('map_mask') is None else \
            _array(sample, 'map_mask').astype(bool)
        if mask.shape != pred.shape[1:]:
            raise DataError(f'BEVSegMetric: {name} has map_mask of shape {mask.shape}, expected {pred.shape[1:]}. '
                            'Correct the labels.')
        size = parts * num * 2 * levels
        return np.stack([np.bincount(some.reshape(-1), minlength=size).reshape(parts, num, 2, levels)
                         for some in (codes[:, mask], codes)])

    def _rings(self, shape: tuple[int, int]) -> np.ndarray:
        """(Y, X) number of the ring of each cell's middle, the last one for none."""
        if not len(self.rings):
            return np.zeros(shape, np.int64)
        low, high = np.array(self.bounds[:2]), np.array(self.bounds[2:])
        y, x = (low[axis] + (np.arange(n) + 0.5) * (high - low)[axis] / n for axis, n in ((1, shape[0]), (0, shape[1])))
        ring = np.searchsorted(self.rings, np.hypot(y[:, None], x), side='right') - 1
        return np.where((ring < 0) | (ring >= len(self.rings) - 1), len(self.rings) - 1, ring)

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Scores over all samples; a table goes to the log."""
        counts = np.sum(results, axis=0) if results else np.zeros(
            (2, len(self.rings[1:]) + 1, len(self.classes), 2, len(self.thresholds) + 1), np.int64)
        scores = self._scores(counts[0].sum(0))
        for number, ring in enumerate(self.ring_names):
            best = None if self.mode == 'fixed' else _ious(counts[0].sum(0))
            scores |= {f'{name}_{ring}': value for name, value in self._scores(counts[0][number], best).items()}
        if self.masked:
            scores |= {f'{name}_unmasked': value for name, value in self._scores(counts[1].sum(0)).items()}
        print_log(f'{len(results):,} samples\n' + '\n'.join(f'{name:<32}{value:8.4f}' for name, value
                                                            in scores.items()), 'current')
        return scores

    def _scores(self, counts: np.ndarray, best: np.ndarray | None = None) -> dict[str, float]:
        """IoU by name; in mode 'max' at the best threshold of others (M, T) where they are given."""
        ious = _ious(counts)
        if self.mode == 'max':
            at = np.argmax(np.nan_to_num(ious if best is None else best, nan=-1), axis=1)
            values = ious[np.arange(len(ious)), at]
            return dict(mIoU=_mean(values), **{f'IoU_{name}': float(v) for name, v in zip(self.classes, values)})
        scores = {}
        for threshold, column in zip(self.thresholds, ious.T):
            end = f'@{threshold:.2f}' if len(self.thresholds) > 1 else ''
            scores[f'mIoU{end}'] = _mean(column)
            scores |= {f'IoU_{name}{end}': float(value) for name, value in zip(self.classes, column)}
        return scores


def _array(sample: Mapping, key: str) -> np.ndarray:
    value = sample.get(key)
    if value is None:
        raise DataError(f'BEVSegMetric: {sample.get("sample_id", "a sample")} has no {key}, expected it. Use a model '
                        'with a map head and a data set whose pipeline draws maps.')
    return np.asarray(value.cpu() if hasattr(value, 'cpu') else value)


def _ious(counts: np.ndarray) -> np.ndarray:
    """(M, T) IoU of counts (M, 2, T + 1), NaN where there is nothing."""
    above = np.cumsum(counts[..., ::-1], -1)[..., ::-1][..., 1:]  # cells that reach each threshold
    union = counts[:, 1].sum(-1)[:, None] + above[:, 0]
    return np.divide(above[:, 1], union, out=np.full(union.shape, np.nan), where=union > 0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float('nan')
