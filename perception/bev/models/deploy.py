"""A BEVNet without its training side, for one calibration of its cameras: as one graph, or in three parts.

Pooling is written with gathers, products and additions into cells, which every runtime has. The pairs of pixels and
cells that it needs follow from the calibration: part of the whole graph, inputs of the part that pools.

Shapes: B samples of the same cameras, N cameras, R = N h w rows of features, S shares (probabilities of depths, or
weights of bilinear interpolation), P pairs of a row and a cell, G cells.
"""
import torch
from torch import Tensor, nn

from perception.bev.geometry import CameraGeometry
from perception.bev.models.view_transforms.depth import LSS, BEVDepth, camera_numbers
from perception.bev.models.view_transforms.ipm import FeaturePull
from perception.common.part import Part
from perception.ops.bev_pool import Ranks
from perception.utils.errors import ConfigError


class ImagePart(nn.Module):
    """Images to rows of features and the shares that weigh them.

    Args:
        model: a BEVNet.
        geometry: of one sample.

    Raises:
        ConfigError: a view transform that is no pooling of sums.
    """

    def __init__(self, model: nn.Module, geometry: CameraGeometry):
        super().__init__()
        view = model.view_transform
        if not isinstance(view, (LSS, FeaturePull)) or getattr(view, 'reduce', None) in ('mean', 'max'):
            raise ConfigError(f'BEVNet.deployable: the view transform {type(view).__name__} came, expected LSS, '
                              'BEVDepth, IPM or VoxelPull that sum. Set reduce to sum, and train so.')
        self.model, self.view = model, view
        camera = camera_numbers(geometry) if isinstance(view, BEVDepth) else None
        self.register_buffer('camera', camera, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, N, 3, H, W) RGB in 0..255 to rows (B, R, C), and shares (B, S) where the images tell them."""
        normalised = self.model.data_preprocessor.normalise(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        features = self.model.image_features(normalised)
        size, view = features.shape[:2], self.view
        if isinstance(view, FeaturePull):
            return (_rows(view.reduce(features.flatten(0, 1)).unflatten(0, size)),)
        if self.camera is None:
            maps = view.depthnet(features.flatten(0, 1))
            logits, context = maps[:, :view.bins], maps[:, view.bins:]
        else:
            camera = self.camera.expand(size[0], -1, -1).flatten(0, 1)
            logits, context = view.depthnet(features.flatten(0, 1), camera)
        depth, context = logits.softmax(1).unflatten(0, size), context.unflatten(0, size)
        if getattr(view, 'depth_aggregation_net', None) is None:
            return _rows(context), depth.flatten(1)
        volume = view.depth_aggregation_net(depth, context).unflatten(0, (size[0], -1))
        return volume, torch.ones_like(volume[..., 0])


class PoolPart(nn.Module):
    """Rows of features, weighed and added up in the cells of the grid.

    Args:
        shape: of the cells, the first is that of rows for each plane: (K, Y, X) or (Y, X).
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape
        self.cells = 1
        for n in shape:
            self.cells *= n

    def forward(self, rows: Tensor, shares: Tensor, pair_row: Tensor, pair_share: Tensor, pair_cell: Tensor) -> Tensor:
        """Rows (B, R, C) and shares (B, S), int64 pairs (P,) each, to (B, K C, Y, X), K planes."""
        values = rows[:, pair_row] * shares[:, pair_share, None]
        pooled = rows.new_zeros(rows.shape[0], self.cells, rows.shape[2]).index_add(1, pair_cell, values)
        planes = pooled.unflatten(1, (-1, *self.shape[-2:]))  # (B, K, Y, X, C)
        return planes.permute(0, 1, 4, 2, 3).flatten(1, 2)


