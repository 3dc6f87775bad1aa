"""How the view transform of a net looks: its points on the rays of all cameras in 3D, and the pixels that feed a cell.

Shapes: one sample, N cameras, features of h x w, D depths, P pairs of a pixel and a cell, C colours.
"""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from perception.bev.draw import FORWARD, LOOK, CameraView, Look, arrays_of, from_above, in_rows, layers_of, sheet
from perception.bev.geometry import CameraGeometry
from perception.bev.models.view_transforms.ipm import FeaturePull
from perception.common.visual import canvas
from perception.common.visual.boxes import BoxLayer, draw_boxes_in_view
from perception.common.visual.points import View, paint, visible_points
from perception.ops.bev_pool import Ranks, pool_rows
from perception.utils.errors import ConfigError

CELL = (10.0, 0.0)  # m ahead of and left of the car's origin
HIGH = np.array([[-.66, 0, .58], [.18, 0, -.06]])  # eye and target, x forward, y left, in reaches of the grid
SHARE = 0.5  # of the most probable depth of a ray, from which on another one is drawn
GLOW = (255, 60, 220)  # pixels that feed a cell, and the cell


class Seen(NamedTuple):
    """How a net looks at a moment.

    Attributes:
        transform: its view transform.
        geometry: of the cameras.
        size: h, w.
        ranks: pairs of pixels and cells, of rows (1, N, h, w) and bags (1, Y, X) or (1, K, Y, X).
        weights: (S,) what `ranks.shares` counts: probabilities of depths, or weights of interpolation.
        depth: (1, N, D, h, w) probability of each depth, None where none is guessed.
    """
    transform: nn.Module
    geometry: CameraGeometry
    size: tuple[int, int]
    ranks: Ranks
    weights: Tensor
    depth: Tensor | None


@torch.no_grad()
def look_through(model: nn.Module | None, sample: dict) -> Seen:
    """Run a net up to its view transform.

    Args:
        model: a BEVNet in evaluation mode.
        sample: `inputs` and `data_samples` of NuScenesRig.

    Raises:
        ConfigError: a net without view transform, or none.
    """
    if not hasattr(model, 'view_transform'):
        raise ConfigError(f'drawing what a net looks at: {type(model).__name__} came, expected a net with a view '
                          'transform. Give its checkpoint, or take --view plain.')
    inputs = model.data_preprocessor(pseudo_collate([sample]))['inputs']
    geometry = CameraGeometry.from_inputs(inputs)
    features = model.image_features(inputs['images'])
    size = tuple(features.shape[3:])
    found = model.view_transform.make_ranks(geometry, size)
    ranks, weights = found if isinstance(found, tuple) else (found, None)
    depth = None if weights is not None else model.view_transform(features, geometry).depth
    return Seen(model.view_transform, geometry, size, ranks, depth.flatten() if weights is None else weights, depth)


