"""What reading nuScenes needs, as arrays: key frames, sweeps, camera images, poses and boxes of a version.

There is no Python object per record: a version is some thirty arrays, with offsets from samples to boxes and rows from
samples to sensor records.

Frames are nuScenes' own: the LiDAR's is x right, y forward, z up; the ego's x forward, y left, z up with its origin on
the ground below the rear axle; a camera's x right, y down, z forward. Each sensor record has an ego pose of its own, at
its own time.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from perception.common.nuscenes.poses import inverse_rigid, transforms
from perception.utils.errors import DataError

LIDAR = 'LIDAR_TOP'
CAMERAS = ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT')


class KeyFrame(NamedTuple):
    """A key frame: a sample, named by the record of its LiDAR.

    Attributes:
        token: of its LiDAR's `sample_data` record, by which predictions of points are named.
        scene: name, such as `'scene-0103'`.
        points: file of the points, relative to the data root.
        labels: file of the point labels, relative to the data root; None where there are none.
        row: of the sample in the index, see `Index.views` and the like.
        sample: its token, by which predictions of boxes are named.
        location: map, such as `'singapore-onenorth'`.
        timestamp: microseconds.
        previous, next: rows of the samples before and after it in its scene; None at the ends.
    """
    token: str
    scene: str
    points: str
    labels: str | None
    row: int
    sample: str
    location: str
    timestamp: int
    previous: int | None
    next: int | None


class View(NamedTuple):
    """A camera image of a key frame.

    Attributes:
        channel: such as `'CAM_FRONT'`.
        image: file, relative to the data root.
        width, height: pixels.
        cam_to_img: (3, 3) intrinsics.
        lidar_to_cam: (4, 4) from the LiDAR at its time to the camera at its own time, through the ego's motion.
        cam_to_ego: (4, 4) as it is calibrated.
        ego_to_world: (4, 4) at the camera's time.
        timestamp: microseconds.
    """
    channel: str
    image: str
    width: int
    height: int
    cam_to_img: np.ndarray
    lidar_to_cam: np.ndarray
    cam_to_ego: np.ndarray
    ego_to_world: np.ndarray
    timestamp: int


class Sweep(NamedTuple):
    """A turn of the LiDAR before a key frame.

    Attributes:
        points: file, relative to the data root.
        age: seconds before the key frame.
        to_key_frame: (4, 4) from the LiDAR at this time to the LiDAR at the key frame's, through the ego's motion.
    """
    points: str
    age: float
    to_key_frame: np.ndarray


class Boxes(NamedTuple):
    """The annotations of a key frame.

    Attributes:
        boxes: (K, 9) float64 x, y, z of the centre, length, width, height [m], yaw [rad], vx, vy [m/s] in the LiDAR's
            frame at its time; yaw is counter-clockwise about +z from +x, lengths are along the heading. Velocities are
            those of the development kit, NaN where it gives none.
        categories: (K,) rows of `Index.category_names`.
        attributes: (K,) rows of `Index.attribute_names`, of the first one of a box; -1 = none.
        visibility: (K,) 1 to 4: up to 40, 60, 80, 100 per cent are visible; 0 = unknown.
        lidar_points, radar_points: (K,) how many are inside.
        instances: (K,) rows of `Index.instance_tokens`, the same in all samples of a scene.
        poses: (K, 7) in the world as the table has them: translation [m] and quaternion w, x, y, z.
        velocities: (K, 2) vx, vy [m/s] in the world.
    """
    boxes: np.ndarray
    categories: np.ndarray
    attributes: np.ndarray
    visibility: np.ndarray
    lidar_points: np.ndarray
    radar_points: np.ndarray
    instances: np.ndarray
    poses: np.ndarray
    velocities: np.ndarray


@dataclass(frozen=True, eq=False)
class Index:
    """A version's arrays: N samples in Z scenes, R sensor records, C calibrations, B boxes.

    Samples stand scene by scene in order, boxes sample by sample. Records are all of the LiDAR, and of the
    cameras those of key frames. `frames`, `views`, `sweeps` and `boxes_of` give what a key frame has.

    Attributes:
        scene_names, scene_locations: (Z,).
        samples: (N,) tokens.
        sample_times: (N,) int64 microseconds.
        sample_scenes: (N,) rows of scenes.
        sample_records: (N, 7) rows of the records of the LiDAR and of each of `CAMERAS`; -1 = no such image.
        sample_labels: (N,) files of point labels, empty where there are none.
        record_tokens, record_files: (R,) bytes, UTF-8.
        record_times: (R,) int64 microseconds.
        record_poses: (R, 7) of the ego in the world at that time: translation [m] and quaternion w, x, y, z.
        record_calibrations: (R,) rows of calibrations.
        record_sizes: (R, 2) width and height of images in pixels, 0 for the LiDAR.
        record_before: (R,) row of the sweep before a sweep; -1 = none.
        mounts: (C, 7) of sensors on the ego: translation [m] and quaternion w, x, y, z.
        intrinsics: (C, 3, 3) of cameras, NaN for others.
        category_names: (A,) such as `'vehicle.car'`.
        category_ids: (A,) what they are in files of point labels, -1 = nothing.
        attribute_names: (T,) such as `'vehicle.moving'`.
        instance_tokens: (I,) of things.
        box_offsets: (N + 1,) first box of each sample.
        boxes: (B, 9); for this and the rest see `Boxes`.
    """
    scene_names: np.ndarray
    scene_locations: np.ndarray
    samples: np.ndarray
    sample_times: np.ndarray
    sample_scenes: np.ndarray
    sample_records: np.ndarray
    sample_labels: np.ndarray
    record_tokens: np.ndarray
    record_files: np.ndarray
    record_times: np.ndarray
    record_poses: np.ndarray
    record_calibrations: np.ndarray
    record_sizes: np.ndarray
    record_before: np.ndarray
    mounts: np.ndarray
    intrinsics: np.ndarray
    category_names: np.ndarray
    category_ids: np.ndarray
    attribute_names: np.ndarray
    instance_tokens: np.ndarray
    box_offsets: np.ndarray
    boxes: np.ndarray
    box_categories: np.ndarray
    box_attributes: np.ndarray
    box_visibility: np.ndarray
    box_lidar_points: np.ndarray
    box_radar_points: np.ndarray
    box_instances: np.ndarray
    box_poses: np.ndarray
    box_velocities: np.ndarray

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @cached_property
    def frames(self) -> list[KeyFrame]:
        """All key frames, scene by scene, in order."""
        rows, count = self.sample_records[:, 0], len(self)
        same = self.sample_scenes[1:] == self.sample_scenes[:-1]
        previous = [None, *(row if joined else None for row, joined in enumerate(same.tolist()))][:count]
        following = [*(row + 1 if joined else None for row, joined in enumerate(same.tolist())), None][:count]
        columns = (_texts(self.record_tokens[rows]), self.scene_names[self.sample_scenes].tolist(),
                   _texts(self.record_files[rows]), (name or None for name in self.sample_labels.tolist()),
                   range(count), self.samples.tolist(), self.scene_locations[self.sample_scenes].tolist(),
                   self.sample_times.tolist(), previous, following)
        return [KeyFrame(*row) for row in zip(*columns)]

    @cached_property
    def rows(self) -> dict[str, int]:
        """Sample's or LiDAR record's token -> row of the key frame."""
        return {token: frame.row for frame in self.frames for token in (frame.sample, frame.token)}

    @property
    def categories(self) -> dict[int, str]:
        """Fine id in files of point labels -> name."""
        return {index: name for index, name in zip(self.category_ids.tolist(), self.category_names.tolist())
                if index >= 0}

    def row_of(self, token: str) -> int:
        """Row of a key frame.

        Args:
            token: of its sample or its LiDAR's record.

        Raises:
            DataError: there is none.
        """
        if token not in self.rows:
            raise DataError(f'nuScenes: no key frame {token[:80]!r}, expected the token of a sample or of its {LIDAR} '
                            f'record. Take tokens of this version of the data set.')
        return self.rows[token]

    def ego_to_world(self, row: int) -> np.ndarray:
        """(4, 4) pose of the ego in the map at the LiDAR's time."""
        return transforms(self.record_poses[self.sample_records[row, 0]])

    def lidar_to_ego(self, row: int) -> np.ndarray:
        """(4, 4) pose of the LiDAR on the ego."""
        return transforms(self.mounts[self.record_calibrations[self.sample_records[row, 0]]])

    def views(self, row: int, channels: tuple[str, ...] = ()) -> dict[str, View]:
        """The camera images of a key frame: channel -> view, as many of `CAMERAS` as there are.

        Args:
            row: of the sample.
            channels: those that cannot be missing.

        Raises:
            DataError: one of them is.
        """
        records = self.sample_records[row, 1:]
        there = {channel: record for channel, record in zip(CAMERAS, records.tolist()) if record >= 0}
        missing = [channel for channel in channels if channel not in there]
        if missing:
            raise DataError(f'sample_data.json: sample {self.frames[row].sample} of {self.frames[row].scene} has no '
                            f'key frame of {", ".join(missing)}, expected all of {", ".join(channels)}. Unpack the '
                            f'metadata again, or leave this sample out.')
        records = np.array(list(there.values()), np.int64)
        calibrations = self.record_calibrations[records]
        ego_to_world, cam_to_ego = transforms(self.record_poses[records]), transforms(self.mounts[calibrations])
        lidar_to_cam = inverse_rigid(ego_to_world @ cam_to_ego) @ self.ego_to_world(row) @ self.lidar_to_ego(row)
        columns = (there, _texts(self.record_files[records]), *self.record_sizes[records].T.tolist(),
                   self.intrinsics[calibrations], lidar_to_cam, cam_to_ego, ego_to_world,
                   self.record_times[records].tolist())
        return {view[0]: View(*view) for view in zip(*columns)}

    def sweeps(self, row: int, count: int) -> list[Sweep]:
        """Up to `count` sweeps before a key frame, the youngest first; fewer at the beginning of a scene."""
        records = [int(self.sample_records[row, 0])]
        while len(records) <= count and self.record_before[records[-1]] >= 0:
            records.append(int(self.record_before[records[-1]]))
        to_world = transforms(self.record_poses[records]) @ transforms(self.mounts[self.record_calibrations[records]])
        times = self.record_times[records]
        columns = (_texts(self.record_files[records]), ((times[0] - times) / 1e6).tolist(),
                   inverse_rigid(to_world[0]) @ to_world)
        return [Sweep(*sweep) for sweep in zip(*columns)][1:]

    def lidar_poses(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """Poses (F, 4, 4) from the LiDAR to the world, and times (F,) int64 in microseconds, of key frames and sweeps
        by the names of their files; None where one is not of this version.
        """
        files = [f'{folder}/{LIDAR}/{name}'.encode() for folder in ('samples', 'sweeps') for name in names]
        found = {self.record_files[row]: row for row in np.flatnonzero(np.isin(self.record_files, files)).tolist()}
        rows = [found.get(sample, found.get(sweep)) for sample, sweep in zip(files, files[len(names):])]
        if None in rows:
            return None
        poses = transforms(self.record_poses[rows]) @ transforms(self.mounts[self.record_calibrations[rows]])
        return poses, self.record_times[rows]

    def boxes_of(self, row: int) -> Boxes:
        """The annotations of a key frame, which may be none.

        Raises:
            DataError: no key frame of the version has any, as in v1.0-test.
        """
        if not len(self.boxes):
            raise DataError('sample_annotation.json: no annotation at all, expected boxes. The official test scenes '
                            'have none: take another split.')
        some = slice(*self.box_offsets[row:row + 2])
        return Boxes(self.boxes[some], self.box_categories[some], self.box_attributes[some], self.box_visibility[some],
                     self.box_lidar_points[some], self.box_radar_points[some], self.box_instances[some],
                     self.box_poses[some], self.box_velocities[some])


def _texts(values: np.ndarray) -> list[str]:
    return [value.decode() for value in values.tolist()]
