"""Cameras of any car: a folder of images with `rig.json`, which says where each camera is and what it sees.

    {"cameras": [{"name": "front", "image": "front.jpg", "size": [1600, 900],
                  "K": [[1266.4, 0, 816.3], [0, 1266.4, 491.5], [0, 0, 1]],
                  "pose": [[0, 0, 1, 1.7], [-1, 0, 0, 0], [0, -1, 0, 1.51], [0, 0, 0, 1]]}, ...],
     "lidar": {"pose": [[...]]}, "map_range": 50, "timestamp": 0.0, "car_to_world": [[...]]}

`size` is width and height in pixels, `K` the camera matrix, `pose` takes x, y, z of the camera (x right, y down, z
forward) to the car's frame: x forward, y left, z up, origin on the ground below the rear axle [m]. It is a 4 x 4 matrix
or, as there are two orders of quaternions, `{"translation": [x, y, z], "rotation": {"w": 1, "x": 0, "y": 0, "z": 0}}`.
Where `image` is absent, it is the file called as the camera.

All the rest is optional: `D` of a camera, the distortion of its images as OpenCV and ROS's plumb_bob have it, k1, k2,
p1, p2 and none, k3 or k3 to k6, of which images are freed as they are read, while `K` stays; where the LiDAR is, in
whose frame some nets find things; how far around the car the picture from above reaches [m]; the time [s]; where the
car is, for a sequence.

A sequence is a folder of such folders; one `rig.json` beside them will do if all have the same cameras. Or each camera
has a folder beside `rig.json`, called as itself, in which the images of a moment have the same name.
"""
from __future__ import annotations

import json
import logging
import os
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.logging import print_log

from perception.bev.datasets.nuscenes.reader import flattened
from perception.common.formats.images import SUFFIXES, read_image, reduced
from perception.common.formats.text import read_text
from perception.common.nuscenes.index import Index
from perception.common.nuscenes.poses import inverse_rigid, rotations
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError
from perception.utils.paths import natural_order

NAME = 'rig.json'
MOST = 12  # cameras
LARGEST = 1e12  # number, whatever its unit
RIGID, ROUNDED = 1e-3, 1e-2  # how far a rotation may be from one without a word, and with one
DISTORTIONS = (4, 5, 8)  # numbers of them
FAR = 100  # m from the car's origin, where no camera is
RIG_KEYS = ('cameras', 'lidar', 'map_range', 'timestamp', 'car_to_world')
CAMERA_KEYS = ('name', 'image', 'size', 'K', 'D', 'pose')
# nuScenes' LiDAR stands so in the car, x right, y forward; it leans by 1.4 degrees there, which others do not
LIDAR_TO_CAR = np.array([[0, 1, 0, 0.943713], [-1, 0, 0, 0], [0, 0, 1, 1.84023], [0, 0, 0, 1.0]])


class Camera(NamedTuple):
    """A camera of a rig.

    Attributes:
        name: of its own.
        image: file of its image, relative to the folder; empty where it is called as the camera.
        size: width and height in pixels.
        cam_to_img: (3, 3).
        cam_to_car: (4, 4).
        distortion: 4, 5 or 8 numbers, see above, of its image files; none for undistorted ones.
    """
    name: str
    image: str
    size: tuple[int, int]
    cam_to_img: np.ndarray
    cam_to_car: np.ndarray
    distortion: tuple[float, ...] = ()


class Rig(NamedTuple):
    """Cameras around a car.

    Attributes:
        cameras: 1 to 12.
        lidar_to_car: (4, 4), None where it is not known.
        map_range: m around the car that the picture from above shows, None for as far as the net finds things.
        timestamp: s.
        car_to_world: (4, 4), None where it is not known.
        where: file, for messages.
    """
    cameras: tuple[Camera, ...]
    lidar_to_car: np.ndarray | None = None
    map_range: float | None = None
    timestamp: float = 0.0
    car_to_world: np.ndarray | None = None
    where: str = 'rig'

    def frame_to_car(self, bev_frame: str) -> np.ndarray:
        """(4, 4) pose of a frame of `NuScenesRig` in the car; where no LiDAR is known it is where nuScenes' stands."""
        if bev_frame == 'lidar':
            return LIDAR_TO_CAR if self.lidar_to_car is None else self.lidar_to_car
        if bev_frame == 'flat_ego' and self.car_to_world is not None:
            return inverse_rigid(self.car_to_world) @ flattened(self.car_to_world)
        return np.eye(4)

    def choose(self, names: Sequence[str]) -> Rig:
        """The rig with some of its cameras, in that order.

        Raises:
            DataError: one is missing.
        """
        known = {camera.name: camera for camera in self.cameras}
        missing = [name for name in names if name not in known]
        if missing:
            raise DataError(f'{self.where}: no camera {", ".join(missing)} among {", ".join(known)}, expected those '
                            f'that the net was made for: {", ".join(names)}. Name them so.')
        return self._replace(cameras=tuple(known[name] for name in names))


