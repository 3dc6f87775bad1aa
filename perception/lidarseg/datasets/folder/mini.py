"""A folder of scans as people have it: the toy world as PCD files, with labels as arrays.

```
<root>/{street,park,yard}/scans/NNNNNN.pcd    x, y, z, intensity; binary
<root>/{street,park,yard}/labels/NNNNNN.npy   (N,) int32 ids, see IDS
<root>/mini.json                               what it was made from
```
"""
from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from perception.common.formats.kitti import read_labels, read_points
from perception.common.formats.stamped import write_stamped
from perception.common.scene.lidar import HDL64E
from perception.common.scene.workers import write_streets
from perception.common.scene.world import LEAD_IN, SCENE_VERSION, build_world
from perception.lidarseg.datasets.semantickitti.mini import write_sequence
from perception.lidarseg.datasets.semantickitti.reader import LEARNING_MAP
from perception.utils.errors import DataError
from perception.utils.optional import import_optional
from perception.utils.paths import data_path

DRIVES = ('street', 'park', 'yard')  # the last one is for validation
IDS = {1: 'ground', 2: 'building', 3: 'plant', 4: 'pole', 10: 'vehicle', 11: 'person'}  # 0 is no class
OF_TRAIN_ID = np.array([10, 10, 10, 10, 10, 11, 11, 11, 1, 1, 1, 1, 2, 2, 3, 3, 1, 4, 4])  # SemanticKITTI's classes
DATASET_CODE = 7  # keeps the streets of the mini data sets apart
INTERVAL = 2.0  # seconds between scans


def write_point_folder_mini(root: str | Path = 'data/mini/point_folder', seed: int = 0, train_scans: int = 8,
                            val_scans: int = 4, columns: int = 1000, force: bool = False, workers: int = 0) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_scans: scans of each of the two drives for training.
        val_scans: scans of the third drive.
        columns: azimuth steps per turn.
        force: write it again even if a complete one is there.
        workers: processes that write drives, 0 for as many as there are cores; the files do not depend on it.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
        MissingDependency: pypcd4 is absent.
    """
    if seed < 0 or columns < 16 or not (1 <= train_scans <= 50 and 1 <= val_scans <= 50 and 0 <= workers <= 64):
        raise DataError(f'write_point_folder_mini: seed={seed}, train_scans={train_scans}, val_scans={val_scans}, '
                        f'columns={columns}, workers={workers}, expected a seed of 0 or more, 1 to 50 scans, 16 '
                        'columns or more and 0 to 64 workers. Give numbers in these ranges.')
    stamp = dict(dataset='point_folder', simulated=True, scene_version=SCENE_VERSION, seed=seed,
                 train_scans=train_scans, val_scans=val_scans, columns=columns)
    return write_stamped(data_path(root), stamp, lambda folder: _write_all(folder, seed, (
        train_scans, train_scans, val_scans), columns, workers), 'point folder', 20, force)


def _write_all(root: Path, seed: int, counts: tuple[int, ...], columns: int, workers: int) -> None:
    import_optional('pypcd4', 'writing .pcd files', 'pip install pypcd4')
    write_streets(_write_drive, [(root, drive, (seed, DATASET_CODE, number), count, columns)
                                 for number, (drive, count) in enumerate(zip(DRIVES, counts))],
                  counts, workers, 'point folder', 'scan')


def _write_drive(root: Path, drive: str, street: tuple[int, ...], count: int, columns: int) -> None:
    kit = import_optional('pypcd4', 'writing .pcd files', 'pip install pypcd4')
    world = build_world(street, length=2 * LEAD_IN + 20 + 8 * count * INTERVAL)
    raw, folder = root / f'.{drive}', root / drive
    write_sequence(raw, world, world.caster(threads=1), INTERVAL * np.arange(count), replace(HDL64E, columns=columns),
                   street, True)
    for name in ('scans', 'labels'):
        (folder / name).mkdir(parents=True)
    for scan in sorted((raw / 'velodyne').iterdir()):
        points = read_points(scan)
        train_ids = LEARNING_MAP[read_labels(raw / 'labels' / f'{scan.stem}.label', len(points)) & 0xFFFF]
        ids = np.append(OF_TRAIN_ID, 0)[np.minimum(train_ids, len(OF_TRAIN_ID))]
        kit.PointCloud.from_xyzi_points(points).save(folder / 'scans' / f'{scan.stem}.pcd')
        np.save(folder / 'labels' / f'{scan.stem}.npy', ids.astype(np.int32))
    shutil.rmtree(raw)