def points_seen(seen: Seen, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of the view transform that lie in the grid, in the colours of the pixels that they are made of.

    Of a ray those are left out that are less than `SHARE` as probable as its most probable one, others are the darker
    the less probable they are. Points that fetch features have the mean colour of the pixels that they fetch.

    Args:
        seen: how a net looks.
        images: (N, H, W, 3) uint8 RGB of its input.

    Returns:
        (P, 3) float32 x, y, z [m] of the frame, and (P, 3) uint8 RGB.
    """
    colors = np.stack([cv2.resize(image, seen.size[::-1], interpolation=cv2.INTER_AREA) for image in images])
    colors = torch.from_numpy(colors.reshape(-1, 3)).to(seen.weights).float()
    ranks = seen.ranks
    if isinstance(seen.transform, FeaturePull):
        kept = ranks.counts > 0
        points, shown = seen.transform.points(seen.geometry)[0][kept], pool_rows(seen.weights, colors, ranks)[kept]
    else:
        points = seen.geometry.frustum(seen.transform.depths, seen.size, seen.transform.align).flatten(0, 4)
        share = (seen.depth / seen.depth.amax(2, keepdim=True)).flatten()[ranks.shares]
        kept = share >= SHARE
        points = points[ranks.shares[kept]]
        shown = colors[ranks.rows[kept]] * share[kept, None]
    return points.cpu().numpy(), shown.round().clamp(0, 255).byte().cpu().numpy()


def pixels_of(seen: Seen, place: Sequence[float]) -> np.ndarray:
    """How much each pixel gives to the cell at a place.

    Args:
        seen: how a net looks.
        place: x, y [m] of the frame.

    Returns:
        (N, h, w) float32, sums of its weights.

    Raises:
        ConfigError: a place outside of the grid.
    """
    ranks, bag = seen.ranks, _cell(seen, place)
    cells = torch.arange(bag, ranks.num_bags, ranks.shape[-1] * ranks.shape[-2])  # in each layer
    first, last = ranks.starts[cells].tolist(), ranks.starts[cells + 1].tolist()
    pairs = torch.cat([torch.arange(low, high) for low, high in zip(first, last)])
    given = torch.zeros(ranks.num_rows, device=seen.weights.device)
    given.index_add_(0, ranks.rows[pairs].long(), seen.weights[ranks.shares[pairs].long()])
    return given.view(-1, *seen.size).cpu().numpy()


def _cell(seen: Seen, place: Sequence[float]) -> int:
    """Number of the cell at a place, row by row."""
    grid = seen.transform.grid
    column, row = (int((value - low) // step) for value, (low, _, step) in zip(place, (grid.x, grid.y)))
    rows, columns = grid.shape
    if not (0 <= row < rows and 0 <= column < columns):
        raise ConfigError(f'--cell: the place ({place[0]:.1f}, {place[1]:.1f}) m of the frame, expected one in the '
                          f"net's grid, x {grid.x[0]:g} to {grid.x[1]:g}, y {grid.y[0]:g} to {grid.y[1]:g}. Name a "
                          'nearer one.')
    return row * columns + column


def _reach(seen: Seen) -> float:
    """m from the origin to the grid's farthest side."""
    return max(abs(value) for axis in (seen.transform.grid.x, seen.transform.grid.y) for value in axis[:2])


def draw_frustum(seen: Seen, images: np.ndarray, sample: Mapping, palette: Sequence[Sequence[int]], look: Look = LOOK,
                 title: str = '') -> np.ndarray:
    """The points of the view transform in 3D from behind and above the car, with boxes, (H, W, 3) uint8 RGB.

    Args:
        seen: how a net looks.
        images: (N, H, W, 3) uint8 RGB of its input.
        sample: a RigSample or its dict, with truth, predictions, both or none, and `bev_frame`.
        palette: C RGB colours of the classes.
        look: see Look.
        title: written above the picture.

    Raises:
        MissingDependency: Open3D or its Vulkan libraries are missing.
    """
    points, colors = points_seen(seen, images)
    angle, reach = FORWARD[sample.get('bev_frame', 'lidar')], _reach(seen)
    cos, sin = np.cos(angle), np.sin(angle)
    eye, target = (reach * HIGH @ [[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]).tolist()
    view = View(eye=eye, target=target, metres=.006 * reach)
    visible = visible_points(points, view, look.width, look.width * 9 // 16)
    picture = paint(visible, colors)
    predicted, true, score = layers_of(arrays_of(sample, look.min_score), palette, look)
    draw_boxes_in_view(picture, visible, points, [*true, *predicted], view)
    note = f'{title}   {len(points):,} points of {type(seen.transform).__name__}'
    return canvas.stacked([canvas.bar(look.width, note, score), picture], gap=0)


def draw_cell(seen: Seen, views: Sequence[CameraView], sample: Mapping, place: Sequence[float],
              palette: Sequence[Sequence[int]], look: Look = LOOK, title: str = '') -> np.ndarray:
    """Which pixels feed a cell, brighter where they give more, and the cell from above, (H, W, 3) uint8 RGB.

    Args:
        seen: how a net looks.
        views: its images.
        sample: a RigSample or its dict, with `bev_frame`.
        place: x, y [m] of the frame.
        palette: C RGB colours of the classes.
        look: see Look.
        title: written above the picture.

    Raises:
        ConfigError: a place outside of the grid.
    """
    given, frame, grid = pixels_of(seen, place), sample.get('bev_frame', 'lidar'), seen.transform.grid
    most = max(float(given.max()), 1e-9)
    shown = {id(view): share for view, share in zip(views, np.sqrt(given / most))}

    def draw(view: CameraView) -> np.ndarray:
        share = cv2.resize(shown[id(view)], view.image.shape[1::-1], interpolation=cv2.INTER_NEAREST)[..., None]
        return np.round((1 - share) * (view.image * .6) + share * np.array(GLOW)).astype(np.uint8)
    predicted, true, _ = layers_of(arrays_of(sample, look.min_score), palette, look)
    low, step = (np.array([axis[i] for axis in (grid.x, grid.y)]) for i in (0, 2))
    middle = low + ((np.array(place) - low) // step + .5) * step
    cell = BoxLayer(np.array([[*middle, 0, *step, .1, FORWARD[frame]]]), GLOW, ['cell'])
    body = sheet(in_rows(views, FORWARD[frame]), look.width, draw, keep=True)
    body.append(from_above([*true, *predicted, cell], frame, look._replace(reach=_reach(seen)), look.width // 2))
    cameras = [view.name for view, part in zip(views, given) if part.any()]
    feeds = f'the cell is fed by {np.count_nonzero(given):,} pixels ({", ".join(cameras) or "no camera"})'
    return canvas.stacked([canvas.bar(look.width, title, feeds), *body], gap=0)
