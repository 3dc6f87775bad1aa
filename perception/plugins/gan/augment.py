"""Adaptive discriminator augmentation (ADA), for a few thousand images, which a discriminator else learns by heart.

T. Karras et al. Training Generative Adversarial Networks with Limited Data, NeurIPS 2020: all that a discriminator
sees, real and made, is changed with a probability that rises while it is sure of more real images than it should be.
Changes are those of the paper's `bgc`: blits, geometry, colour. B images, H x W pixels.
"""
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from perception.registry import MODELS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError

# the low-pass filter of the wavelet sym6; its even shifts are orthonormal, so that up and down again changes nothing
SYM6 = (0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
        0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
        0.0017677118642428036, -0.007800708325034148)
LATE = 5 - (len(SYM6) - 1) / 2  # samples by which the filter's delay, about 5, is not that of its middle
MARGIN = len(SYM6) // 2  # pixels around an image that its filters reach for
INT_SHIFT, FRACTION, SCALE, ASPECT = 0.125, 0.125, 0.2, 0.2  # shares of the image; octaves
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0  # of -1..1; octaves
GREY = torch.full((3, 3), 1 / 3)  # projects colours onto the grey axis


@MODELS.register_module()
class AdaptiveAugment(nn.Module):
    """Changes images before a discriminator sees them; see `AdversarialModel.augment`.

    Args:
        target: mean sign of the scores of real images that `p` is steered to; None keeps `p`.
        p: probability of each change at the beginning.
        kimg: thousands of real images in which `p` can go from 0 to 1.
        every: iterations from one step of `p` to the next.
        blit: mirror, turn by right angles, move by whole pixels.
        geometry: scale, turn, stretch, move.
        colour: brightness, contrast, inverted brightness, hue, saturation.

    Raises:
        ConfigError: an argument out of its range, or nothing to change.
    """

    def __init__(self, target: float | None = 0.6, p: float = 0.0, kimg: float = 500.0, every: int = 4,
                 blit: bool = True, geometry: bool = True, colour: bool = True) -> None:
        super().__init__()
        check_positive('AdaptiveAugment', kimg=kimg, every=every)
        if not 0 <= p <= 1 or (target is not None and not -1 < target < 1) or not (blit or geometry or colour):
            raise ConfigError(f'AdaptiveAugment: p={p}, target={target}, blit={blit}, geometry={geometry}, '
                              f'colour={colour}, expected a probability, a mean sign between -1 and 1 or None, and '
                              'something to change. Correct them.')
        self.target, self.kimg, self.every = target, kimg, every
        self.blit, self.geometry, self.colour = blit, geometry, colour
        self.register_buffer('p', torch.tensor(float(p)))
        self.register_buffer('signs', torch.zeros(2))  # since the last step: their sum, and of how many

    def forward(self, images: Tensor, draw: torch.Generator) -> Tensor:
        """Images (B, 3, H, W) of -1..1, each changed in its own way; differentiable twice.

        Args:
            images: of any device.
            draw: random numbers, on the CPU; as many are taken whatever `p` is.
        """
        batch, height, width = len(images), *images.shape[2:]
        p = float(self.p)
        places, colours = self._places(batch, height, width, p, draw), self._colours(batch, p, draw)
        if self.blit or self.geometry:
            images = moved(images, places)
        if self.colour:
            matrix = colours.to(images.device, images.dtype)
            images = (matrix[:, :3, :3] @ images.flatten(2) + matrix[:, :3, 3:]).view_as(images)
        return images

    @torch.no_grad()
    def see(self, scores: Tensor) -> None:
        """Take note of scores (B, 1) of real images."""
        self.signs += torch.stack([scores.sign().nan_to_num().sum().float(), scores.new_tensor(len(scores)).float()])

    @torch.no_grad()
    def follow(self, iteration: int) -> dict[str, Tensor]:
        """Every so many iterations, a step of `p` towards the target; what the log tells of it."""
        if (iteration + 1) % self.every:
            return {}
        signs = self.signs.clone()
        if get_world_size() > 1:
            all_reduce(signs, 'sum')
        mean = signs[0] / signs[1].clamp(min=1)
        if self.target is not None:
            step = signs[1] / (1000 * self.kimg)
            self.p.add_((mean - self.target).sign() * step).clamp_(0, 1)
        self.signs.zero_()
        return dict(augment_p=self.p.clone(), real_sign=mean)

    def _places(self, batch: int, height: int, width: int, p: float, draw: torch.Generator) -> Tensor:
        """(B, 3, 3), where in an image each of its pixels comes from, both from the middle on, in pixels."""
        place, size = torch.eye(3).repeat(batch, 1, 1), torch.tensor([width, height])

        def uniform(columns: int = 1) -> Tensor:
            return torch.rand(batch, columns, generator=draw) * 2 - 1

        def normal(columns: int = 1) -> Tensor:
            return torch.randn(batch, columns, generator=draw)

        def then(kind: Callable[[Tensor], Tensor], values: Tensor, nothing: float, wanted: bool,
                 chance: float = p) -> None:
            nonlocal place
            happens = (torch.rand(batch, generator=draw) < chance) & wanted
            place = place @ kind(torch.where(happens[:, None], values, nothing))

        both = 1 - math.sqrt(1 - p)  # of two turns that happen with p in one of them or both
        right_angle = torch.randint(4, (batch, 1), generator=draw) if height == width else \
            torch.randint(2, (batch, 1), generator=draw) * 2
        mirror = torch.cat([torch.randint(2, (batch, 1), generator=draw) * 2. - 1, torch.ones(batch, 1)], 1)
        then(_scaled, mirror, 1, self.blit)
        then(_turned, right_angle * (math.pi / 2), 0, self.blit)
        then(_shifted, torch.round(uniform(2) * INT_SHIFT * size), 0, self.blit)
        then(_scaled, torch.exp2(normal() * SCALE).expand(-1, 2), 1, self.geometry)
        then(_turned, uniform() * math.pi, 0, self.geometry, both)
        aspect = torch.exp2(normal() * ASPECT)
        then(_scaled, torch.cat([aspect, 1 / aspect], 1), 1, self.geometry)
        then(_turned, uniform() * math.pi, 0, self.geometry, both)
        then(_shifted, normal(2) * FRACTION * size, 0, self.geometry)
        return place

    def _colours(self, batch: int, p: float, draw: torch.Generator) -> Tensor:
        """(B, 4, 4), what is made of red, green, blue and 1."""
        eye = torch.eye(3)
        matrix = torch.eye(4).repeat(batch, 1, 1)

        def when(values: Tensor, nothing: float) -> Tensor:
            return torch.where(torch.rand(batch, generator=draw) < p, values, nothing)[:, None, None]

        matrix[:, :3, 3] = when(torch.randn(batch, generator=draw) * BRIGHTNESS, 0)[:, 0]
        matrix[:, :3] *= when(torch.exp2(torch.randn(batch, generator=draw) * CONTRAST), 1)
        inverted = when(torch.randint(2, (batch,), generator=draw).float(), 0)
        angle = when((torch.rand(batch, generator=draw) * 2 - 1) * math.pi, 0)
        strength = when(torch.exp2(torch.randn(batch, generator=draw) * SATURATION), 1)
        cross = torch.tensor([[0., -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        hue = GREY + angle.cos() * (eye - GREY) + angle.sin() * cross  # about the grey axis
        colour = (GREY + strength * (eye - GREY)) @ hue @ (eye - 2 * inverted * GREY)
        matrix[:, :3] = colour @ matrix[:, :3]
        return matrix


def moved(images: Tensor, places: Tensor) -> Tensor:
    """Images whose pixels are taken from elsewhere, band-limited: at twice the rate, between two filters.

    What lies outside of an image is its reflection, and grey beyond that.

    Args:
        images: (B, C, H, W).
        places: (B, 3, 3), on the CPU, of places from the middle on, x y 1 [pixel], where each pixel comes from.

    Returns:
        (B, C, H, W); the images themselves where nothing moves.
    """
    if torch.equal(places, torch.eye(3).expand_as(places)):
        return images
    height, width = images.shape[2:]
    corner = torch.tensor([[x, y, 1.] for x in (-1, 1) for y in (-1, 1)]) * torch.tensor(
        [width / 2 + MARGIN, height / 2 + MARGIN, 1])
    reach = (places @ corner.T)[:, :2].abs().amax((0, 2)) - torch.tensor([width / 2, height / 2])
    x, y = (int(min(max(math.ceil(far), 0), side - 1)) for far, side in zip(reach.tolist(), (width, height)))
    wide = _up(F.pad(images, (x, x, y, y), mode='reflect'))
    # pixels of the result, with what the second filter reaches for, at twice the rate, in halves of both sizes
    out = (2 * (height + 2 * MARGIN), 2 * (width + 2 * MARGIN))
    own, theirs = (torch.tensor([side[1] / 2, side[0] / 2, 1]) for side in (out, wide.shape[2:]))
    middle = torch.full((len(images), 2), LATE)
    doubled = _shifted(-middle) @ (places * torch.tensor([[1, 1, 2], [1, 1, 2], [1, 1, 1]])) @ _shifted(middle)
    theta = (doubled * own / theirs[:, None])[:, :2].to(images.device, images.dtype)
    grid = F.affine_grid(theta, [len(images), images.shape[1], *out], align_corners=False)
    return _down(_Sampled.apply(wide, grid), height, width)


def _up(x: Tensor) -> Tensor:
    """Twice the rate, (B, C, H, W) to (B, C, 2H + 10, 2W + 10), its middle that of `x`."""
    taps, channels = x.new_tensor(SYM6) * math.sqrt(2), x.shape[1]
    rows = F.conv_transpose2d(x, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), stride=(2, 1), groups=channels)
    return F.conv_transpose2d(rows, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), stride=(1, 2), groups=channels)


def _down(x: Tensor, height: int, width: int) -> Tensor:
    """The middle (B, C, H, W) at half the rate."""
    taps, channels = x.new_tensor(SYM6) / math.sqrt(2), x.shape[1]
    for axis, (side, shape) in enumerate(((height, (1, 1, -1, 1)), (width, (1, 1, 1, -1))), 2):
        length = 2 * side + len(SYM6) - 2
        x = x.narrow(axis, (x.shape[axis] - length) // 2, length)
        stride = (2, 1) if axis == 2 else (1, 2)
        x = F.conv2d(x, taps.view(shape).expand(channels, -1, -1, -1), stride=stride, groups=channels)
    return x


class _Sampled(torch.autograd.Function):
    """F.grid_sample, linear in the images, with derivatives of any order by them."""

    @staticmethod
    def forward(ctx, images: Tensor, grid: Tensor) -> Tensor:
        ctx.shape = images.shape
        ctx.save_for_backward(grid)
        return F.grid_sample(images, grid, align_corners=False)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _Transposed.apply(gradient, ctx.saved_tensors[0], ctx.shape), None


class _Transposed(torch.autograd.Function):
    """The gradient of `_Sampled`, itself linear."""

    @staticmethod
    def forward(ctx, gradient: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        with torch.enable_grad():
            images = gradient.new_zeros(shape).requires_grad_()
            return torch.autograd.grad(F.grid_sample(images, grid, align_corners=False), images, gradient)[0]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Sampled.apply(gradient, ctx.saved_tensors[0]), None, None


def _scaled(by: Tensor) -> Tensor:
    """(B, 3, 3) that undo a scaling by (B, 2)."""
    return torch.diag_embed(torch.cat([1 / by, torch.ones(len(by), 1)], 1))


def _turned(by: Tensor) -> Tensor:
    """(B, 3, 3) that undo a turn by (B, 1) [rad]."""
    angle = by[:, 0]
    matrix = torch.eye(3).repeat(len(by), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 0, 1], matrix[:, 1, 0] = angle.sin(), -angle.sin()
    return matrix


def _shifted(by: Tensor) -> Tensor:
    """(B, 3, 3) that undo a shift by (B, 2) [pixel]."""
    matrix = torch.eye(3).repeat(len(by), 1, 1)
    matrix[:, :2, 2] = -by
    return matrix
