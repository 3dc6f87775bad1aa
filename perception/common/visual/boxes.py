"""Boxes and tracks on pictures: cut at the near plane, the front face marked, truth dashed, labels that do not overlap.

What is drawn alike is a `BoxLayer`: truth against predictions are two of them, one dashed, on an image (`draw_boxes`),
from above (`bev.py`) and among points in space (`draw_boxes_in_view`). Lines go to OpenCV by one call for each colour.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from perception.common.boxes import CORNERS, EDGES, NEAR, corners, project, project_points
from perception.common.visual import canvas
from perception.common.visual.points import View, view_matrix
from perception.utils.errors import DataError

DASH, GAP = 5, 4  # pixels of a dashed line, times its width
LIGHT = 125  # least brightness of colours that are made for dark pictures
LARGE = 40  # pixels high, times the width of lines, is a box whose lines have their full width
SHIFT = 4  # lines are drawn to 1/16 pixel
SHADOW = (12, 12, 14)  # around lines, so that they are seen on anything
HIDDEN = 0.4  # strength of lines behind points
SURFACE = 0.15  # m that a line may lie behind a point and still be seen
PIECE = 5  # pixels of a line that are seen or hidden as one
FILL = 0.2  # strength of the colour of front faces
FACE, FLOOR = [0, 1, 2, 3], [2, 3, 7, 6]  # corners of the front and of the bottom face, around it
FRONT = np.isin(EDGES, FACE).all(1)  # (12,) edges of the front face
TRAIL_STEPS = 6  # of fading


@dataclass
class BoxLayer:
    """Boxes that are drawn alike.

    Attributes:
        boxes: (K, 7+) x, y, z of the centre, l, w, h [m], yaw [rad].
        colors: (K, 3) RGB, or one for all.
        texts: K short texts beside them, such as scores; none by default.
        dashed: whether lines are dashed, as those of the truth are.
        name: in the legend.
        ink: RGB in the legend; by default the first colour.
    """
    boxes: np.ndarray
    colors: np.ndarray | Sequence[int]
    texts: Sequence[str] = ()
    dashed: bool = False
    name: str = ''
    ink: Sequence[int] | None = None
    rgb: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.boxes = np.asarray(self.boxes, np.float64)
        if self.boxes.ndim != 2 or self.boxes.shape[1] < 7:
            raise DataError(f'drawing boxes: an array of shape {self.boxes.shape}, expected (K, 7) or wider. Pass one '
                            'row of x, y, z, l, w, h, yaw per box.')
        if self.ink is None:
            rgb = np.reshape(self.colors, (-1, 3))
            self.ink = rgb[0] if len(rgb) else canvas.INK
        if len(self.texts) not in (0, len(self.boxes)):
            raise DataError(f'drawing boxes: {len(self.texts)} texts for {len(self.boxes)} boxes, expected equal '
                            'numbers. Pass one text per box, or none.')
        self.rgb = np.broadcast_to(np.asarray(self.colors, np.uint8).reshape(-1, 3), (len(self.boxes), 3))
        finite = np.isfinite(self.boxes[:, :7]).all(1)
        if not finite.all():  # a net that diverged; the others are still to be seen
            self.boxes, self.rgb = self.boxes[finite], self.rgb[finite]
            self.texts = [text for text, one in zip(self.texts, finite) if one]

    def nearest_last(self, axis: np.ndarray) -> 'BoxLayer':
        """The same boxes in another order, by their depth along an axis (3+,) that points away from the eye."""
        order = np.argsort(-self.boxes[:, :3] @ axis[:3], kind='stable')
        texts = [self.texts[i] for i in order] if len(self.texts) else ()
        return BoxLayer(self.boxes[order], self.rgb[order], texts, self.dashed, self.name, self.ink)


def track_colors(ids: np.ndarray) -> np.ndarray:
    """Colours (K, 3) uint8 RGB of tracks (K,) by their ids, far apart for ids that follow each other."""
    ids = np.asarray(ids, np.int64)
    if not len(ids):
        return np.zeros((0, 3), np.uint8)
    hue = (ids * 0.6180339887498949) % 1.0
    # H in half degrees, three steps of strength and of brightness
    hsv = np.stack([hue * 180, 255 - 60 * (ids % 3), 255 - 45 * (ids // 3 % 2)], -1)
    return bright(cv2.cvtColor(hsv.astype(np.uint8).reshape(-1, 1, 3), cv2.COLOR_HSV2RGB).reshape(-1, 3))


def bright(colors: np.ndarray) -> np.ndarray:
    """Colours (K, 3) uint8 RGB, whitened where they are so dark that lines are not seen on a dark picture."""
    rgb = np.asarray(colors, np.float64).reshape(-1, 3)
    light = rgb @ (0.299, 0.587, 0.114)
    white = np.clip((LIGHT - light) / (255 - light).clip(1), 0, 1)[:, None]
    return np.round(rgb + white * (255 - rgb)).astype(np.uint8)


def clip_lines(lines: np.ndarray, width: float, height: float, margin: float = 8) -> tuple[np.ndarray, np.ndarray]:
    """Lines (S, 2, 2) in pixels cut to a picture, by Liang and Barsky, with so many pixels around it.

    Returns:
        (M, 2, 2) what is inside, and (M,) which lines they are.
    """
    start, step = lines[:, 0], lines[:, 1] - lines[:, 0]
    low, high = np.full(2, -margin), np.array([width, height]) - 1 + margin
    with np.errstate(divide='ignore', invalid='ignore'):
        walls = np.stack([(low - start) / step, (high - start) / step])  # (2, S, 2) shares of the line
    parallel, inside = step == 0, (start >= low) & (start <= high)
    enter = np.where(parallel, np.where(inside, 0, 2), walls.min(0)).max(1).clip(0)
    leave = np.where(parallel, 1, walls.max(0)).min(1).clip(max=1)
    rows = np.flatnonzero(enter <= leave)
    shares = np.stack([enter, leave], 1)[rows]
    return start[rows, None] + shares[..., None] * step[rows, None], rows


def dashes(lines: np.ndarray, dash: float | np.ndarray, gap: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines (S, 2, 2) in pixels as dashes (M, 2, 2), each line begins and ends with one, and (M,) whose they are.

    Args:
        lines: to cut.
        dash, gap: length of the dashes and between them in pixels, of all or (S,) of each line; -1 lets them overlap.
    """
    dash, gap = (np.broadcast_to(np.asarray(pixels, np.float64), len(lines)) for pixels in (dash, gap))
    length = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1)
    count = np.maximum(np.round((length + gap) / (dash + gap)).astype(int), 1)
    rows = np.repeat(np.arange(len(lines)), count)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    period = (length + gap)[rows] / count[rows]
    period[count[rows] == 1] = 0
    begin = number * period
    until = np.where(count[rows] == 1, length[rows], begin + np.maximum(period - gap[rows], 0))
    shares = np.stack([begin, until], 1) / np.maximum(length[rows], 1e-9)[:, None]
    return lines[rows, 0][:, None] + shares[..., None] * (lines[rows, 1] - lines[rows, 0])[:, None], rows


