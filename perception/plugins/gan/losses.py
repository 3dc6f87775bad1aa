"""What a small generator learns from a large one (StyleKD): images, how they look, relations between latents.

G. Xu et al. Mind the Gap in Distilling StyleGANs, ECCV 2022. B images of latents; features are those of 2 B latents,
the second half moved along directions of the teacher.
"""
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.distill.base import DistillLoss
from perception.registry import MODELS
from perception.utils.checkpoint import check_weights, load_checkpoint, weights_of
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError


@MODELS.register_module()
class RelationLoss(DistillLoss):
    """Which latents of a batch look alike to the student is what does to the teacher; a sum over layers.

        L = KL(softmax_j cos(t_i, t'_j) || softmax_j cos(s_i, s'_j)), a mean over i

    t, s are features of latents, t', s' those of moved ones.

    Args:
        teacher: name of the teacher.
        layers: of the features, counted from 8 pixels on; all sizes must be there.
        kind: `'kl'` or `'mse'`, mean squared differences of cosines.
        single_view: compare latents with themselves, not with moved ones.
        weight, begin, end: see DistillLoss.
    """

    taps = ('features',)

    def __init__(self, teacher: str, layers: tuple[int, ...] = (1, 2, 3, 4), kind: str = 'kl',
                 single_view: bool = False, weight: float = 1.0, begin: int = 0, end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        check_choice('RelationLoss: kind', kind, ('kl', 'mse'))
        self.layers, self.kind, self.single_view = tuple(layers), kind, single_view

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> Tensor:
        """The loss.

        Args:
            student, teacher: `features`, a list of (2 B, C, r, r).
            batch: not used.

        Raises:
            ConfigError: a layer that is not there, or a batch of one image, of which nothing can be learned.
        """
        there = min(len(student['features']), len(teacher['features']))
        if not self.layers or not 0 <= min(self.layers) <= max(self.layers) < there or len(student['features'][0]) < 4:
            raise ConfigError(f'RelationLoss: layers {self.layers} of {there}, {len(student["features"][0]) // 2} '
                              f'images, expected some of 0..{there - 1} and 2 images or more. Correct them.')
        return sum(relation(student['features'][i], teacher['features'][i].detach(), self.kind, self.single_view)
                   for i in self.layers)


def cosines(features: Tensor, single_view: bool = False) -> Tensor:
    """(B, B) cosines of the first half of features (2 B, ...) with the second one, or with itself."""
    first, second = F.normalize(features.float().flatten(1), dim=1, eps=1e-8).chunk(2)
    return first @ (first if single_view else second).T


def relation(student: Tensor, teacher: Tensor, kind: str = 'kl', single_view: bool = False) -> Tensor:
    """How much relations differ in one layer; arguments as of RelationLoss, features (2 B, ...)."""
    ours, theirs = cosines(student, single_view), cosines(teacher, single_view)
    if kind == 'mse':
        return F.mse_loss(ours, theirs)
    return F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction='batchmean', log_target=True)


