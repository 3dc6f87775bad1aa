"""End-point error of optical flow between the frames of driving clips."""
from collections.abc import Mapping, Sequence

import numpy as np
from mmengine.evaluator import BaseMetric

from perception.common.flow import dis_flow
from perception.registry import METRICS
from perception.steering.metrics import array_of
from perception.utils.errors import DataError


@METRICS.register_module()
class FlowMetric(BaseMetric):
    """Mean end-point error, in pixels of the clips' frames.

    `EPE_dis` is to the flow of OpenCV's dense inverse search, which driving data always have; `EPE` to the true flow
    where samples have `flow` (T, 2, H, W), NaN where unknown. `..._zero` are those of no motion at all. Frames that a
    clip does not score, because another one has them too, count once.

    Args:
        preset: see `dis_flow`.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''
    less_is_better = ('EPE*',)  # of its results, see ExportHook

    def __init__(self, preset: str = 'medium', collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.preset = preset

    def process(self, data_batch: Mapping, data_samples: Sequence[dict]) -> None:
        """Compare the flows of some clips.

        Args:
            data_batch: with the `clip` of each sample, (T, 3, H, W) uint8.
            data_samples: with `pred_flow` (T, 2, H, W), that of the first frame unknown, and `scored` (T,).

        Raises:
            DataError: a sample without a flow, or without `scored`.
        """
        for clip, sample in zip(data_batch['inputs']['clip'], data_samples):
            if sample.get('pred_flow') is None:
                raise DataError(f'FlowMetric: {sample.get("sample_id")} has no pred_flow, expected that of a FlowNetS. '
                                'Name another metric for other nets.')
            frames, found = clip.permute(0, 2, 3, 1).cpu().numpy(), sample['pred_flow'].cpu().numpy()
            rows = 1 + np.flatnonzero(array_of(sample, 'scored', 'FlowMetric')[1:])
            dis = np.stack([dis_flow(frames[row - 1], frames[row], self.preset) for row in rows])
            errors = dict(zip(('EPE_dis', 'EPE_dis_zero', 'dis'), _errors(found[rows], dis)))
            if sample.get('flow') is not None:
                truth = sample['flow'].cpu().numpy()[rows]
                errors.update(zip(('EPE', 'EPE_zero', 'known'), _errors(found[rows], truth)))
                errors.update(zip(('EPE_of_dis',), _errors(dis, truth)))
            self.results.append(errors)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Means over all pixels whose flow is known."""
        total = {name: sum(row.get(name, 0.0) for row in results) for name in {key for row in results for key in row}}
        return {name: float(value / max(total['dis' if '_dis' in name and name != 'EPE_of_dis' else 'known'], 1))
                for name, value in sorted(total.items()) if name.startswith('EPE')}


def _errors(found: np.ndarray, truth: np.ndarray) -> tuple[float, float, int]:
    """Sum of the end-point errors of a flow (T, 2, H, W), of none, and the number of pixels that are known."""
    known = np.isfinite(truth).all(1)
    off, none = (np.linalg.norm(flow, axis=1)[known].sum() for flow in (found - truth, truth))
    return float(off), float(none), int(known.sum())
