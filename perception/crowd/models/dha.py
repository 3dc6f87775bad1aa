"""STCrowd: A Multimodal Dataset for Pedestrian Perception in Crowded Scenes: Density-aware Hierarchical heatmap
Aggregation (DHA).

Peishan Cong, Xinge Zhu, Feng Qiao, Yiming Ren, Xidong Peng, Yuenan Hou, Lan Xu, Ruigang Yang, Dinesh Manocha,
Yuexin Ma. CVPR 2022. The network was never released; this one follows what is known of it: heat maps of several cell
sizes, to which features are brought by down- and upsampling, a spatial attention, and a mixture of the maps that
depends on the density of people. Coarse maps say where crowds are, fine ones who is who.

Shapes: B samples, C classes of a task, L levels, maps of H rows (along y) and W columns (along x); level k has cells
2^k times as large as level 0, whose maps are the result.
"""
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from perception.common.nets.blocks import conv_bn_relu, init_convs, init_last
from perception.common.nets.center_head import (
    HEAT_BIAS,
    BevGrid,
    CenterHead,
    TaskTargets,
    box_radii,
    draw_heatmaps,
    focal_loss,
    ignore_weights,
    join_boxes,
    place_boxes,
)
from perception.registry import MODELS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError

DENSITY_LEVEL = 2  # of the levels that there are the one nearest to it
WINDOW = 5  # cells on a side that two 3 x 3 convolutions see


class _People(NamedTuple):
    """K boxes that are learned, task by task, sample by sample."""
    boxes: Tensor  # (K, 9)
    sample: Tensor  # (K,)
    plane: Tensor  # (K,) heat map, counted through the tasks
    ignored: tuple[Tensor, Tensor, Tensor]  # of all boxes: x, y (K', 2), whether it is ignored (K',), sample (K',)
    batch_size: int


