"""Votes on each point: of several turned, mirrored and scaled views of a scan, and of several nets."""
import itertools
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import block_diag
from torch import Tensor, nn

from perception.lidarseg.models.points import label_points
from perception.lidarseg.transforms import xy_matrix
from perception.registry import MODELS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError

MODES = ('flip4', 'grid36')


def view_matrices(mode: str, rng: np.random.Generator) -> list[np.ndarray]:
    """The matrices of all views, (2, 2) of x and y or (3, 3) of x, y and z.

    Args:
        mode: 'flip4', the four votes of PVKD's code: view v has flip v, a rotation from U(-45, 45) degrees and a scale
            of x and y from U(0.95, 1.05). 'grid36', the 36 views of mmdetection3d: 4 flips, rotations by -45, 0, 45
            degrees, scales 0.95, 1, 1.05 of all axes.
        rng: used by flip4.

    Raises:
        ConfigError: unknown mode.
    """
    check_choice('test-time augmentation: mode', mode, MODES)
    if mode == 'flip4':
        return [xy_matrix(rng.uniform(-np.pi / 4, np.pi / 4), flip, rng.uniform(0.95, 1.05)) for flip in range(4)]
    grid = itertools.product(range(4), (-np.pi / 4, 0, np.pi / 4), (0.95, 1.0, 1.05))
    return [scale * block_diag(xy_matrix(angle, flip), 1) for flip, angle, scale in grid]


@MODELS.register_module()
class TTASegmentor(nn.Module):
    """Wraps a segmentor so that `test_step` predicts from the votes of several views.

    Each view is made from the untouched scan, before voxelisation (the authors' code turns one array in place, so that
    its views pile up). 'flip4' adds logits, 'grid36' averages probabilities; the class "unlabelled" is never predicted.
    Views depend on (seed, points) alone, so that a scan gets the same ones by whatever name and tool it comes.

    Args:
        model: has a `data_preprocessor`, `num_classes`, and `forward(..., mode='tensor')` with `point_logits`.
        mode: 'flip4' or 'grid36'.
        chunk: views that run as one batch; fewer need less memory.
        seed: of the random views.

    Raises:
        ConfigError: unknown mode, or a chunk without views.
    """

    def __init__(self, model: nn.Module | dict, mode: str = 'flip4', chunk: int = 2, seed: int = 0) -> None:
        super().__init__()
        if chunk < 1:
            raise ConfigError(f'TTASegmentor: chunk={chunk}, expected at least 1. It counts the views of a batch.')
        view_matrices(mode, np.random.default_rng(0))  # refuses an unknown mode before the data are read
        self.model = MODELS.build(model) if isinstance(model, dict) else model
        self.num_classes = self.model.num_classes
        self.mode, self.chunk, self.seed = mode, chunk, seed

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """Predict a batch as it comes from the data loader.

        Args:
            data: `inputs` with `points`, a list of (N, D) tensors: x, y, z and further columns, and `data_samples`, a
                PointSegSample each.

        Returns:
            the samples with `pred_labels` (N,) int64.
        """
        for points, sample in zip(data['inputs']['points'], data['data_samples']):
            label_points(self.vote(points), [len(points)], [sample])
        return data['data_samples']

    def vote(self, points: Tensor) -> Tensor:
        """Sum of logits ('flip4') or mean of probabilities ('grid36') of all views.

        Args:
            points: (N, D).

        Returns:
            (N, C) float32.
        """
        total, views = self._total(points)
        return (total / views if self.mode == 'grid36' else total)[:, :self.num_classes]

    def probs(self, points: Tensor) -> Tensor:
        """Probabilities for an ensemble: those of the mean logits ('flip4') or their mean ('grid36').

        Args:
            points: (N, D).

        Returns:
            (N, C) float32; what is missing to 1 belongs to the class "unlabelled" of nets that have it.
        """
        total, views = self._total(points)
        mean = total / views
        return (mean if self.mode == 'grid36' else mean.softmax(dim=1))[:, :self.num_classes]

    def _total(self, points: Tensor) -> tuple[Tensor, int]:
        """Sum over all views, with the dead channel of nets that have one, and the number of views."""
        rng = np.random.default_rng([self.seed, zlib.crc32(points.cpu().numpy().tobytes())])
        views = [moved(points, matrix) for matrix in view_matrices(self.mode, rng)]
        total = 0
        for start in range(0, len(views), self.chunk):
            chunk = views[start:start + self.chunk]
            logits = view_logits(self.model, chunk)
            scores = logits.softmax(dim=1) if self.mode == 'grid36' else logits
            total = total + scores.unflatten(0, (len(chunk), len(points))).sum(dim=0)
        return total, len(views)


def view_logits(model: nn.Module, views: Sequence[Tensor]) -> Tensor:
    """(M * N, C or C + 1) float32 logits of the points of M views, run as one batch.

    Args:
        model: a segmentor as TTASegmentor takes it.
        views: M tensors (N, D) of points as they come from a data set.
    """
    data = model.data_preprocessor(dict(inputs=dict(points=list(views)), data_samples=None), False)
    return model(**data, mode='tensor')['point_logits'].float()


def moved(points: Tensor, matrix: np.ndarray) -> Tensor:
    """A copy of (N, D) points with a (k, k) matrix applied to the first k columns, x, y (and z)."""
    points, axes = points.clone(), len(matrix)
    points[:, :axes] = (points[:, :axes].double() @ torch.from_numpy(matrix.T).to(points.device)).to(points.dtype)
    return points


@MODELS.register_module()
class EnsembleSegmentor(nn.Module):
    """Predicts the class with the largest mean probability over several nets, whatever nets they are.

    Each net voxelises the scan in its own way. A net inside a TTASegmentor gives the probabilities of its votes.

    Args:
        models: segmentors, bare or in a TTASegmentor, all of the same classes.

    Raises:
        ConfigError: no model, or models with different numbers of classes.
    """

    def __init__(self, models: Sequence[nn.Module | dict]) -> None:
        super().__init__()
        self.models = nn.ModuleList(MODELS.build(model) if isinstance(model, dict) else model for model in models)
        counts = [model.num_classes for model in self.models]
        if len(set(counts)) != 1:
            came = ' and '.join(map(str, sorted(set(counts)))) or 'no'
            raise ConfigError(f'ensemble: models with {came} classes came, expected equal numbers. Take checkpoints '
                              'that were trained on the same data set.')
        self.num_classes = counts[0]

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """Predict a batch as it comes from the data loader.

        Args:
            data: `inputs` with `points`, a list of (N, D) tensors, and `data_samples`, a PointSegSample each.

        Returns:
            the samples with `pred_labels` (N,) int64.
        """
        for points, sample in zip(data['inputs']['points'], data['data_samples']):
            label_points(self.probs(points), [len(points)], [sample])
        return data['data_samples']

    def probs(self, points: Tensor) -> Tensor:
        """Mean of the members' probabilities.

        Args:
            points: (N, D).

        Returns:
            (N, C) float32.
        """
        return sum(member_probs(model, points) for model in self.models) / len(self.models)


def member_probs(model: nn.Module, points: Tensor) -> Tensor:
    """Probabilities of the points of one scan by one model, (N, C) float32.

    Args:
        model: a segmentor, bare or in a TTASegmentor, or an EnsembleSegmentor.
        points: (N, D).
    """
    if isinstance(model, (TTASegmentor, EnsembleSegmentor)):
        return model.probs(points)
    return view_logits(model, [points]).softmax(dim=1)[:, :model.num_classes]