def draw_lines(image: np.ndarray, lines: np.ndarray, colors: np.ndarray, width: int = 1, dashed: bool = False,
               shadow: bool = True) -> None:
    """Draw lines into a picture, in place.

    Args:
        image: (H, W, 3) uint8.
        lines: (S, 2, 2) u, v of both ends in pixels, 0 in the middle of the first one; later ones lie above.
        colors: (S, 3) uint8 RGB.
        width: in pixels.
        dashed: whether they are dashed.
        shadow: whether a dark edge goes around them.
    """
    lines, rows = clip_lines(np.asarray(lines, np.float64), image.shape[1], image.shape[0])
    if dashed:
        lines, some = dashes(lines, DASH * width, GAP * width)
        rows = rows[some]
    if not len(lines):
        return
    fixed, colors = np.round(lines * 2 ** SHIFT).astype(np.int32), np.asarray(colors, np.uint8)[rows]
    if shadow:
        cv2.polylines(image, list(fixed), False, SHADOW, width + 2, cv2.LINE_AA, SHIFT)
    kinds, which = np.unique(colors, axis=0, return_inverse=True)
    which = which.reshape(-1)
    for kind in np.argsort([np.flatnonzero(which == i)[-1] for i in range(len(kinds))]):
        cv2.polylines(image, list(fixed[which == kind]), False, tuple(map(int, kinds[kind])), width, cv2.LINE_AA, SHIFT)


