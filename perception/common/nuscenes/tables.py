"""The tables of nuScenes, read by its development kit: key frames, splits, categories, camera images.

    <data_root>/v1.0-{mini,trainval,test}/*.json     13 tables, with lidarseg also lidarseg.json
    <data_root>/{samples,lidarseg,maps}              files that the tables name

The development kit takes the better part of a minute and several gigabytes for the full set, so the few facts that
reading key frames needs are kept as JSON in the user's cache folder once that took long. The file's name depends on the
sizes and times of the tables, so that it is never out of date.
"""
from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log

from perception.utils.checkpoint import atomic_path
from perception.utils.checks import check_choice
from perception.utils.errors import DataError, PerceptionError
from perception.utils.optional import import_optional

DOWNLOAD = 'https://www.nuscenes.org/nuscenes#download'
REFERENCES = dict(  # table -> field -> table of the token in it
    category={}, attribute={}, visibility={}, sensor={}, ego_pose={}, log={}, map={},
    instance=dict(category_token='category'), calibrated_sensor=dict(sensor_token='sensor'),
    scene=dict(log_token='log', first_sample_token='sample', last_sample_token='sample'),
    sample=dict(scene_token='scene'),
    sample_data=dict(sample_token='sample', ego_pose_token='ego_pose',
                     calibrated_sensor_token='calibrated_sensor'),
    sample_annotation=dict(sample_token='sample', instance_token='instance'))
TABLES = tuple(REFERENCES)
LIDAR = 'LIDAR_TOP'
VERSIONS = dict(train='v1.0-trainval', val='v1.0-trainval', test='v1.0-test', mini_train='v1.0-mini',
                mini_val='v1.0-mini')
CATEGORIES = (  # names in the category.json of nuScenes-lidarseg, in the order of their index
    'noise', 'animal', 'human.pedestrian.adult', 'human.pedestrian.child', 'human.pedestrian.construction_worker',
    'human.pedestrian.personal_mobility', 'human.pedestrian.police_officer', 'human.pedestrian.stroller',
    'human.pedestrian.wheelchair', 'movable_object.barrier', 'movable_object.debris',
    'movable_object.pushable_pullable', 'movable_object.trafficcone', 'static_object.bicycle_rack', 'vehicle.bicycle',
    'vehicle.bus.bendy', 'vehicle.bus.rigid', 'vehicle.car', 'vehicle.construction', 'vehicle.emergency.ambulance',
    'vehicle.emergency.police', 'vehicle.motorcycle', 'vehicle.trailer', 'vehicle.truck', 'flat.driveable_surface',
    'flat.other', 'flat.sidewalk', 'flat.terrain', 'static.manmade', 'static.other', 'static.vegetation',
    'vehicle.ego')
CACHE_VERSION = 2     # goes up when the cached file changes
SLOW = 5.0            # seconds from which on the index is cached
RIGID = 1e-3          # how far the length of a quaternion may be from 1


class KeyFrame(NamedTuple):
    """A key frame of the LiDAR.

    Attributes:
        token: of its `sample_data` record, by which predictions are named.
        scene: name, such as `'scene-0103'`.
        points: file of the points, relative to the data root.
        labels: file of the point labels, relative to the data root; None where there are none.
    """
    token: str
    scene: str
    points: str
    labels: str | None


class Index(NamedTuple):
    """What reading key frames needs.

    Attributes:
        frames: all key frames of a version, scene by scene, in order.
        categories: fine id in the label files -> name.
    """
    frames: list[KeyFrame]
    categories: dict[int, str]


