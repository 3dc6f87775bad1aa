"""The index of nuScenes, made from its tables."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from perception.common.nuscenes.index import CAMERAS, LIDAR, Index
from perception.common.nuscenes.poses import rotations, transforms
from perception.common.nuscenes.tables import (
    Block,
    check_label_files,
    check_maps,
    encoded,
    read_blocks,
    read_table,
)
from perception.utils.errors import DataError

LEVELS = ('v0-40', 'v40-60', 'v60-80', 'v80-100')     # of visibility, per cent
GAP = 1.5             # seconds between annotations over which the development kit takes velocities
MANY = 1 << 17        # rows whose matrices or texts are in memory at a time


def build_index(root: Path, version: str) -> Index:
    """Make the index of a version from its tables.

    Args:
        root: folder that holds `v1.0-...`.
        version: such as `'v1.0-mini'`.

    Raises:
        DataError: a table is damaged, or records do not belong together.
    """
    folder = root / version
    logs = read_table(folder, 'log')
    check_maps(root, read_table(folder, 'map'))
    scenes = read_table(folder, 'scene')
    samples = read_table(folder, 'sample')
    locations = logs.names('location')[scenes.rows_of('log_token', 'log', logs.numbered())]
    sample_rows, order, sample_scenes = _chains(scenes, samples)
    times = samples.integers('timestamp')[order]
    mounts, intrinsics, channels, calibrations = _calibrations(folder)
    records = _records(folder, channels, calibrations, sample_rows)
    sample_records = _key_frames(folder, records, scenes, samples, order, sample_scenes)
    lidar = sample_records[:, 0]
    lidar_to_world = transforms(records.poses[lidar]) @ transforms(mounts[records.calibrations[lidar]])
    return Index(
        scene_names=scenes.names('name'), scene_locations=locations, samples=samples.names('token')[order],
        sample_times=times, sample_scenes=sample_scenes, sample_records=sample_records,
        sample_labels=_labels(root, version, records.tokens[lidar]), record_tokens=records.tokens,
        record_files=records.files, record_times=records.times, record_poses=records.poses,
        record_calibrations=records.calibrations, record_sizes=records.sizes, record_before=records.before,
        mounts=mounts, intrinsics=intrinsics, **_categories(folder),
        **_annotations(folder, sample_rows, times, lidar_to_world))


def _chains(scenes: Block, samples: Block) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
    """Sample's token -> row in the index, -1 = in no scene; rows of the table in that order; and their scenes."""
    rows = samples.numbered()
    following = samples.rows_of('next', 'sample', rows, empty=True).tolist()
    order, scene_of, seen = [], [], set()
    for scene, row in enumerate(scenes.rows_of('first_sample_token', 'sample', rows).tolist()):
        while row >= 0:
            if row in seen:
                raise DataError(f'{samples.path}: sample {samples.rows[row]["token"]} of {scenes.rows[scene]["name"]} '
                                f'comes again in its chain of next samples, expected an end. Unpack the metadata '
                                f'again.')
            seen.add(row)
            order.append(row)
            scene_of.append(scene)
            row = following[row]
    places = np.full(len(rows), -1)
    places[order] = np.arange(len(order))
    return dict(zip(rows, places.tolist())), np.array(order, np.int64), np.array(scene_of, np.int32)


def _calibrations(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, int]]:
    """Mounts (C, 7), intrinsics (C, 3, 3), channels (C,): 0 the LiDAR, then `CAMERAS`, -1 others; token -> row."""
    sensors, table = read_table(folder, 'sensor'), read_table(folder, 'calibrated_sensor')
    known = {channel: number for number, channel in enumerate((LIDAR, *CAMERAS))}
    channels = np.array([known.get(channel, -1) for channel in sensors.texts('channel')], np.int64)
    channels = channels[table.rows_of('sensor_token', 'sensor', sensors.numbered())]
    intrinsics = np.full((len(channels), 3, 3), np.nan)
    intrinsics[channels > 0] = table.keep(channels > 0).numbers('camera_intrinsic', 3, 3)
    return table.poses(), intrinsics, channels, table.numbered()


class _Records(NamedTuple):
    """Records of the LiDAR and key frames of cameras; see `Index`."""
    tokens: np.ndarray
    files: np.ndarray
    times: np.ndarray
    poses: np.ndarray
    calibrations: np.ndarray
    sizes: np.ndarray
    before: np.ndarray
    channels: np.ndarray
    samples: np.ndarray
    keys: np.ndarray