@MODELS.register_module()
class DHAHead(CenterHead):
    """Heat maps of several levels, their mixture, and box maps; each part can be left out.

    In training box maps are whole. At test time their branches run at the peaks alone, on windows of 5 x 5 cells, with
    the same values. With one level and all parts left out it is a CenterHead on the features of level 0.

    Args:
        in_channels: of the features.
        tasks: names of the classes of each task.
        point_cloud_range: least x, y, z, greatest x, y, z [m] of the features.
        voxel_size: along x, y and, if need be, z [m].
        stride: of level 0, in voxels.
        base_level: level of the features that come in.
        levels: 0, 1, ... up to the coarsest one.
        resample: 'learned', by convolutions with stride and transposed ones, or 'fixed', by maxima and bilinear.
        mixture: weights of the levels are predicted for each cell; without, they are equal.
        density: the density of people is predicted, and told to the mixture if there is one.
        attention: features are weighted by a map of each level.
        fuse: boxes see the features of all levels; without, those of level 0.
        delta: a correction of the mixed heat map, zero at first.
        adaptive_radius: people whose neighbour is nearer than `near` have a Gaussian of radius 1 at level 0.
        near: m.
        level_weight: of the loss of the heat maps of each level; with one level there is none.
        density_weight: of the loss of the density.
        density_sigma: m, of the Gaussian that a person adds to the density.
        dense: run the box branches everywhere at test time too.
        options: further ones of CenterHead.

    Raises:
        ConfigError: levels that do not fit each other or the range, or see CenterHead.
    """

    def __init__(self, in_channels: int, tasks: Sequence[Sequence[str]], point_cloud_range: Sequence[float],
                 voxel_size: Sequence[float], stride: int, base_level: int = 0, levels: Sequence[int] = (0, 1, 2),
                 resample: str = 'learned', mixture: bool = True, density: bool = True, attention: bool = True,
                 fuse: bool = True, delta: bool = True, adaptive_radius: bool = True, near: float = 0.6,
                 level_weight: float = 0.5, density_weight: float = 0.2, density_sigma: float = 1.0,
                 dense: bool = False, **options):
        super().__init__(in_channels, tasks, point_cloud_range, voxel_size, stride, **options)
        check_choice('DHAHead: resample', resample, ('learned', 'fixed'))
        if not levels or list(levels) != list(range(len(levels))) or base_level < 0:
            raise ConfigError(f'DHAHead: levels={tuple(levels)}, base_level={base_level}, expected 0, 1, ... in this '
                              'order and a level of at least 0. Correct them.')
        self.base_level, self.dense, self.adaptive_radius, self.near = base_level, dense, adaptive_radius, near
        self.level_weight, self.density_weight, self.density_sigma = level_weight, density_weight, density_sigma
        self.grids = [BevGrid.of(point_cloud_range, voxel_size, stride << k) for k in levels]
        top, density_level = len(levels) - 1, min(DENSITY_LEVEL, len(levels) - 1)
        channels = self.shared_conv.conv.out_channels
        learned = resample == 'learned'
        self.up = nn.ModuleList(_Up(channels) if learned else _Enlarge() for _ in range(base_level))
        self.down = nn.ModuleList(conv_bn_relu(channels, channels, stride=2) if learned else nn.MaxPool2d(2)
                                  for _ in range(base_level, top))
        self.lateral = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(top))
        self.fuse = conv_bn_relu(len(levels) * channels, channels, 1) if fuse else None
        for part in (self.up, self.down, self.lateral, *([self.fuse] if fuse else [])):
            init_convs(part)
        self.blocks = nn.ModuleList(
            HeatBlock(head.pop('heatmap'), n, len(levels), density_level if density else None, mixture, attention,
                      delta) for head, n in zip(self.task_heads, self.counts))

    def forward(self, features: Tensor) -> list[dict]:
        """Features of `base_level` (B, in_channels, H', W') to the maps of each task.

        Returns:
            for each task `heatmap` (B, C, H, W), logits; `aux` with `heatmaps`, those of each level, `density`
            (B, 1, H_k, W_k) and `weights` (B, L, H, W), None where there are none; and the box maps of CenterHead, or,
            at test time, `features` (B, channels, H, W) from which `rows_at` makes them.
        """
        pyramid = self.pyramid(self.shared_conv(features))
        maps = []
        for task, block in enumerate(self.blocks):
            found, weighted = block(pyramid)
            found['features'] = self.fused(weighted)
            if block.delta is not None:
                found['heatmap'] = found['heatmap'] + block.delta(found['features'])
            maps.append(self.with_boxes(found, task) if self.training or self.dense else found)
        return maps

    def pyramid(self, features: Tensor) -> list[Tensor]:
        """Features (B, channels, H', W') of `base_level` to those of each level, finest first."""
        maps = [features]
        for layer in self.up:
            maps.insert(0, layer(maps[0]))
        for layer in self.down:
            maps.append(layer(maps[-1]))
        maps = maps[:len(self.grids)]
        for k in range(len(maps) - 2, -1, -1):
            maps[k] = maps[k] + F.interpolate(self.lateral[k](maps[k + 1]), maps[k].shape[2:], mode='bilinear')
        return maps

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Features of each level to (B, channels, H, W) ones that the boxes are made from.

        The convolution is split by levels and done before each is enlarged, which gives the same and costs less.
        """
        if self.fuse is None:
            return features[0]
        size, kernels = features[0].shape[2:], self.fuse.conv.weight.split(features[0].shape[1], dim=1)
        parts = [F.conv2d(x, kernel) for x, kernel in zip(features, kernels)]
        total = sum((F.interpolate(part, size, mode='bilinear') for part in parts[1:]), parts[0])
        return self.fuse.relu(self.fuse.bn(total))

    def with_boxes(self, found: dict, task: int) -> dict:
        """The maps of a task with whole box maps, where features came instead."""
        if 'features' not in found:
            return found
        return {**{key: value for key, value in found.items() if key != 'features'},
                **self.task_heads[task](found['features'])}

    # ----------------------------------------------------------------------------------------------------- learning

    @torch.no_grad()
    def targets(self, samples: Sequence[BaseDataElement]) -> list[TaskTargets]:
        """See CenterHead; radii are adaptive if they are said to be."""
        targets = super().targets(samples)
        if not self.adaptive_radius:
            return targets
        heatmaps = self.draw(self.people(samples), 0).split(self.counts, dim=1)
        return [target._replace(heatmap=heatmap) for target, heatmap in zip(targets, heatmaps)]

    def people(self, samples: Sequence[BaseDataElement]) -> _People:
        """The boxes of a batch that are learned and lie on the map."""
        boxes, labels, ignore, sample = join_boxes(samples, self.label_of.device)
        rows, plane = self.sort(labels, ignore, sample, len(samples))
        placed = place_boxes(self.grid, boxes[rows])[2]
        kept = rows[placed]
        return _People(boxes[kept], sample[kept], plane[placed], (boxes[:, :2], ignore, sample), len(samples))

    def draw(self, people: _People, level: int) -> Tensor:
        """Heat maps (B, classes of all tasks, H_k, W_k) of a level."""
        grid, maps = self.grids[level], len(self.label_of)
        _, cells, _ = place_boxes(grid, people.boxes)
        radii = box_radii(grid, people.boxes, self.overlap, self.min_radius)
        if level == 0 and self.adaptive_radius:
            radii = radii.where(nearest(people.boxes[:, :2], people.sample) >= self.near, 1)
        return draw_heatmaps(cells, radii, (people.batch_size, maps, *grid.shape), people.sample * maps + people.plane)

    def weight(self, people: _People, level: int) -> Tensor:
        """(B, 1, H_k, W_k) float32, zero where the heat map of a level is not judged."""
        grid = self.grids[level]
        weight = ignore_weights(grid, *people.ignored, people.batch_size, self.ignore_disc)
        _, cells, _ = place_boxes(grid, people.boxes)
        weight[people.sample, 0, cells[:, 1], cells[:, 0]] = 1
        if self.ignore_radius is not None:
            weight *= grid.centers(weight.device).norm(dim=-1) <= self.ignore_radius
        return weight

    def density(self, people: _People, level: int) -> Tensor:
        """(B, tasks, H_k, W_k) float32, the sum of a Gaussian of height one around each person of a task."""
        grid = self.grids[level]
        x, y = grid.centers(people.boxes.device)[0, :, 0], grid.centers(people.boxes.device)[:, 0, 1]
        gx, gy = (torch.exp(-(middles - people.boxes[:, axis, None]) ** 2 / (2 * self.density_sigma ** 2))
                  for axis, middles in enumerate((x, y)))
        tasks = len(self.counts)
        total = gx.new_zeros(people.batch_size * tasks, *grid.shape)
        total.index_add_(0, people.sample * tasks + self.task_of[people.plane], gy[:, :, None] * gx[:, None])
        return total.view(people.batch_size, tasks, *grid.shape)

    def loss(self, maps: list[dict], samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """Losses of CenterHead, of the heat maps of each level and of the density.

        Args:
            maps: of `forward`.
            samples: see CenterHead.

        Returns:
            scalars `loss_heatmap`, `loss_bbox`, `loss_heatmap_l0`, ..., `loss_density`, and `shared_cells`, how many
            boxes have their centre in the cell of another one of the task, of which one alone can be found; of several
            tasks `task0.loss_heatmap` and so on.
        """
        losses = super().loss([self.with_boxes(found, task) for task, found in enumerate(maps)], samples)
        people = self.people(samples)
        levels = range(len(self.grids)) if len(self.grids) > 1 else ()
        heats = {k: self.draw(people, k).split(self.counts, dim=1) for k in levels}
        level = self.blocks[0].density_level
        weights = {k: self.weight(people, k) for k in {*levels} | ({level} - {None})}
        for task, found in enumerate(maps):
            prefix, aux = f'task{task}.' if len(maps) > 1 else '', found['aux']
            for k in levels:
                losses[f'{prefix}loss_heatmap_l{k}'] = self.level_weight * focal_loss(
                    aux['heatmaps'][k], heats[k][task], weights[k])
            if level is not None:
                target = self.density(people, level)[:, task:task + 1]
                error = F.smooth_l1_loss(aux['density'].float().log1p(), target.log1p(), reduction='none')
                losses[f'{prefix}loss_density'] = self.density_weight * (error * weights[level]).sum() / \
                    weights[level].sum().clamp(min=1)
            losses[f'{prefix}shared_cells'] = self.shared_cells(people, task)
        return losses

    def shared_cells(self, people: _People, task: int) -> Tensor:
        """How many boxes of a task have their centre in a cell of level 0 that another one has taken; a scalar."""
        own = self.task_of[people.plane] == task
        _, cells, _ = place_boxes(self.grid, people.boxes[own])
        keys = (people.sample[own] * self.grid.shape[0] + cells[:, 1]) * self.grid.shape[1] + cells[:, 0]
        return own.sum().float() - len(keys.unique())

    # ---------------------------------------------------------------------------------------------------- predicting

    def complete(self, maps: list[dict]) -> list[dict]:
        """See CenterHead."""
        return [self.with_boxes(found, task) for task, found in enumerate(maps)]

    def rows_at(self, found: dict, cells: Tensor, task: int) -> Tensor:
        """See CenterHead; from features, the branches run on a window around each cell."""
        if 'features' not in found:
            return super().rows_at(found, cells, task)
        windows, inside = cut_windows(found['features'], cells)
        head = self.task_heads[task]
        firsts = [head[name][0] for name in self.branches]
        hidden = F.conv2d(windows, torch.cat([layer.conv.weight for layer in firsts])).chunk(len(firsts), dim=1)
        # beyond the border the second convolution sees zeros
        rows = [F.conv2d(layer.relu(layer.bn(part)) * inside, head[name][1].weight, head[name][1].bias)
                for name, layer, part in zip(self.branches, firsts, hidden)]
        return torch.cat(rows, dim=1).view(*cells.shape, -1).float()


class HeatBlock(nn.Module):
    """What DHA makes of the features of all levels for the heat map of one task.

    Args:
        finest: branch that makes the heat map of level 0, a `conv_bn_relu` and a convolution.
        classes: of the task.
        levels: L.
        density_level: where the density is predicted; None for nowhere.
        mixture: see DHAHead.
        attention: see DHAHead.
        delta: see DHAHead.
    """

    def __init__(self, finest: nn.Sequential, classes: int, levels: int, density_level: int | None, mixture: bool,
                 attention: bool, delta: bool):
        super().__init__()
        channels, hidden = finest[0].conv.in_channels, finest[0].conv.out_channels

        def branch(outputs: int, kernel_size: int = 3) -> nn.Sequential:
            layers = nn.Sequential(conv_bn_relu(channels, hidden),
                                   nn.Conv2d(hidden, outputs, kernel_size, padding=kernel_size // 2))
            init_convs(layers)
            init_last(layers[-1])
            return layers

        self.density_level = density_level
        self.hm = nn.ModuleList([finest, *(branch(classes) for _ in range(1, levels))])
        for coarse in self.hm[1:]:
            init_last(coarse[-1], HEAT_BIAS)
        self.density = None if density_level is None else branch(1, 1)
        self.attn = nn.ModuleList(nn.Conv2d(3, 1, 7, padding=3) for _ in range(levels)) if attention else None
        self.mix = self.delta = None
        if mixture and levels > 1:
            self.mix = nn.Sequential(conv_bn_relu(levels + (density_level is not None), 16), nn.Conv2d(16, levels, 1))
            init_convs(self.mix[0])
            init_last(self.mix[1])  # equal weights of the levels at first
        if delta:
            self.delta = branch(classes)
            nn.init.zeros_(self.delta[-1].weight)

    def forward(self, features: Sequence[Tensor]) -> tuple[dict, list[Tensor]]:
        """Features (B, channels, H_k, W_k) of each level to the mixed heat map and features under attention.

        Returns:
            `heatmap` and `aux`, see DHAHead; and the features of each level.
        """
        logits = [branch(x) for branch, x in zip(self.hm, features)]
        size = logits[0].shape[2:]
        density = None if self.density is None else F.softplus(self.density(features[self.density_level]))
        scores = [x.detach().sigmoid().amax(1, keepdim=True) for x in logits]
        if self.attn is not None:
            features = [x * (1 + layer(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True), score],
                                                 dim=1)).sigmoid())
                        for x, score, layer in zip(features, scores, self.attn)]
        weights = None
        if self.mix is not None:
            clues = scores if density is None else [*scores, density.log1p()]
            weights = self.mix(torch.cat([_to(x, size) for x in clues], dim=1)).softmax(1)
        stack = torch.stack([_to(x, size) for x in logits], dim=1)  # (B, L, C, H, W)
        heatmap = stack.mean(1) if weights is None else (stack * weights[:, :, None]).sum(1)
        return dict(heatmap=heatmap, aux=dict(heatmaps=logits, density=density, weights=weights)), list(features)


class _Up(nn.Sequential):
    """(B, C, H, W) to (B, C, 2 H, 2 W), learned."""

    def __init__(self, channels: int):
        super().__init__(nn.ConvTranspose2d(channels, channels, 2, 2, bias=False), nn.BatchNorm2d(channels),
                         nn.ReLU(inplace=True))


class _Enlarge(nn.Upsample):
    """(B, C, H, W) to (B, C, 2 H, 2 W), bilinear."""

    def __init__(self):
        super().__init__(scale_factor=2, mode='bilinear')


def _to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a map to a size, cell centres in place."""
    return x if x.shape[2:] == size else F.interpolate(x, size, mode='bilinear')