def read_rig(path: str | Path) -> Rig:
    """Read a `rig.json`.

    Args:
        path: the file.

    Raises:
        DataError: no such file, or one that says what cannot be; a sentence tells what.
    """
    try:
        content = json.loads(read_text(path, 'the cameras of a car'))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f'{path}: no valid JSON ({error}), expected the cameras of a car. Correct it; the head of '
                        'perception/bev/rig.py describes it.') from error
    return parse_rig(content, str(path))


def parse_rig(content: Any, where: str = 'rig') -> Rig:
    """The rig that a `rig.json` describes.

    Args:
        content: of the file.
        where: the file, for messages.

    Raises:
        DataError: it says what cannot be.
    """
    cameras = content.get('cameras') if isinstance(content, Mapping) else None
    if not isinstance(cameras, list) or not 1 <= len(cameras) <= MOST or \
            not all(isinstance(camera, Mapping) for camera in cameras):
        whole = 'no object' if not isinstance(content, Mapping) else f'cameras is a {type(cameras).__name__}'
        came = f'{len(cameras)} cameras' if isinstance(cameras, list) else whole
        raise DataError(f'{where}: {came}, expected `cameras`, a list of 1 to {MOST} objects. Correct it; the head of '
                        'perception/bev/rig.py describes it.')
    found = [_camera(camera, f'{where}: camera {number}') for number, camera in enumerate(cameras)]
    _strangers(content, RIG_KEYS, where)
    names = [camera.name for camera in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f'{where}: two cameras are called {twice!r}, expected names of their own. Rename one.')
    lidar, world = content.get('lidar'), content.get('car_to_world')
    if lidar is not None and not isinstance(lidar, Mapping):
        raise DataError(f'{where}: lidar is a {type(lidar).__name__}, expected an object with its pose. Correct it.')
    reach = content.get('map_range')
    if reach is not None and not (_is_number(reach) and 0 < reach <= 1000):
        raise DataError(f'{where}: map_range {str(reach)[:40]!r}, expected a number of metres above 0. Correct it.')
    timestamp = content.get('timestamp', 0.0)
    if not _is_number(timestamp):
        raise DataError(f'{where}: timestamp {str(timestamp)[:40]!r}, expected a number of seconds. Correct it.')
    return Rig(tuple(found), None if lidar is None else _pose(lidar.get('pose'), f'{where}: lidar'), reach,
               float(timestamp), None if world is None else _pose(world, f'{where}: car_to_world'), where)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST


def _camera(item: Mapping, where: str) -> Camera:
    name, image, size = item.get('name'), item.get('image', ''), item.get('size')
    good = isinstance(name, str) and name.isprintable() and name.strip('. ') and '/' not in name and len(name) <= 100
    if not good:
        raise DataError(f'{where}: name {str(name)[:40]!r}, expected a plain text. Name it.')
    where = f'{where} ({name})'
    if not isinstance(image, str) or Path(image).is_absolute() or '..' in Path(image).parts:
        raise DataError(f'{where}: image {str(image)[:80]!r}, expected a file beside {NAME} or below. Correct it.')
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 0 < n < 1 << 15 for n in size):
        raise DataError(f'{where}: size {str(size)[:40]}, expected width and height in pixels. Correct it.')
    matrix = _matrix(item.get('K'), 3, f'{where}: K')
    if np.abs(matrix[2] - (0, 0, 1)).max() > 1e-9 or np.linalg.det(matrix) < 1e-6:
        raise DataError(f'{where}: K {matrix.tolist()} is singular, mirrors or has another last row than 0, 0, 1, '
                        'expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with focal lengths in pixels. Calibrate '
                        'the camera.')
    middle = matrix[:2, 2]
    if not ((middle >= -1) & (middle <= size)).all():
        _warn(f'{where}: K has its middle at {middle[0]:.0f}, {middle[1]:.0f}, outside of an image of {size[0]} x '
              f'{size[1]} pixels. Is it the K of an image of another size? It is taken as it is.')
    distortion = item.get('D')
    if distortion is not None and not (isinstance(distortion, list) and len(distortion) in DISTORTIONS
                                       and all(_is_number(value) for value in distortion)):
        raise DataError(f'{where}: D {textwrap.shorten(str(distortion), 80)}, expected k1, k2, p1, p2 and none, k3 or '
                        'k3 to k6, as OpenCV has them; images of fisheye lenses are to be undistorted before. Correct '
                        'it.')
    _strangers(item, CAMERA_KEYS, where)
    pose = _pose(item.get('pose'), where)
    if np.abs(pose[:3, 3]).max() > FAR:
        raise DataError(f'{where}: {np.abs(pose[:3, 3]).max():.0f} m from the car, expected at most {FAR}. Give the '
                        'pose in metres.')
    return Camera(name, image, tuple(size), matrix, pose, tuple(map(float, distortion or ())))