def _records(folder: Path, channels: np.ndarray, calibrations: dict[str, int], sample_rows: dict[str, int]) -> _Records:
    columns, egos = [], {}
    for block in read_blocks(folder, 'sample_data'):
        calibration = block.rows_of('calibrated_sensor_token', 'calibrated_sensor', calibrations)
        channel, sample = channels[calibration], block.rows_of('sample_token', 'sample', sample_rows)
        keys = block.flags('is_key_frame')
        wanted = (sample >= 0) & ((channel == 0) | (channel > 0) & keys)
        block = block.keep(wanted)
        sizes, images = np.zeros((len(block.rows), 2), np.int32), channel[wanted] > 0
        sizes[images] = _image_sizes(block.keep(images))
        ego = [egos.setdefault(token, len(egos)) for token in block.texts('ego_pose_token')]
        prev = encoded(['' if image else token for token, image in zip(block.texts('prev'), images)])
        columns.append((encoded(block.texts('token', names=True)), encoded(block.texts('filename', names=True)),
                        block.integers('timestamp'), np.array(ego, np.int64), calibration[wanted].astype(np.int32),
                        sizes, prev, channel[wanted].astype(np.int8), sample[wanted].astype(np.int32), keys[wanted]))
    tokens, files, times, ego, calibration, sizes, prev, channel, sample, keys = _joined(columns)
    path = folder / 'sample_data.json'
    before, = _links(path, tokens, prev=prev)
    late = (before >= 0) & (times[before] > times)
    if late.any():
        raise DataError(f'{path}: record {tokens[late][0].decode()} names a later one as prev, expected sweeps in the '
                        f'order of time. Unpack the metadata again.')
    poses = _ego_poses(folder, egos, tokens, ego)[ego]
    return _Records(tokens, files, times, poses, calibration, sizes, before, channel, sample, keys)


def _image_sizes(block: Block) -> np.ndarray:
    sizes = np.stack([block.integers('width'), block.integers('height')], 1)
    wrong = ((sizes <= 0) | (sizes >= 1 << 15)).any(1)
    if wrong.any():
        bad = int(np.flatnonzero(wrong)[0])
        raise DataError(f'{block.path}: an image of {sizes[bad, 0]} x {sizes[bad, 1]} pixels in '
                        f'{block.rows[bad]["token"]}, expected its real size. Unpack the metadata again.')
    return sizes


def _ego_poses(folder: Path, egos: dict[str, int], tokens: np.ndarray, ego: np.ndarray) -> np.ndarray:
    """(len(egos), 7) the poses with some tokens; the rest of the table is passed over."""
    poses = np.full((len(egos), 7), np.nan)
    for block in read_blocks(folder, 'ego_pose'):
        rows = np.array([egos.get(row['token'], -1) for row in block.rows], np.int64)
        poses[rows[rows >= 0]] = block.keep(rows >= 0).poses()
    if np.isnan(poses[:, 0]).any():
        bad = int(np.flatnonzero(np.isnan(poses[:, 0]))[0])
        raise DataError(f'{folder / "sample_data.json"}: record {tokens[ego == bad][0].decode()} names ego_pose_token '
                        f'{list(egos)[bad]!r:.90}, which is not in ego_pose.json, expected tables that belong '
                        f'together. Unpack the metadata again.')
    return poses


def _key_frames(folder: Path, records: _Records, scenes: Block, samples: Block, order: np.ndarray,
                sample_scenes: np.ndarray) -> np.ndarray:
    """(N, 7) the record of each sample's LiDAR and cameras, -1 = none."""
    found = np.full((len(order), 1 + len(CAMERAS)), -1, np.int32)
    rows = np.flatnonzero(records.keys)
    found[records.samples[rows], records.channels[rows]] = rows
    twice = rows[found[records.samples[rows], records.channels[rows]] != rows]
    missing = np.flatnonzero(found[:, 0] < 0)
    for samples_at_fault, what in ((records.samples[twice], 'two key frames of one sensor'),
                                   (missing, f'no key frame of {LIDAR}')):
        if len(samples_at_fault):
            bad = samples_at_fault[0]
            raise DataError(f'{folder / "sample_data.json"}: sample {samples.rows[order[bad]]["token"]} of '
                            f'{scenes.rows[sample_scenes[bad]]["name"]} has {what}, expected one. Unpack the metadata '
                            f'again.')
    return found


