"""Augmentation of samples with many cameras: callables on the dict of NuScenesRig, drawing from `rng` alone.

The order of a training is `DropCameras`, `ImageAug`, `GridMask`, `SweepDepth`, `BEVAug`, and behind it what draws
maps, for that looks `bev_aug` up. Each keeps the matrices true: a point of the frame still falls onto the pixel that
shows it. Files are never changed: arrays are replaced by new ones.

Pixels: integers are the middles of pixels, so that an image of W columns is mirrored by u -> W - 1 - u, and turned
about ((W - 1) / 2, (H - 1) / 2).
"""
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import cv2
import numpy as np

from perception.common import boxes as geometry
from perception.registry import TRANSFORMS
from perception.utils.checks import check_choice, check_positive, rows_and_columns
from perception.utils.errors import ConfigError, DataError

# fields of RigSample that there is one of for each box of the truth
PER_BOX = ('boxes', 'labels', 'attributes', 'visibility', 'num_points', 'track_ids')
# fields of a sample that there is one of for each camera
PER_CAMERA = ('images', 'cam_to_img', 'frame_to_cam', 'image_aug', 'file_sizes', 'depth')
MEAN = (124, 116, 104)  # colour that a normalised image has as 0
ROUNDING = 1e-2  # pixels of a file


@TRANSFORMS.register_module()
class ImageAug:
    """Brings images to the net's size: scaled, cut, mirrored and turned by one affine warp of OpenCV each.

    The scale at which an image just covers the input, max(h / H, w / W), is 1: the rows that are too many are cut off
    at the top, where the sky is, as are columns at both sides alike. A training draws for each camera a scale, the
    columns, a mirror and a turn; without numbers of a training (or with those that follow) nothing is drawn. It leaves
    `file_sizes` (N, 2), rows and columns of the files, in the sample.

    Args:
        size: rows and columns of the input.
        scale: least and greatest, relative to the one that just covers the input.
        bottom: least and greatest share of the rows that are cut off at the bottom.
        degrees: greatest turn to either side about the middle of the input.
        flip: probability of the mirror.

    Raises:
        ConfigError: numbers that are none of these.
        DataError: depths of the images were taken already.
    """

    def __init__(self, size: Sequence[int], scale: Sequence[float] = (1.0, 1.0), bottom: Sequence[float] = (0.0, 0.0),
                 degrees: float = 0.0, flip: float = 0.0) -> None:
        self.size = rows_and_columns('ImageAug: size', size)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] or len(bottom) != 2 or not 0 <= bottom[0] <= bottom[1] < 1 \
                or not 0 <= degrees <= 180 or not 0 <= flip <= 1:
            raise ConfigError(f'ImageAug: scale={scale}, bottom={bottom}, degrees={degrees}, flip={flip}, expected two '
                              'factors above 0, two shares below 1, an angle and a probability. Correct them.')
        self.scale, self.bottom, self.degrees, self.flip = tuple(scale), tuple(bottom), degrees, flip
        self.drawn = degrees > 0 or flip > 0 or scale[0] < scale[1] or bottom[0] < bottom[1]

    def __call__(self, sample: dict) -> dict:
        if 'depth' in sample:
            raise DataError(f'ImageAug: {sample["sample_id"]} has depth already, expected it to be taken from the '
                            'images as the net sees them. Put SweepDepth behind ImageAug.')
        images, matrices, sizes = [], [], []
        known = sample.get('file_sizes', repeat(None))  # of an ImageAug before this one
        for image, so_far, size in zip(sample['images'], sample['image_aug'], known):
            size = file_size(image, so_far) if size is None else tuple(size)
            matrix = self.draw(sample['rng'], size) if self.drawn else \
                image_matrix(size, self.size, self.scale[0], self.bottom[0])
            images.append(warp(image, matrix @ np.linalg.inv(so_far), self.size))
            matrices.append(matrix)
            sizes.append(size)
        return dict(sample, images=images, image_aug=np.stack(matrices), file_sizes=np.array(sizes))

    def draw(self, rng: np.random.Generator, size: tuple[float, float]) -> np.ndarray:
        """(3, 3) from the pixels of a file of H rows and W columns to those of the input."""
        return image_matrix(size, self.size, rng.uniform(*self.scale), rng.uniform(*self.bottom), rng.random(),
                            rng.random() < self.flip, rng.uniform(-self.degrees, self.degrees))


