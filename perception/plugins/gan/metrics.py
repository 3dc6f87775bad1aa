"""How alike made and real images are, what a student makes of its teacher's latents, how smooth ways of latents are.

N images each, F features. No weights of Inception come with this project: `rFID-<seed>` is the Frechet distance of a
fixed random net, comparable with itself alone, never with a published FID.
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from perception.plugins.gan.losses import Perceptual
from perception.plugins.gan.models.generator import Generator, generator_of, to_bytes
from perception.plugins.gan.models.inception import InceptionFeatures
from perception.plugins.gan.models.stylegan3 import StyleGAN3
from perception.registry import HOOKS, METRICS, MODELS
from perception.utils.checkpoint import unwrap
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError, DataError

SEED = 20220818
ROWS = 1000  # of distances at once: those of 50,000 images to each other would take 20 GB


class RandomFeatures(nn.Module):
    """Mean and deviation over the pixels of four random convolutions, the same on every machine.

    Args:
        seed: of the weights.
    """

    def __init__(self, seed: int = SEED):
        super().__init__()
        generator, channels, self.layers = torch.Generator().manual_seed(seed), 3, nn.ModuleList()
        for width in (32, 64, 128, 256):
            layer = nn.Conv2d(channels, width, 3, stride=2, padding=1)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * (2 / (9 * channels)) ** 0.5)
                layer.bias.zero_()
            self.layers.append(layer)
            channels = width
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 512) features of images (B, 3, H, W) of -1..1."""
        for layer in self.layers:
            images = F.leaky_relu(layer(images), 0.2)
        flat = images.flatten(2)
        return torch.cat([flat.mean(2), flat.std(2, unbiased=False)], 1)


def frechet_distance(real: np.ndarray, made: np.ndarray) -> float:
    """Squared distance of two normal distributions with the moments of features (N, F), float64.

        |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)),  the trace of the root being the sum of the singular values of
        P1 P2^T, where S = P^T P

    Raises:
        DataError: fewer than two rows, or values that are not finite.
    """
    if min(len(real), len(made)) < 2 or not (np.isfinite(real).all() and np.isfinite(made).all()):
        raise DataError(f'frechet_distance: {len(real)} and {len(made)} rows, expected two or more of finite numbers. '
                        'Give more images, or an earlier checkpoint.')
    parts = [np.asarray(part, np.float64) for part in (real, made)]
    apart = np.square(parts[0].mean(0) - parts[1].mean(0)).sum()
    parts = [(part - part.mean(0)) / np.sqrt(len(part) - 1) for part in parts]  # S = P^T P
    spread = sum(np.square(part).sum() for part in parts)
    few = [np.linalg.qr(part, 'r') if len(part) > part.shape[1] else part for part in parts]
    return float(apart + spread - 2 * np.linalg.svd(few[0] @ few[1].T, compute_uv=False).sum())


