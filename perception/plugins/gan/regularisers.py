"""Losses of two nets against each other, and their regularisers, as StyleGAN2 has them.

T. Karras et al. Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020. B images.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss of scores (B, 1) of real images and of made ones, a mean."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating loss of scores (B, 1) of made images, a mean."""
    return F.softplus(-fake).mean()


def r1_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Mean over images of the squared length of the gradient of their scores.

    Args:
        scores: (B, 1) of the images.
        images: (B, 3, H, W) that ask for a gradient.
    """
    gradient, = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def path_lengths(images: Tensor, latents: Tensor, directions: Tensor) -> Tensor:
    """(B,) how far images move along random directions where latents move.

    Args:
        images: (B, 3, H, W) of the latents.
        latents: (B, L, D) that ask for a gradient.
        directions: (B, 3, H, W) normal numbers.
    """
    directions = directions / math.sqrt(images.shape[2] * images.shape[3])
    gradient, = torch.autograd.grad((images * directions).sum(), latents, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def path_penalty(lengths: Tensor, mean: Tensor, decay: float = 0.01) -> tuple[Tensor, Tensor]:
    """The penalty on path lengths that are not their running mean, and that mean.

    Args:
        lengths: (B,).
        mean: the running mean before, a scalar.
        decay: share of the new lengths in it.

    Returns:
        the penalty, whose gradient flows through the mean too; and the new mean, without a gradient.
    """
    mean = mean + decay * (lengths.mean() - mean)
    return (lengths - mean).square().mean(), mean.detach()