def load_tables(data_root: str | Path, version: str):
    """The development kit's `NuScenes` of a version.

    Args:
        data_root: folder that holds `v1.0-...`.
        version: such as `'v1.0-mini'`.

    Raises:
        DataError: the data set or a table is not there, or a table is damaged.
        MissingDependency: nuscenes-devkit is not installed.
    """
    root = Path(data_root)
    check_folders(root, version)
    kit = import_optional('nuscenes.nuscenes', 'reading the tables of nuScenes', 'pip install nuscenes-devkit')
    anything = defaultdict(tuple)  # its colours are not used; unknown categories are told by their readers
    tables = guarded(root / version, lambda: kit.NuScenes(version, str(root), verbose=False, colormap=anything))
    problem = find_bad_name(root / version, {name: list(getattr(tables, name, ())) for name in (*TABLES, 'lidarseg')})
    if problem:
        raise DataError(f'{problem}. Unpack the metadata again.')
    return tables


def find_bad_name(folder: Path, tables: dict[str, list]) -> str | None:
    """The first name in some tables that cannot be a file's, or not one in its folder, as the start of a message.

    Tokens and names of scenes become names of predictions and pictures; a `filename` is one below the data root.

    Args:
        folder: of the tables.
        tables: name -> records.
    """
    for table, rows in tables.items():
        for field, good, wanted in (('token', _TOKEN, 'letters, digits and - _ . +'),
                                    ('filename', _FILE, 'a path below the data root'),
                                    *((('name', _TOKEN, 'a plain name'),) if table == 'scene' else ())):
            wrong = next((row for row in rows if field in row and not (
                isinstance(row[field], str) and good.fullmatch(row[field].encode(errors='replace').decode('latin-1')))),
                None)  # file systems count bytes
            if wrong is not None:
                return f'{folder / table}.json: the {field} {str(wrong[field])[:80]!r} of a record, expected {wanted}'
    return None


_TOKEN = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.+-]{0,150}')
_FILE = re.compile(r'(?!/)(?!(.*/)?\.\.?(/|$))(?=.{1,3000}$)[^/\\\x00-\x1f]{1,200}(/[^/\\\x00-\x1f]{1,200})*')


def check_folders(root: Path, version: str) -> None:
    """Make sure that a version is unpacked.

    Raises:
        DataError: it is not, or tables are missing.
    """
    there = sorted(path.name for path in root.glob('v1.0-*') if path.is_dir())
    if not there:
        raise DataError(f'{root}: no folder v1.0-..., expected nuScenes in its official layout ({version}/*.json, '
                        f'samples/LIDAR_TOP/*.pcd.bin, lidarseg/{version}/*.bin, maps/*). Download it from {DOWNLOAD} '
                        f'and unpack or link it there, set PERCEPTION_DATA to the folder that replaces data/, or try '
                        f'simulated data with `python tools/train.py CONFIG --mini`.')
    if version not in there:
        raise DataError(f'{root / version}: no such folder (found: {", ".join(there)}), expected the tables of '
                        f'{version}. Unpack its metadata archive from {DOWNLOAD}, or use a split of a version that is '
                        f'there.')
    missing = [name for name in TABLES if not (root / version / f'{name}.json').is_file()]
    if missing:
        raise DataError(f'{root / version / missing[0]}.json: no such file ({len(missing)} of {len(TABLES)} tables '
                        f'missing), expected the tables of {version}. Unpack its metadata archive from {DOWNLOAD}.')
    if (root / version / 'lidarseg.json').is_file() and not (root / 'lidarseg' / version).is_dir():
        raise DataError(f'{root / "lidarseg" / version}: no such folder, expected the label files that lidarseg.json '
                        f'names. Unpack nuScenes-lidarseg from {DOWNLOAD} into {root}; v1.0-test has none, so that an '
                        f'empty folder will do there.')