class BEVPart(nn.Module):
    """What was pooled to the maps of the heads.

    Args:
        model: a BEVNet.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pooled: Tensor) -> tuple[Tensor, ...]:
        """(B, K C, Y, X) to the maps of the heads in the order of `names`."""
        view = self.model.view_transform
        maps = self.model.decode(view.join(pooled) if isinstance(view, FeaturePull) else pooled)
        boxes = [value for task in maps.get('boxes', ()) for value in task.values()]
        return (*boxes, *([maps['map']] if 'map' in maps else []))

    @property
    def names(self) -> list[str]:
        """`boxes_TASK_MAP` of each task and map, such as `boxes_0_heatmap` (logits), and `map` (logits)."""
        heads = self.model.heads
        boxes = [f'boxes_{task}_{name}' for task, head in enumerate(heads['boxes'].task_heads) for name in head] \
            if 'boxes' in heads else []
        return boxes + ['map'] * ('map' in heads)


class Deployable(nn.Module):
    """The whole net at a fixed calibration.

    Args:
        model: a BEVNet.
        geometry: of one sample.
        feature_size: h, w.
    """

    def __init__(self, model: nn.Module, geometry: CameraGeometry, feature_size: tuple[int, int]):
        super().__init__()
        self.images, self.bev = ImagePart(model, geometry), BEVPart(model)
        shape, shares, pairs = calibration(model, geometry, feature_size)
        self.pool = PoolPart(shape)
        for name, value in dict(pairs, shares=shares).items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, N, 3, H, W) RGB in 0..255 to the maps of the heads, see `BEVPart.names`."""
        rows, *shares = self.images(images)
        shares = shares[0] if shares else self.shares.expand(rows.shape[0], -1)
        return self.bev(self.pool(rows, shares, self.pair_row, self.pair_share, self.pair_cell))


def calibration(model: nn.Module, geometry: CameraGeometry, feature_size: tuple[int, int]
                ) -> tuple[tuple[int, ...], Tensor | None, dict[str, Tensor]]:
    """What pooling needs to know of the cameras.

    Args:
        model: a BEVNet.
        geometry: of one sample.
        feature_size: h, w.

    Returns:
        shape of the cells; shares (1, S) where they follow from the calibration; `pair_row`, `pair_share` and
        `pair_cell`, (P,) int64.
    """
    found = model.view_transform.make_ranks(geometry, feature_size)
    ranks, weights = found if isinstance(found, tuple) else (found, None)
    rows = ranks.shares if getattr(model.view_transform, 'depth_aggregation_net', None) is not None else ranks.rows
    pairs = dict(pair_row=rows.long(), pair_share=ranks.shares.long(), pair_cell=_cells(ranks))
    return ranks.shape[1:], None if weights is None else weights[None], pairs


@torch.no_grad()
def parts(model: nn.Module, geometry: CameraGeometry) -> dict[str, Part]:
    """The three parts of a BEVNet: `images`, `pool` and `bev`; what one gives the next one takes by the same name.

    Args:
        model: a BEVNet.
        geometry: of one sample; the pairs of pixels and cells are inputs of `pool`, so that other cameras need no other
            graph, except for BEVDepth, whose image part knows the cameras.
    """
    model.eval()
    images = torch.rand(1, geometry.cam_to_img.shape[1], 3, *geometry.size) * 255
    first = ImagePart(model, geometry).eval()
    rows, *shares = first(images)
    shape, fixed, pairs = calibration(model, geometry, model.image_features(images).shape[3:])
    pool, last = PoolPart(shape).eval(), BEVPart(model).eval()
    inputs = dict(rows=rows, shares=shares[0] if shares else fixed, **pairs)
    pooled = pool(*inputs.values())
    return dict(images=Part(first, dict(images=images), ['rows', 'shares'][:1 + len(shares)]),
                pool=Part(pool, inputs, ['pooled']), bev=Part(last, dict(pooled=pooled), last.names))


def _rows(maps: Tensor) -> Tensor:
    """(B, N, C, h, w) to (B, N h w, C)."""
    return maps.movedim(2, -1).flatten(1, 3)


def _cells(ranks: Ranks) -> Tensor:
    """(P,) int64 cell of each pair."""
    counts = ranks.starts.diff().long()
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