def nearest(xy: Tensor, sample: Tensor) -> Tensor:
    """(K,) distance of each place to the nearest other one of its sample, infinite where there is none.

    Args:
        xy: (K, 2) [m].
        sample: (K,) int64.
    """
    if not len(xy):
        return xy.new_zeros(0)
    away = torch.cdist(xy, xy, compute_mode='donot_use_mm_for_euclid_dist')
    alone = (sample[:, None] != sample) | torch.eye(len(xy), dtype=torch.bool, device=xy.device)
    return away.masked_fill(alone, torch.inf).amin(1)


def cut_windows(features: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """The features around cells, zero outside the map.

    Args:
        features: (B, C, H, W).
        cells: (B, M) int64, row * W + column.

    Returns:
        (B M, C, 5, 5), and (B M, 1, 3, 3), one where the inner cells of a window lie on the map.
    """
    height, width = features.shape[2:]
    steps = torch.arange(WINDOW, device=cells.device) - WINDOW // 2
    row = cells.div(width, rounding_mode='floor')
    y, x = row[..., None] + steps, (cells - row * width)[..., None] + steps  # (B, M, 5)
    inside = ((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]
    places = y.clamp(0, height - 1)[..., :, None] * width + x.clamp(0, width - 1)[..., None, :]
    found = features.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, features.shape[1], -1))
    inside = inside.flatten(0, 1)[:, None].to(features.dtype)
    found = found.unflatten(2, (cells.shape[1], WINDOW, WINDOW)).transpose(1, 2).flatten(0, 1)
    return found * inside, inside[..., 1:-1, 1:-1]