def place_labels(hulls: np.ndarray, sizes: np.ndarray, width: int, height: int,
                 taken: np.ndarray | None = None, things: np.ndarray | None = None) -> np.ndarray:
    """Places beside things where labels overlap neither each other nor what is taken, and hide few things.

    Args:
        hulls: (K, 4) left, upper, right, lower edge of each thing in pixels; the first ones choose first.
        sizes: (K, 2) width and height of the labels.
        width, height: of the picture.
        taken: (T, 4) edges of what no label may touch.
        things: (N, 4) edges of all things; by default `hulls`.

    Returns:
        (K, 2) left and upper edge of each label, NaN where there is no room for it.
    """
    taken = [] if taken is None else [*np.reshape(taken, (-1, 4))]
    things = np.asarray(hulls if things is None else things)
    places = np.full((len(hulls), 2), np.nan)
    for i, ((left, top, right, bottom), (w, h)) in enumerate(zip(hulls, sizes)):
        steps = np.arange(7) * (h + 1)
        x = np.array([(left + right - w) / 2, left - w - 2, right + 2, left - w / 2, right - w / 2])
        y = np.concatenate([top - h - 2 - steps, bottom + 2 + steps, [(top + bottom - h) / 2]])
        spots = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        edges = np.concatenate([spots, spots + (w, h)], 1)
        free = (edges[:, :2] >= 0).all(1) & (edges[:, 2] < width) & (edges[:, 3] < height)
        if taken:
            free &= ~(common_area(edges, np.array(taken)) > 0).any(1)
        # far from its thing, below rather than above it, on other things
        far = np.abs(spots - (x[0], y[0])).sum(1) / h + 0.3 * (spots[:, 1] > top)
        cost = far + 4 * common_area(edges, things).sum(1) / (w * h)
        if free.any():
            best = np.flatnonzero(free)[np.argmin(cost[free])]
            places[i] = spots[best]
            taken.append(edges[best])
    return places


