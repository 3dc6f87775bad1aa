"""Rows of nuScenes' tables, as its development kit reads them."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.common.nuscenes.poses import rigid
from perception.common.nuscenes.tables import TABLES
from perception.common.scene.labels import NUSCENES

ATTRIBUTES = ('vehicle.moving', 'vehicle.stopped', 'vehicle.parked', 'cycle.with_rider', 'cycle.without_rider',
              'pedestrian.sitting_lying_down', 'pedestrian.standing', 'pedestrian.moving')
VISIBILITY = (('1', 'v0-40', 'visibility of whole object is between 0 and 40%'),
              ('2', 'v40-60', 'visibility of whole object is between 40 and 60%'),
              ('3', 'v60-80', 'visibility of whole object is between 60 and 80%'),
              ('4', 'v80-100', 'visibility of whole object is between 80 and 100%'))
RIDDEN = ('bicyclist', 'motorcyclist')
PARKED = ('bicycle', 'motorcycle')
MOVING = .3      # m/s from which on a thing moves


def token_of(*names: object) -> str:
    """A token of 32 hexadecimal digits, the same for the same names."""
    return hashlib.md5('/'.join(map(str, names)).encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Calibration:
    """A sensor on the ego.

    Attributes:
        channel: such as `'CAM_FRONT'`.
        translation: metres in the ego's frame.
        rotation: quaternion w, x, y, z.
        intrinsics: focal length, principal point x, y [pixels]; None for a LiDAR.
        delay: milliseconds from the LiDAR's time to this sensor's.
    """
    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    intrinsics: tuple[float, float, float] | None = None
    delay: float = 0.0

    @property
    def matrix(self) -> np.ndarray:
        """(4, 4) from the sensor to the ego."""
        return rigid(dict(translation=self.translation, rotation=self.unit), self.channel)

    @property
    def unit(self) -> list[float]:
        """The rotation with a length of exactly 1."""
        return (np.array(self.rotation) / np.linalg.norm(self.rotation)).tolist()

    @property
    def camera_intrinsic(self) -> list[list[float]]:
        """As the table has it, empty for a LiDAR."""
        if self.intrinsics is None:
            return []
        focal, cx, cy = self.intrinsics
        return [[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]]


class Tables:
    """All tables of a version.

    Args:
        categories: names in the order of their index.
        sensors: on every car.
    """

    def __init__(self, categories: Iterable[str], sensors: Iterable[Calibration]) -> None:
        self.rows: dict[str, list[dict]] = {name: [] for name in (*TABLES, 'lidarseg')}
        self.rows['category'] = [dict(token=token_of('category', name), name=name, description='', index=index)
                                 for index, name in enumerate(categories)]
        self.rows['attribute'] = [dict(token=token_of('attribute', name), name=name, description='')
                                  for name in ATTRIBUTES]
        self.rows['visibility'] = [dict(token=token, level=level, description=text)
                                   for token, level, text in VISIBILITY]
        for sensor in sensors:
            modality = 'camera' if sensor.intrinsics else 'lidar'
            self.rows['sensor'].append(dict(token=token_of('sensor', sensor.channel), channel=sensor.channel,
                                            modality=modality))
            self.rows['calibrated_sensor'].append(dict(
                token=token_of('calibrated_sensor', sensor.channel), sensor_token=token_of('sensor', sensor.channel),
                translation=list(sensor.translation), rotation=sensor.unit,
                camera_intrinsic=sensor.camera_intrinsic))

    def extend(self, rows: dict[str, list[dict]]) -> None:
        """Adds the rows of a scene; maps that are there already get its logs."""
        maps = {row['token']: row for row in self.rows['map']}
        for name, some in rows.items():
            for row in some:
                if name == 'map' and row['token'] in maps:
                    maps[row['token']]['log_tokens'] += row['log_tokens']
                else:
                    self.rows[name].append(row)

    def save(self, folder: Path) -> None:
        """Writes one JSON file per table."""
        folder.mkdir(parents=True)
        for name, rows in self.rows.items():
            (folder / f'{name}.json').write_text(json.dumps(rows, indent=0) + '\n')


class SceneRows:
    """Rows of one scene, added sample by sample.

    Args:
        scene: name.
        log: name of the log file.
        map_file: of the map's mask, relative to the data root; scenes with the same one share a record of the map.
        labelled: whether it has point labels and boxes.
        location: of the map.
    """

    def __init__(self, scene: str, log: str, map_file: str, labelled: bool,
                 location: str = 'singapore-onenorth') -> None:
        self.scene, self.log, self.map_file, self.location = scene, log, map_file, location
        names = ('instance', 'ego_pose', 'log', 'scene', 'sample', 'sample_data', 'sample_annotation', 'map',
                 *(['lidarseg'] if labelled else []))
        self.tables: dict[str, list[dict]] = {name: [] for name in names}
        self._files: dict[str, str] = {}

    def file_of(self, token: str) -> str:
        """File of a sensor's record, relative to the data root."""
        return self._files[token]

    def add_sample(self, timestamp: int, token: str | None = None) -> str:
        """Adds a sample and returns its token, a new one where none is given."""
        token = token or token_of(self.scene, 'sample', timestamp)
        self.tables['sample'].append(dict(token=token, timestamp=timestamp, prev='', next='',
                                          scene_token=token_of('scene', self.scene)))
        return token

    def add_data(self, sample: str, sensor: Calibration, timestamp: int, ego: np.ndarray, ending: str,
                 size: tuple[int, int] = (1600, 900), key: bool = True) -> str:
        """Adds a record of a sensor and returns its token.

        Args:
            sample: token of the sample; for a sweep that of the one which follows.
            sensor: the sensor.
            timestamp: microseconds.
            ego: 4x4 pose of the ego in the map at that time.
            ending: of the file.
            size: width and height of a camera's image in pixels.
            key: whether it is a key frame or a sweep.
        """
        token = token_of(self.scene, sensor.channel, timestamp)
        camera = sensor.intrinsics is not None
        folder = 'samples' if key else 'sweeps'
        self._files[token] = f'{folder}/{sensor.channel}/{self.log}__{sensor.channel}__{timestamp}.{ending}'
        self.tables['ego_pose'].append(dict(token=token, timestamp=timestamp, rotation=quaternion(ego),
                                            translation=ego[:3, 3].tolist()))
        self.tables['sample_data'].append(dict(
            token=token, sample_token=sample, ego_pose_token=token,
            calibrated_sensor_token=token_of('calibrated_sensor', sensor.channel), timestamp=timestamp,
            fileformat='jpg' if camera else 'pcd', is_key_frame=key, height=size[1] if camera else 0,
            width=size[0] if camera else 0, filename=self._files[token], prev='', next='', channel_=sensor.channel))
        return token

    def add_labels(self, token: str, name: str) -> None:
        """Adds the record of a file of point labels."""
        self.tables['lidarseg'].append(dict(token=token, sample_data_token=token, filename=name))

    def add_box(self, sample: str, part: str, instance: int, box: np.ndarray, points: int, seen: float | None = None,
                speed: float = 0.0, radar: int = 0, attribute: str | None = None) -> None:
        """Adds a box.

        Args:
            sample: token of the sample.
            part: of the scene's labels.
            instance: number of the thing, the same in all samples of the scene.
            box: (7,) in the map's frame, z of its floor.
            points: of the LiDAR in it.
            seen: share that is visible, None where it is not known.
            speed: m/s, which tells the attribute.
            radar: returns of radar in it.
            attribute: another one than that, empty for none.
        """
        level = '' if seen is None else str(1 + int(np.searchsorted([.4, .6, .8], seen, side='right')))
        attribute = attribute_of(part, speed) if attribute is None else attribute
        self.tables['sample_annotation'].append(dict(
            token=token_of(sample, 'box', instance), sample_token=sample,
            instance_token=token_of(self.scene, 'instance', instance), visibility_token=level,
            attribute_tokens=[token_of('attribute', attribute)] if attribute else [],
            translation=[*box[:2].tolist(), float(box[2] + box[5] / 2)],
            size=[float(box[4]), float(box[3]), float(box[5])],      # width, length, height
            rotation=[float(np.cos(box[6] / 2)), 0.0, 0.0, float(np.sin(box[6] / 2))], prev='', next='',
            num_lidar_pts=points, num_radar_pts=radar, part_=part))

    def finish(self) -> None:
        """Links each record with the one before and after it, and adds scene, instances, log and map."""
        tables = self.tables
        _link(tables['sample'], lambda row: 0)
        _link(tables['sample_data'], lambda row: row['channel_'])
        boxes = _link(tables['sample_annotation'], lambda row: row['instance_token'])
        for token, rows in boxes.items():
            tables['instance'].append(dict(
                token=token, category_token=token_of('category', NUSCENES[rows[0]['part_']]), nbr_annotations=len(rows),
                first_annotation_token=rows[0]['token'], last_annotation_token=rows[-1]['token']))
        for row in (*tables['sample_data'], *tables['sample_annotation']):
            row.pop('channel_', None)
            row.pop('part_', None)
        log, samples = token_of('log', self.scene), tables['sample']
        tables['scene'].append(dict(
            token=token_of('scene', self.scene), log_token=log, nbr_samples=len(samples),
            first_sample_token=samples[0]['token'], last_sample_token=samples[-1]['token'], name=self.scene,
            description='simulated street'))
        tables['log'].append(dict(token=log, logfile=self.log, vehicle='n000', date_captured='2018-07-24',
                                  location=self.location))
        tables['map'].append(dict(token=Path(self.map_file).stem, category='semantic_prior', filename=self.map_file,
                                  log_tokens=[log]))


def _link(rows: list[dict], key) -> dict[object, list[dict]]:
    """Sets `prev` and `next` among the rows of each key; returns them by key."""
    groups: dict[object, list[dict]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    for group in groups.values():
        for first, second in zip(group, group[1:]):
            first['next'], second['prev'] = second['token'], first['token']
    return groups


def attribute_of(part: str, speed: float) -> str | None:
    """What nuScenes says about how a thing of a part moves; None for things that cannot."""
    if part in RIDDEN or part in PARKED:
        return 'cycle.with_rider' if part in RIDDEN else 'cycle.without_rider'
    if NUSCENES[part].startswith('vehicle.'):
        return 'vehicle.moving' if speed > MOVING else 'vehicle.parked'
    if NUSCENES[part].startswith('human.'):
        return 'pedestrian.moving' if speed > MOVING else 'pedestrian.standing'
    return None


def quaternion(transform: np.ndarray) -> list[float]:
    """w, x, y, z with w >= 0 of the rotation in a (4, 4) transform."""
    from scipy.spatial.transform import Rotation
    x, y, z, w = Rotation.from_matrix(transform[:3, :3]).as_quat()
    return [float(v) for v in np.copysign(1, w) * np.array([w, x, y, z])]
