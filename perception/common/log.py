"""The lines of the log, and what validations say together."""
import math
from collections.abc import Mapping

from mmengine.runner import LogProcessor as MMEngineLogProcessor
from mmengine.runner import Runner
from torch import Tensor

from perception.registry import LOG_PROCESSORS

MOST, MAIN = 12, 4  # scores in a line; so many where there are more


@LOG_PROCESSORS.register_module()
class LogProcessor(MMEngineLogProcessor):
    """mmengine's, whose line on a validation holds the main scores where there are many, such as one of each class.

    All of them stand in the table above it and in `vis_data/scalars.json`.
    """

    def get_log_after_epoch(self, runner: Runner, batch_idx: int, mode: str,
                            with_non_scalar: bool = False) -> tuple[dict, str]:
        """Values and line of a validation or test; the values are all there."""
        tag, line = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        head, *items = [part for part in line.split('  ') if part]
        scores = [item for item in items if not item.startswith(('time: ', 'data_time: '))]
        if len(scores) > MOST:
            left = [item for item in items if item not in scores]
            line = '  '.join([head, '', *scores[:MAIN], f'({len(scores) - MAIN} more)', *left])
        return tag, line


def last_means(scalars: Mapping[str, Tensor], count: int) -> dict[str, float]:
    """Score -> mean over the last validations of a training in which it was a number.

    Args:
        scalars: all that was logged, such as `val/F1`, in the order of time.
        count: how many validations.
    """
    found = {}
    for name, values in scalars.items():
        kept = [value for value in values[-count:].tolist() if math.isfinite(value)]
        if name.startswith('val/') and name not in ('val/time', 'val/data_time') and kept:
            found[name.removeprefix('val/')] = sum(kept) / len(kept)
    return found