def precision_recall(real: np.ndarray, made: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Share of made images near a real one, and of real ones near a made one.

    Near is within the distance of that one to its k-th neighbour of its kind.

    Args:
        real, made: (N, F) features.
        k: neighbours.

    Raises:
        DataError: not more than k images, or features that are not finite.
    """
    if min(len(real), len(made)) <= k or not (np.isfinite(real).all() and np.isfinite(made).all()):
        raise DataError(f'precision_recall: {len(real)} real and {len(made)} made images, expected more than k={k} of '
                        'finite features. Give more, or an earlier checkpoint.')
    real, made = (torch.from_numpy(np.asarray(part, np.float64)) for part in (real, made))
    near_real, near_made = (torch.cat([torch.cdist(rows, part).kthvalue(k + 1, 1).values
                                       for rows in part.split(ROWS)]) for part in (real, made))
    precise, recalled = [], torch.zeros(len(real), dtype=torch.bool)
    for rows, near in zip(made.split(ROWS), near_made.split(ROWS)):
        across = torch.cdist(rows, real)
        precise.append((across <= near_real[None]).any(1))
        recalled |= (across <= near[:, None]).any(0)
    return float(torch.cat(precise).double().mean()), float(recalled.double().mean())


def build_features(inception: str | Path | None, seed: int) -> tuple[nn.Module, str, str]:
    """What gives features of images (B, 3, H, W) of -1..1, what stands before names of their scores and behind FID's.

    Args:
        inception: a file with Inception's weights; None for a random net.
        seed: of the random net.

    Raises:
        CheckpointError: unreadable, or other weights.
    """
    return (InceptionFeatures(inception), '', '') if inception else (RandomFeatures(seed), 'r', f'-{seed}')


@METRICS.register_module()
class ImageMetric(BaseMetric):
    """`FID`, `precision` and `recall` (k = 3) of Inception's features; without its weights `rFID-<seed>`, `rprecision`
    and `rrecall` of random ones.

    Made images have the noise that is stored with the weights, so that they can be compared with a teacher's; published
    FIDs of StyleGAN2 are of noise that is drawn for each image, see `draw_noise` of StyleGAN2.

    Args:
        inception: a file with the weights of pytorch-fid's Inception-v3; None for a random net.
        seed: of the random net.
        collect_device, prefix: as in mmengine.

    Raises:
        CheckpointError: unreadable, or other weights.
    """

    default_prefix = ''  # none; spares mmengine's warning
    less_is_better = ('FID', 'rFID*')  # of its results, see ExportHook

    def __init__(self, inception: str | Path | None = None, seed: int = SEED, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.net, self.before, self.behind = build_features(inception, seed)

    @torch.no_grad()
    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Keep features of a batch.

        Args:
            data_batch: with the real images, `inputs` with `image`, a list of (3, H, W) uint8.
            data_samples: with `pred_image`.

        Raises:
            DataError: a sample without a made image, or real images of another size.
        """
        real, made = data_batch['inputs']['image'], made_images(data_samples)
        if real[0].shape != made[0].shape:
            raise DataError(f'ImageMetric: real images of {real[0].shape[1]} x {real[0].shape[2]} pixels beside made '
                            f'ones of {made[0].shape[1]} x {made[0].shape[2]}, expected equal sizes. Set `size` of the '
                            'data set.')
        pairs = (self.net(to_range(part)).numpy() for part in (real, made))
        self.results += zip(*pairs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """All scores."""
        real, made = (np.stack([row[i] for row in results]) for i in (0, 1))
        found = {f'{self.before}FID{self.behind}': frechet_distance(real, made)}
        if len(results) > 3:
            near = precision_recall(real, made)
            found |= {f'{self.before}precision': near[0], f'{self.before}recall': near[1]}
        return found


@METRICS.register_module()
class ConsistencyMetric(BaseMetric):
    """How far a student's images are from those that its teacher makes of equal latents.

    `L1` (0..2), `PSNR` [dB], `lpips` or `pseudo_lpips`, `semantic` or `rsemantic` (1 - cosine of Inception's features
    or of random ones), and with a reader `same_class`, the share of images that it reads alike.

    Args:
        teacher: config of a FrozenTeacher, for samples without `teacher_image`.
        lpips: a file with LPIPS weights, see `Perceptual`; None for a random net.
        inception: a file with Inception's weights; None for a random net.
        reader: config of what gives the classes (B,) of images (B, 3, H, W) of -1..1.
        collect_device, prefix: as in mmengine.

    Raises:
        CheckpointError: a file is unreadable, or has other weights.
    """

    default_prefix = ''
    less_is_better = ('L1', '*lpips', '*semantic')  # of its results, see ExportHook

    def __init__(self, teacher: dict | None = None, lpips: str | Path | None = None,
                 inception: str | Path | None = None, reader: dict | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.teacher = None if teacher is None else generator_of(MODELS.build(teacher).model)
        self.distance, (self.net, self.before, _) = Perceptual(lpips), build_features(inception, SEED)
        self.reader = None if reader is None else reader['type'](**{k: v for k, v in reader.items() if k != 'type'})

    @torch.no_grad()
    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Compare a batch.

        Args:
            data_batch: not used.
            data_samples: with `pred_image`, and `teacher_image` or the seed `source`.

        Raises:
            DataError: a sample without a made image, or without a teacher's.
        """
        made, theirs = made_images(data_samples), [sample.get('teacher_image') for sample in data_samples]
        if self.teacher is not None:
            theirs = to_bytes(self.teacher({'z': self.teacher.seeds_to_z([s['source'] for s in data_samples])}))
        elif any(image is None for image in theirs):
            raise DataError('ConsistencyMetric: a sample without teacher_image, expected what a teacher makes of its '
                            'latent. Score a student with its teacher, or give teacher=dict(type=FrozenTeacher, ...).')
        pair = to_range(made), to_range(theirs)
        parts = [(pair[0] - pair[1]).abs().mean((1, 2, 3)), (pair[0] - pair[1]).square().mean((1, 2, 3)),
                 self.distance(*pair), 1 - F.cosine_similarity(*map(self.net, pair))]
        if self.reader is not None:
            parts.append((self.reader(pair[0]) == self.reader(pair[1])).float())
        self.results += torch.stack(parts, 1).tolist()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """All scores, means over images."""
        l1, mse, distance, semantic, *same = np.array(results).T
        found = dict(L1=l1.mean(), PSNR=10 * np.log10(4 / np.maximum(mse, 1e-10)).mean())
        found |= {self.distance.name: distance.mean(), f'{self.before}semantic': semantic.mean()}
        if same:
            found['same_class'] = same[0].mean()
        return {name: float(value) for name, value in found.items()}


def made_images(samples: Sequence[dict]) -> list[Tensor]:
    """`pred_image` of samples.

    Raises:
        DataError: a sample without it.
    """
    if any(sample.get('pred_image') is None for sample in samples):
        raise DataError('ImageMetric: a sample without pred_image, expected one that a generator made. Score a '
                        'generator.')
    return [sample['pred_image'] for sample in samples]


def to_range(images: Sequence[Tensor]) -> Tensor:
    """Images (3, H, W) uint8 as (B, 3, H, W) of -1..1 on the CPU."""
    return torch.stack([image.cpu() for image in images]).float() / 127.5 - 1


# --- ways of latents ---
@HOOKS.register_module()
class PathHook(Hook):
    """Adds `ppl_cagc` and `ppl_w_end` to the scores of a test, see `path_scores`.

    Without weights of LPIPS their names begin with `pseudo_`, and they are comparable with themselves alone.

    Args:
        count: pairs of images.
        lpips: a file with LPIPS weights, see `Perceptual`; None for a random net.
        batch: pairs at once.
        seed: of what is drawn.

    Raises:
        CheckpointError: the file is unreadable, or has other weights.
        ConfigError: a number below 1.
    """

    priority = 'HIGHEST'  # before the scores are logged and written

    def __init__(self, count: int = 5000, lpips: str | Path | None = None, batch: int = 16, seed: int = 0) -> None:
        check_positive('PathHook', count=count, batch=batch)
        self.count, self.batch, self.seed, self.distance = count, batch, seed, Perceptual(lpips)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Measure, and put the scores beside the others."""
        net = generator_of(unwrap(runner.model))
        found = path_scores(net, self.distance.to(next(net.parameters()).device), self.count, self.batch, self.seed)
        before = self.distance.name.removesuffix('lpips')
        metrics.update({f'{before}{name}': value for name, value in found.items()})


@torch.no_grad()
def path_scores(net: Generator, distance: Callable[[Tensor, Tensor], Tensor], count: int, batch: int = 16,
                seed: int = 0, step: float = 1e-4) -> dict[str, float]:
    """How much images change where latents w move by a small step towards those of another z.

    Args:
        net: the generator.
        distance: (B,) distances of two batches of images.
        count: pairs of images.
        batch: pairs at once.
        seed: of what is drawn.
        step: share of the way.

    Returns:
        `ppl_cagc`, as CAGC and StyleKD have it: from anywhere on the way, noise drawn for each image, not divided by
        step^2, so that of a net with noise it tells what noise does; and `ppl_w_end`, the usual one: from the beginning
        of the way, with the same noise, divided by step^2. Means from the 1st to the 99th percentile.
    """
    draw, found = torch.Generator().manual_seed(seed), dict(ppl_cagc=[], ppl_w_end=[])
    for start in range(0, count, batch):
        size = min(batch, count - start)
        z, z2 = torch.randn(2, size, net.style_dim, generator=draw).to(next(net.parameters()).device)
        place = torch.rand(size, 1, generator=draw).to(z)
        noise = [torch.randn(2, size, 1, side, side, generator=draw).to(z) for side in net.noise_sizes]
        w, w2 = net.mapping(z), net.mapping(z2)
        for name, where, own in (('ppl_cagc', place, True), ('ppl_w_end', torch.zeros_like(place), False)):
            pair = [small(net.synthesis(net.mix(torch.lerp(w, w2, where + step * i)),
                                        [part[i * own] for part in noise]).image) for i in (0, 1)]
            found[name].append(distance(*pair) / (1 if own else step ** 2))
    return {name: trimmed(torch.cat(parts).double().cpu().numpy()) for name, parts in found.items()}


@HOOKS.register_module()
class EquivarianceHook(Hook):
    """Adds `EQ-T` [dB] to the scores of a test of a StyleGAN3, see `translation_score`.

    Args:
        count: images.
        batch: images at once, which move alike.
        seed: of what is drawn.

    Raises:
        ConfigError: a number below 1.
    """

    priority = 'HIGHEST'  # before the scores are logged and written

    def __init__(self, count: int = 50000, batch: int = 16, seed: int = 0) -> None:
        check_positive('EquivarianceHook', count=count, batch=batch)
        self.count, self.batch, self.seed = count, batch, seed

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Measure, and put the score beside the others.

        Raises:
            ConfigError: the net has no features that could be moved.
        """
        net = generator_of(unwrap(runner.model))
        if not isinstance(net, StyleGAN3):
            raise ConfigError(f'EquivarianceHook: {type(net).__name__} came, expected StyleGAN3, whose input can be '
                              'moved. Leave the metric out.')
        metrics['EQ-T'] = translation_score(net, self.count, self.batch, self.seed)


@torch.no_grad()
def translation_score(net: StyleGAN3, count: int, batch: int = 16, seed: int = 0, farthest: float = 0.125) -> float:
    """How nearly an image moves as its Fourier features do: EQ-T of T. Karras et al. Alias-Free Generative Adversarial
    Networks, NeurIPS 2021, appendix E.1; whole pixels.

    Args:
        net: the generator.
        count: images.
        batch: images at once, which move alike.
        seed: of what is drawn.
        farthest: share of the image's size that they move to each side at most.

    Returns:
        the PSNR [dB] of images of -1..1 of moved features beside moved images, of all pixels that both have.
    """
    draw, way, error, pixels = torch.Generator().manual_seed(seed), net.input.transform, 0.0, 0
    for start in range(0, count, batch):
        z = torch.randn(min(batch, count - start), net.style_dim, generator=draw).to(way.device)
        shift = ((torch.rand(2, generator=draw) * 2 - 1) * farthest * net.size).round()
        latents, here = net.mix(net.mapping(z)), way[:2, 2].clone()
        images = net.synthesis(latents).image
        way[:2, 2] -= shift.to(way) / net.size
        moved = net.synthesis(latents).image
        way[:2, 2] = here
        x, y = map(int, shift)
        rows, columns = ((slice(max(by, 0), net.size + min(by, 0)), slice(max(-by, 0), net.size - max(by, 0)))
                         for by in (y, x))
        apart = (moved[..., rows[0], columns[0]] - images[..., rows[1], columns[1]]).double().square()
        error, pixels = error + float(apart.sum()), pixels + apart.numel()
    return float(10 * np.log10(4 * pixels / max(error, 1e-30)))


def small(images: Tensor, size: int = 256) -> Tensor:
    """Means over squares of pixels of images (B, 3, H, W) larger than `size`."""
    return F.avg_pool2d(images, images.shape[-1] // size) if images.shape[-1] > size else images


def trimmed(values: np.ndarray) -> float:
    """Mean of the values from the 1st to the 99th percentile."""
    low, high = np.percentile(values, 1, method='lower'), np.percentile(values, 99, method='higher')
    return float(values[(values >= low) & (values <= high)].mean())