def common_area(edges: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pixels (A, B) that upright rectangles (A, 4) and (B, 4) left, upper, right, lower have in common."""
    sides = np.minimum(edges[:, None, 2:], others[:, 2:]) - np.maximum(edges[:, None, :2], others[:, :2])
    return sides.clip(0).prod(-1)


def write_labels(image: np.ndarray, texts: Sequence[str], hulls: np.ndarray, colors: np.ndarray, size: int = 14,
                 taken: np.ndarray | None = None) -> np.ndarray:
    """Write texts beside things, on dark plates in the things' colours, in place; see `place_labels`.

    Args:
        image: (H, W, 3) uint8.
        texts: K texts; empty ones are left out, but what they belong to is kept free where that can be.
        hulls: (K, 4) edges of the things in pixels, what is to be read first comes first.
        colors: (K, 3) RGB.
        size: of the letters.
        taken: (T, 4) edges of what no label may touch.

    Returns:
        (M, 4) edges of the plates.
    """
    rows = [i for i, text in enumerate(texts) if text]
    if not rows:
        return np.zeros((0, 4))
    sizes = np.array([(canvas.text_width(texts[i], size) + 5, round(1.15 * size)) for i in rows])
    things = np.asarray(hulls, np.float64)
    hulls, colors = things[rows], np.asarray(colors)[rows]
    places = place_labels(hulls, sizes, image.shape[1], image.shape[0], taken, things)
    shown = np.flatnonzero(np.isfinite(places[:, 0]))
    edges = np.concatenate([places, places + sizes], 1)[shown].round().astype(int)
    hulls, colors = hulls[shown], colors[shown]
    # a line from each label that stands apart to its thing
    middle = (edges[:, :2] + edges[:, 2:]) / 2
    there, here = np.clip(middle, hulls[:, :2], hulls[:, 2:]), np.clip((hulls[:, :2] + hulls[:, 2:]) / 2, edges[:, :2],
                                                                      edges[:, 2:])
    apart = np.abs(there - here).max(1) > 0.5 * size
    draw_lines(image, np.stack([here, there], 1)[apart], colors[apart], shadow=False)
    for row, (left, top, right, bottom), color in zip(shown, edges, colors):
        part = image[top:bottom, left:right]
        part[:] = np.round(0.2 * part + 0.8 * np.array(SHADOW)).astype(np.uint8)
        canvas.write(image, texts[rows[row]], left + 3, (top + bottom) // 2, size, color)
    return edges


def draw_boxes(image: np.ndarray, layers: Sequence[BoxLayer], lidar_to_image: np.ndarray,
               size: int | None = None) -> None:
    """Draw boxes into the image of a camera, in place; nearer ones above farther ones.

    The edges of the front face are thicker, and it is filled thinly unless lines are dashed. What the box itself or a
    nearer one of its layer hides is faint. Of a box that is partly behind the camera what is before it is drawn.

    Args:
        image: (H, W, 3) uint8.
        layers: what is drawn, later ones above earlier ones.
        lidar_to_image: (4, 4) or (3, 4), from x, y, z, 1 of the boxes' frame [m] to u w, v w, w.
        size: of the letters; by default it follows the picture.
    """
    matrix, (height, width) = np.asarray(lidar_to_image, np.float64)[:3], image.shape[:2]
    size, thickness = size or max(canvas.text_size(width) - 3, 11), max(1, round(width / 1000))
    eye = -np.linalg.solve(matrix[:, :3], matrix[:, 3])  # where the camera stands
    layers = [layer.nearest_last(matrix[2]) for layer in layers]
    for layer in layers:
        if not layer.dashed:
            _fill_faces(image, corners(layer.boxes[:, :7])[:, FACE] @ matrix[:, :3].T + matrix[:, 3], layer.rgb)
    hulls = []
    for layer in layers:
        lines, box, edge = _edges(layer.boxes, matrix)
        owner = _owners(lines, box, image.shape[:2])
        lines, rows = clip_lines(lines, width, height)
        box, edge = box[rows], edge[rows]
        hulls.append(hulls_of(lines, box, len(layer.boxes), width, height))
        tall = hulls[-1][:, 3] - hulls[-1][:, 1]
        thick = np.where(tall > LARGE * thickness, thickness, 1)[box]  # thick lines would fill small ones
        lines, rows = dashes(lines, DASH * thick, GAP * thick) if layer.dashed else dashes(lines, PIECE, -1)
        box, edge, thick = box[rows], edge[rows], thick[rows]
        column, row = np.round(lines.mean(1)).astype(int).clip(0, (width - 1, height - 1)).T
        faint = _turned_away(layer.boxes, eye)[box, edge] | (owner[row, column] > box)
        draw_lines(image, lines[faint], layer.rgb[box[faint]] // 2, shadow=False)
        for some, pixels in ((thick == 1, 1), (thick > 1, thickness)):
            draw_lines(image, lines[some & ~faint], layer.rgb[box[some & ~faint]], pixels)
        front = FRONT[edge] & ~faint & (tall[box] > LARGE * thickness)
        draw_lines(image, lines[front], layer.rgb[box[front]], thickness + 1, shadow=False)
    if layers:
        hulls, colors = np.concatenate(hulls), np.concatenate([layer.rgb for layer in layers])
        depths = np.concatenate([layer.boxes[:, :3] for layer in layers]) @ matrix[2, :3]
        texts = [text for layer in layers for text in layer.texts or [''] * len(layer.boxes)]
        order = [i for i in np.argsort(depths) if hulls[i, 0] <= hulls[i, 2]]  # near ones choose first
        write_labels(image, [texts[i] for i in order], hulls[order], colors[order], size)


def _owners(lines: np.ndarray, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which box covers each pixel (H, W) of a picture, -1 where none does.

    Args:
        lines: (S, 2, 2) pixels of edges, by box.
        boxes: (S,) numbers of the boxes, larger ones cover smaller ones.
        shape: rows and columns.
    """
    owner = np.full(shape, -1, np.float32)
    places = np.round(lines).clip(-1e5, 1e5).astype(np.int32)
    numbers, first = np.unique(boxes, return_index=True)
    for number, ends in zip(numbers.tolist(), np.split(places, first[1:])):
        cv2.fillConvexPoly(owner, cv2.convexHull(ends.reshape(-1, 2)), number)
    return owner


def draw_trails(image: np.ndarray, lines: np.ndarray, colors: np.ndarray, ages: np.ndarray, width: int = 1,
                paper: Sequence[int] = canvas.FAINT) -> None:
    """Draw where tracks have been, the older the fainter, in place; see `Trails` in `bev.py`.

    Args:
        image: (H, W, 3) uint8.
        lines: (S, 2, 2) pixels of both ends.
        colors: (S, 3) RGB.
        ages: (S,) 0 now to 1.
        width: of the lines in pixels.
        paper: RGB that old ones fade to.
    """
    fade = 1 - 0.8 * np.floor(np.asarray(ages)[:, None] * TRAIL_STEPS) / TRAIL_STEPS
    faded = np.round(np.array(paper) + fade * (np.asarray(colors, np.float64) - paper)).astype(np.uint8)
    order = np.argsort(-np.asarray(ages), kind='stable')
    draw_lines(image, lines[order], faded[order], width, shadow=False)


def draw_trails_on_image(image: np.ndarray, lines: np.ndarray, colors: np.ndarray, ages: np.ndarray,
                         lidar_to_image: np.ndarray) -> None:
    """Draw where tracks have been into the image of a camera, in place; what is not before the camera is left out.

    Args:
        image: (H, W, 3) uint8.
        lines: (S, 2, 3) both ends [m], of `Trails.lines`.
        colors, ages: (S, 3) RGB, (S,) 0 now to 1.
        lidar_to_image: see `draw_boxes`.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        pixels, depth = project_points(lines, lidar_to_image)
    seen = (depth >= NEAR).all(1)
    draw_trails(image, pixels[seen], colors[seen], ages[seen], max(1, round(image.shape[1] / 800)))


def hulls_of(lines: np.ndarray, things: np.ndarray, count: int, width: int, height: int) -> np.ndarray:
    """Edges (count, 4) left, upper, right, lower of things in a picture; left > right where nothing is inside.

    Args:
        lines: (S, 2, 2) pixels.
        things: (S,) to which thing each line belongs.
        count: of the things.
        width, height: of the picture.
    """
    lines, rows = clip_lines(lines, width, height, 0)
    hulls = np.tile([np.inf, np.inf, -np.inf, -np.inf], (count, 1))
    np.minimum.at(hulls[:, :2], things[rows], lines.min(1))
    np.maximum.at(hulls[:, 2:], things[rows], lines.max(1))
    return hulls


def draw_boxes_in_view(picture: np.ndarray, visible: np.ndarray, points: np.ndarray, layers: Sequence[BoxLayer],
                       view: View) -> None:
    """Draw boxes into a picture of points in space, in place: bright before the points, faint behind them
    and where the box itself hides an edge.

    Args:
        picture: (H, W, 3) uint8, of `paint`.
        visible: (H, W) visible point of each pixel, of `visible_points`.
        points: (N, 3+) [m].
        layers: what is drawn, later ones above earlier ones.
        view: the camera of both.
    """
    matrix = view_matrix(view, visible.shape[1], visible.shape[0])
    far = np.append(np.asarray(points)[:, :3] @ matrix[3, :3] + matrix[3, 3], np.inf)[visible].astype(np.float32)
    eye = np.array(view.eye) - (0 if view.fov else 1e6) * matrix[3, :3]
    far = cv2.erode(far, np.ones((3, 3), np.uint8))  # a point stands for a bit of surface around it
    drawn = []
    for layer in layers:
        layer = layer.nearest_last(matrix[3])
        places = corners(layer.boxes[:, :7]) @ matrix[:, :3].T + matrix[:, 3]  # (K, 8, 4)
        lines, box, edge = _edges(layer.boxes, matrix)
        lines, depths, rows = _pieces(lines, places[box[:, None], EDGES[edge]], visible.shape, layer.dashed)
        box, edge = box[rows], edge[rows]
        column, row = np.round(lines.mean(1)).astype(int).clip(0, (visible.shape[1] - 1, visible.shape[0] - 1)).T
        hidden = (depths > far[row, column] + SURFACE) | _turned_away(layer.boxes, eye)[box, edge]
        drawn.append((lines, layer.rgb[box], FRONT[edge], hidden))
    for lines, rgb, _, hidden in drawn:
        draw_lines(picture, lines[hidden], np.round(HIDDEN * rgb[hidden]).astype(np.uint8), shadow=False)
    for lines, rgb, front, hidden in drawn:
        draw_lines(picture, lines[~hidden], rgb[~hidden])
        draw_lines(picture, lines[front & ~hidden], rgb[front & ~hidden], 2, shadow=False)


def _edges(boxes: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of boxes in an image: (S, 2, 2) pixels, (S,) of which box and (S,) which edge each one is."""
    lines, seen = project(boxes[:, :7], matrix)
    return lines[seen], *np.nonzero(seen)


def _pieces(lines: np.ndarray, ends: np.ndarray, shape: tuple[int, int],
            dashed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lines in pieces of some pixels, or in dashes, and how far away these are.

    Args:
        lines: (S, 2, 2) pixels.
        ends: (S, 2, 4) u w, v w, w, depth of the ends of what they show, uncut.
        shape: rows and columns of the picture.
        dashed: whether they are dashed.

    Returns:
        (M, 2, 2) pixels, (M,) depth of their middles [m], and (M,) of which line each is.
    """
    lines, kept = clip_lines(lines, shape[1], shape[0])
    pieces, some = dashes(lines, PIECE, PIECE if dashed else -1)
    rows = kept[some]
    # how far along the line in space a pixel is follows from its u or v, whichever changes more
    start, step = ends[rows, 0], ends[rows, 1] - ends[rows, 0]
    middle = pieces.mean(1)
    more = np.argmax(np.abs(step[:, :2] - middle * step[:, 2:3]), axis=1)[:, None]
    off, gain = (np.take_along_axis(part[:, :2] - middle * part[:, 2:3], more, 1)[:, 0] for part in (start, step))
    share = np.clip(-off / np.where(gain == 0, 1, gain), 0, 1)
    return pieces, start[:, 3] + share * step[:, 3], rows


def _turned_away(boxes: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Which edges (K, 12) of boxes (K, 7+) lie between faces that are turned away from an eye (3,) outside."""
    away, cos, sin = eye - boxes[:, :3], np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    own = np.stack([cos * away[:, 0] + sin * away[:, 1], cos * away[:, 1] - sin * away[:, 0], away[:, 2]], 1)
    signs = CORNERS[EDGES].mean(1)  # (12, 3) of the two faces of each edge, 0 along it
    seen = ((own[:, None] * signs > boxes[:, None, 3:6] / 2) & (signs != 0)).any(-1)
    return ~seen & seen.any(1, keepdims=True)


def _fill_faces(image: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> None:
    """Fill faces (K, 4, 3) u w, v w, w thinly in their colours (K, 3), in place; those that reach behind are not."""
    rows = np.flatnonzero((faces[..., 2] >= NEAR).all(1))
    if not len(rows):
        return
    fixed = np.round(faces[rows, :, :2] / faces[rows, :, 2:] * 2 ** SHIFT).clip(-1e8, 1e8).astype(np.int32)
    filled = image.copy()
    for face, color in zip(fixed, colors[rows].tolist()):
        cv2.fillConvexPoly(filled, face, color, cv2.LINE_8, SHIFT)
    cv2.addWeighted(image, 1 - FILL, filled, FILL, 0, dst=image)


def legend(layers: Sequence[BoxLayer], width: int, size: int | None = None) -> np.ndarray:
    """What the lines mean, in a strip: (H, width, 3) uint8; the layers that have a name."""
    size = size or canvas.text_size(width)
    layers = [layer for layer in layers if layer.name]
    sample, row, left, middle = 2.6 * size, round(1.6 * size), 8, 4 + round(0.8 * size)
    places = []
    for layer in layers:
        wide = round(sample) + 30 + canvas.text_width(layer.name, size)
        if left > 8 and left + wide > width:
            left, middle = 8, middle + row
        places.append((left, middle))
        left += wide
    image = canvas.blank(middle + row // 2 + 4, width)
    for layer, (left, middle) in zip(layers, places):
        line = np.array([[[left, middle], [left + sample, middle]]])
        draw_lines(image, line, np.array([layer.ink], np.uint8), 3, layer.dashed, shadow=False)
        canvas.write(image, layer.name, round(left + sample + 8), middle, size)
    return image
