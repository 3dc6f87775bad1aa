"""One picture per key frame of nuScenes: views of the sweep, and its points in the six camera images."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from perception.common.formats.images import read_image
from perception.common.nuscenes.index import View
from perception.common.nuscenes.reader import read_index
from perception.common.nuscenes.tables import VERSIONS
from perception.common.visual import canvas
from perception.lidarseg.datasets.nuscenes.reader import CLASSES, PALETTE, NuScenesLidarSeg
from perception.lidarseg.draw import DrawScans, draw_scan, label_colors
from perception.registry import METRICS
from perception.utils.errors import ConfigError, DataError

CHANNELS = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT')
MIN_DEPTH = 1.0     # metres before the camera, as in the development kit
DIMMED = .55        # brightness of the images below the points


def project_to_image(points: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of a sweep in a camera image, as the development kit's `map_pointcloud_to_image` has them.

    Args:
        points: (N, 3+) in the LiDAR's frame at its time.
        view: the camera image.

    Returns:
        rows (M,) of the points that lie at least 1 m before the camera and more than 1 pixel inside the image, their
        pixels (M, 2) u, v and depths (M,) [m].
    """
    camera = points[:, :3].astype(np.float64) @ view.lidar_to_cam[:3, :3].T + view.lidar_to_cam[:3, 3]
    depth = camera[:, 2]
    before = np.flatnonzero(depth > MIN_DEPTH)
    image = camera[before] @ view.cam_to_img.T
    pixels = image[:, :2] / image[:, 2:]
    inside = ((pixels > 1) & (pixels < [view.width - 1, view.height - 1])).all(axis=1)
    return before[inside], pixels[inside], depth[before[inside]]


def paint_points(image: np.ndarray, pixels: np.ndarray, depth: np.ndarray, colors: np.ndarray,
                 size: tuple[int, int]) -> np.ndarray:
    """A picture of an image with points on it, the near ones over the far ones and larger.

    Args:
        image: (H, W, 3) uint8 RGB.
        pixels: (M, 2) u, v in the image.
        depth: (M,) metres.
        colors: (M, 3) uint8 RGB.
        size: width and height of the picture.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    width, height = size
    picture = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) * DIMMED).astype(np.uint8)
    scale = np.array([width / image.shape[1], height / image.shape[0]])
    column, row = np.floor(pixels * scale).astype(int).T
    order = np.argsort(-depth, kind='stable')     # the last one written stays
    for reach, nearer in ((0, np.inf), (1, 25.0), (2, 8.0)):
        some = order[depth[order] < nearer]
        for dv, du in np.ndindex(reach + 1, reach + 1):
            v = np.clip(row[some] + dv - reach // 2, 0, height - 1)
            u = np.clip(column[some] + du - reach // 2, 0, width - 1)
            picture[v, u] = colors[some]
    return picture


def draw_cameras(points: np.ndarray, colors: np.ndarray, views: dict[str, View], data_root: str | Path,
                 panel: tuple[int, int] = (640, 360)) -> np.ndarray:
    """The points of a sweep in its camera images, front row over back row.

    Args:
        points: (N, 3+) in the LiDAR's frame.
        colors: (N, 3) uint8 RGB.
        views: channel -> camera image, see `Index.views`.
        data_root: folder that their files are relative to.
        panel: width and height of one image in pixels.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: an image that cannot be read or has another size than its record says.
    """
    rows = []
    for channels in (CHANNELS[:3], CHANNELS[3:]):
        panels = [_panel(points, colors, views[channel], Path(data_root), panel) for channel in channels
                  if channel in views]
        rows += [canvas.beside(panels)] if panels else []
    if not rows:
        raise DataError(f'{data_root}: the key frame has no camera image, expected some of {", ".join(CHANNELS)}. '
                        'Unpack the metadata again.')
    return canvas.stacked(rows)


def _panel(points: np.ndarray, colors: np.ndarray, view: View, root: Path, panel: tuple[int, int]) -> np.ndarray:
    image = read_image(root / view.image)
    if image.shape[:2] != (view.height, view.width):
        raise DataError(f'{root / view.image}: {image.shape[1]} x {image.shape[0]} pixels, expected {view.width} x '
                        f'{view.height} as sample_data.json says. Copy the image again.')
    rows, pixels, depth = project_to_image(points, view)
    return canvas.titled(paint_points(image, pixels, depth, colors[rows], panel), view.channel,
                         f'{len(rows):,} points')


def draw_key_frame(points: np.ndarray, views: dict[str, View], data_root: str | Path,
                   pred_labels: np.ndarray | None = None, labels: np.ndarray | None = None, title: str = '',
                   panel: tuple[int, int] = (640, 360)) -> np.ndarray:
    """Views of the sweep as `draw_scan` gives them, and below the camera images with each kind of labels.

    Args:
        points: (N, 4) in the LiDAR's frame, x right and y forward.
        views: channel -> camera image.
        data_root: folder that the images' files are relative to.
        pred_labels, labels: (N,) predicted and true train ids; at least one of them.
        title: written above the picture.
        panel: width and height of one view in pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    forward = NuScenesLidarSeg.METAINFO['forward']
    rows = [draw_scan(points, CLASSES, PALETTE, pred_labels, labels, title, panel, forward)]
    for name, values in (('prediction', pred_labels), ('ground truth', labels)):
        if values is not None:
            colors = label_colors(np.asarray(values), PALETTE)
            rows.append(canvas.titled(draw_cameras(points, colors, views, data_root, panel), f'{name} in the cameras'))
    return canvas.stacked(rows)


def draw_sheet(root: str | Path, path: str | Path) -> Path:
    """Draws the points of the first key frame of each scene of v1.0-mini in its cameras, coloured by their true class.

    Args:
        root: a data set in nuScenes' layout.
        path: PNG file to write.

    Raises:
        DataError: tables or files are missing, or the picture cannot be written.
    """
    index, rows, seen = read_index(root, VERSIONS['mini_val']), [], set()
    for split in ('mini_train', 'mini_val'):
        data = NuScenesLidarSeg(root, split)
        for number, frame in enumerate(data.frames):
            if frame.scene not in seen:
                seen.add(frame.scene)
                sample = data[number]
                colors = label_colors(sample['data_samples'].labels.numpy(), PALETTE)
                views = index.views(frame.row)
                cameras = draw_cameras(sample['inputs']['points'].numpy(), colors, views, root, (320, 180))
                rows.append(canvas.titled(cameras, frame.scene))
    return canvas.save_png(path, canvas.stacked(rows))


@METRICS.register_module()
class DrawKeyFrames(DrawScans):
    """Draws each key frame that is evaluated into a PNG; see `DrawScans`."""

    _index = None

    def picture(self, points: np.ndarray, pred_labels: np.ndarray, labels: np.ndarray | None,
                sample_id: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB of a key frame: views of the sweep, and its points in the camera images."""
        meta = self.dataset_meta
        if 'data_root' not in meta or meta.get('split') not in VERSIONS:
            raise ConfigError(f'DrawKeyFrames: the data set describes itself by {sorted(meta)}, expected data_root and '
                              'split of nuScenes. Draw other data sets with DrawScans.')
        if self._index is None:
            self._index = read_index(meta['data_root'], VERSIONS[meta['split']])
        views = self._index.views(self._index.row_of(sample_id))
        return draw_key_frame(points, views, meta['data_root'], pred_labels, labels, sample_id, self.panel)
