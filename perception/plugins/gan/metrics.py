"""How alike made and real images are, and what a student makes of its teacher's latents.

N images each, F features. No weights of Inception come with this project: `rFID-<seed>` is the Frechet distance of a
fixed random net, comparable with itself alone, never with a published FID.
"""
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from torch import Tensor, nn

from perception.plugins.gan.losses import Perceptual
from perception.registry import METRICS
from perception.utils.errors import DataError

SEED = 20220818


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

    Raises:
        DataError: fewer than two rows, or values that are not finite.
    """
    if min(len(real), len(made)) < 2 or not (np.isfinite(real).all() and np.isfinite(made).all()):
        raise DataError(f'frechet_distance: {len(real)} and {len(made)} rows, expected two or more of finite numbers. '
                        'Give more images, or an earlier checkpoint.')
    return frechet_of(*moments(real), *moments(made))


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (F,) and covariance (F, F) of features (N, F), float64."""
    features = np.asarray(features, np.float64)
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet_of(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), the root by eigenvalues of S1^(1/2) S2 S1^(1/2)."""
    values, vectors = np.linalg.eigh(cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ other_cov @ root).clip(0)).sum()
    return float(np.square(mean - other_mean).sum() + np.trace(cov) + np.trace(other_cov) - 2 * cross)


def precision_recall(real: np.ndarray, made: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Share of made images near a real one, and of real ones near a made one.

    Near is within the distance of that one to its k-th neighbour of its kind.

    Args:
        real, made: (N, F) features.
        k: neighbours.

    Raises:
        DataError: not more than k images.
    """
    if min(len(real), len(made)) <= k:
        raise DataError(f'precision_recall: {len(real)} real and {len(made)} made images, expected more than k={k}. '
                        'Give more.')
    real, made = (torch.from_numpy(np.asarray(part, np.float64)) for part in (real, made))
    across = torch.cdist(made, real)
    near_real, near_made = (torch.cdist(part, part).kthvalue(k + 1, 1).values for part in (real, made))
    return (float((across <= near_real[None]).any(1).double().mean()),
            float((across <= near_made[:, None]).any(0).double().mean()))


@METRICS.register_module()
class ImageMetric(BaseMetric):
    """`rFID-<seed>`, `rprecision` and `rrecall` (k = 3) of random features; with a teacher `L1`, `PSNR` [dB] and
    `pseudo_lpips` of images of equal latents.

    Args:
        seed: of the random net.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, seed: int = SEED, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.seed, self.net, self.distance = seed, RandomFeatures(seed), Perceptual()

    @torch.no_grad()
    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Keep features of a batch.

        Args:
            data_batch: with the real images, `inputs` with `image`, a list of (3, H, W) uint8.
            data_samples: with `pred_image`, and maybe `teacher_image`.

        Raises:
            DataError: a sample without a made image.
        """
        if any(sample.get('pred_image') is None for sample in data_samples):
            raise DataError('ImageMetric: a sample without pred_image, expected one that a generator made. Score a '
                            'generator.')
        real, made = (to_range(part) for part in (data_batch['inputs']['image'],
                                                  [sample['pred_image'] for sample in data_samples]))
        kept = [self.net(part).numpy() for part in (real, made)]
        for i, sample in enumerate(data_samples):
            row = [kept[0][i], kept[1][i], None]
            if sample.get('teacher_image') is not None:
                theirs = to_range([sample['teacher_image']])
                row[2] = (float((made[i:i + 1] - theirs).abs().mean()), float((made[i:i + 1] - theirs).square().mean()),
                          float(self.distance(made[i:i + 1], theirs)))
            self.results.append(tuple(row))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """All scores."""
        real, made = (np.stack([row[i] for row in results]) for i in (0, 1))
        found = {f'rFID-{self.seed}': frechet_distance(real, made)}
        if len(results) > 3:
            found['rprecision'], found['rrecall'] = precision_recall(real, made)
        if all(row[2] is not None for row in results):
            l1, mse, distance = np.array([row[2] for row in results]).T
            found |= dict(L1=float(l1.mean()), pseudo_lpips=float(distance.mean()),
                          PSNR=float(10 * np.log10(4 / np.maximum(mse, 1e-10)).mean()))
        return found


def to_range(images: Sequence[Tensor]) -> Tensor:
    """Images (3, H, W) uint8 as (B, 3, H, W) of -1..1 on the CPU."""
    return torch.stack([image.cpu() for image in images]).float() / 127.5 - 1
