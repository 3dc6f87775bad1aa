"""Center-based 3D Object Detection and Tracking (CenterPoint): objects are peaks of heat maps seen from above.

Tianwei Yin, Xingyi Zhou, Philipp Kraehenbuehl. CVPR 2021. Classes that look alike form a task with heat maps and box
maps of its own. Targets, losses and decoding are those of mmdet3d's CenterHead, whose weights load; other than there,
targets of a whole batch are made at once, any list of tasks works, and velocities may be unknown or left out.

Shapes: B samples, K boxes of all of them, C classes of a task, maps of H rows (along y) and W columns (along x), M
slots for boxes. A box is x, y, z of its centre, length, width, height [m], yaw [rad], vx, vy [m/s]. Its row in maps
and targets is: offset x, y in cells, z, logarithm of the three lengths, sine and cosine of yaw, vx, vy.
"""
import logging
from collections.abc import Sequence
from math import ceil, inf
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from perception.common.nets.blocks import conv_bn_relu, init_convs, init_last
from perception.ops.rotated import nms_circle, nms_rotated
from perception.registry import MODELS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

BOX_MAPS = dict(reg=2, height=1, dim=3, rot=2, vel=2)  # name -> channels, in the order of a box's row
SIZES = (0.001, 100)  # m; a box that is smaller or larger in any direction is no detection
HEAT_BIAS = -2.19  # an empty map starts with scores of 0.1