def _strangers(item: Mapping, known: Sequence[str], where: str) -> None:
    """Warn of keys that nobody reads."""
    keys = [str(key)[:40] for key in item if key not in known]
    if keys:
        _warn(f'{where}: {", ".join(keys[:5])} left out; known are {", ".join(known)}.')


@cache
def _warn(text: str) -> None:
    """Once, as a sequence may have a file for each moment."""
    print_log(text, 'current', logging.WARNING)


def _pose(value: Any, where: str) -> np.ndarray:
    """(4, 4) rigid motion."""
    matrix = _of_quaternion(value, where) if isinstance(value, Mapping) else _matrix(value, 4, f'{where}: pose')
    turn = matrix[:3, :3]
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-9:
        raise DataError(f'{where}: a pose whose last row is {matrix[3].tolist()}, expected 0, 0, 0, 1: columns are the '
                        'axes and the place. Transpose the pose or correct it.')
    off = np.abs(turn @ turn.T - np.eye(3)).max()
    if off > ROUNDED or np.linalg.det(turn) < 0:
        raise DataError(f'{where}: a pose whose rotation is not rigid (R R^T differs from 1 by {off:.3g}, determinant '
                        f'{np.linalg.det(turn):.3g}), expected orthonormal axes, right-handed. Correct the pose, which '
                        'leads from the camera to the car.')
    if off > RIGID:
        _warn(f'{where}: a pose whose rotation is nearly rigid (R R^T differs from 1 by {off:.3g}), as if rounded; the '
              'nearest rotation is taken.')
    left, _, right = np.linalg.svd(turn)
    matrix[:3, :3] = left @ right
    return matrix


def _of_quaternion(value: Mapping, where: str) -> np.ndarray:
    """(4, 4) of a translation and a quaternion whose parts have names."""
    place, turn = value.get('translation'), value.get('rotation')
    parts = [turn.get(name) for name in 'wxyz'] if isinstance(turn, Mapping) else []
    if not isinstance(place, list) or len(place) != 3 or not all(map(_is_number, (*place, *parts))) or len(parts) != 4 \
            or not abs(np.linalg.norm(parts) - 1) <= ROUNDED:
        raise DataError(f'{where}: pose {textwrap.shorten(str(dict(value)), 120)}, expected 4 x 4 numbers, or '
                        '{"translation": [x, y, z], "rotation": {"w": ..., "x": ..., "y": ..., "z": ...}} of length 1. '
                        'Name the parts of the quaternion.')
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotations(np.array([parts]) / np.linalg.norm(parts))[0], place
    return matrix


def _matrix(value: Any, size: int, where: str) -> np.ndarray:
    """(size, size) float64."""
    try:
        matrix = np.array(value)
    except ValueError:  # rows of several lengths
        matrix = np.zeros(0)
    if matrix.shape != (size, size) or matrix.dtype.kind not in 'iuf' or not (np.abs(matrix) < LARGEST).all():
        raise DataError(f'{where} {textwrap.shorten(str(value), 80)}, expected {size} x {size} finite numbers. Correct '
                        'it.')
    return matrix.astype(np.float64)


def to_json(rig: Rig) -> dict:
    """What `parse_rig` makes the same rig of."""
    content: dict[str, Any] = dict(cameras=[
        dict(name=camera.name, **(dict(image=camera.image) if camera.image else {}), size=list(camera.size),
             K=camera.cam_to_img.tolist(), **(dict(D=list(camera.distortion)) if camera.distortion else {}),
             pose=camera.cam_to_car.tolist()) for camera in rig.cameras])
    if rig.lidar_to_car is not None:
        content['lidar'] = dict(pose=rig.lidar_to_car.tolist())
    if rig.map_range is not None:
        content['map_range'] = rig.map_range
    content['timestamp'] = rig.timestamp
    if rig.car_to_world is not None:
        content['car_to_world'] = rig.car_to_world.tolist()
    return content


