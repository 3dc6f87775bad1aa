"""nuScenes: A multimodal dataset for autonomous driving (CVPR 2020): six cameras around a car and boxes in three
dimensions.

Holger Caesar, Varun Bankiti, Alex H. Lang, Sourabh Vora, Venice Erin Liong, Qiang Xu, Anush Krishnan, Yu Pan, Giancarlo
Baldan, Oscar Beijbom.

The official folders are read as they are unpacked; nuscenes-devkit knows the splits:

    <data_root>/v1.0-{trainval,test,mini}/*.json     tables
    <data_root>/samples/{CAM_*,LIDAR_TOP}/*          images and sweeps of key frames
    <data_root>/sweeps/LIDAR_TOP/*.pcd.bin           sweeps between them, where they are asked for

Boxes, matrices, points and maps of a sample lie in one frame, `bev_frame`. nuScenes' LiDAR has x to the right, y
forward, z up, 1.84 m above the ground; the car has x forward, y left, z up and its origin on the ground below the rear
axle; the flat car is that one turned upright, as protocols of map segmentation have it.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.logging import print_log

from perception.bev.datasets.nuscenes.map_presets import MapPreset, map_labels, preset_of, vehicle_labels
from perception.bev.geometry import BEVGrid
from perception.bev.transforms import PER_BOX
from perception.common.dataset import SeededDataset
from perception.common.formats.images import read_image
from perception.common.formats.kitti import read_points
from perception.common.formats.point_columns import NUSCENES_COLUMNS
from perception.common.nuscenes.index import CAMERAS, Boxes, Index, KeyFrame, View
from perception.common.nuscenes.maps import read_map
from perception.common.nuscenes.poses import inverse_rigid, rotations
from perception.common.nuscenes.reader import read_split
from perception.common.nuscenes.tables import DOWNLOAD
from perception.common.structures import RigSample
from perception.registry import DATASETS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path, missing_files

CLASSES = ('car', 'truck', 'bus', 'trailer', 'construction_vehicle', 'pedestrian', 'motorcycle', 'bicycle',
           'traffic_cone', 'barrier')
PALETTE = ((255, 158, 0), (255, 99, 71), (255, 127, 80), (255, 140, 0), (233, 150, 70), (0, 0, 230), (255, 61, 99),
           (220, 20, 60), (47, 79, 79), (112, 128, 144))
ATTRIBUTES = ('vehicle.moving', 'vehicle.stopped', 'vehicle.parked', 'cycle.with_rider', 'cycle.without_rider',
              'pedestrian.sitting_lying_down', 'pedestrian.standing', 'pedestrian.moving')
DETECTION = {  # category -> class of the detection challenge; all others are left out
    'vehicle.car': 'car',
    'vehicle.truck': 'truck',
    'vehicle.bus.bendy': 'bus',
    'vehicle.bus.rigid': 'bus',
    'vehicle.trailer': 'trailer',
    'vehicle.construction': 'construction_vehicle',
    'human.pedestrian.adult': 'pedestrian',
    'human.pedestrian.child': 'pedestrian',
    'human.pedestrian.construction_worker': 'pedestrian',
    'human.pedestrian.police_officer': 'pedestrian',
    'vehicle.motorcycle': 'motorcycle',
    'vehicle.bicycle': 'bicycle',
    'movable_object.trafficcone': 'traffic_cone',
    'movable_object.barrier': 'barrier'}
RACK = 'static_object.bicycle_rack'
FRAMES = ('lidar', 'ego', 'flat_ego')
SHARE = 0.1  # of the samples that a class has after balancing


class Annotations(NamedTuple):
    """What the official score needs of a key frame, in the world's frame: K boxes, R racks for bicycles.

    Attributes:
        boxes: (K, 9) float64 x, y, z of the centre, l, w, h [m], yaw [rad], vx, vy [m/s], NaN where unknown.
        labels: (K,) int64 rows of `CLASSES`.
        attributes: (K,) int64 rows of `ATTRIBUTES`, -1 none.
        points: (K,) int64 of LiDAR and radar.
        visibility: (K,) int64, 1 to 4, 0 unknown.
        racks: (R, 9) as `boxes`.
        rack_rotations: (R, 4) quaternions w, x, y, z.
    """
    boxes: np.ndarray
    labels: np.ndarray
    attributes: np.ndarray
    points: np.ndarray
    visibility: np.ndarray
    racks: np.ndarray
    rack_rotations: np.ndarray


@DATASETS.register_module()
class NuScenesRig(SeededDataset):
    """Key frames of nuScenes with their images, boxes and calibration, in the official layout.

    `dataset[i]` or `dataset[epoch, i]` gives `dict(inputs=..., data_samples=RigSample)`. The inputs, N cameras:
    `images` (N, 3, H, W) uint8 RGB, `cam_to_img` (N, 3, 3), `frame_to_cam` (N, 4, 4), `image_aug` (N, 3, 3), pixel of
    the file to pixel of the input (integers are the middles of pixels), `bev_aug` (4, 4), the frame to the augmented
    one that boxes, points and labels lie in, float32, and with `points` the sweep, (P, 5) x, y, z, intensity, age [s].

    The pipeline sees these with `images` a list of (H, W, 3) arrays and float64 matrices, and `boxes` (K, 9) float64,
    what `PER_BOX` of `perception/bev/transforms.py` names, and `meta`, the meta information; see SeededDataset.

    Args:
        data_root: folder that holds `v1.0-...` and `samples`; a leading `data` gives way to PERCEPTION_DATA.
        split: official scenes: 'train', 'val', 'test' (no boxes), 'mini_train' or 'mini_val'.
        bev_frame: `'lidar'`, `'ego'` or `'flat_ego'`.
        cameras: of nuScenes, in this order.
        motion: whether the car's motion between the LiDAR's time and each camera's counts, of which some papers'
            projections know nothing.
        reduce: 2, 4 or 8 to decode images at a half, quarter or eighth of their size, for inputs that are as small;
            matrices follow.
        images: whether to read the images; without them `images` is absent, and the tables alone have to be there.
        points: whether to read the LiDAR's points, which training for depths needs.
        sweeps: how many sweeps before that of the key frame are added to it.
        min_points: of LiDAR and radar in a box of the truth; those with fewer are left out.
        map_preset: protocol of `map_presets.py` whose labels are drawn behind the pipeline, in the augmented frame.
        map_grid: other `x` and `y` of its grid, low, high and cell [m] each.
        balance: repeat samples such that each class is in as many (CBGS); for training.
        scenes: names of those to be read of the split, all by default.
        incomplete: what becomes of key frames of which a file is not there, such as those of archives that were never
            unpacked: `'refuse'` the data set, `'leave_out'`, or `'keep'` them, so that reading one raises.
        training: whether empty truth is refused and what the official score needs is left out; by default, for the two
            train splits.
        pipeline: augmentations, callables or their configs, applied in turn.
        seed: of the augmentation.

    Raises:
        ConfigError: an unknown split, frame, camera or scene.
        DataError: missing or damaged tables, no scene of the split, files that are not there, nothing to learn.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE, attributes=ATTRIBUTES, rate=2.0)  # key frames a second

    def __init__(self, data_root: str | Path = 'data/nuscenes', split: str = 'train', bev_frame: str = 'lidar',
                 cameras: Sequence[str] = CAMERAS, motion: bool = True, reduce: int = 1, images: bool = True,
                 points: bool = False, sweeps: int = 0, min_points: int = 1, map_preset: str | None = None,
                 map_grid: Mapping[str, Sequence[float]] | None = None, balance: bool = False,
                 scenes: Sequence[str] | None = None, incomplete: str = 'refuse', training: bool | None = None,
                 pipeline: Sequence[dict | Callable] = (), seed: int = 0) -> None:
        super().__init__(pipeline, seed)
        check_choice('NuScenesRig: incomplete', incomplete, ('refuse', 'leave_out', 'keep'))
        check_choice('NuScenesRig: bev_frame', bev_frame, FRAMES)
        check_choice('NuScenesRig: reduce', reduce, (1, 2, 4, 8))
        for camera in cameras:
            check_choice('NuScenesRig: camera', camera, CAMERAS)
        if not len(cameras) or len(set(cameras)) < len(cameras):
            raise ConfigError(f'NuScenesRig: cameras={list(cameras)}, expected some of {", ".join(CAMERAS)}, each '
                              'once. Correct them.')
        if sweeps:
            check_positive('NuScenesRig', sweeps=sweeps)
        self.data_root, self.split, self.bev_frame = data_path(data_root), split, bev_frame
        self.cameras, self.motion, self.reduce, self.with_points = tuple(cameras), motion, reduce, points
        self.sweeps, self.min_points, self.with_images = sweeps, min_points, images
        self.training = split.endswith('train') if training is None else training
        self.index, self.frames = read_split(self.data_root, split)
        whole = len(self.frames)
        if scenes is not None:
            for scene in scenes:
                check_choice('NuScenesRig: scene', scene, sorted({frame.scene for frame in self.frames}))
            if not len(scenes):
                raise ConfigError('NuScenesRig: scenes=[], expected some, or None for all of the split. Name them.')
            self.frames = [frame for frame in self.frames if frame.scene in scenes]
        if incomplete != 'keep':
            self.frames = self._complete(incomplete == 'leave_out')
        names = [DETECTION.get(name) for name in self.index.category_names.tolist()]
        self.label_of = np.array([-1 if name is None else CLASSES.index(name) for name in names], np.int64)
        self.attribute_of = np.array([ATTRIBUTES.index(name) if name in ATTRIBUTES else -1
                                      for name in (*self.index.attribute_names.tolist(), '')], np.int64)
        self.rack = np.flatnonzero(self.index.category_names == RACK)
        self.labelled = bool(len(self.index.boxes)) and split != 'test'
        if self.training and self.labelled:
            self._check_labelled()
        self.order = self.balanced() if balance else np.arange(len(self.frames))
        self.map_preset = preset_with(map_preset, map_grid)
        if self.map_preset is not None and bev_frame != self.map_preset.frame:
            print_log(f'NuScenesRig: map_preset={map_preset!r} in the frame {bev_frame!r}, expected '
                      f'{self.map_preset.frame!r}, that of the protocol: scores cannot be compared with published '
                      'ones. Give data and model that bev_frame.', 'current', logging.WARNING)
        self.metainfo = dict(self.describe(dict(map_preset=map_preset)), data_root=str(self.data_root), split=split,
                             bev_frame=bev_frame, num_samples=whole)

    @classmethod
    def describe(cls, config: Mapping) -> dict[str, Any]:
        """See SeededDataset; `map_classes` too where there are maps."""
        preset = preset_with(config.get('map_preset'))
        return dict(cls.METAINFO, map_classes=() if preset is None else preset.classes)

    def __len__(self) -> int:
        return len(self.order)

    def _complete(self, leave_out: bool) -> list[KeyFrame]:
        """The key frames of which all files are there, of the cameras and, where it is read, of the LiDAR.

        Raises:
            DataError: there are others, which are not to be left out, or no such.
        """
        cameras = self.cameras if self.with_images else ()
        channels = [0] * self.with_points + [1 + CAMERAS.index(camera) for camera in cameras]
        records = self.index.sample_records[[frame.row for frame in self.frames]][:, channels]  # -1: never taken
        files = [[self.index.record_files[record].decode() if record >= 0 else '' for record in row]
                 for row in records.tolist()]
        absent = {'', *missing_files((file for row in files for file in row if file), self.data_root)}
        whole = [absent.isdisjoint(row) for row in files]
        if all(whole):
            return self.frames
        row = whole.index(False)
        first = next(file for file in files[row] if file in absent)
        if not leave_out and not first:
            self.index.views(self.frames[row].row, self.cameras)  # which tells whose image the tables lack
        said = (f'{self.data_root}: {whole.count(False):,} of {len(whole):,} key frames of the {self.split} split lack '
                f'files{f", such as {first}" if first else ""}')
        if not leave_out or not any(whole):
            cure = ", or give the data set incomplete='leave_out' to do without them; scores are not official then"
            raise DataError(f'{said}, expected those of {", ".join(self.cameras)}{", LIDAR_TOP" * self.with_points}. '
                            f'Unpack the missing archives of {DOWNLOAD}{cure if any(whole) else ""}.')
        print_log(f'{said}, and are left out.', 'current', logging.WARNING)
        return [frame for frame, good in zip(self.frames, whole) if good]

    def _check_labelled(self) -> None:
        """Raise a DataError if no training sample has a box of any class, or if a split that needs boxes has none."""
        if not self.present().any():
            raise DataError(f'{self.data_root}: no box of a class with {self.min_points} points or more in '
                            f'{len(self.frames):,} key frames of the {self.split} split, expected some to learn. '
                            'Unpack the metadata again.')

    def present(self) -> np.ndarray:
        """(F, C) bool, which classes the boxes of each key frame of the split have."""
        index, rows = self.index, np.array([frame.row for frame in self.frames])
        labels = self.label_of[index.box_categories]
        good = (labels >= 0) & (index.box_lidar_points + index.box_radar_points >= self.min_points)
        found = np.zeros((len(index), len(CLASSES)), bool)
        owner = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))
        found[owner[good], labels[good]] = True
        return found[rows]

    def balanced(self) -> np.ndarray:
        """(L,) rows of key frames such that each class is in as many of them, as CBGS draws them; see `SHARE`.

        Benjin Zhu et al., Class-balanced Grouping and Sampling for Point Cloud 3D Object Detection, 2019.
        """
        rng, present = np.random.default_rng([self.seed, 8]), self.present()
        counts = present.sum(0)
        if not counts.sum():
            raise DataError(f'{self.data_root}: no box of any class in the {self.split} split, expected some to '
                            'balance classes by. Take balance=False.')
        drawn = [rng.choice(np.flatnonzero(column), int(SHARE * counts.sum())) for column, count
                 in zip(present.T, counts) if count]
        return np.concatenate(drawn)

    def read(self, index: int) -> dict:
        """A key frame as it is in its files; see the class.

        Raises:
            DataError: a damaged or missing file, an image of another size than the tables say.
        """
        frame = self.frames[self.order[index]]
        views = list(self.index.views(frame.row, self.cameras).values())
        views = [next(view for view in views if view.channel == camera) for camera in self.cameras]
        to_world, lidar = frame_to_world(self.index, frame.row, self.bev_frame), self.index.lidar_to_ego(frame.row)
        share = 1 / self.reduce
        shrink = np.array([[share, 0, (share - 1) / 2], [0, share, (share - 1) / 2], [0, 0, 1]])
        paths = [str(self.data_root / view.image) for view in views]
        meta = dict(sample_id=frame.sample, image_paths=paths, cameras=list(self.cameras),
                    points_path=str(self.data_root / frame.points), bev_frame=self.bev_frame, frame_to_world=to_world,
                    ego_to_world=self.index.ego_to_world(frame.row), timestamp=frame.timestamp / 1e6,
                    scene=frame.scene, location=frame.location)
        sample = dict(
            sample_id=frame.sample, meta=meta,
            images=[self._image(path, view) for path, view in zip(paths, views)] if self.with_images else [],
            cam_to_img=np.stack([view.cam_to_img for view in views]),
            frame_to_cam=np.stack([self._frame_to_cam(view, frame.row, to_world) for view in views]),
            image_aug=np.repeat(shrink[None], len(views), 0), bev_aug=np.eye(4))
        if self.with_points:
            to_frame = inverse_rigid(to_world) @ self.index.ego_to_world(frame.row) @ lidar
            sample['points'] = self._points(frame, to_frame)
        return dict(sample, **self.truth(frame.row, to_world)) if self.labelled else sample

    def _image(self, path: str, view: View) -> np.ndarray:
        """(H, W, 3) uint8 RGB at the size that `reduce` leaves."""
        image = read_image(path, reduce=self.reduce)
        expected = -(-view.height // self.reduce), -(-view.width // self.reduce)
        if image.shape[:2] != expected:
            height, width = (n * self.reduce for n in image.shape[:2])
            raise DataError(f'{path}: about {width} x {height} pixels, expected {view.width} x {view.height} as '
                            'sample_data.json has it, for which the camera is calibrated. Unpack the image again.')
        return image

    def _frame_to_cam(self, view: View, row: int, to_world: np.ndarray) -> np.ndarray:
        """(4, 4) from the frame to a camera, through the car's motion or without."""
        ego = view.ego_to_world if self.motion else self.index.ego_to_world(row)
        return inverse_rigid(view.cam_to_ego) @ inverse_rigid(ego) @ to_world

    def _points(self, frame: KeyFrame, to_frame: np.ndarray) -> np.ndarray:
        """(P, 5) float32 x, y, z [m] in the frame, intensity, age [s]."""
        turns = [(frame.points, 0.0, np.eye(4)), *(self.index.sweeps(frame.row, self.sweeps) if self.sweeps else ())]
        clouds = []
        for name, age, to_key_frame in turns:
            points = read_points(self.data_root / name, NUSCENES_COLUMNS)
            matrix = (to_frame @ to_key_frame).astype(np.float64)
            points[:, :3] = points[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
            points[:, 4] = age
            clouds.append(points)
        return np.concatenate(clouds)

    def truth(self, row: int, to_world: np.ndarray) -> dict:
        """Boxes of a key frame, as arrays by the names of RigSample, and `annotations` unless training.

        Args:
            row: of the key frame in the index.
            to_world: (4, 4) from the frame that boxes are given in.
        """
        found = self.index.boxes_of(row)
        labels = self.label_of[found.categories]
        points = found.lidar_points.astype(np.int64) + found.radar_points
        world = world_boxes(found)
        some = (labels >= 0) & (points >= self.min_points)
        truth = dict(boxes=from_world(world[some], to_world), labels=labels[some],
                     attributes=self.attribute_of[found.attributes[some]],
                     visibility=found.visibility[some].astype(np.int64),
                     num_points=found.lidar_points[some].astype(np.int64),
                     track_ids=found.instances[some].astype(np.int64))
        if not self.training:
            known, racks = labels >= 0, np.isin(found.categories, self.rack)
            truth['annotations'] = Annotations(
                world[known], labels[known], self.attribute_of[found.attributes[known]], points[known],
                found.visibility[known].astype(np.int64), world[racks], found.poses[racks, 3:])
        return truth

    def pack(self, sample: dict, index: int) -> dict:
        """See SeededDataset.

        Raises:
            DataError: images of several sizes, a map that cannot be read.
        """
        if self.map_preset is not None:
            sample['meta'].update(map_bounds=bounds_of(self.map_preset), map_preset=self.map_preset.name,
                                  map_classes=self.map_preset.classes)
        if self.map_preset is not None and self.labelled:
            sample = dict(sample, **self.map(self.frames[self.order[index]], sample['meta']['frame_to_world']
                                             @ np.linalg.inv(sample['bev_aug'])))
        return pack_rig(sample)

    def map(self, frame: KeyFrame, to_world: np.ndarray) -> dict[str, np.ndarray]:
        """Labels of the preset, `map_labels` (M, Y, X), and `map_mask` (Y, X) where some cells do not count.

        Args:
            frame: a key frame.
            to_world: (4, 4) from the frame that the map is drawn in, augmented or not.
        """
        if not self.map_preset.of_vehicles:
            return dict(map_labels=map_labels(self.map_preset, read_map(self.data_root, frame.location), to_world))
        labels, counts = vehicle_labels(self.map_preset, self.index.boxes_of(frame.row), self.index.category_names,
                                        frame_to_world(self.index, frame.row, 'lidar'), to_world)
        return dict(map_labels=labels) if counts is None else dict(map_labels=labels, map_mask=counts)


def preset_with(name: str | None, grid: Mapping[str, Sequence[float]] | None = None) -> MapPreset | None:
    """A protocol of maps by its name, with another grid where `x` and `y` are given; None for none.

    Raises:
        ConfigError: an unknown protocol, a grid without one, or a range that cells do not fill.
    """
    preset = None if name is None else preset_of(name)
    if grid is None:
        return preset
    if preset is None or not set(grid) <= {'x', 'y'}:
        raise ConfigError(f'NuScenesRig: map_grid={dict(grid)} with map_preset={name!r}, expected x and y of the grid '
                          'of a preset. Correct them.')
    preset = replace(preset, **{axis: tuple(row) for axis, row in grid.items()})
    BEVGrid(preset.x, preset.y)  # refuses ranges that cells do not fill
    return preset


def bounds_of(preset: MapPreset) -> tuple[float, float, float, float]:
    """Least x, y, greatest x, y of a protocol's grid [m]."""
    return preset.x[0], preset.y[0], preset.x[1], preset.y[1]


def pack_rig(sample: dict) -> dict:
    """`dict(inputs=..., data_samples=RigSample)` of a sample after the pipeline; see NuScenesRig.

    Raises:
        DataError: images of several sizes.
    """
    sizes = sorted({image.shape[:2] for image in sample['images']})
    if len(sizes) > 1:
        raise DataError(f'{sample["sample_id"]}: images of {" and ".join(f"{w} x {h}" for h, w in sizes)} pixels, '
                        'expected one size. Let the pipeline begin with ImageAug, which brings all to one.')
    meta = dict(sample['meta'], image_shape=sizes[0] if sizes else (0, 0))
    if 'annotations' in sample:
        meta['annotations'] = sample['annotations']
    packed = RigSample(metainfo=meta)
    for key in (*PER_BOX, 'map_labels', 'map_mask', 'depth'):
        if key in sample:
            value = np.ascontiguousarray(sample[key])
            packed.set_field(torch.from_numpy(value.astype(np.float32) if value.dtype == np.float64 else value), key)
    inputs = {key: torch.from_numpy(np.asarray(sample[key], np.float32))
              for key in ('cam_to_img', 'frame_to_cam', 'image_aug', 'bev_aug')}
    if sizes:
        images = np.empty((len(sample['images']), 3, *sizes[0]), np.uint8)
        for image, planes in zip(sample['images'], images):
            cv2.split(np.ascontiguousarray(image), list(planes))  # ten times as fast as NumPy
        inputs['images'] = torch.from_numpy(images)
    if 'points' in sample:
        inputs['points'] = torch.from_numpy(np.ascontiguousarray(sample['points'], np.float32))
    return dict(inputs=inputs, data_samples=packed)


# --- frames ----------------------------------------------------------------------------------------------------------
def frame_to_world(index: Index, row: int, bev_frame: str) -> np.ndarray:
    """(4, 4) pose of a frame of `FRAMES` in the world at the LiDAR's time."""
    ego = index.ego_to_world(row)
    if bev_frame == 'lidar':
        return ego @ index.lidar_to_ego(row)
    return flattened(ego) if bev_frame == 'flat_ego' else ego


def flattened(pose: np.ndarray) -> np.ndarray:
    """A pose (4, 4) turned upright: the heading of its x axis and its place stay."""
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    flat = np.array([[np.cos(yaw), -np.sin(yaw), 0, 0], [np.sin(yaw), np.cos(yaw), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    flat[:3, 3] = pose[:3, 3]
    return flat


def world_boxes(found: Boxes) -> np.ndarray:
    """(K, 9) float64 boxes in the world's frame."""
    heading = rotations(found.poses[:, 3:])[:, :, 0]
    yaw = np.arctan2(heading[:, 1], heading[:, 0])
    return np.concatenate([found.poses[:, :3], found.boxes[:, 3:6], yaw[:, None], found.velocities], 1)


def from_world(boxes: np.ndarray, to_world: np.ndarray) -> np.ndarray:
    """Boxes of the world in another frame, which may be tilted: headings and velocities as they look from above there.

    Args:
        boxes: (K, 9) upright in the world.
        to_world: (4, 4) from the frame to the world.

    Returns:
        (K, 9) float64; `to_world_boxes` gives the same boxes back.
    """
    turn = to_world[:3, :3]
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1) @ turn[:2, :2]
    yaw = np.arctan2(heading[:, 1], heading[:, 0])
    return np.concatenate([(boxes[:, :3] - to_world[:3, 3]) @ turn, boxes[:, 3:6], yaw[:, None],
                           boxes[:, 7:9] @ turn[:2, :2]], 1)


def to_world_boxes(boxes: np.ndarray, to_world: np.ndarray) -> np.ndarray:
    """Boxes (K, 9) of a frame in the world, (K, 9) float64, upright there; the inverse of `from_world`."""
    boxes, turn = np.asarray(boxes, np.float64), to_world[:3, :3]
    back = np.linalg.inv(turn[:2, :2])
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1) @ back
    yaw = np.arctan2(heading[:, 1], heading[:, 0])
    return np.concatenate([boxes[:, :3] @ turn.T + to_world[:3, 3], boxes[:, 3:6], yaw[:, None],
                           boxes[:, 7:9] @ back], 1)
