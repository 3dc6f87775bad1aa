"""Mini SemanticKITTI: the toy world written in the official layout, to the byte.

```
<root>/sequences/SS/{velodyne/FFFFFF.bin, labels/FFFFFF.label, calib.txt, poses.txt, times.txt}
<root>/mini.json            what it was made from
```
Sequences 00 and up are for training, 08 and 22 and up for validation (one street each; the official data end at 21),
11 to 21 hold one scan each without labels (for the multi-scan task three). The three splits never share a street.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from perception.common.formats.kitti import write_calib, write_labels, write_points, write_poses, write_times
from perception.common.formats.stamped import write_stamped
from perception.common.scene.labels import semantickitti_labels
from perception.common.scene.lidar import HDL64E, LidarSpec, scan, sensor_pose
from perception.common.scene.workers import write_streets
from perception.common.scene.world import LEAD_IN, SCENE_VERSION, World, build_world
from perception.utils.errors import DataError
from perception.utils.paths import data_path

VAL_SEQUENCES = (8, *range(22, 31))
TEST_SEQUENCES = range(11, 22)
TRAIN_SEQUENCES = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10)
DATASET_CODE = 1           # keeps the streets of the mini data sets apart
TURN = .1                  # seconds per scan
# camera intrinsics of KITTI's sequences; the fourth columns hold focal length times stereo base line
FOCAL, CENTRE, BASELINES = 718.856, (607.1928, 185.2157), (0.0, -386.1448, 45.38225, -337.2877)
VELO_TO_CAM = np.array([[0, -1, 0, -.012], [0, 0, -1, -.054], [1, 0, 0, -.292], [0, 0, 0, 1.0]])


def write_semantickitti_mini(root: str | Path = 'data/mini/semantickitti', seed: int = 0,
                             train_scans: Sequence[int] = (10,) * 10, val_scans: Sequence[int] = (8,) * 5,
                             columns: int = 2083, interval: float = 2.0, force: bool = False, test_scans: int = 1,
                             workers: int = 0) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_scans: scans per training sequence, for sequences 00, 01, ... (08 and the test ones left out).
        val_scans: scans per validation sequence, for 08, 22, 23, ...
        columns: azimuth steps per turn; the real scanner has about 2083.
        interval: seconds between the scans of a sequence.
        force: write it again even if a complete one is there.
        test_scans: scans of each sequence from 11 to 21.
        workers: processes that write streets, 0 for as many as there are cores; the files do not depend on it.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    root = data_path(root)
    _check(seed, train_scans, val_scans, columns, interval, test_scans, workers)
    stamp = dict(dataset='semantickitti', simulated=True, scene_version=SCENE_VERSION, seed=seed,
                 train_scans=list(train_scans),  # of one validation sequence a number, as it has always been
                 val_scans=val_scans[0] if len(val_scans) == 1 else list(val_scans), columns=columns, interval=interval)
    if test_scans != 1:
        stamp['test_scans'] = test_scans  # absent for one, so that sets from before it was asked for are complete

    def write(folder: Path) -> None:
        _write_all(folder, seed, {**dict(zip(TRAIN_SEQUENCES, train_scans)), **dict(zip(VAL_SEQUENCES, val_scans))},
                   replace(HDL64E, columns=columns), interval, test_scans, workers)
    scans = sum(train_scans) + sum(val_scans) + len(TEST_SEQUENCES) * test_scans
    return write_stamped(root, stamp, write, 'SemanticKITTI', 1 + round(2.6 * scans * columns / 2083), force)


def write_multiscan_mini(root: str | Path = 'data/mini/semantickitti_multiscan', seed: int = 0,
                         train_scans: Sequence[int] = (6, 6, 6, 6, 6, 6), val_scans: Sequence[int] = (10,),
                         columns: int = 2083, force: bool = False, test_scans: int = 3, workers: int = 0) -> Path:
    """Writes scans as dense in time as real ones, 0.1 s apart, so that adding past scans makes sense.

    The streets are those of `write_semantickitti_mini`, which leaves 2 s between scans: after that time past scans show
    another place and say nothing about what moves.

    Args:
        root, seed, train_scans, val_scans, columns, force, test_scans, workers: see `write_semantickitti_mini`.

    Returns:
        The folder.
    """
    return write_semantickitti_mini(root, seed, train_scans, val_scans, columns, TURN, force, test_scans,
                                    workers)


def draw_sheet(root: str | Path, path: str | Path) -> Path:
    """Draws the first scan of each labelled sequence, from behind and from above, for people to look at.

    Args:
        root: a data set in SemanticKITTI's layout.
        path: PNG file to write.

    Raises:
        DataError: there is no labelled scan, or the picture cannot be written.
        MissingDependency: Open3D or its Vulkan libraries are missing.
    """
    from perception.common.visual import canvas
    from perception.lidarseg.datasets.semantickitti.reader import CLASSES, PALETTE, to_train_ids
    from perception.lidarseg.draw import draw_scan
    rows = []
    for label_path in sorted(Path(root).glob('sequences/*/labels/000000.label')):
        points = np.fromfile(label_path.parents[1] / 'velodyne' / '000000.bin', '<f4').reshape(-1, 4)
        labels = to_train_ids(np.fromfile(label_path, '<u4'), label_path)
        rows.append(draw_scan(points, CLASSES, PALETTE, labels=labels, title=f'sequence {label_path.parts[-3]}'))
    if not rows:
        raise DataError(f'{root}: no labelled first scan, expected sequences/SS/labels/000000.label. Give the root of '
                        'a data set, or write one with tools/make_mini.py.')
    return canvas.save_png(path, canvas.stacked(rows))


def _check(seed: int, train_scans: Sequence[int], val_scans: Sequence[int], columns: int, interval: float,
           test_scans: int, workers: int) -> None:
    for name, scans, sequences in (('train_scans', train_scans, TRAIN_SEQUENCES),
                                   ('val_scans', val_scans, VAL_SEQUENCES)):
        if not isinstance(scans, (list, tuple)) or not 1 <= len(scans) <= len(sequences) or \
                not all(isinstance(count, int) and 1 <= count <= 100 for count in scans):
            raise DataError(f'write_semantickitti_mini: {name}={scans}, expected 1 to 100 scans for each of 1 to '
                            f'{len(sequences)} sequences, such as (10, 10). Give such numbers.')
    if not 1 <= test_scans <= 100:
        raise DataError(f'write_semantickitti_mini: test_scans={test_scans}, expected 1 to 100. Give such a number.')
    longest = max(*train_scans, *val_scans, len(TEST_SEQUENCES) * test_scans)  # the test sequences share a street
    if longest * interval > 160:
        raise DataError(f'write_semantickitti_mini: {longest} scans every {interval} s on a street, expected at most '
                        '160 s, which is what a street is long enough for. Give fewer scans or a shorter interval.')
    if seed < 0 or columns < 16 or not 0 < interval <= 10 or not 0 <= workers <= 64:
        raise DataError(f'write_semantickitti_mini: seed={seed}, columns={columns}, interval={interval}, workers='
                        f'{workers}, expected a seed of 0 or more, 16 columns or more, 0 to 10 seconds and 0 to 64 '
                        'workers. Give numbers in these ranges.')


def _write_all(root: Path, seed: int, labelled: dict[int, int], spec: LidarSpec, interval: float, test_scans: int,
               workers: int) -> None:
    streets = [([sequence], count, True) for sequence, count in labelled.items()]
    streets.append((list(TEST_SEQUENCES), len(TEST_SEQUENCES) * test_scans, False))
    sizes = [count for _, count, _ in streets]
    write_streets(write_street, [(root, (seed, DATASET_CODE, street[0][0]), *street, spec, interval)
                                 for street in streets], sizes, workers, 'SemanticKITTI', 'scan')


def write_street(root: Path, seed: tuple[int, ...], sequences: Sequence[int], count: int, labelled: bool,
                 spec: LidarSpec, interval: float) -> None:
    """Writes the sequences of one street.

    Args:
        root: of the data set.
        seed: of the street.
        sequences: their numbers; each gets an equal share of the scans.
        count: scans of all of them.
        labelled: whether to write labels.
        spec: the scanner.
        interval: seconds between scans.
    """
    world = build_world(seed, length=2 * LEAD_IN + 20 + 8 * count * interval)
    caster = world.caster(threads=1)
    for sequence, times in zip(sequences, (interval * np.arange(count)).reshape(len(sequences), -1)):
        write_sequence(root / 'sequences' / f'{sequence:02d}', world, caster, times, spec, seed, labelled)


def write_sequence(folder: Path, world: World, caster, times: np.ndarray, spec: LidarSpec, seed: tuple[int, ...],
                   labelled: bool) -> None:
    """Writes one sequence: scans, labels, calibration, poses and times.

    Args:
        folder: `sequences/SS`.
        world, caster: the street.
        times: (F,) moments of the scans, seconds.
        spec: the scanner.
        seed: start of the seeds of the scans' noise.
        labelled: whether to write labels.
    """
    for name in ('velodyne', 'labels') if labelled else ('velodyne',):
        (folder / name).mkdir(parents=True)
    poses = [sensor_pose(world.drive.pose(t), spec) for t in times]
    for frame, (t, pose) in enumerate(zip(times, poses)):
        caster.set_actors(world.frame(t))
        velocity = (world.drive.pose(t + .05)[:3, 3] - world.drive.pose(t - .05)[:3, 3]) / .1
        rng = np.random.default_rng([*seed, int(round(t / TURN))])
        found = scan(caster, pose, spec, rng, velocity)
        write_points(folder / 'velodyne' / f'{frame:06d}.bin', found.points)
        if labelled:
            labels = semantickitti_labels(found.part, found.instance, world.moving)
            write_labels(folder / 'labels' / f'{frame:06d}.label', labels)
    cam = [VELO_TO_CAM @ np.linalg.inv(poses[0]) @ pose @ np.linalg.inv(VELO_TO_CAM) for pose in poses]
    write_poses(folder / 'poses.txt', cam)
    write_times(folder / 'times.txt', times - times[0])
    cameras = {f'P{index}': np.array([[FOCAL, 0, CENTRE[0], shift], [0, FOCAL, CENTRE[1], 0], [0, 0, 1, 0]])
               for index, shift in enumerate(BASELINES)}
    write_calib(folder / 'calib.txt', dict(cameras, Tr=VELO_TO_CAM))
