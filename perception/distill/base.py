"""What every distillation loss has in common."""
from typing import Any

from torch import Tensor, nn

from perception.utils.errors import ConfigError


class DistillLoss(nn.Module):
    """Base of the distillation losses: which teacher, how much, and when.

    A subclass names the taps it reads in `taps` (and in `teacher_taps`, where those of its teacher have other names)
    and computes in `forward`. What it needs beside them (adapters, projection heads, memory banks) are its own modules
    and buffers.

    Args:
        teacher: name of the teacher in the Distiller's `teachers`, or `'student'` for self-distillation.
        weight: factor on everything `forward` returns; 0 leaves the loss out.
        begin: first iteration (counted from 0) at which the loss is added.
        end: iteration from which on it is no longer added, or None for always.

    Raises:
        ConfigError: `begin` is negative or not before `end`, or `weight` below 0 or infinite.
    """

    taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] | None = None  # None: the same as `taps`
    own_terms: tuple[str, ...] = ()  # terms that train modules of the loss alone, not the student

    def __init__(self, teacher: str, weight: float = 1.0, begin: int = 0, end: int | None = None):
        super().__init__()
        if begin < 0 or (end is not None and end <= begin):
            raise ConfigError(f'{type(self).__name__}: begin={begin}, end={end}, expected 0 <= begin < end. '
                              'Both count iterations; end=None means always.')
        if not 0 <= weight < float('inf'):
            raise ConfigError(f'{type(self).__name__}: weight={weight}, expected a number of 0 or more. 0 leaves the '
                              'loss out.')
        self.teacher, self.weight, self.begin, self.end = teacher, weight, begin, end

    def is_active(self, iteration: int) -> bool:
        """Whether the loss is added at this iteration: from begin to end, and with a weight other than 0."""
        return self.weight != 0 and self.begin <= iteration and (self.end is None or iteration < self.end)

    @property
    def teaches_from(self) -> int:
        """First iteration at which all terms teach the student; after `begin` where a loss prepares itself first."""
        return self.begin

    def teaching_iteration(self, iteration: int) -> int:
        """The iteration itself, or the nearest one at which the loss teaches the student."""
        iteration = max(iteration, self.teaches_from)
        return iteration if self.end is None else min(iteration, self.end - 1)

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> Tensor | dict[str, Tensor]:
        """The loss, a scalar or a dict of named scalar terms; the Distiller applies `weight`.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: recorded outputs of the teacher, by tap name.
            batch: `inputs` and `data_samples` as the models saw them, and `iteration` (int).
        """
        raise NotImplementedError(f'{type(self).__name__} has no forward; write one that returns the loss.')
