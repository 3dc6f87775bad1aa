"""Smaller generators: their channels, which channels of a teacher they keep, and how they begin.

G. Xu et al. Mind the Gap in Distilling StyleGANs, ECCV 2022 (StyleKD); Y. Liu et al. Content-Aware GAN Compression,
CVPR 2021 (CAGC).
"""
import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.plugins.gan.models.generator import Generator
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError

STARTS = ('fresh', 'mapping', 'slices', 'slices_alone')


def slimmed(channels: Sequence[int], ratio: float) -> list[int]:
    """Channels of a student without the share `ratio` of each layer of its teacher.

    Raises:
        ConfigError: a share outside 0..1, or one that leaves nothing.
    """
    kept = [count - int(count * ratio) for count in channels] if 0 <= ratio < 1 else [0]
    if min(kept) < 1:
        raise ConfigError(f'slimmed: ratio={ratio} of channels {list(channels)}, expected 0 or more, below 1. Correct '
                          'it.')
    return kept


def begin(student: Generator, teacher: Generator, start: str, scores: Sequence[Tensor] | None = None) -> None:
    """Give a student its first weights, and the fixed noise of its teacher, so that their images can be compared.

    Args:
        student: changed in place.
        teacher: whose weights are taken.
        start: `'fresh'`, all random; `'mapping'`, the teacher's mapping, the rest random (StyleKD); `'slices'`, its
            mapping and the channels of the highest scores; `'slices_alone'`, those with a random mapping.
        scores: of the teacher's channels, such as CAGC's `content_scores`; None for the sizes of weights, see
            `channel_scores`.

    Raises:
        ConfigError: another start, a mapping of another shape or rate, or a student that is no part of its teacher.
    """
    check_choice('start', start, STARTS)
    rates = [net.style[1].lr_mul for net in (student, teacher)]
    if start in ('mapping', 'slices') and rates[0] != rates[1]:  # it scales the weights, too
        raise ConfigError(f'start={start!r}: lr_mlp={rates[0]} of the student and {rates[1]} of the teacher, expected '
                          'the same, or equal weights give other latents. Change the rate of the mapping by '
                          'optim_wrapper.lr_mapping.')
    taken = ('noises.', 'style.') if start in ('mapping', 'slices') else ('noises.',)
    weights = {name: value for name, value in teacher.state_dict().items() if name.startswith(taken)}
    if start in ('slices', 'slices_alone'):
        weights |= sliced(teacher, student.channels, scores)
    own = student.state_dict()
    wrong = [name for name, value in weights.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise ConfigError(f'start={start!r}: {len(wrong)} weights of the teacher ({", ".join(wrong[:3])}) do not fit '
                          "the student, expected the same mapping, size and kernels. Take start='mapping' or 'fresh', "
                          'or correct the student.')
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def channel_scores(teacher: Generator) -> list[Tensor]:
    """Mean size of the weights that read each channel, one (C,) for each entry of `channels`."""
    return [_of_inputs(weight.detach()) for weight in teacher.readers]


def content_scores(teacher: Generator, latents: Tensor, parser: Callable[[Tensor], Tensor] | None = None,
                   batch: int = 10, density: float = 0.05, seed: int = 0) -> list[Tensor]:
    """How much weights that read each channel answer to salt and pepper on the content of images (CAGC).

    Args:
        teacher: the generator.
        latents: (N, D) z of the images to look at; CAGC takes 400.
        parser: gives (B, 1, H, W) of 0 or 1, where the content of images (B, 3, H, W) is; None for everywhere.
        batch: images at once.
        density: share of the pixels that are disturbed.
        seed: of the disturbance.

    Returns:
        one (C,) for each entry of `channels`.
    """
    teacher = copy.deepcopy(teacher).requires_grad_(True)  # those of a FrozenTeacher ask for no gradients
    generator, readers = torch.Generator().manual_seed(seed), teacher.readers
    total = [torch.zeros(weight.shape[-3], device=weight.device) for weight in readers]
    for z in latents.split(batch):
        image = teacher.synthesis(teacher.mix(teacher.mapping(z)), teacher.fixed_noise).image
        spots = torch.rand(image[:, :1].shape, generator=generator).to(image.device)
        mask = (spots < density).float()
        if parser is not None:
            mask = mask * parser(image.detach())
        noisy = image.detach() * (1 - mask) + mask * torch.where(spots < density / 2, -1.0, 1.0)
        grads = torch.autograd.grad((noisy - image).abs().sum(), readers)
        total = [sums + _of_inputs(grad) for sums, grad in zip(total, grads)]
    return total


def _of_inputs(weight: Tensor) -> Tensor:
    """Mean size (C,) of the weights (..., O, C, k, k) of each channel that comes."""
    return weight.abs().movedim(-3, 0).flatten(1).mean(1)


def sliced(teacher: Generator, channels: Sequence[int], scores: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
    """Weights of a teacher's synthesis with the channels of highest score, in their order.

    Args:
        teacher: the generator.
        channels: how many of each layer are kept.
        scores: one (C,) for each entry; None for `channel_scores`.

    Raises:
        ConfigError: more channels than the teacher has, or another number of layers.
    """
    if len(channels) != len(teacher.channels) or any(a > b for a, b in zip(channels, teacher.channels)):
        raise ConfigError(f'sliced: channels {list(channels)} of a teacher with {list(teacher.channels)}, expected as '
                          'many entries, none larger. Correct the student.')
    scores = channel_scores(teacher) if scores is None else scores
    kept = [score.topk(count).indices.sort().values for score, count in zip(scores, channels)]
    return teacher.slices(kept)


def latent_directions(teacher: Generator, blocks: int | Sequence[int] = 5, count: int = 5,
                      together: bool = False) -> Tensor:
    """Directions of latents that change images most: eigenvectors of the modulation matrices (SeFa).

    Args:
        teacher: the generator.
        blocks: of its `modulations`: the first ones, or their numbers.
        count: directions of each, those of the largest eigenvalues first; the largest entry of each is positive.
        together: as many directions of all matrices at once.

    Returns:
        (blocks * count, D) of length 1.

    Raises:
        ConfigError: more than there are.
    """
    matrices, blocks = teacher.modulations, range(blocks) if isinstance(blocks, int) else list(blocks)
    if not blocks or not 0 <= min(blocks) <= max(blocks) < len(matrices) or not (
            1 <= count * (len(blocks) if together else 1) <= teacher.style_dim):
        raise ConfigError(f'latent_directions: blocks={list(blocks)}, count={count}, expected some of '
                          f'0..{len(matrices) - 1} and at most {teacher.style_dim} directions of each. Correct them.')
    rows = [matrices[i].detach().double() for i in blocks]
    if together:
        rows, count = [torch.cat(rows)], len(blocks) * count
    found = []
    for matrix in rows:
        unit = F.normalize(matrix, dim=1)
        vectors = torch.linalg.eigh(unit.T @ unit).eigenvectors.flip(1)[:, :count].T
        largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        found.append(vectors * largest.sign())
    return torch.cat(found).float()