class BevGrid(NamedTuple):
    """Cells of a map seen from above: row 0 at the least y, column 0 at the least x.

    Attributes:
        low: least x, y [m].
        voxel_size: of the net's input along x, y [m].
        stride: voxels of the input in a cell, along either axis.
        shape: H, W.
    """
    low: tuple[float, float]
    voxel_size: tuple[float, float]
    stride: int
    shape: tuple[int, int]

    @classmethod
    def of(cls, point_cloud_range: Sequence[float], voxel_size: Sequence[float], stride: int) -> 'BevGrid':
        """The grid of a range.

        Args:
            point_cloud_range: least x, y, z, greatest x, y, z [m].
            voxel_size: along x, y and, if need be, z [m].
            stride: of the map.

        Raises:
            ConfigError: a range that voxels or cells do not fill.
        """
        low, high = point_cloud_range[:2], point_cloud_range[3:5]
        voxels = [(b - a) / size for a, b, size in zip(low, high, voxel_size)]
        if len(point_cloud_range) != 6 or any(n < .5 or abs(n - round(n)) > 1e-3 or round(n) % stride for n in voxels):
            raise ConfigError(f'BevGrid: range {list(point_cloud_range)} of {" x ".join(f"{n:g}" for n in voxels)} '
                              f'voxels along x and y, expected whole multiples of the stride {stride}. Change the '
                              'range or voxel_size.')
        return cls(tuple(low), tuple(voxel_size[:2]), stride, tuple(round(n) // stride for n in voxels[::-1]))

    @property
    def cell(self) -> tuple[float, float]:
        """Size of a cell along x, y [m]."""
        return self.voxel_size[0] * self.stride, self.voxel_size[1] * self.stride

    def to_cells(self, xy: Tensor) -> Tensor:
        """(..., 2) metres to (..., 2) cells: the middle of the first one lies at 0.5."""
        return (xy - xy.new_tensor(self.low)) / xy.new_tensor(self.voxel_size) / self.stride

    def to_metres(self, cells: Tensor) -> Tensor:
        """(..., 2) cells to (..., 2) metres."""
        return cells * self.stride * cells.new_tensor(self.voxel_size) + cells.new_tensor(self.low)

    def centers(self, device: torch.device | None = None) -> Tensor:
        """(H, W, 2) x, y [m] of the middles of the cells."""
        y, x = (torch.arange(n, device=device) + .5 for n in self.shape)
        return self.to_metres(torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1))


class TaskTargets(NamedTuple):
    """What the maps of one task should be.

    Attributes:
        heatmap: (B, C, H, W) float32.
        weight: (B, 1, H, W) float32, 0 where nothing is known.
        boxes: (B, M, 10) float32 rows of boxes, NaN where a velocity is unknown, zero in empty slots.
        cells: (B, M) int64, row * W + column of each box.
        mask: (B, M) bool, slots with a box.
    """
    heatmap: Tensor
    weight: Tensor
    boxes: Tensor
    cells: Tensor
    mask: Tensor


@MODELS.register_module()
class CenterHead(nn.Module):
    """Heat maps, box maps, their losses and the boxes found in them.

    Args:
        in_channels: of the features.
        tasks: names of the classes of each task.
        point_cloud_range: least x, y, z, greatest x, y, z [m] of the features.
        voxel_size: along x, y and, if need be, z [m].
        stride: of the features, in voxels.
        classes: those of the data set in the order of its labels; None takes the order of the tasks. Boxes of classes
            in no task are left out.
        shared_channels: after the first convolution.
        head_channels: inside each branch.
        velocity: whether there is a map of velocities; without, those of boxes may be missing.
        log_sizes: whether lengths are predicted as logarithms.
        overlap: of a box with one whose centre lies on the rim of its Gaussian (IoU).
        min_radius: of a Gaussian [cells].
        max_objects: boxes of a task in a sample that are learned, None for all of them.
        ignore_radius: distance from the origin beyond which heat maps are not judged [m], None for everywhere.
        ignore_disc: radius around an ignored box in which heat maps are not judged [m]; cells in which another box
            has its centre are.
        box_weight: of the boxes' loss.
        code_weights: of the ten (or eight) entries of a row in it.
        max_detections: highest peaks of a task in a sample.
        peak_window: only cells that are the highest of as many times as many are peaks; 1 takes all cells.
        score_threshold: least score of a detection.
        post_range: least x, y, z, greatest x, y, z [m] of the centre of a detection, None for everywhere; it is warned
            of one that does not hold the map.
        nms: 'circle' drops boxes whose centre is near one with a higher score, 'rotated' those that overlap one, None
            none; one for all tasks or one each.
        nms_threshold: the distance [m] or the overlap (IoU seen from above), one for all tasks or one each. mmdet3d's
            `min_radius` is the square of the distance.
        nms_factors: class -> factor by which its boxes are enlarged while overlaps are looked for (BEVDet's
            Scale-NMS), since small things hardly overlap their own duplicates; 1 where none is given.
        nms_per_class: whether classes of a task are compared with themselves only.
        max_kept: boxes of a task in a sample after that, None for all.

    Raises:
        ConfigError: tasks or thresholds that cannot work.
    """

    def __init__(self, in_channels: int, tasks: Sequence[Sequence[str]], point_cloud_range: Sequence[float],
                 voxel_size: Sequence[float], stride: int, classes: Sequence[str] | None = None,
                 shared_channels: int = 64, head_channels: int = 64, velocity: bool = True, log_sizes: bool = True,
                 overlap: float = 0.1, min_radius: int = 2, max_objects: int | None = 500,
                 ignore_radius: float | None = None, ignore_disc: float = 0.5, box_weight: float = 0.25,
                 code_weights: Sequence[float] = (1, 1, 1, 1, 1, 1, 1, 1, 0.2, 0.2), max_detections: int = 500,
                 peak_window: int = 1, score_threshold: float = 0.1, post_range: Sequence[float] | None = None,
                 nms: str | None | Sequence[str | None] = 'circle', nms_threshold: float | Sequence[float] = 0.3,
                 nms_factors: dict[str, float] | None = None, nms_per_class: bool = False, max_kept: int | None = None):
        super().__init__()
        check_positive('CenterHead', max_detections=max_detections, peak_window=peak_window)
        if not 0 <= score_threshold < 1:
            raise ConfigError(f'CenterHead: score_threshold={score_threshold}, expected 0 to 1. Correct it.')
        kinds = [nms] * len(tasks) if nms is None or isinstance(nms, str) else [*nms]
        for kind in kinds:
            check_choice('CenterHead: nms', kind, ('circle', 'rotated', None))
        names = [name for task in tasks for name in task]
        classes = names if classes is None else list(classes)
        if not names or not all(tasks) or len({*names}) < len(names) or not {*names} <= {*classes}:
            raise ConfigError(f'CenterHead: tasks={[list(task) for task in tasks]} of the classes {classes}, expected '
                              'each name once, in a task, and among the classes. Correct the tasks.')
        if len(code_weights) < 8 + 2 * velocity:
            raise ConfigError(f'CenterHead: {len(code_weights)} code_weights, expected {8 + 2 * velocity}. Give one '
                              'for each entry of a row.')
        thresholds = [nms_threshold] * len(tasks) if isinstance(nms_threshold, (int, float)) else [*nms_threshold]
        for option, values in dict(nms_threshold=thresholds, nms=kinds).items():
            if len(values) != len(tasks):
                raise ConfigError(f'CenterHead: {len(values)} values of {option} for {len(tasks)} tasks, expected '
                                  'equal numbers. Give one for all, or one for each task.')
        factors = [(nms_factors or {}).get(name, 1.0) for name in classes]
        if not {*(nms_factors or {})} <= {*names} or not 0 < min(factors) <= max(factors) < inf:
            raise ConfigError(f'CenterHead: nms_factors={nms_factors}, expected numbers above 0 for classes of '
                              f'{", ".join(names)}. Correct them.')
        if post_range is not None and not (
                len(post_range) == 6 and all(a < b for a, b in zip(post_range[:3], post_range[3:]))):
            raise ConfigError(f'CenterHead: post_range={tuple(post_range)}, expected least x, y, z, greatest x, y, z '
                              'in metres. Correct it.')
        self.classes = tuple(classes)  # in the order of labels
        self.grid = BevGrid.of(point_cloud_range, voxel_size, stride)
        self.counts = [len(task) for task in tasks]
        self.branches = {name: n for name, n in BOX_MAPS.items() if velocity or name != 'vel'}
        self.log_sizes, self.overlap, self.min_radius, self.max_objects = log_sizes, overlap, min_radius, max_objects
        self.ignore_radius, self.ignore_disc, self.box_weight = ignore_radius, ignore_disc, box_weight
        self.max_detections, self.peak_window, self.score_threshold = max_detections, peak_window, score_threshold
        self.post_range, self.nms, self.nms_thresholds = post_range, kinds, thresholds
        if post_range is not None and not (all(a <= b for a, b in zip(post_range[:2], point_cloud_range[:2])) and
                                           all(a >= b for a, b in zip(post_range[3:5], point_cloud_range[3:5]))):
            print_log(f'CenterHead: post_range={tuple(post_range)} ends within the map, whose range is '
                      f'{tuple(point_cloud_range)}, so that nothing beyond is found. Widen it with the range.',
                      'current', logging.WARNING)
        self.nms_per_class, self.max_kept = nms_per_class, max_kept
        label_of = [classes.index(name) for name in names]  # heat map, counted through the tasks -> label
        map_of = [label_of.index(label) if label in label_of else -1 for label in range(len(classes))]
        task_of = [task for task, n in enumerate(self.counts) for _ in range(n)]
        code = [float(weight) for weight in code_weights][:sum(self.branches.values())]
        for name, value in dict(label_of=label_of, map_of=map_of, task_of=task_of, code_weights=code,
                                nms_factors=factors).items():
            self.register_buffer(name, torch.tensor(value), persistent=False)
        self.shared_conv = conv_bn_relu(in_channels, shared_channels)
        self.task_heads = nn.ModuleList(TaskHead(shared_channels, head_channels, dict(self.branches, heatmap=n))
                                        for n in self.counts)
        init_convs(self.shared_conv)

    def forward(self, features: Tensor) -> list[dict[str, Tensor]]:
        """(B, in_channels, H, W) features to the maps of each task, see `TaskHead`.

        Raises:
            ConfigError: features of another size than the grid of the range.
        """
        if features.shape[2:] != self.grid.shape:
            raise ConfigError(f'CenterHead: features of {tuple(features.shape[2:])} rows and columns, expected '
                              f'{self.grid.shape} for its range at stride {self.grid.stride}. Correct stride, or those '
                              'of the backbone and neck.')
        features = self.shared_conv(features)
        return [head(features) for head in self.task_heads]

    # ----------------------------------------------------------------------------------------------------- learning

    @torch.no_grad()
    def targets(self, samples: Sequence[BaseDataElement]) -> list[TaskTargets]:
        """What the maps of each task should be, on the device of the head.

        Boxes of a task stand class by class, then in the order they came; those that have no place on the map, see
        `place_boxes`, keep an empty slot.

        Args:
            samples: with `boxes` (K, 7 or 9), `labels` (K,) and, where there are such, `ignore` (K,).

        Raises:
            DataError: samples without boxes, or of other shapes.
        """
        size, maps = len(samples), len(self.label_of)
        boxes, labels, ignore, sample = join_boxes(samples, self.label_of.device)
        weight = ignore_weights(self.grid, boxes[:, :2], ignore, sample, size, self.ignore_disc)
        rows, plane = self.sort(labels, ignore, sample, size)
        boxes, sample, group = boxes[rows], sample[rows], self.task_of[plane] * size + sample[rows]
        slot = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
        slots = max(len(s.boxes) for s in samples) if self.max_objects is None else self.max_objects
        at, cells, placed = place_boxes(self.grid, boxes)
        rows = (placed & (slot < slots)).nonzero().squeeze(1)
        boxes, at, cells, sample, plane, group, slot = (
            values[rows] for values in (boxes, at, cells, sample, plane, group, slot))

        radii = box_radii(self.grid, boxes, self.overlap, self.min_radius)
        heatmap = draw_heatmaps(cells, radii, (size, maps, *self.grid.shape), sample * maps + plane)
        flat = cells[:, 1] * self.grid.shape[1] + cells[:, 0]
        weight.view(size, -1)[sample, flat] = 1
        if self.ignore_radius is not None:
            weight *= self.grid.centers(weight.device).norm(dim=-1) <= self.ignore_radius
        codes = encode_boxes(boxes, at - cells, self.log_sizes)[:, :len(self.code_weights)]
        parts = [values.new_zeros(len(self.counts), size, slots, *values.shape[1:]).flatten(0, 1).index_put(
            (group, slot), values).unflatten(0, (len(self.counts), size)) for values in (codes, flat, flat >= 0)]
        return [TaskTargets(heat, weight, *task) for heat, *task in zip(heatmap.split(self.counts, dim=1), *parts)]

    def sort(self, labels: Tensor, ignore: Tensor, sample: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """Boxes that are learned: task by task, sample by sample, class by class, then in the order they came.

        Args:
            labels: (K,) of the data set.
            ignore: (K,) bool.
            sample: (K,) int64.
            batch_size: B.

        Returns:
            (K',) int64 rows, and (K',) int64 heat map of each, counted through the tasks.
        """
        known = ~ignore & (labels >= 0) & (labels < len(self.map_of))
        plane = torch.where(known, self.map_of[labels.where(known, 0)], -1)
        rows = (plane >= 0).nonzero().squeeze(1)
        key = (self.task_of[plane[rows]] * batch_size + sample[rows]) * len(self.label_of) + plane[rows]
        rows = rows[key.argsort(stable=True)]
        return rows, plane[rows]

    def loss(self, maps: list[dict[str, Tensor]], samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """Losses of heat maps (mean over peaks) and of boxes (mean over boxes).

        Args:
            maps: of `forward`.
            samples: see `targets`.

        Returns:
            scalars `loss_heatmap` and `loss_bbox`; of several tasks `task0.loss_heatmap` and so on.
        """
        losses = {}
        for task, (found, target) in enumerate(zip(maps, self.targets(samples))):
            prefix = f'task{task}.' if len(maps) > 1 else ''
            losses[f'{prefix}loss_heatmap'] = focal_loss(found['heatmap'], target.heatmap, target.weight)
            rows = torch.cat([gather(found[name], target.cells) for name in self.branches], dim=2)
            losses[f'{prefix}loss_bbox'] = self.box_weight * box_loss(rows, target.boxes, target.mask,
                                                                      self.code_weights)
        return losses

    # ---------------------------------------------------------------------------------------------------- predicting

    @torch.no_grad()
    def predict(self, maps: list[dict[str, Tensor]]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes of each sample, task by task, those of a task by falling score.

        Args:
            maps: of `forward`.

        Returns:
            for each sample boxes (P, 9), with velocities of NaN where there is no map of them, scores (P,) and labels
            (P,) int64.
        """
        tasks = [self.decode(found, task) for task, found in enumerate(maps)]
        return [tuple(torch.cat(parts) for parts in zip(*(self.suppress(*task[i], n) for n, task in enumerate(tasks))))
                for i in range(len(tasks[0]))]

    def decode(self, found: dict[str, Tensor], task: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes of one task before any is suppressed, see `predict`.

        Args:
            found: maps of the task.
            task: its number.

        Raises:
            DataError: scores that are NaN, in which nothing would be found.
        """
        bad = int(found['heatmap'].isnan().sum())
        if bad:
            raise DataError(f'CenterHead: {bad:,} scores of {found["heatmap"].numel():,} are NaN, expected numbers. '
                            'The net diverged, or what it sees is not finite; use an earlier checkpoint.')
        scores, planes, cells = peaks(found['heatmap'].float().sigmoid(), self.max_detections, self.peak_window)
        boxes = decode_boxes(self.rows_at(found, cells, task), cells, self.grid, self.log_sizes)
        sizes = boxes[..., 3:6]
        kept = (scores > self.score_threshold) & boxes[..., :7].isfinite().all(-1)
        kept &= ((sizes >= SIZES[0]) & (sizes <= SIZES[1])).all(-1)
        if self.post_range is not None:
            low, high = boxes.new_tensor(self.post_range).view(2, 3)
            kept &= ((boxes[..., :3] >= low) & (boxes[..., :3] <= high)).all(-1)
        labels = self.label_of[planes + sum(self.counts[:task])]
        return [(b[k], s[k], n[k]) for b, s, n, k in zip(boxes, scores, labels, kept)]

    def rows_at(self, found: dict[str, Tensor], cells: Tensor, task: int) -> Tensor:
        """Rows of boxes in some cells; heads that make no whole maps of boxes make them here.

        Args:
            found: maps of the task.
            cells: (B, M) int64, row * W + column.
            task: its number.

        Returns:
            (B, M, D) float32.
        """
        return torch.cat([gather(found[name].float(), cells) for name in self.branches], dim=2)

    def complete(self, maps: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Maps of `forward` with those of boxes, for heads that leave them to `rows_at`."""
        return maps

    def suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor, task: int) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of one task of a sample without those near to or overlapping a better one.

        Args:
            boxes: (P, 9).
            scores: (P,).
            labels: (P,).
            task: its number.
        """
        groups = labels if self.nms_per_class else None
        if self.nms[task] is None:
            kept = scores.argsort(descending=True, stable=True)
        elif self.nms[task] == 'circle':
            kept = nms_circle(boxes[:, :2], scores, self.nms_thresholds[task], groups)
        else:
            seen = boxes[:, [0, 1, 3, 4, 6]]
            seen[:, 2:4] *= self.nms_factors[labels][:, None]
            kept = nms_rotated(seen, scores, self.nms_thresholds[task], groups)
        kept = kept[:self.max_kept]
        return boxes[kept], scores[kept], labels[kept]


class TaskHead(nn.ModuleDict):
    """A branch of two convolutions for each map.

    The last ones start with small weights, other than in mmdet3d, where logits of 10 and more at first cost hundreds of
    steps.

    Args:
        in_channels: of the features.
        channels: between the convolutions.
        maps: name of a map -> its channels; the bias of `heatmap` starts so that scores are 0.1.
    """

    def __init__(self, in_channels: int, channels: int, maps: dict[str, int]):
        super().__init__({name: nn.Sequential(conv_bn_relu(in_channels, channels), nn.Conv2d(channels, n, 3, padding=1))
                          for name, n in maps.items()})
        init_convs(self)
        for name, branch in self.items():
            init_last(branch[-1], HEAT_BIAS if name == 'heatmap' else 0)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) features to name -> (B, n, H, W), heat maps as logits."""
        return {name: branch(features) for name, branch in self.items()}


# ------------------------------------------------------------------------------------------------------------ targets

def join_boxes(samples: Sequence[BaseDataElement], device: torch.device | None = None) -> tuple[Tensor, ...]:
    """The boxes of a batch in one table.

    Args:
        samples: with `boxes` (K, 7 or 9), `labels` (K,) and, where there are such, `ignore` (K,).
        device: of the result.

    Returns:
        boxes (K, 9) float32 with velocities of NaN where there are none, labels (K,) int64, ignore (K,) bool, sample
        (K,) int64.

    Raises:
        DataError: samples without boxes, or of other shapes.
    """
    parts = []
    for number, sample in enumerate(samples):
        name = sample.get('sample_id', number)
        if 'boxes' not in sample or 'labels' not in sample:
            raise DataError(f'CenterHead: sample {name} without boxes or labels, expected both. Train on a split that '
                            'has them.')
        boxes, labels, ignore = sample.boxes, sample.labels, sample.get('ignore')
        if boxes.dim() != 2 or boxes.shape[1] not in (7, 9) or labels.shape != boxes.shape[:1] or (
                ignore is not None and ignore.shape != labels.shape):
            raise DataError(f'CenterHead: sample {name} with boxes of shape {tuple(boxes.shape)} and labels of shape '
                            f'{tuple(labels.shape)}, expected (K, 7) or (K, 9), and K of all else. Correct its reader.')
        boxes = F.pad(boxes.to(device, torch.float32), (0, 9 - boxes.shape[1]), value=torch.nan)
        ignore = torch.zeros_like(labels, dtype=torch.bool) if ignore is None else ignore.bool()
        parts.append((boxes, labels.to(device).long(), ignore.to(device),
                      torch.full((len(boxes),), number, device=device)))
    if not parts:
        raise DataError('CenterHead: no sample, expected at least one. Pass the samples of the batch.')
    return tuple(torch.cat(column) for column in zip(*parts))


def place_boxes(grid: BevGrid, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where boxes lie on a map.

    One whose centre lies less than a cell below the first row or column belongs to it. Boxes beyond have no place, nor
    have those that are no numbers (their velocities may be none) or whose lengths are not all above zero.

    Args:
        grid: of the map.
        boxes: (K, 7 or 9).

    Returns:
        centres (K, 2) along x, y [cells], cells (K, 2) int64 column, row, and (K,) bool, which have a place.
    """
    at = grid.to_cells(boxes[:, :2])
    cells = at.nan_to_num(-1e6).clamp(-1e6, 1e6).long()  # truncates
    inside = ((cells >= 0) & (cells < cells.new_tensor(grid.shape[::-1]))).all(1)
    return at, cells, inside & boxes[:, :7].isfinite().all(1) & (boxes[:, 3:6] > 0).all(1)


def box_radii(grid: BevGrid, boxes: Tensor, overlap: float = 0.1, min_radius: int = 2) -> Tensor:
    """(K,) int64 radii of the Gaussians of boxes [cells], see `gaussian_radius`.

    Args:
        grid: of the map.
        boxes: (K, 7 or 9), with lengths above zero.
        overlap: of a box with one whose centre lies on the rim (IoU).
        min_radius: the least one [cells].
    """
    sizes = boxes[:, 3:5] / boxes.new_tensor(grid.voxel_size) / grid.stride
    return gaussian_radius(sizes[:, 0], sizes[:, 1], overlap).clamp(max=1e6).long().clamp(min_radius)


def gaussian_radius(length: Tensor, width: Tensor, overlap: float = 0.1) -> Tensor:
    """Radius of the disc in which the centre of a box may move and still overlap it so much (CornerNet).

    The published formula, whose two other roots are never smaller and whose root is not divided by twice the leading
    coefficient, as algebra would have it.

    Args:
        length: (K,) of the boxes [cells].
        width: (K,) of the boxes [cells].
        overlap: IoU.

    Returns:
        (K,) [cells], in the dtype of the lengths.
    """
    b = -2 * overlap * (length + width)
    c = (overlap - 1) * width * length
    return (b + (b ** 2 - 16 * overlap * c).sqrt()) / 2


def draw_heatmaps(centers: Tensor, radii: Tensor, shape: Sequence[int], planes: Tensor | None = None) -> Tensor:
    """Gaussians around cells, all at once; where several meet the highest counts.

    Each is cut to a square of 2 r + 1 cells and has a standard deviation of a sixth of that.

    Args:
        centers: (K, 2) int64 column, row on the map.
        radii: (K,) int64 r [cells], not negative.
        shape: (..., H, W) of the result.
        planes: (K,) int64 map of each, counted through all leading axes; None for the first one.

    Returns:
        float32 maps, zero where no Gaussian reaches, one at each centre.
    """
    *_, height, width = shape
    low = (centers - radii[:, None]).clamp(min=0)
    high = torch.minimum(centers + radii[:, None], centers.new_tensor([width - 1, height - 1]))
    scale = -18 / (2 * radii + 1).float() ** 2
    box, y = _runs(low[:, 1], high[:, 1])  # all rows of all squares
    row, x = _runs(low[box, 0], high[box, 0])  # all cells of these rows
    up, start = scale[box] * (y - centers[box, 1]) ** 2, y * width
    if planes is not None:
        start += planes[box] * (height * width)
    exponent = scale[box][row] * (x - centers[box, 0][row]) ** 2 + up[row]
    maps = torch.zeros(tuple(shape), device=centers.device)
    maps.view(-1).scatter_reduce_(0, start[row] + x, exponent.exp(), 'amax')
    return maps


def _runs(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers of K runs (K,) from first to last, one run after the other: run (T,) and number (T,)."""
    lengths = last - first + 1
    ends = lengths.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    run = torch.arange(len(ends), device=ends.device).repeat_interleave(lengths, output_size=total)
    return run, torch.arange(total, device=ends.device) + (last + 1 - ends)[run]


def ignore_weights(grid: BevGrid, centers: Tensor, ignore: Tensor, sample: Tensor, batch_size: int,
                   radius: float) -> Tensor:
    """One where a heat map is judged, zero in discs around ignored boxes and in the cells that hold their centres.

    Args:
        grid: of the map.
        centers: (K, 2) x, y of boxes [m].
        ignore: (K,) bool, those that are ignored.
        sample: (K,) int64 that each belongs to.
        batch_size: B.
        radius: of a disc [m].

    Returns:
        (B, 1, H, W) float32.
    """
    height, width = grid.shape
    weight = torch.ones(batch_size, 1, height, width, device=centers.device)
    rows = (ignore & centers.isfinite().all(1)).nonzero().squeeze(1)
    at = grid.to_cells(centers[rows])
    reach = [ceil(radius / size) for size in grid.cell]
    steps = torch.stack(torch.meshgrid(*(torch.arange(-n, n + 1, device=at.device) for n in reach), indexing='ij'),
                        dim=-1).view(-1, 2)
    cells = at.clamp(-1e6, 1e6).floor().long()[:, None] + steps  # (K', S, 2)
    away = (cells + .5 - at[:, None]) * at.new_tensor(grid.cell)
    inside = ((away.square().sum(-1) <= radius ** 2) | (steps == 0).all(-1)) & (cells >= 0).all(-1) & (
        cells < cells.new_tensor([width, height])).all(-1)
    cells = cells[inside]
    weight[sample[rows, None].expand_as(inside)[inside], 0, cells[:, 1], cells[:, 0]] = 0
    return weight


def encode_boxes(boxes: Tensor, offsets: Tensor, log_sizes: bool = True) -> Tensor:
    """Boxes to rows as the maps have them.

    Args:
        boxes: (K, 9).
        offsets: (K, 2) x, y within the cell [cells].
        log_sizes: whether lengths are written as logarithms.

    Returns:
        (K, 10).
    """
    sizes = boxes[:, 3:6].log() if log_sizes else boxes[:, 3:6]
    yaw = boxes[:, 6:7]
    return torch.cat([offsets, boxes[:, 2:3], sizes, yaw.sin(), yaw.cos(), boxes[:, 7:]], dim=1)


# ------------------------------------------------------------------------------------------------------------- losses

def focal_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None, alpha: float = 2.0,
               gamma: float = 4.0) -> Tensor:
    """Focal loss of heat maps, summed over cells and divided by the number of peaks, at least one.

    Cells near a peak count the less the nearer they are. Probabilities are kept 1e-4 from 0 and 1.

    Args:
        logits: (B, C, H, W).
        target: (B, C, H, W) heat maps, one at peaks.
        weight: broadcast to the target, zero in cells that are not judged; None judges all.
        alpha: exponent of the error.
        gamma: exponent of the distance of the target from one.

    Returns:
        scalar, in float32 or better.
    """
    probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid().clamp(1e-4, 1 - 1e-4)
    peak = target == 1
    loss = -torch.where(peak, (1 - probs) ** alpha * probs.log(),
                        (1 - target) ** gamma * probs ** alpha * (1 - probs).log())
    if weight is not None:
        loss, peak = loss * weight, peak * weight
    return loss.sum() / peak.sum().clamp(min=1)


def box_loss(rows: Tensor, target: Tensor, mask: Tensor, code_weights: Tensor) -> Tensor:
    """Weighted sum of absolute errors of boxes, divided by their number; unknown velocities do not count.

    Args:
        rows: (B, M, D) at the cells of the boxes.
        target: (B, M, D), NaN where unknown.
        mask: (B, M) bool, slots with a box.
        code_weights: (D,).

    Returns:
        scalar, zero without boxes, in float32 or better.
    """
    known = mask[..., None] & ~target.isnan()
    error = (rows.to(target.dtype) - target.nan_to_num()).abs()
    return (error * known * code_weights).sum() / (mask.sum() + 1e-4)


# ----------------------------------------------------------------------------------------------------------- decoding

def gather(maps: Tensor, cells: Tensor) -> Tensor:
    """Values of maps in cells.

    Args:
        maps: (B, D, H, W).
        cells: (B, M) int64, row * W + column.

    Returns:
        (B, M, D).
    """
    return maps.flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def peaks(scores: Tensor, count: int, window: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """The highest cells of heat maps, by falling score.

    Args:
        scores: (B, C, H, W).
        count: M, how many; fewer where the maps have fewer cells.
        window: odd; only cells that are the highest of window x window ones keep their score, others get 0.

    Returns:
        scores (B, M), classes (B, M) int64, cells (B, M) int64 row * W + column.
    """
    if window > 1:
        scores = scores.where(F.max_pool2d(scores, window, 1, window // 2) == scores, 0)
    height, width = scores.shape[2:]
    flat = scores.flatten(1)
    best, index = flat.topk(min(count, flat.shape[1]), dim=1)
    classes = index.div(height * width, rounding_mode='floor')
    return best, classes, index - classes * (height * width)


def decode_boxes(rows: Tensor, cells: Tensor, grid: BevGrid, log_sizes: bool = True) -> Tensor:
    """Rows of maps to boxes.

    Args:
        rows: (..., 8 or 10).
        cells: (...) int64, row * W + column of each.
        grid: of the maps.
        log_sizes: whether lengths stand as logarithms.

    Returns:
        (..., 9), velocities NaN where rows have none.
    """
    width = grid.shape[1]
    row = cells.div(width, rounding_mode='floor')
    xy = grid.to_metres(torch.stack([cells - row * width, row], dim=-1) + rows[..., :2])
    sizes = rows[..., 3:6].exp() if log_sizes else rows[..., 3:6]
    yaw = torch.atan2(rows[..., 6:7], rows[..., 7:8])
    boxes = torch.cat([xy, rows[..., 2:3], sizes, yaw, rows[..., 8:]], dim=-1)
    return F.pad(boxes, (0, 9 - boxes.shape[-1]), value=torch.nan)