def file_size(image: np.ndarray, image_aug: np.ndarray) -> tuple[float, float]:
    """Rows and columns of the file that an image (H, W, 3) was decoded from at a fraction of its size."""
    return image.shape[0] / image_aug[1, 1], image.shape[1] / image_aug[0, 0]


def image_matrix(size: tuple[float, float], target: tuple[int, int], scale: float = 1.0, bottom: float = 0.0,
                 across: float = 0.5, mirrored: bool = False, degrees: float = 0.0) -> np.ndarray:
    """(3, 3) from the pixels of a file to those of an input.

    Args:
        size: rows and columns of the file.
        target: rows and columns of the input.
        scale: relative to the one that just covers the input.
        bottom: share of the scaled rows that is cut off at the bottom.
        across: share of the columns that are too many which is cut off at the left.
        mirrored: left and right.
        degrees: of the turn, counter-clockwise as it is seen, about the middle of the input.
    """
    (rows, columns), (height, width) = size, target
    factor = scale * max(height / rows, width / columns)
    new_height, new_width = int(round(rows * factor, 6)), int(round(columns * factor, 6))
    top = int((1 - bottom) * new_height) - height
    left = int(across * max(0, new_width - width))
    place = np.array([[factor, 0, (factor - 1) / 2 - left], [0, factor, (factor - 1) / 2 - top], [0, 0, 1]])
    if mirrored:
        place = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]) @ place
    if degrees:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn, middle = np.array([[c, s], [-s, c]]), np.array([(width - 1) / 2, (height - 1) / 2])
        place = np.block([[turn, (middle - turn @ middle)[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]]) @ place
    return place


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (H, W, 3) after an affine map (3, 3) of its pixels, (rows, columns, 3), black beyond its border."""
    return cv2.warpAffine(image, matrix[:2], size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


@TRANSFORMS.register_module()
class GridMask:
    """Hides a grid of squares in all images of a sample alike (Pengguang Chen et al., GridMask, 2020).

    Args:
        probability: of masking a sample.
        ratio: side of the squares as a share of the grid's period, which is drawn from 2 to the rows of the image.

    Raises:
        ConfigError: numbers that are none of these.
    """

    def __init__(self, probability: float = 0.7, ratio: float = 0.5) -> None:
        if not 0 <= probability <= 1 or not 0 < ratio < 1:
            raise ConfigError(f'GridMask: probability={probability}, ratio={ratio}, expected shares of 1. Correct '
                              'them.')
        self.probability, self.ratio = probability, ratio

    def __call__(self, sample: dict) -> dict:
        rng = sample['rng']
        if rng.random() >= self.probability:
            return sample
        height, width = sample['images'][0].shape[:2]
        period = int(rng.integers(2, max(height, 3)))
        side = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        rows, columns = ((np.arange(n) + rng.integers(period)) % period < side for n in (height, width))
        hidden, grey = (rows[:, None] & columns).astype(np.uint8), np.full((height, width, 3), MEAN, np.uint8)
        return dict(sample, images=[cv2.copyTo(grey, hidden, image.copy()) for image in sample['images']])


@TRANSFORMS.register_module()
class DropCameras:
    """Leaves out cameras: as many for each sample, so that batches fit together.

    Args:
        keep: how many stay, drawn for each sample; their order stays.
        names: leave out these instead, of any sample, as where a camera is lost.
        black: make their images black rather than leave them out, for nets that need all of them.

    Raises:
        ConfigError: neither or both of keep and names, or a name that no camera of a sample has.
    """

    def __init__(self, keep: int | None = None, names: Sequence[str] = (), black: bool = False) -> None:
        if (keep is None) == (not names) or keep is not None and keep < 1:
            raise ConfigError(f'DropCameras: keep={keep}, names={list(names)}, expected how many cameras stay, or the '
                              'names of those that do not. Give one of both.')
        self.keep, self.names, self.black = keep, tuple(names), black

    def __call__(self, sample: dict) -> dict:
        cameras = sample['meta']['cameras']
        if self.keep is None:
            for name in self.names:
                check_choice('DropCameras: a camera', name, cameras)
            kept = np.flatnonzero([camera not in self.names for camera in cameras])
        elif self.keep > len(cameras):
            raise ConfigError(f'DropCameras: keep={self.keep} of {len(cameras)} cameras, expected at most as many as '
                              'there are. Correct it.')
        else:
            kept = np.sort(sample['rng'].permutation(len(cameras))[:self.keep])
        if self.black:
            return dict(sample, images=[image if i in kept else np.zeros_like(image)
                                        for i, image in enumerate(sample['images'])])
        if not len(kept):
            raise DataError(f'{sample["sample_id"]}: no camera is left of {", ".join(cameras)}, expected one at least. '
                            'Drop fewer.')
        return select_cameras(sample, kept)


def select_cameras(sample: dict, rows: np.ndarray) -> dict:
    """The sample with some of its cameras, in the order of rows (n,)."""
    meta = {key: [value[i] for i in rows] if key in ('cameras', 'image_paths') else value
            for key, value in sample['meta'].items()}
    return dict(sample, meta=meta, **{key: [sample[key][i] for i in rows] if key == 'images' else sample[key][rows]
                                      for key in PER_CAMERA if key in sample})


@TRANSFORMS.register_module()
class MoveCameras:
    """Calibrations that are wrong: each camera is taken to be turned and shifted, while its image stays.

    Axis and direction are drawn for each camera of each sample.

    Args:
        degrees: of the turn.
        metres: of the shift.

    Raises:
        ConfigError: numbers below 0, or nothing to move by.
    """

    def __init__(self, degrees: float = 0.0, metres: float = 0.0) -> None:
        if not (0 <= degrees <= 180 and metres >= 0 and degrees + metres > 0):
            raise ConfigError(f'MoveCameras: degrees={degrees}, metres={metres}, expected 0 to 180 degrees and 0 m or '
                              'more, not both 0. Correct them.')
        self.degrees, self.metres = degrees, metres

    def __call__(self, sample: dict) -> dict:
        from scipy.spatial.transform import Rotation
        moves = np.repeat(np.eye(4)[None], len(sample['frame_to_cam']), 0)
        axes = sample['rng'].normal(size=(2, len(moves), 3))
        axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
        moves[:, :3, :3] = Rotation.from_rotvec(np.radians(self.degrees) * axes[0]).as_matrix()
        moves[:, :3, 3] = self.metres * axes[1]
        return dict(sample, frame_to_cam=moves @ sample['frame_to_cam'])


@TRANSFORMS.register_module()
class SweepDepth:
    """Depths of the LiDAR's points in blocks of the input images, behind ImageAug, for nets that learn them.

    Points that fall onto what is black beyond an image's border are left out: nothing there tells their depth.

    Args:
        stride: rows and columns of a block.
        near, far: m; points outside are left out.
        keep_points: whether the net sees the points as well.

    Raises:
        ConfigError: numbers that are none of these.
    """

    def __init__(self, stride: int = 16, near: float = 0.1, far: float = 200.0, keep_points: bool = False) -> None:
        check_positive('SweepDepth', stride=stride, near=near)
        if not near < far:
            raise ConfigError(f'SweepDepth: near={near}, far={far}, expected the former to be less. Correct them.')
        self.stride, self.near, self.far, self.keep_points = stride, near, far, keep_points

    def __call__(self, sample: dict) -> dict:
        if 'points' not in sample:
            raise ConfigError('SweepDepth: a sample without points, expected those of its LiDAR. Give the data set '
                              'points=True.')
        # points lie where BEVAug has brought them
        to_cam = sample['frame_to_cam'] @ np.linalg.inv(sample['bev_aug'])
        height, width = sample['images'][0].shape[:2]
        files = zip(sample['image_aug'], sample['file_sizes']) if 'file_sizes' in sample else repeat(None)
        result = dict(sample, depth=np.stack([
            block_depths(sample['points'][:, :3], to_image, (height, width), self.stride, self.near, self.far, file)
            for to_image, file in zip(image_matrices(sample['cam_to_img'], to_cam, sample['image_aug']), files)]))
        if not self.keep_points:
            del result['points']
        return result


def image_matrices(cam_to_img: np.ndarray, frame_to_cam: np.ndarray, image_aug: np.ndarray) -> np.ndarray:
    """(N, 3, 4) from x, y, z, 1 of the frame to u w, v w, w of the input's pixels."""
    return image_aug @ cam_to_img @ frame_to_cam[:, :3]


def block_depths(points: np.ndarray, to_image: np.ndarray, size: tuple[int, int], stride: int, near: float,
                 far: float, file: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """Least depth of points in each block of an image.

    Args:
        points: (P, 3) x, y, z [m].
        to_image: (3, 4) to u w, v w, w.
        size: rows and columns of the image.
        stride: of a block; those at the right and lower border may be smaller.
        near, far: m.
        file: what the image was made of: (3, 3) from its pixels to those of the image, and its rows and columns; points
            beyond its border are left out. None where the image shows all of it.

    Returns:
        (h, w) float32, 0 where there is no point.
    """
    matrix = to_image.astype(np.float32)
    u, v, depth = (points @ row[:3] + row[3] for row in matrix)
    rows = np.flatnonzero((depth > near) & (depth < far))
    u, v, depth = u[rows] / depth[rows], v[rows] / depth[rows], depth[rows]
    column, row = (np.floor((place + 0.5) / stride) for place in (u, v))
    inside = (u >= -0.5) & (u < size[1] - 0.5) & (v >= -0.5) & (v < size[0] - 0.5)
    if file is not None:
        back = np.linalg.inv(file[0]).astype(np.float32)
        for (a, b, c), pixels in zip(back, file[1][::-1]):  # along u, then v; borders are met but for rounding
            place = a * u + b * v + c
            inside &= (place > -0.5 - ROUNDING) & (place < pixels - 0.5 + ROUNDING)
    height, width = -(-size[0] // stride), -(-size[1] // stride)
    cells = (row[inside] * width + column[inside]).astype(np.int64)
    depths = np.zeros(height * width, np.float32)
    order = np.argsort(-depth[inside], kind='stable')
    depths[cells[order]] = depth[inside][order]  # the nearest is written last
    return depths.reshape(height, width)


@TRANSFORMS.register_module()
class BEVAug:
    """Turns, magnifies, shifts and mirrors the frame with its boxes, velocities, points and maps, in this order.

    Depths stay as they are: they are seen from the cameras, which `bev_aug` leads to the augmented frame.

    Args:
        max_radians: the turn about z is from U(-max_radians, max_radians).
        low, high: least and greatest factor of all lengths.
        std: of the shift along each axis [m].
        flip_x, flip_y: probabilities that x, and y, change their sign.

    Raises:
        ConfigError: numbers that are none of these.
        DataError: a map that was drawn already; it cannot be moved without loss.
    """

    def __init__(self, max_radians: float = 0.3925, low: float = 0.95, high: float = 1.05, std: float = 0.0,
                 flip_x: float = 0.5, flip_y: float = 0.5) -> None:
        if not (0 <= max_radians <= np.pi and 0 < low <= high and std >= 0 and 0 <= flip_x <= 1 and 0 <= flip_y <= 1):
            raise ConfigError(f'BEVAug: max_radians={max_radians}, low={low}, high={high}, std={std}, flip_x={flip_x}, '
                              f'flip_y={flip_y}, expected an angle in [0, pi], 0 < low <= high, a length in m and two '
                              'probabilities. Correct them.')
        self.max_radians, self.low, self.high, self.std = max_radians, low, high, std
        self.flips = dict(x=flip_x, y=flip_y)

    def __call__(self, sample: dict) -> dict:
        rng = sample['rng']
        angle, factor = rng.uniform(-self.max_radians, self.max_radians), rng.uniform(self.low, self.high)
        shift = rng.normal(0, self.std, 3) if self.std else np.zeros(3)
        return move_rig(sample, angle, factor, shift, [axis for axis, share in self.flips.items()
                                                       if rng.random() < share])


def move_rig(sample: dict, angle: float = 0.0, factor: float = 1.0, shift: Sequence[float] = (0, 0, 0),
             flips: Sequence[str] = ()) -> dict:
    """The sample in a frame that is turned [rad], magnified, shifted [m] and mirrored, in this order; see BEVAug."""
    for key in ('map_labels', 'map_mask'):
        if key in sample:
            raise DataError(f'BEVAug: {sample["sample_id"]} has {key} already, expected maps to be drawn behind it. '
                            'Put what draws them behind BEVAug.')
    move, (c, s) = np.eye(4), (np.cos(angle), np.sin(angle))
    move[:3, :3] = factor * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    move[:3, 3] = shift
    for axis in flips:
        check_choice('BEVAug: flip', axis, ('x', 'y'))
        move['xy'.index(axis)] *= -1
    result = dict(sample, bev_aug=move @ sample['bev_aug'])
    if 'boxes' in sample:
        boxes = geometry.translate(geometry.scale(geometry.rotate(sample['boxes'], angle), factor), shift)
        for axis in flips:
            boxes = geometry.flip(boxes, axis)
        boxes[:, 6] = geometry.wrap(boxes[:, 6])
        result['boxes'] = boxes
    if 'points' in sample:
        result['points'] = move_points(sample['points'], move)
    return result


def move_points(points: np.ndarray, move: np.ndarray) -> np.ndarray:
    """A copy of points (P, 3 or more) whose x, y, z are moved by a (4, 4) matrix, in their own type."""
    moved, move = points.copy(), move.astype(points.dtype)
    for axis in range(3):  # written out, as products of thin matrices are slow
        moved[:, axis] = points[:, :3] @ move[axis, :3] + move[axis, 3]
    return moved


def select_boxes(sample: dict, rows: np.ndarray) -> dict[str, Any]:
    """The sample with some of its boxes, in the order of rows (k,)."""
    return dict(sample, **{key: sample[key][rows] for key in PER_BOX if key in sample})


@TRANSFORMS.register_module()
class NearBoxes:
    """Leaves out boxes of the truth whose centre is farther away than counts.

    Args:
        ranges: m of each class on the ground from the frame's origin, one for all or one each.

    Raises:
        ConfigError: no such distances.
    """

    def __init__(self, ranges: float | Sequence[float] = 61.2) -> None:
        self.ranges = np.atleast_1d(np.asarray(ranges, np.float64))
        if self.ranges.ndim != 1 or not len(self.ranges) or not (self.ranges > 0).all():
            raise ConfigError(f'NearBoxes: ranges={ranges}, expected one distance above 0 m, or one for each class. '
                              'Correct it.')

    def __call__(self, sample: dict) -> dict:
        if 'boxes' not in sample:
            return sample
        if 1 < len(self.ranges) <= sample['labels'].max(initial=0):
            raise ConfigError(f'NearBoxes: {len(self.ranges)} ranges for a box of class {sample["labels"].max()}, '
                              'expected one for all, or one for each class. Give as many as there are classes.')
        limit = self.ranges[sample['labels'] if len(self.ranges) > 1 else np.zeros(len(sample['labels']), np.int64)]
        return select_boxes(sample, np.flatnonzero(np.hypot(*sample['boxes'][:, :2].T) < limit))