def write_rig(path: str | Path, rig: Rig) -> Path:
    """Write a `rig.json`.

    Raises:
        DataError: it cannot be written.
    """
    with atomic_path(Path(path), DataError) as part:
        part.write_text(json.dumps(to_json(rig), indent=1) + '\n', 'utf-8')
    return Path(path)


def rig_of_key_frame(index: Index, row: int, cameras: Sequence[str] = ()) -> Rig:
    """The rig of a key frame of nuScenes, its cameras where they are at their own times seen from the LiDAR's time.

    Args:
        index: of the version.
        row: of the key frame.
        cameras: names; all that there are by default. Images are called by their files' names.
    """
    views, ego = index.views(row, tuple(cameras)), index.ego_to_world(row)
    found = tuple(Camera(name, Path(views[name].image).name, (views[name].width, views[name].height),
                         views[name].cam_to_img, inverse_rigid(ego) @ views[name].ego_to_world @ views[name].cam_to_ego)
                  for name in cameras or views)
    frame = index.frames[row]
    return Rig(found, index.lidar_to_ego(row), None, frame.timestamp / 1e6, ego, f'{frame.scene}, {frame.sample}')


# --- folders ---------------------------------------------------------------------------------------------------------
def find_rigs(folder: Path) -> list[tuple[Path, Path]]:
    """Folders of images and their `rig.json`: the folder itself, or those in it, in order.

    Raises:
        DataError: there is none.
    """
    own = folder / NAME
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.'))
    with_own = [(path, path / NAME) for path in inner if (path / NAME).is_file()]
    if with_own:
        return with_own
    if not own.is_file():
        raise DataError(f'{folder}: no {NAME} in it or in a folder below, expected images of a car with the file that '
                        'tells their cameras. Write one; the head of perception/bev/rig.py describes it.')
    rig = read_rig(own)
    shared = [(path, own) for path in inner if image_files(rig, path, missing=True)]
    return shared or [(folder, own)]


def find_moments(rig: Rig, folder: Path) -> list[tuple[str, tuple[Path, ...]]]:
    """Name and images of each moment of a folder in which each camera has a folder, called as itself, of its images.

    Images of one name belong together. Those that not all cameras have are left out, with a warning.

    Returns:
        in natural order; none where a camera has no folder.

    Raises:
        DataError: no name that all have.
    """
    places = [folder / camera.name for camera in rig.cameras]
    if not all(place.is_dir() for place in places):
        return []
    files = [{path.stem: path for path in sorted(place.iterdir()) if path.suffix.lower() in SUFFIXES
              and not path.name.startswith('.')} for place in places]
    names = set.intersection(*map(set, files))
    if not names:
        first = ', '.join(f'{place.name}/{next(iter(own.values())).name if own else "(none)"}'
                          for place, own in zip(places, files))
        raise DataError(f'{folder}: no name that an image of each camera has (the first are {first}), expected the '
                        'images of a moment to be called alike. Rename them.')
    alone = sum(len(own) - len(names) for own in files)
    if alone:
        print_log(f'{folder}: {alone:,} images of moments of which not all cameras have one are left out.', 'current',
                  logging.WARNING)
    return [(name, tuple(own[name] for own in files)) for name in sorted(names, key=natural_order)]


def moments_of(folder: Path, cameras: Sequence[str] | None = None) -> list[tuple[str, Rig, tuple[Path, ...]]]:
    """Name, rig and images of each moment of a folder, in any of the layouts above.

    Args:
        folder: of images, or of such folders.
        cameras: names of those that are wanted, in this order; all by default.

    Raises:
        DataError: nothing there, or a moment that cannot be read.
    """
    def chosen(file: Path) -> Rig:
        rig = read_rig(file)
        return rig if cameras is None else rig.choose(cameras)

    if (folder / NAME).is_file():
        rig = chosen(folder / NAME)
        moments = find_moments(rig, folder)
        if moments:
            return [(name, rig, files) for name, files in moments]
    rigs = [(place, chosen(file)) for place, file in find_rigs(folder)]
    return [(place.name, rig, tuple(image_files(rig, place))) for place, rig in rigs]


def image_files(rig: Rig, folder: Path, missing: bool = False) -> list[Path]:
    """The image of each camera in a folder.

    Args:
        rig: the cameras.
        folder: of the images.
        missing: whether to return nothing where one is missing.

    Raises:
        DataError: one is missing.
    """
    files = []
    for camera in rig.cameras:
        names = [camera.image] if camera.image else [f'{camera.name}{ending}' for ending in SUFFIXES]
        file = next((folder / name for name in names if os.path.isfile(folder / name)), None)
        if file is None and missing:
            return []
        if file is None:
            raise DataError(f'{folder}: no {names[0][:100]} of the camera {camera.name}, expected the image of each '
                            f'camera of {rig.where}. Copy it there, or leave the camera out of {NAME}.')
        files.append(file)
    return files