def guarded(folder: Path, work: Callable[[], Any]) -> Any:
    """The result of work on tables; whatever goes wrong there becomes one sentence about the damaged record.

    Args:
        folder: `<data_root>/<version>`.
        work: reads tables.

    Raises:
        DataError: it failed.
    """
    try:
        return work()
    except (PerceptionError, MemoryError):
        raise
    except Exception as error:  # damaged tables fail in the development kit in many ways
        problem = find_problem(folder) or (f'{folder}: the development kit fails on the tables '
                                           f'({type(error).__name__}: {str(error)[:160]}), expected those of nuScenes')
        raise DataError(f'{problem}. Unpack the metadata (and nuScenes-lidarseg, whose category.json has an index) '
                        f'again.') from error


def find_problem(folder: Path) -> str | None:
    """The first thing wrong with the tables of a folder, as the start of a message; None when nothing is found."""
    tables: dict[str, list] = {}
    lidarseg = (folder / 'lidarseg.json').is_file()
    for name in (*TABLES, *(['lidarseg'] if lidarseg else [])):
        path = folder / f'{name}.json'
        try:
            tables[name] = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            return f'{path}: not readable ({str(error)[:100]}), expected a JSON table'
        if not isinstance(tables[name], list) or not all(
                isinstance(row, dict) and isinstance(row.get('token'), str) for row in tables[name]):
            return f'{path}: a record without a token, expected a list of records with one each'
    if bad_name := find_bad_name(folder, tables):
        return bad_name
    tokens = {name: {row['token'] for row in rows} for name, rows in tables.items()}
    references = dict(REFERENCES, **(dict(lidarseg=dict(sample_data_token='sample_data')) if lidarseg else {}))
    for name, fields in references.items():
        for field, target in fields.items():
            for row in tables[name]:
                token = row.get(field)
                if not isinstance(token, str) or token not in tokens[target]:
                    return (f'{folder / name}.json: record {row["token"]} names {field} {token!r}, which is not in '
                            f'{target}.json, expected tables that belong together')
    return _other_problem(folder, tables)


def _other_problem(folder: Path, tables: dict[str, list]) -> str | None:
    if 'lidarseg' in tables:
        for row in tables['category']:
            if type(row.get('index')) is not int or not isinstance(row.get('name'), str):
                return (f'{folder / "category.json"}: category {row.get("name")!r} has the index {row.get("index")!r}, '
                        f'expected a whole number, as in the category.json that comes with nuScenes-lidarseg')
        files = {path.name for path in (folder.parent / 'lidarseg' / folder.name).glob('*.bin')}
        named = {Path(str(row.get('filename'))).name for row in tables['lidarseg']}
        if files != named:
            odd = sorted(files ^ named)
            return (f'{folder.parent / "lidarseg" / folder.name}: {len(files):,} label files for {len(named):,} '
                    f'records of lidarseg.json (such as {odd[0]}), expected one for each')
    for row in tables['map']:
        if not os.path.isfile(folder.parent / str(row.get('filename'))):  # False too of a path that is too long
            return f'{folder.parent / str(row.get("filename"))}: no such file, expected the mask that map.json names'
    return None