def _labels(root: Path, version: str, lidar_tokens: np.ndarray) -> np.ndarray:
    """(N,) files of point labels of some LiDAR records, empty where there are none."""
    folder = root / version
    if not (folder / 'lidarseg.json').is_file():
        return np.full(len(lidar_tokens), '')
    table = read_table(folder, 'lidarseg')
    names = table.texts('filename', names=True)
    check_label_files(root / 'lidarseg' / version, names)
    named = dict(zip(table.texts('sample_data_token'), names))
    return np.array([named.get(token.decode(), '') for token in lidar_tokens.tolist()], str)


def _categories(folder: Path) -> dict[str, np.ndarray]:
    table, lidarseg = read_table(folder, 'category'), (folder / 'lidarseg.json').is_file()
    names, ids, known = table.texts('name'), [], {}
    for row, name in zip(table.rows, names):
        fine = row.get('index')
        if 'index' not in row and not lidarseg:
            fine = -1      # the older category.json has none
        elif type(fine) is not int or not 0 <= fine < 1 << 31:
            raise DataError(f'{table.path}: category {name!r} has the index {fine!r:.40}, expected a whole number, as '
                            f'in the category.json that comes with nuScenes-lidarseg. Unpack it again.')
        elif known.setdefault(fine, name) != name:
            raise DataError(f'{table.path}: index {fine} stands for {known[fine]} and {name}, expected one category '
                            f'each. Unpack nuScenes-lidarseg again.')
        ids.append(fine)
    return dict(category_names=np.array(names, str), category_ids=np.array(ids, np.int32))


