"""From pixel embeddings to any number of lanes: the decoder of the agnostic network.

Lane pixels are clustered by mean shift (Comaniciu and Meer. Mean Shift: A Robust Approach Toward Feature Space
Analysis. TPAMI 2002), as in LaneNet (Neven et al. Towards End-to-End Lane Detection: an Instance Segmentation Approach.
IV 2018); each cluster becomes a cubic, sampled on the rows of the data set.

Shapes: B images of H x W pixels, E embedding channels on a map of h x w cells, N lane pixels, K clusters.
"""
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from perception.registry import TASK_UTILS
from perception.utils.errors import ConfigError, DataError

MAX_SEEDS = 256


@TASK_UTILS.register_module()
class ClusterDecoder:
    """Clusters lane pixels and fits a polynomial x(y) to each cluster.

    Pixels are handled by tensor operations on the device of the network; only the few polynomials reach the CPU.

    Args:
        threshold: of a lane pixel's probability.
        bandwidth: of the mean shift; half the distance that the loss pushes instances apart (`delta_dist`). Near the
            horizon, where lanes meet, smaller ones (LaneNet: 2 `delta_var`) make clusters of what lies between them.
        max_points: pixels that the mean shift looks at, drawn from the lane pixels by a fixed seed. Every lane pixel
            then belongs to the nearest centre.
        iterations: of the mean shift at most.
        min_share: smaller clusters are dropped; share of the map's pixels (LaneNet: 100 of 512 x 256).
        merge_distance: a cluster is part of a larger one when the polynomial of that passes its pixels at this mean
            distance; share of the map's width. 0 keeps all clusters.
        order: of the polynomials.
        step: rows between two points in the original image, counted from the last row, where the meta information has
            no `h_samples`.

    Raises:
        ConfigError: a bandwidth, step or number of points that is not positive.
    """

    def __init__(self, threshold: float = 0.5, bandwidth: float = 1.5, max_points: int = 2000, iterations: int = 20,
                 min_share: float = 100 / (512 * 256), merge_distance: float = 0.0125, order: int = 3,
                 step: int = 20) -> None:
        if bandwidth <= 0 or step < 1 or max_points < 1 or order < 1:
            raise ConfigError(f'ClusterDecoder: bandwidth={bandwidth}, step={step}, max_points={max_points}, '
                              f'order={order}, expected positive numbers. Correct them.')
        self.threshold, self.bandwidth, self.max_points = threshold, bandwidth, max_points
        self.iterations, self.min_share, self.merge_distance = iterations, min_share, merge_distance
        self.order, self.step = order, step

    @torch.no_grad()
    def __call__(self, lane_probs: Tensor, embeddings: Tensor, metas: Sequence[dict]) -> list[list[np.ndarray]]:
        """Lanes of each image.

        Args:
            lane_probs: (B, H, W) probability that a pixel belongs to a lane.
            embeddings: (B, E, h, w), mostly of half the size; a pixel has the embedding of the cell it lies in.
            metas: for each image `original_shape` (H0, W0), `crop_top` (0 by default) and `h_samples`, if there.

        Returns:
            For each image lanes from left to right, (P, 2) float64 arrays u, v in pixels of the original image, bottom
            to top, of at least two points.

        Raises:
            DataError: shapes that do not belong together, or an image of unknown shape.
        """
        if lane_probs.dim() != 3 or embeddings.dim() != 4 or not len(lane_probs) == len(embeddings) == len(metas):
            raise DataError(f'ClusterDecoder: lane_probs {tuple(lane_probs.shape)} and embeddings '
                            f'{tuple(embeddings.shape)} for {len(metas)} images, expected (B, H, W) and (B, E, h, w). '
                            'Give the lane class of a network with embeddings.')
        return [self._lanes(*image) for image in zip(lane_probs, embeddings, metas)]

    def cluster(self, lane_probs: Tensor, embeddings: Tensor) -> Tensor:
        """Instance of each pixel of an image.

        Args:
            lane_probs: (H, W).
            embeddings: (E, h, w).

        Returns:
            (H, W) int64, 0 = background or a dropped cluster, 1..K in no special order.
        """
        lane = lane_probs > self.threshold
        ids = lane.long()
        rows, columns = (index * small // large for index, small, large in
                         zip(lane.nonzero(as_tuple=True), embeddings.shape[1:], lane.shape))
        points = embeddings[:, rows, columns].T.double()  # (N, E)
        if len(points):
            centres = mean_shift(points[self._chosen(len(points)).to(points.device)], self.bandwidth, self.iterations)
            nearest = _distances(points, centres).argmin(dim=1)
            counts = nearest.bincount(minlength=len(centres))
            kept = counts >= max(self.min_share * lane.numel(), 1)
            ids[lane] = torch.where(kept, kept.cumsum(0), 0)[nearest]
        return ids

    def _chosen(self, number: int) -> Tensor:
        """Which of the lane pixels the mean shift looks at: always the same ones, and not every n-th of a row."""
        if number <= self.max_points:
            return torch.arange(number)
        return torch.randperm(number, generator=torch.Generator().manual_seed(0))[:self.max_points]

    def _lanes(self, lane_probs: Tensor, embeddings: Tensor, meta: dict) -> list[np.ndarray]:
        if 'original_shape' not in meta:
            raise DataError(f'ClusterDecoder: {meta.get("sample_id", "an image")} has no original_shape, expected '
                            '(rows, columns) of the original image. Pass it as meta information.')
        x, counts = (value.cpu().numpy() for value in row_means(self.cluster(lane_probs, embeddings)))
        height, width = lane_probs.shape
        lanes = [Polynomial(x[k], counts[k] > 0, self.order) for k in range(len(x))]
        if self.merge_distance and len(lanes) > 1:
            merged = self._merge(lanes, x, counts, self.merge_distance * width)
            lanes = [Polynomial(*means, self.order) for means in merged]
        lanes.sort(key=lambda lane: lane.at_bottom(height - 1))
        points = [self._sample(lane, (height, width), meta) for lane in lanes]
        return [lane for lane in points if len(lane) > 1]

    def _merge(self, lanes: 'list[Polynomial]', x: np.ndarray, counts: np.ndarray, limit: float) -> list[tuple]:
        """Row means of the clusters that remain, each as x (h,) and whether the row has pixels (h,)."""
        groups: list[list[int]] = []
        for k in sorted(range(len(lanes)), key=lambda k: (-(counts[k] > 0).sum(), k)):
            rows = np.flatnonzero(counts[k])
            home = next((group for group in groups
                         if np.abs(lanes[group[0]](rows) - x[k, rows]).mean() < limit), None)
            groups.append([k]) if home is None else home.append(k)
        totals = [(x[group] * counts[group]).sum(0) for group in groups], [counts[group].sum(0) for group in groups]
        return [(total / np.maximum(count, 1), count > 0) for total, count in zip(*totals)]

    def _sample(self, lane: 'Polynomial', size: tuple[int, int], meta: dict) -> np.ndarray:
        """Points on the data set's rows, as far as the cluster and the image reach."""
        (height, width), (rows, columns) = size, map(int, meta['original_shape'][:2])
        crop = int(meta.get('crop_top', 0))
        v = meta.get('h_samples')
        v = np.sort(np.arange(rows - 1, crop - 1, -self.step) if v is None else np.asarray(v))[::-1].astype(float)
        y = (v - crop + 0.5) * height / (rows - crop) - 0.5
        inside = (y >= lane.top - 0.5) & (y <= lane.bottom + 0.5)
        u = (lane(y[inside]) + 0.5) * columns / width - 0.5
        points = np.stack([u, v[inside]], axis=1)
        return points[(u >= 0) & (u <= columns - 1)]