def read_index(data_root: str | Path, version: str) -> Index:
    """Key frames of a version, from the cache where the tables are large.

    Raises:
        DataError: see `load_tables`; records that do not belong together.
    """
    root = Path(data_root)
    check_folders(root, version)
    cache = _cache_path(root, version)
    try:
        found = json.loads(cache.read_bytes())
        return Index([KeyFrame(*row) for row in found['frames']], {int(k): v for k, v in found['categories'].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # none yet, or damaged: it is made anew
    start = time.perf_counter()
    tables = load_tables(root, version)
    index = guarded(root / version, lambda: _index(tables, root / version))
    if time.perf_counter() - start > SLOW:
        _keep(cache, index)
    return index


def _index(tables, folder: Path) -> Index:
    labels = {row['sample_data_token']: row['filename'] for row in getattr(tables, 'lidarseg', [])}
    names: dict[int, str] = {}
    for row in tables.category:
        if 'index' not in row:
            continue
        if type(row['index']) is not int or not isinstance(row['name'], str):
            raise TypeError(f'category {row["name"]!r} has the index {row["index"]!r}')
        if names.setdefault(row['index'], row['name']) != row['name']:
            raise DataError(f'{folder / "category.json"}: index {row["index"]} stands for {names[row["index"]]} and '
                            f'{row["name"]}, expected one category each. Unpack nuScenes-lidarseg again.')
    frames = []
    for scene in tables.scene:
        token, seen = scene['first_sample_token'], set()
        while token:
            if token in seen:
                raise DataError(f'{folder / "sample.json"}: sample {token} of {scene["name"]} comes again in its '
                                f'chain of next samples, expected an end. Unpack the metadata again.')
            seen.add(token)
            sample = tables.get('sample', token)
            if LIDAR not in sample['data']:
                raise DataError(f'{folder / "sample_data.json"}: sample {token} of {scene["name"]} has no key frame of '
                                f'{LIDAR}, expected one. Unpack the metadata again.')
            data = tables.get('sample_data', sample['data'][LIDAR])
            frame = KeyFrame(data['token'], scene['name'], data['filename'], labels.get(data['token']))
            if not all(isinstance(value, str) for value in frame[:3]) or not isinstance(frame.labels, (str, NoneType)):
                raise TypeError(f'{frame} is not all text')
            frames.append(frame)
            token = sample['next']
    return Index(frames, names)


def _cache_path(root: Path, version: str) -> Path:
    base = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    state = [CACHE_VERSION, str(root.resolve()), version]
    for path in sorted((root / version).glob('*.json')):
        stat = path.stat()
        state.append((path.name, stat.st_size, stat.st_mtime_ns))
    digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    return base / 'perception' / f'nuscenes_{version}_{digest}.json'


def _keep(path: Path, index: Index) -> None:
    """Cache an index; where that fails, the tables are read again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, DataError) as part:
            part.write_text(json.dumps(dict(frames=index.frames, categories=index.categories)))
    except (OSError, DataError) as error:
        print_log(f'{path}: the index of nuScenes cannot be kept ({error}); reading the tables takes as long next '
                  f'time.', 'current', logging.WARNING)


def read_split(data_root: str | Path, split: str) -> tuple[Index, list[KeyFrame]]:
    """The index of a split's version, and the split's key frames, scene by scene in the tables' order.

    Args:
        data_root: folder that holds `v1.0-...`.
        split: a key of `VERSIONS`.

    Raises:
        ConfigError: an unknown split.
        DataError: missing or damaged tables, scenes that are not there.
    """
    check_choice('nuScenes: split', split, VERSIONS)
    index = read_index(data_root, VERSIONS[split])
    splits = import_optional('nuscenes.utils.splits', 'the official splits of nuScenes', 'pip install nuscenes-devkit')
    scenes = set(splits.create_splits_scenes()[split])
    frames = [frame for frame in index.frames if frame.scene in scenes]
    if not frames:
        there = sorted({frame.scene for frame in index.frames})
        raise DataError(f'{Path(data_root) / VERSIONS[split]}: no key frame of the split {split} (found scenes: '
                        f'{", ".join(there[:5]) or "none"}), expected its scenes, such as {min(scenes)}. Unpack the '
                        f'metadata from {DOWNLOAD} again.')
    return index, frames


class View(NamedTuple):
    """A camera image of a key frame.

    Attributes:
        channel: such as `'CAM_FRONT'`.
        image: file, relative to the data root.
        width, height: pixels.
        cam_to_img: (3, 3) intrinsics.
        lidar_to_cam: (4, 4) from the LiDAR at its time to the camera at its own time, through the ego's motion.
    """
    channel: str
    image: str
    width: int
    height: int
    cam_to_img: np.ndarray
    lidar_to_cam: np.ndarray


def camera_views(tables, token: str) -> dict[str, View]:
    """The camera images of a key frame: channel -> view, as many as the tables have.

    Args:
        tables: see `load_tables`.
        token: of the key frame's LiDAR record.

    Raises:
        DataError: an unknown token, calibration or pose that is missing or not rigid.
    """
    folder = Path(tables.table_root)
    return guarded(folder, lambda: _views(tables, token, folder))


def _views(tables, token: str, folder: Path) -> dict[str, View]:
    lidar = _record(tables, 'sample_data', token, folder)
    lidar_to_world = _pose(tables, lidar, folder)
    views = {}
    for channel, camera_token in _record(tables, 'sample', lidar['sample_token'], folder)['data'].items():
        camera = tables.get('sample_data', camera_token)
        if camera['sensor_modality'] != 'camera':
            continue
        cam_to_world = _pose(tables, camera, folder)
        calibration = tables.get('calibrated_sensor', camera['calibrated_sensor_token'])
        intrinsics = _numbers(calibration.get('camera_intrinsic'), (3, 3),
                              f'{folder / "calibrated_sensor.json"}: camera_intrinsic of {calibration["token"]}')
        size = _numbers([camera.get('width'), camera.get('height')], (2,),
                        f'{folder / "sample_data.json"}: width and height of {camera_token}').astype(int)
        if not ((size > 0) & (size < 1 << 15)).all():
            raise DataError(f'{folder / "sample_data.json"}: an image of {size[0]} x {size[1]} pixels in '
                            f'{camera_token}, expected its real size. Unpack the metadata again.')
        views[channel] = View(channel, str(camera['filename']), int(size[0]), int(size[1]), intrinsics,
                              inverse_rigid(cam_to_world) @ lidar_to_world)
    return views


def _record(tables, table: str, token: str, folder: Path) -> dict:
    try:
        return tables.get(table, token)
    except KeyError as error:
        raise DataError(f'{folder / table}.json: no record {token!r}, expected one. Take tokens of this version of the '
                        f'data set.') from error


def _pose(tables, data: dict, folder: Path) -> np.ndarray:
    """(4, 4) from a sensor to the world, at the time of a `sample_data` record."""
    sensor = _record(tables, 'calibrated_sensor', data['calibrated_sensor_token'], folder)
    ego = _record(tables, 'ego_pose', data['ego_pose_token'], folder)
    return (rigid(ego, f'{folder / "ego_pose.json"}: record {ego["token"]}')
            @ rigid(sensor, f'{folder / "calibrated_sensor.json"}: record {sensor["token"]}'))


def rigid(record: dict, where: str) -> np.ndarray:
    """The (4, 4) float64 transform of a record with `translation` [m] and `rotation` (a quaternion w, x, y, z).

    Raises:
        DataError: one is missing or not finite, or the quaternion's length is not 1.
    """
    translation = _numbers(record.get('translation'), (3,), f'{where}: translation')
    quaternion = _numbers(record.get('rotation'), (4,), f'{where}: rotation')
    length = float(np.linalg.norm(quaternion))
    if abs(length - 1) > RIGID:
        raise DataError(f'{where}: a rotation of length {length:.6g}, expected a quaternion of length 1, which keeps '
                        f'bodies rigid. Correct the calibration or unpack the metadata again.')
    w, x, y, z = quaternion / length
    transform = np.eye(4)
    transform[:3, :3] = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                         [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                         [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]
    transform[:3, 3] = translation
    return transform


def inverse_rigid(transform: np.ndarray) -> np.ndarray:
    """Inverse of a (4, 4) rigid transform."""
    inverse = np.eye(4)
    inverse[:3, :3] = transform[:3, :3].T
    inverse[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return inverse


def _numbers(values: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError):
        array = np.full(0, np.nan)
    if array.shape != shape or not np.isfinite(array).all():
        raise DataError(f'{where} is {str(values)[:60]}, expected {" x ".join(map(str, shape))} finite numbers. '
                        f'Correct the calibration or unpack the metadata again.')
    return array
