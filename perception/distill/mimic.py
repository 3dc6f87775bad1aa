"""Learning to Steer by Mimicking Features from Heterogeneous Auxiliary Networks (FM-Net), the mimic loss.

Yuenan Hou, Zheng Ma, Chunxiao Liu, Chen Change Loy. AAAI 2019. The features of a student at some depths are drawn to
those of nets that were trained for other tasks, segmentation and optical flow. A learned 1 x 1 convolution and a change
of size bring the student's features to those of the teacher, whose own transforms stand in `clips.py`.

For each path l, with F the student's features and A the teacher's:
    L_l = w_l mean (resize(conv(F_l)) - (A_l - mean) / deviation)^2,  over frames, places and channels
The deviations are taken over all targets seen in training, channel by channel, so that a student that says nothing
scores about one on each path. The paper's weights are not known.
"""
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor, nn

from perception.distill.base import DistillLoss
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError, DataError


class MimicLoss(DistillLoss):
    """Squared error of adapted features on any subset of paths, one term `<path>` for each.

    The adapters and the statistics of the targets are the loss's own: nothing of them goes into the student.

    Args:
        teacher: name of the teacher in the Distiller, one of `clips.py`.
        paths: name of the teacher's path -> `dict(tap=..., channels=(student's, teacher's), weight=0.1)`: tap of the
            student's features (B, C, T, h, w).
        layers: names of the paths that are used; None for all.
        pairs: the teacher's features are those of pairs of frames: the first frame of a clip and of a recording, which
            have no frame before them, do not count.
        weight: factor on all terms.
        begin: first iteration with this loss.
        end: first iteration without it again, or None.

    Raises:
        ConfigError: no path, an unknown one, or an argument out of its range.
    """

    def __init__(self, teacher: str, paths: Mapping[str, Mapping[str, Any]], layers: Sequence[str] | None = None,
                 pairs: bool = False, weight: float = 1.0, begin: int = 0, end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        unknown = [name for name in layers or () if name not in paths]
        if not paths or unknown or layers is not None and not layers:
            raise ConfigError(f'MimicLoss: layers={layers}, expected some of {", ".join(paths) or "the paths"}. Name '
                              'those that are to be mimicked.')
        self.paths = {name: dict(dict(weight=0.1), **path) for name, path in paths.items()
                      if layers is None or name in layers}
        for name, path in self.paths.items():
            check_positive(f'MimicLoss: path {name!r}', weight=path['weight'], channels=min(path['channels']))
        self.taps = tuple(dict.fromkeys(path['tap'] for path in self.paths.values()))
        self.teacher_taps, self.pairs = tuple(self.paths), pairs
        self.adapters = nn.ModuleDict({name: nn.Conv2d(*path['channels'], 1) for name, path in self.paths.items()})
        self.targets = nn.ModuleDict({name: RunningStatistics(path['channels'][1])
                                      for name, path in self.paths.items()})

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> dict[str, Tensor]:
        """The weighted terms, zero where no frame counts.

        Args:
            student: recorded outputs of the student, by tap name.
            teacher: features (B, C, T, h, w), by path.
            batch: its samples have `first` (T,), read with `pairs`.

        Raises:
            DataError: features of other shapes than the paths say.
        """
        terms = {}
        for name, path in self.paths.items():
            ours, target = student[path['tap']], teacher[name]
            self._check(name, ours, target)
            counts = self._counts(target, batch)
            with torch.autocast(ours.device.type, enabled=False):
                found = self.adapt(name, ours.float(), target.shape[3:])
                aim = self.targets[name](target.float().transpose(1, 2).flatten(0, 1), counts)
                error = (found - aim).square().mean((1, 2, 3))
                terms[name] = path['weight'] * (error * counts).sum() / counts.sum().clamp(min=1)
        return terms

    def adapt(self, name: str, features: Tensor, size: Sequence[int]) -> Tensor:
        """A student's features (B, C, T, h, w) as those of a path (B T, C', *size), each frame for itself.

        The convolution of one position and the change of size, both linear, may change places: maps that become much
        smaller do so first.
        """
        adapter = self.adapters[name]
        steps = [partial(pointwise, adapter), partial(resized, size=size)]
        if 4 * prod(size) < prod(features.shape[3:]):
            steps.reverse()
        for step in steps:
            features = step(features)
        return features.transpose(1, 2).flatten(0, 1)

    def _check(self, name: str, ours: Tensor, target: Tensor) -> None:
        mine, theirs = self.paths[name]['channels']
        if ours.ndim != 5 or target.ndim != 5 or ours.shape[1] != mine or target.shape[1] != theirs \
                or (ours.shape[0], ours.shape[2]) != (target.shape[0], target.shape[2]):
            raise DataError(f'MimicLoss: path {name!r} has features {tuple(ours.shape)} of the student and '
                            f'{tuple(target.shape)} of the teacher, expected (B, {mine}, T, h, w) and (B, {theirs}, T, '
                            "h', w') of the same clips. Correct channels in the config.")

    def _counts(self, target: Tensor, batch: dict) -> Tensor:
        """(B T,) 1 for the frames that count, else 0."""
        counts = target.new_ones(target.shape[0], target.shape[2])
        if self.pairs:
            counts[:, 0] = 0
            for row, sample in zip(counts, batch['data_samples'] or ()):
                if 'first' in sample:
                    row[sample.first.to(row.device)] = 0
        return counts.flatten()


def pointwise(conv: nn.Conv2d, maps: Tensor) -> Tensor:
    """A 1 x 1 convolution of maps (B, C, T, h, w), as one product: PyTorch's of five axes is slow on a CPU."""
    weight, bias = conv.weight.flatten(1), conv.bias[:, None]
    return (weight @ maps.flatten(2) + bias).unflatten(2, maps.shape[2:])


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, C, T, h, w) as (B, C, T, *size), each frame for itself."""
    found = F.interpolate(maps.flatten(1, 2), tuple(size), mode='bilinear', align_corners=False)
    return found.unflatten(1, maps.shape[1:3])


class RunningStatistics(nn.Module):
    """Standardises channels by the mean and deviation of all that training has shown it, in all processes.

    Args:
        channels: of the maps.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer('count', torch.zeros((), dtype=torch.float64))
        self.register_buffer('mean', torch.zeros(channels, dtype=torch.float64))
        self.register_buffer('square', torch.zeros(channels, dtype=torch.float64))  # sum of squared deviations

    @torch.no_grad()
    def forward(self, maps: Tensor, counts: Tensor) -> Tensor:
        """Standardise maps (N, C, h, w); in training those with a count (N,) of 1 add to the statistics first."""
        if self.training:
            self._add(maps if bool(counts.all()) else maps[counts > 0])
        deviation = (self.square / self.count.clamp(min=1)).sqrt()
        scale = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
        return (maps - self.mean.to(maps.dtype).view(-1, 1, 1)) / scale.to(maps.dtype).view(-1, 1, 1)

    def _add(self, maps: Tensor) -> None:
        """Chan, Golub, LeVeque: statistics of two parts together."""
        own = maps.numel() // maps.shape[1]
        variance, mean = (part.double().nan_to_num(0.0) for part in torch.var_mean(maps, (0, 2, 3), correction=0))
        sums = torch.cat([own * mean, torch.full_like(mean[:1], own)])
        all_reduce(sums)
        new = sums[-1]
        if new == 0:
            return
        square = own * (variance + (mean - sums[:-1] / new).square())
        all_reduce(square)
        mean = sums[:-1] / new
        gap, total = mean - self.mean, self.count + new
        self.square += square + gap.square() * self.count * new / total
        self.mean += gap * new / total
        self.count.copy_(total)