class Polynomial:
    """x as a polynomial of the row y, least squares over the rows that have pixels.

    Args:
        x: (h,) mean column of each row.
        seen: (h,) whether the row has pixels; at least one has.
        order: of the polynomial; fewer rows than coefficients take the smallest coefficients that pass their points.
    """

    def __init__(self, x: np.ndarray, seen: np.ndarray, order: int = 3):
        rows = np.flatnonzero(seen)
        self.top, self.bottom = int(rows[0]), int(rows[-1])
        self.middle, self.half = (self.top + self.bottom) / 2, max((self.bottom - self.top) / 2, 1)
        basis = np.vander((rows - self.middle) / self.half, order + 1, increasing=True)
        self.coefficients = np.linalg.lstsq(basis, x[rows], rcond=None)[0]

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """x at rows y."""
        return np.polynomial.polynomial.polyval((y - self.middle) / self.half, self.coefficients)

    def at_bottom(self, y: float) -> float:
        """x at a row below the lane, straight on from its lowest row."""
        slope = np.polynomial.polynomial.polyder(self.coefficients)
        end = (self.bottom - self.middle) / self.half
        return float(self(self.bottom) + np.polynomial.polynomial.polyval(end, slope) / self.half * (y - self.bottom))


def mean_shift(points: Tensor, bandwidth: float, iterations: int = 20) -> Tensor:
    """Modes of the density of points, by mean shift with a flat kernel.

    Seeds are the means of the cells of a grid of the bandwidth's size, the fullest first, at most `MAX_SEEDS`. Where
    several end within a bandwidth, the one with the most points around it stays.

    Args:
        points: (N, E) float64, at least one.
        bandwidth: radius of the kernel.
        iterations: at most.

    Returns:
        (K, E), K >= 1, by falling number of points around them.
    """
    _, cells, counts = torch.unique((points / bandwidth).round(), dim=0, return_inverse=True, return_counts=True)
    sums = points.new_zeros(len(counts), points.shape[1]).index_add_(0, cells, points)
    order = counts.argsort(descending=True, stable=True)[:MAX_SEEDS]
    centres = (sums / counts[:, None])[order]
    for _ in range(iterations):
        near = (_distances(centres, points) <= bandwidth).double()  # (K, N)
        support = near.sum(dim=1, keepdim=True)
        moved = torch.where(support > 0, near @ points / support.clamp(min=1), centres)
        shift = (moved - centres).abs().max()
        centres = moved
        if shift < 1e-3 * bandwidth:
            break
    support = (_distances(centres, points) <= bandwidth).sum(dim=1)
    centres = centres[support.argsort(descending=True, stable=True)]
    close = (_distances(centres, centres) < bandwidth).cpu().numpy()
    kept: list[int] = []
    for k in range(len(centres)):
        if not close[k, kept].any():
            kept.append(k)
    return centres[kept]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) Euclidean, without the matrix product that cancels digits."""
    return torch.cdist(a, b, compute_mode='donot_use_mm_for_euclid_dist')


def row_means(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Mean column and number of the pixels of each instance in each row.

    Args:
        ids: (..., h, w) int64, 0 = none, 1..K.

    Returns:
        (..., K, h) float64, 0 where a row has no pixel, and (..., K, h) int64.
    """
    *batch, height, width = ids.shape
    num = int(ids.max()) if ids.numel() else 0
    image, row, column = ids.reshape(-1, height, width).nonzero(as_tuple=True)
    instance = ids.reshape(-1, height, width)[image, row, column] - 1
    slot = (image * num + instance) * height + row
    size = ids.reshape(-1, height, width).shape[0] * num * height
    counts = torch.bincount(slot, minlength=size)[:size]
    sums = ids.new_zeros(size).index_add_(0, slot, column)  # whole numbers: exact on every device
    means = sums.double() / counts.clamp(min=1)
    return means.view(*batch, num, height), counts.view(*batch, num, height)
