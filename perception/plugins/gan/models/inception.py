"""Inception-v3 as FID has it, for weights that a user brings; their names are those of torchvision and pytorch-fid.

C. Szegedy et al. Rethinking the Inception Architecture for Computer Vision, CVPR 2016. Other than in torchvision the
pools of mixed layers leave out what lies beyond the border, and the last one takes the largest value.
"""
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.utils.checkpoint import check_weights, load_checkpoint, weights_of

Step = tuple  # (name, channels, kernel) or with a stride of 2, whose convolution is not padded
DOUBLE = [('branch3x3dbl_1', 64, 1), ('branch3x3dbl_2', 96, 3)]


def _a(pool: int) -> tuple[list[list[Step]], int]:
    return [[('branch1x1', 64, 1)], [('branch5x5_1', 48, 1), ('branch5x5_2', 64, 5)],
            [*DOUBLE, ('branch3x3dbl_3', 96, 3)]], pool


def _c(width: int) -> tuple[list[list[Step]], int]:
    row, column, long = (1, 7), (7, 1), 'branch7x7dbl_'
    return [[('branch1x1', 192, 1)], [('branch7x7_1', width, 1), ('branch7x7_2', width, row),
                                      ('branch7x7_3', 192, column)],
            [(f'{long}1', width, 1), (f'{long}2', width, column), (f'{long}3', width, row),
             (f'{long}4', width, column), (f'{long}5', 192, row)]], 192


def _e() -> tuple[list[list[Step]], int]:
    row, column, long = (1, 3), (3, 1), 'branch3x3dbl_'
    return [[('branch1x1', 320, 1)],
            [('branch3x3_1', 384, 1), [('branch3x3_2a', 384, row), ('branch3x3_2b', 384, column)]],
            [(f'{long}1', 448, 1), (f'{long}2', 384, 3), [(f'{long}3a', 384, row), (f'{long}3b', 384, column)]]], 192


MIXED = {  # name -> branches, and channels behind the pool; None for a pool of half the size
    '5b': _a(32), '5c': _a(64), '5d': _a(64),
    '6a': ([[('branch3x3', 384, 3, 2)], [*DOUBLE, ('branch3x3dbl_3', 96, 3, 2)]], None),
    '6b': _c(128), '6c': _c(160), '6d': _c(160), '6e': _c(192),
    '7a': ([[('branch3x3_1', 192, 1), ('branch3x3_2', 320, 3, 2)],
            [('branch7x7x3_1', 192, 1), ('branch7x7x3_2', 192, (1, 7)), ('branch7x7x3_3', 192, (7, 1)),
             ('branch7x7x3_4', 192, 3, 2)]], None),
    '7b': _e(), '7c': _e()}
STEM = (('Conv2d_1a_3x3', 3, 32, 3, 2, 0), ('Conv2d_2a_3x3', 32, 32, 3, 1, 0), ('Conv2d_2b_3x3', 32, 64, 3, 1, 1),
        ('Conv2d_3b_1x1', 64, 80, 1, 1, 0), ('Conv2d_4a_3x3', 80, 192, 3, 1, 0))


class Conv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1,
                 padding: int | tuple[int, int] = 0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, h, w)."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, and a pool.

    Args:
        inputs: channels that come.
        branches: steps of each; a list in place of a step forks.
        pool: channels behind the pool, None for one of half the size without a convolution.
        largest: the pool takes the largest value, not the mean.
    """

    def __init__(self, inputs: int, branches: list[list[Step]], pool: int | None, largest: bool):
        super().__init__()
        self.branches, self.largest, self.outputs = branches, largest, 0
        for branch in branches:
            width = inputs
            for step in branch:
                parts = step if isinstance(step, list) else [step]
                for name, channels, kernel, *stride in parts:
                    pads = (0, 0) if stride else tuple(k // 2 for k in (kernel if isinstance(kernel, tuple) else
                                                                        (kernel, kernel)))
                    self.add_module(name, Conv(width, channels, kernel, *(stride or [1]), pads))
                width = sum(part[1] for part in parts)
            self.outputs += width
        self.outputs += inputs if pool is None else pool
        self.branch_pool = None if pool is None else Conv(inputs, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, h, w)."""
        found = []
        for branch in self.branches:
            y = x
            for step in branch:
                parts = step if isinstance(step, list) else [step]
                y = torch.cat([self.get_submodule(part[0])(y) for part in parts], 1)
            found.append(y)
        if self.branch_pool is None:
            return torch.cat([*found, F.max_pool2d(x, 3, 2)], 1)
        pooled = F.max_pool2d(x, 3, 1, 1) if self.largest else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([*found, self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """The net, with weights of no use."""

    def __init__(self):
        super().__init__()
        for name, inputs, outputs, *rest in STEM:
            self.add_module(name, Conv(inputs, outputs, *rest))
        width = STEM[-1][2]
        for name, (branches, pool) in MIXED.items():
            self.add_module(f'Mixed_{name}', layer := Mixed(width, branches, pool, name == '7c'))
            width = layer.outputs

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2048) features of images (B, 3, H, W) of -1..1, behind the last pool."""
        x = F.interpolate(images, (299, 299), mode='bilinear', align_corners=False)
        for name, *_ in STEM:
            x = self.get_submodule(name)(x)
            if name in ('Conv2d_2b_3x3', 'Conv2d_4a_3x3'):
                x = F.max_pool2d(x, 3, 2)
        for name in MIXED:
            x = self.get_submodule(f'Mixed_{name}')(x)
        return x.mean((2, 3))


class InceptionFeatures(Inception):
    """The net with weights of a file, in evaluation mode.

    Args:
        weights: file with a state dict, such as pytorch-fid's.

    Raises:
        CheckpointError: unreadable, or other weights.
    """

    def __init__(self, weights: str | Path):
        with torch.device('meta'):
            super().__init__()
        found = {name: value for name, value in weights_of(load_checkpoint(weights), str(weights)).items()
                 if not name.startswith(('fc.', 'AuxLogits.'))}
        counters = {name: torch.tensor(0) for name in self.state_dict() if name.endswith('batches_tracked')}
        check_weights(self, counters | found, str(weights))
        self.load_state_dict(counters | found, assign=True)
        self.eval().requires_grad_(False)