def _annotations(folder: Path, sample_rows: dict[str, int], times: np.ndarray,
                 lidar_to_world: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of boxes, in the LiDAR's frame (N, 4, 4) of their samples."""
    attributes, levels, columns = read_table(folder, 'attribute'), _levels(folder), []
    attribute_rows, (instance_rows, categories) = attributes.numbered(), _instances(folder)
    for block in read_blocks(folder, 'sample_annotation'):
        sample = block.rows_of('sample_token', 'sample', sample_rows)
        block, sample = block.keep(sample >= 0), sample[sample >= 0]
        instance, visibility = (block.rows_of('instance_token', 'instance', instance_rows),
                                block.rows_of('visibility_token', 'visibility', levels, empty=True))
        counts = [_counts(block, field) for field in ('num_lidar_pts', 'num_radar_pts')]
        columns.append((sample.astype(np.int32), _sizes(block), block.poses(), instance.astype(np.int32),
                        visibility.astype(np.int8) + np.int8(1), _first_attributes(block, attribute_rows), *counts,
                        *(encoded(block.texts(field)) for field in ('token', 'prev', 'next'))))
    sample, sizes, poses, instance, visibility, attribute, lidar_points, radar_points, tokens, prev, following = (
        _joined(columns))
    path = folder / 'sample_annotation.json'
    before, after = _links(path, tokens, prev=prev, next=following)
    del prev, following      # a quarter of the memory
    for field, other in (('prev', before), ('next', after)):
        strange = (other >= 0) & (instance[other] != instance)
        if strange.any():
            raise DataError(f'{path}: record {tokens[strange][0].decode()[:80]} names one of another instance as '
                            f'{field}, expected a chain of one instance. Unpack the metadata again.')
    velocities = _velocities(path, tokens, poses[:, :3], times[sample], before, after)
    order = np.argsort(sample, kind='stable')
    boxes = np.empty((len(order), 9))
    for start in range(0, len(order), MANY):
        rows = order[start:start + MANY]
        to_world = lidar_to_world[sample[rows]]
        turn = np.swapaxes(to_world[:, :3, :3], 1, 2)
        heading = turn @ rotations(poses[rows, 3:])[:, :, :1]
        center = turn @ (poses[rows, :3] - to_world[:, :3, 3])[..., None]
        velocity = turn @ velocities[rows, :, None]
        yaw = np.arctan2(heading[:, 1], heading[:, 0])
        boxes[start:start + MANY] = np.concatenate(
            [center[..., 0], sizes[rows][:, [1, 0, 2]], yaw, velocity[:, :2, 0]], 1)
    return dict(attribute_names=attributes.names('name'), instance_tokens=np.array(list(instance_rows), str),
                box_offsets=np.searchsorted(sample[order], np.arange(len(times) + 1)), boxes=boxes,
                box_categories=categories[instance[order]], box_attributes=attribute[order],
                box_visibility=visibility[order], box_lidar_points=lidar_points[order],
                box_radar_points=radar_points[order], box_instances=instance[order], box_poses=poses[order],
                box_velocities=velocities[order, :2])


def _instances(folder: Path) -> tuple[dict[str, int], np.ndarray]:
    """Token -> row of an instance; (I,) int16 rows of their categories."""
    table = read_table(folder, 'instance')
    categories = table.rows_of('category_token', 'category', read_table(folder, 'category').numbered())
    return table.numbered(), categories.astype(np.int16)


def _sizes(block: Block) -> np.ndarray:
    """(N, 3) width, length and height [m]."""
    sizes = block.numbers('size', 3)
    if (sizes <= 0).any():
        block.refuse(int(np.flatnonzero((sizes <= 0).any(1))[0]), 'size', 'a width, length and height above 0')
    return sizes


def _counts(block: Block, field: str) -> np.ndarray:
    counts = block.integers(field)
    wrong = (counts < 0) | (counts >= 1 << 31)
    if wrong.any():
        block.refuse(int(np.flatnonzero(wrong)[0]), field, 'a number of points')
    return counts.astype(np.int32)


def _levels(folder: Path) -> dict[str, int]:
    """Token of a level of visibility -> its row in `LEVELS`."""
    table = read_table(folder, 'visibility')
    found = {level: number for number, level in enumerate(LEVELS)}
    return {token: found[level] if level in found else table.refuse(row, 'level', f'one of {", ".join(LEVELS)}')
            for row, (token, level) in enumerate(zip(table.numbered(), table.texts('level')))}


def _first_attributes(block: Block, known: dict[str, int]) -> np.ndarray:
    """(N,) row of each box's first attribute, -1 = none."""
    found = []
    for number, row in enumerate(block.rows):
        tokens = row.get('attribute_tokens')
        if not isinstance(tokens, list):
            block.refuse(number, 'attribute_tokens', 'a list of tokens')
        stray = [token for token in tokens if not (isinstance(token, str) and token in known)]
        if stray:
            block.stray(number, 'attribute_tokens', stray[0], 'attribute')
        found.append(known[tokens[0]] if tokens else -1)
    return np.array(found, np.int16)


def _velocities(path: Path, tokens: np.ndarray, centers: np.ndarray, times: np.ndarray, before: np.ndarray,
                after: np.ndarray) -> np.ndarray:
    """(B, 3) m/s in the world, as the development kit's `box_velocity` has them; NaN where it gives none."""
    rows = np.arange(len(centers))
    first, last = np.where(before >= 0, before, rows), np.where(after >= 0, after, rows)
    seconds = 1e-6 * times[last] - 1e-6 * times[first]
    alone = (before < 0) & (after < 0)
    wrong = ~alone & (seconds <= 0)
    if wrong.any():
        raise DataError(f'{path}: record {tokens[wrong][0].decode()[:80]} has a prev that is not earlier or a next '
                        f'that is not later, expected annotations in the order of time. Unpack the metadata again.')
    unknown = alone | (seconds > np.where((before >= 0) & (after >= 0), 2 * GAP, GAP))
    seconds[unknown] = np.nan
    return (centers[last] - centers[first]) / seconds[:, None]


def _links(path: Path, tokens: np.ndarray, **columns: np.ndarray) -> list[np.ndarray]:
    """For each column (N,) of tokens of the same table the rows (N,) that they name, -1 for empty ones.

    Raises:
        DataError: one that refers to nothing, or records of the same token.
    """
    order = np.argsort(tokens)
    ordered, found = tokens[order], []
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise DataError(f'{path}: two records have the token {ordered[twice[0]].decode()[:80]!r}, expected one each. '
                        f'Unpack the metadata again.')
    for field, wanted in columns.items():
        rows, named = np.full(len(tokens), -1, np.int32), np.flatnonzero(wanted != b'')
        for some in np.split(named, range(MANY, len(named), MANY)):
            places = np.searchsorted(ordered, wanted[some]).clip(max=len(tokens) - 1)
            stray = some[ordered[places] != wanted[some]]
            if len(stray):
                raise DataError(f'{path}: record {tokens[stray[0]].decode()[:80]} names {field} '
                                f'{wanted[stray[0]].decode()[:80]!r}, which is not in {path.name}, expected tables '
                                f'that belong together. Unpack the metadata again.')
            rows[some] = order[places]
        found.append(rows)
    return found


def _joined(columns: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """The columns of a table; those of its blocks are given up one by one, for they are as large."""
    parts = [list(column) for column in zip(*columns)]
    columns.clear()
    return [np.concatenate(parts.pop(0)) for _ in range(len(parts))]
