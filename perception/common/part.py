"""A part of a net that is exported as one file."""
from typing import NamedTuple

from torch import Tensor, nn


class Part(NamedTuple):
    """What `perception/apis/export.py` writes as one file.

    Attributes:
        module: in evaluation mode.
        inputs: examples, by name.
        outputs: their names.
    """
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