def read_images(rig: Rig, images: Sequence[str | Path | np.ndarray], reduce: int = 1) -> list[np.ndarray]:
    """Images (H, W, 3) uint8 RGB of the cameras of a rig, undistorted, at a half, quarter or eighth of their size.

    Args:
        rig: the cameras.
        images: a file or an array for each.
        reduce: 1, 2, 4 or 8.

    Raises:
        DataError: another number of images, or one of another size than its camera's.
    """
    if len(images) != len(rig.cameras):
        raise DataError(f'{rig.where}: {len(images)} images for {len(rig.cameras)} cameras, expected one for each. '
                        'Give them in the order of the cameras.')
    found = []
    for camera, image in zip(rig.cameras, images):
        pixels = image if isinstance(image, np.ndarray) else read_image(image, reduce=reduce)
        where = f'the image of {camera.name}' if isinstance(image, np.ndarray) else str(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise DataError(f'{where}: {pixels.dtype} of shape {pixels.shape}, expected (H, W, 3) uint8, red first. '
                            'Convert it.')
        width, height = camera.size
        factor = 1 if isinstance(image, np.ndarray) else reduce
        if pixels.shape[:2] != (-(-height // factor), -(-width // factor)):
            came = 'about ' * (factor > 1) + ' x '.join(str(n * factor) for n in pixels.shape[1::-1])
            raise DataError(f'{where}: {came} pixels, expected {width} x {height} as {rig.where} says of '
                            f'{camera.name}. Scale the image, or correct size and K.')
        pixels = reduced(pixels, reduce // factor)  # as a file of these pixels would be read
        found.append(undistorted(pixels, camera.cam_to_img, camera.distortion, reduce))
    return found


def undistorted(pixels: np.ndarray, cam_to_img: np.ndarray, distortion: Sequence[float], reduce: int = 1) -> np.ndarray:
    """An image (H, W, 3) freed of its distortion, black where its file shows nothing.

    Args:
        pixels: the image.
        cam_to_img: (3, 3), of the file.
        distortion: see above, none for images that have none.
        reduce: so many times smaller than the file is the image.
    """
    if not len(distortion):
        return pixels
    share = 1 / reduce
    matrix = [[share, 0, (share - 1) / 2], [0, share, (share - 1) / 2], [0, 0, 1]] @ np.asarray(cam_to_img, np.float64)
    places = _undistortion(matrix.tobytes(), tuple(distortion), pixels.shape[1::-1])
    return cv2.remap(pixels, *places, cv2.INTER_LINEAR)


@lru_cache(maxsize=2 * MOST)
def _undistortion(matrix: bytes, distortion: tuple[float, ...], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of an undistorted image of a size lie in the file's; kept, for it takes longer than moving them.
    """
    matrix = np.frombuffer(matrix).reshape(3, 3)
    return cv2.initUndistortRectifyMap(matrix, np.array(distortion), None, matrix, size, cv2.CV_16SC2)


def rig_sample(rig: Rig, images: Sequence[np.ndarray], bev_frame: str, name: str = 'rig',
               files: Sequence[str] = ()) -> dict:
    """A sample as NuScenesRig reads it, without truth.

    Args:
        rig: the cameras.
        images: of `read_images`.
        bev_frame: see NuScenesRig.
        name: of the sample.
        files: of the images.
    """
    to_car = rig.frame_to_car(bev_frame)
    world = np.eye(4) if rig.car_to_world is None else rig.car_to_world
    shrinks = []
    for image, camera in zip(images, rig.cameras):
        share = 1 / round(camera.size[0] / image.shape[1])
        shrinks.append([[share, 0, (share - 1) / 2], [0, share, (share - 1) / 2], [0, 0, 1]])
    return dict(
        sample_id=name, images=list(images), cam_to_img=np.stack([camera.cam_to_img for camera in rig.cameras]),
        frame_to_cam=np.stack([inverse_rigid(camera.cam_to_car) @ to_car for camera in rig.cameras]),
        image_aug=np.array(shrinks), bev_aug=np.eye(4),
        meta=dict(sample_id=name, image_paths=[str(file) for file in files],
                  cameras=[camera.name for camera in rig.cameras], points_path='', bev_frame=bev_frame,
                  distortions=[camera.distortion for camera in rig.cameras],
                  frame_to_world=world @ to_car, ego_to_world=world, timestamp=rig.timestamp, scene=name, location=''))
