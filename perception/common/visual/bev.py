"""Pictures from above, forward up: points, boxes with their headings, trails of tracks, rings of equal range."""

import cv2
import numpy as np

from perception.common.boxes import corners
from perception.common.visual import canvas
from perception.common.visual.boxes import FLOOR, BoxLayer, common_area, draw_lines, draw_trails, write_labels
from perception.common.visual.points import BACKGROUND, height_greys
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError

RING = (74, 76, 86)
RING_INK = (150, 152, 162)
MOST = 6  # rings
TALLEST = 16  # halves of its width that a picture may be high


class BirdsEye:
    """A picture from above. Each `draw_...` draws above what is there; `picture` puts the labels on.

    Args:
        width: of the picture in pixels.
        front, back, side: metres before, behind and at each side of the sensor that it shows.
        forward: direction that is up in it, rad from x to y of the points' frame (nuScenes' LiDAR: pi / 2).
        size: of the letters; by default it follows the width.

    Raises:
        ConfigError: it shows nothing, or would be a ribbon.
    """

    def __init__(self, width: int = 720, front: float = 40.0, back: float = 4.0, side: float = 30.0,
                 forward: float = 0.0, size: int | None = None) -> None:
        check_positive('picture from above', width=width, side=side)
        if not 0 < front + back <= TALLEST * side:
            raise ConfigError(f'picture from above: front={front}, back={back}, expected more than 0 and at most '
                              f'{TALLEST * side:g} metres together, {TALLEST} times side. Correct them.')
        self.front, self.side, self.scale = front, side, width / (2 * side)
        cos, sin = np.cos(forward), np.sin(forward)
        # x, y, 1 -> column, row, 0 in the middle of the first pixel
        self.matrix = self.scale * np.array([[sin, -cos, side], [-cos, -sin, front]]) - np.array([0, 0, 0.5])
        self.image = canvas.blank(max(round((front + back) * self.scale), 1), width, BACKGROUND)
        self.size = size or canvas.text_size(width)
        self._labels: list[tuple[np.ndarray, str, np.ndarray]] = []  # edges of boxes, their texts and colours
        self._rings: list[tuple[str, np.ndarray, float]] = []
        self._taken: list[np.ndarray] = []

    def pixels(self, places: np.ndarray) -> np.ndarray:
        """Column and row (..., 2) of places (..., 2+) x, y [m]; integers are the middles of pixels."""
        return np.asarray(places, np.float64)[..., :2] @ self.matrix[:, :2].T + self.matrix[:, 2]

    def draw_points(self, points: np.ndarray, colors: np.ndarray | None = None) -> None:
        """Draw points (N, 3+) [m], higher ones above lower ones, in colours (N, 3); by default in greys by height."""
        points = np.asarray(points)
        if not len(points):
            return
        if colors is None:
            low, high = np.percentile(points[:, 2], (5, 95))
            colors = height_greys(points, low, high + 0.5)
        column, row = np.round(self.pixels(points)).astype(np.int64).T
        inside = (column >= 0) & (column < self.image.shape[1]) & (row >= 0) & (row < self.image.shape[0])
        order = np.flatnonzero(inside)[np.argsort(points[inside, 2], kind='stable')]
        self.image[row[order], column[order]] = np.asarray(colors, np.uint8)[order]

    def draw_rings(self, step: float | None = None) -> None:
        """Draw circles of equal range around the sensor, and the sensor, an arrow head that points forward.

        Args:
            step: metres between them; by default such that there are at most `MOST`.
        """
        reach = max(self.front, self.side)
        step = step or next(m for m in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if reach / m <= MOST or m == 1000)
        middle, unit = np.array([self.side, self.front]) * self.scale - 0.5, 2 ** 4
        for radius in np.arange(1, np.hypot(self.front, self.side) // step + 1) * step:
            cv2.circle(self.image, tuple(np.round(middle * unit).astype(int).tolist()),
                       round(radius * self.scale * unit), RING, 1, cv2.LINE_AA, 4)
            self._rings.append((f'{radius:g} m', middle, radius * self.scale))
        tip = middle + self.size * np.array([[0, -0.7], [0.5, 0.5], [-0.5, 0.5]])
        cv2.fillConvexPoly(self.image, np.round(tip * unit).astype(np.int32), canvas.INK, cv2.LINE_AA, 4)
        self._taken.append(np.array([*tip.min(0), *tip.max(0)]))

    def draw_trails(self, lines: np.ndarray, colors: np.ndarray, ages: np.ndarray) -> None:
        """Draw where tracks have been.

        Args:
            lines: (S, 2, 2+) x, y of both ends [m], of `Trails.lines`.
            colors: (S, 3) RGB.
            ages: (S,) from 0, now, to 1; older ones are fainter.
        """
        draw_trails(self.image, self.pixels(lines), colors, ages, max(1, round(self.scale / 12)), BACKGROUND)

    def draw_boxes(self, boxes: BoxLayer) -> None:
        """Draw the outlines of boxes, each with a line from its middle through the middle of its front."""
        if not len(boxes.boxes):
            return
        floor = self.pixels(corners(boxes.boxes[:, :7])[:, FLOOR])  # (K, 4, 2) around
        width = max(1, round(self.size / 10))
        lines = np.stack([floor, np.roll(floor, -1, 1)], 2).reshape(-1, 2, 2)
        draw_lines(self.image, lines, np.repeat(boxes.rgb, 4, 0), width, boxes.dashed)
        middle, yaw = self.pixels(boxes.boxes), boxes.boxes[:, 6]
        heading = np.stack([np.cos(yaw), np.sin(yaw)], 1) @ self.matrix[:, :2].T
        tip = middle + heading * (boxes.boxes[:, 3:4] / 2 + 0.5 * self.size / self.scale)
        draw_lines(self.image, np.stack([middle, tip], 1), boxes.rgb, width, shadow=False)
        around = np.concatenate([floor, tip[:, None]], 1)
        hulls = np.concatenate([around.min(1), around.max(1)], 1)
        inside = (hulls[:, 2:] >= 0).all(1) & (hulls[:, 0] < self.image.shape[1]) & (hulls[:, 1] < self.image.shape[0])
        texts = boxes.texts or [''] * len(hulls)
        self._labels += [(hulls[i], texts[i], boxes.rgb[i]) for i in np.flatnonzero(inside)]

    def picture(self) -> np.ndarray:
        """The picture (H, W, 3) uint8 RGB with the metres of the rings and the labels of boxes, where there is room."""
        image, taken = self.image.copy(), [*self._taken]
        hulls = np.array([hull for hull, _, _ in self._labels]).reshape(-1, 4)
        for text, middle, radius in self._rings:
            edges = self._on_ring(text, middle, radius, np.concatenate([hulls, np.reshape(taken, (-1, 4))]))
            if edges is not None:
                left, top, _, bottom = edges
                canvas.write(image, text, round(left), round((top + bottom) / 2), self.size, RING_INK)
                taken.append(edges)
        if len(hulls):
            texts, colors = [text for _, text, _ in self._labels], np.array([color for _, _, color in self._labels])
            write_labels(image, texts, hulls, colors, max(self.size - 3, 10), np.reshape(taken, (-1, 4)))
        return image

    def _on_ring(self, text: str, middle: np.ndarray, radius: float, taken: np.ndarray) -> np.ndarray | None:
        """Edges of a text on a ring of so many pixels where nothing else is, at the right and behind first."""
        half = np.array([canvas.text_width(text, self.size) / 2, 0.6 * self.size])
        angles = np.radians([*range(-45, 90, 3), *range(225, 90, -3)])
        centers = middle + radius * np.stack([np.cos(angles), -np.sin(angles)], 1)
        edges = np.concatenate([centers - half, centers + half], 1)
        free = (edges[:, :2] >= 0).all(1) & (edges[:, 2:] < self.image.shape[1::-1]).all(1)
        free &= ~(common_area(edges, taken) > 0).any(1)
        return edges[np.argmax(free)] if free.any() else None


class Trails:
    """Where tracks have been in the last frames, for pictures of the frame that is there now.

    Args:
        frames: so many are kept.
    """

    def __init__(self, frames: int = 20) -> None:
        check_positive('trails', frames=frames)
        self.frames = frames
        self.ids, self.ages, self.places = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3))
        self.to_here: np.ndarray | None = None

    def add(self, ids: np.ndarray, places: np.ndarray, pose: np.ndarray | None = None) -> None:
        """Go on to the next frame.

        Args:
            ids: (K,) of the tracks that are seen.
            places: (K, 3+) x, y, z [m].
            pose: (4, 4) from this frame to a common world, where the sensor moves and that is known.
        """
        places = np.asarray(places, np.float64)[:, :3]
        self.to_here = None if pose is None else np.linalg.inv(pose)
        if pose is not None:
            places = places @ pose[:3, :3].T + pose[:3, 3]
        kept = self.ages + 1 < self.frames
        self.ids = np.concatenate([self.ids[kept], np.asarray(ids, np.int64)])
        self.ages = np.concatenate([self.ages[kept] + 1, np.zeros(len(places), np.int64)])
        self.places = np.concatenate([self.places[kept], places])

    def lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lines from each place of a track to its next one.

        Returns:
            (S, 2, 3) ends in the frame that is there now [m], (S,) ids, (S,) ages, 0 now to 1.
        """
        order = np.lexsort([-self.ages, self.ids])
        ids, ages, places = self.ids[order], self.ages[order], self.places[order]
        if self.to_here is not None:
            places = places @ self.to_here[:3, :3].T + self.to_here[:3, 3]
        same = np.flatnonzero(ids[1:] == ids[:-1])
        return np.stack([places[same], places[same + 1]], 1), ids[same], ages[same + 1] / self.frames