@MODELS.register_module()
class ImageL1Loss(DistillLoss):
    """Mean absolute difference of images of the same latents.

    Args:
        teacher: name of the teacher.
        all_sizes: the sum of it over the images at all sizes.
        weight, begin, end: see DistillLoss.
    """

    taps = ('rgbs',)

    def __init__(self, teacher: str, all_sizes: bool = False, weight: float = 1.0, begin: int = 0,
                 end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        self.all_sizes = all_sizes

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> Tensor:
        """The loss; `rgbs` are lists of (B, 3, r, r).

        Raises:
            ConfigError: student and teacher have images at other sizes.
        """
        ours, theirs = ([part.shape for part in net['rgbs']] for net in (student, teacher))
        if self.all_sizes and ours != theirs:
            raise ConfigError(f'ImageL1Loss: all_sizes=True of {len(ours)} images of the student and {len(theirs)} of '
                              'its teacher, expected the same sizes. Take all_sizes=False.')
        first = 0 if self.all_sizes else -1
        return sum(F.l1_loss(mine, known.detach()) for mine, known in zip(student['rgbs'][first:],
                                                                          teacher['rgbs'][first:]))


@MODELS.register_module()
class FeatureMimicLoss(DistillLoss):
    """Mean squared difference of features of the same latents, the student's brought to the teacher's channels by a
    learned 1 x 1 convolution; a sum over layers. StyleKD is compared with it.

    Args:
        teacher: name of the teacher.
        channels: layer of the features -> channels of the student and of the teacher.
        weight, begin, end: see DistillLoss.

    Raises:
        ConfigError: no layer.
    """

    taps = ('features',)

    def __init__(self, teacher: str, channels: dict[int, tuple[int, int]], weight: float = 1.0, begin: int = 0,
                 end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        if not channels:
            raise ConfigError('FeatureMimicLoss: channels={} came, expected a layer or more, such as {1: (154, 512)}. '
                              'Name them.')
        self.adapters = nn.ModuleDict({str(layer): nn.Conv2d(*pair, 1) for layer, pair in channels.items()})

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> Tensor:
        """The loss; `features` are lists of (2 B, C, r, r).

        Raises:
            ConfigError: a layer that is not there, or has other channels.
        """
        total = 0
        for layer, adapter in self.adapters.items():
            pair = [part['features'][int(layer)] if int(layer) < len(part['features']) else None
                    for part in (student, teacher)]
            widths = (adapter.in_channels, adapter.out_channels)
            if any(part is None for part in pair) or tuple(part.shape[1] for part in pair) != widths:
                came = [None if part is None else part.shape[1] for part in pair]
                raise ConfigError(f'FeatureMimicLoss: layer {layer} has {came} channels of student and teacher, '
                                  f'expected {widths}. Correct channels.')
            total = total + F.mse_loss(adapter(pair[0]), pair[1].detach())
        return total


@MODELS.register_module()
class PerceptualLoss(DistillLoss):
    """Perceptual distance of images of the same latents, see `Perceptual`.

    Args:
        teacher: name of the teacher.
        weights: file with LPIPS weights; None for a random net.
        weight, begin, end: see DistillLoss.
    """

    taps = ('rgbs',)

    def __init__(self, teacher: str, weights: str | None = None, weight: float = 1.0, begin: int = 0,
                 end: int | None = None):
        super().__init__(teacher, weight, begin, end)
        self.distance = Perceptual(weights)

    def forward(self, student: dict[str, Any], teacher: dict[str, Any], batch: dict) -> dict[str, Tensor]:
        """The mean distance of the whole images, under the name of the net."""
        return {self.distance.name: self.distance(student['rgbs'][-1], teacher['rgbs'][-1].detach()).mean()}


class Perceptual(nn.Module):
    """LPIPS of a VGG-16 where its weights are given, else `pseudo_lpips`, the same formula of a fixed random net.

    Its weights are in no checkpoint and learn nothing.

    Args:
        weights: file with a state dict of both VGG-16's `features.*` (torchvision) and `lin{0..4}.model.1.weight`.

    Raises:
        CheckpointError: unreadable, or other weights.
    """

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        self.name = 'lpips' if weights else 'pseudo_lpips'
        widths = (64, 128, 256, 512, 512) if weights else (32, 64, 128, 128, 128)
        net = build_trunk(widths)
        self.heads = [torch.full((width,), 1 / width) for width in widths]
        if weights:
            found = weights_of(load_checkpoint(weights), str(weights))
            trunk = {name.removeprefix('features.'): value for name, value in found.items()
                     if name.startswith('features.') and not (name.split('.')[1].isdecimal()
                                                              and int(name.split('.')[1]) >= len(net))}
            check_weights(net, trunk, str(weights))
            net.load_state_dict(trunk)
            check_weights(nn.ParameterDict({f'lin{i}': torch.empty(1, width, 1, 1) for i, width in enumerate(widths)}),
                          {f'lin{i}': found[f'lin{i}.model.1.weight'] for i in range(5)
                           if f'lin{i}.model.1.weight' in found}, str(weights))
            self.heads = [found[f'lin{i}.model.1.weight'].flatten() for i in range(5)]
        self.__dict__['net'] = net.eval().requires_grad_(False)  # outside the module tree
        self.register_buffer('shift', torch.tensor([-.030, -.088, -.188]).view(3, 1, 1), persistent=False)
        self.register_buffer('scale', torch.tensor([.458, .448, .450]).view(3, 1, 1), persistent=False)

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> nn.Module:
        self.net._apply(fn)
        self.heads = [fn(head) for head in self.heads]
        return super()._apply(fn, *args, **kwargs)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """(B,) distances of images (B, 3, H, W) of -1..1; those above 256 pixels are made smaller."""
        if images.shape[-1] > 256:
            images, others = (F.interpolate(part, (256, 256), mode='bilinear', align_corners=False)
                              for part in (images, others))
        pair = (torch.cat([images, others]) - self.shift) / self.scale
        total = images.new_zeros(len(images))
        heads = iter(self.heads)
        for i, layer in enumerate(self.net):
            pair = layer(pair)
            if i in ENDS:
                unit = pair / ((pair.square().sum(1, keepdim=True) + 1e-10).sqrt() + 1e-10)
                ours, theirs = unit.chunk(2)
                total = total + torch.einsum('bchw,c->bhw', (ours - theirs).square(), next(heads)).mean((1, 2))
        return total


ENDS = (3, 8, 15, 22, 29)  # ReLUs whose output is compared: relu1_2, 2_2, 3_3, 4_3, 5_3


def build_trunk(widths: tuple[int, ...], seed: int = 20220818) -> nn.Sequential:
    """VGG-16's convolutions with torchvision's numbers, of these widths, random but the same everywhere.

    Pooling keeps images of one pixel.
    """
    layers, channels, generator = [], 3, torch.Generator().manual_seed(seed)
    for block, (width, count) in enumerate(zip(widths, (2, 2, 3, 3, 3))):
        if block:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        for _ in range(count):
            conv = nn.Conv2d(channels, width, 3, padding=1, device='cpu')
            with torch.no_grad():
                drawn = torch.randn(conv.weight.shape, generator=generator, device='cpu')
                conv.weight.copy_(drawn * (2 / (9 * channels)) ** 0.5)
                conv.bias.zero_()
            layers += [conv, nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)
