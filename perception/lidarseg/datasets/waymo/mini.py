"""Mini Waymo: the toy world in the folders of arrays that `reader.py` reads.

```
<root>/{training,validation,testing}/segment-CONTEXT_with_camera_labels/TIMESTAMP/*.npy
<root>/3d_semseg_test_set_frames.txt       the frames to submit
<root>/mini.json                           what it was made from
```
Five LiDARs with both returns: TOP with 64 x 2650 pixels as the real one, and four small ones around the car with fewer
pixels than the real ones have. Each segment has a street of its own.
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.common.scene.caster import Caster, Hits
from perception.common.scene.labels import MARK, PART
from perception.common.scene.lidar import LidarSpec, Scan, scan
from perception.common.scene.materials import MATERIAL
from perception.common.scene.workers import write_streets
from perception.common.scene.works import add_works
from perception.common.scene.world import LEAD_IN, SCENE_VERSION, build_world
from perception.common.visual import canvas
from perception.lidarseg.datasets.waymo.reader import CLASSES, FRAME_LIST, PALETTE, PREFIX, SPLITS, SUFFIX, Waymo
from perception.lidarseg.draw import draw_scan
from perception.utils.errors import DataError
from perception.utils.paths import data_path

DATASET_CODE = 8           # keeps the streets of the mini data sets apart
WRITER_VERSION = 1         # goes up when files change
START = 1_510_000_000_000_000  # microseconds, of the first frame
STYLES = ('residential', 'urban', 'avenue')
# TOP: 64 beams from 2.4 to -17.6 degrees, closer to each other at the horizon
_BEAM = np.arange(64) / 63
TOP = LidarSpec(elevations=tuple((2.4 - 20 * (.55 * _BEAM + .45 * _BEAM**2)).tolist()), columns=2650, height=2.18,
                min_range=1.5, max_range=75.0, noise=.015, period=.1)
SIDE = LidarSpec(elevations=tuple(np.linspace(25, -60, 32).tolist()), columns=120, height=0.0, min_range=.3,
                 max_range=20.0, noise=.015, period=.1)
PLACES = ((1.43, 0.0, 2.18, 0.0), (4.07, 0.0, .69, 0.0), (3.25, 1.03, .98, 90.0), (3.25, -1.03, .98, -90.0),
          (-1.15, 0.0, .47, 180.0))  # of the five LiDARs: x, y, z [m], yaw [degrees] in the vehicle's frame
SPREAD = .11               # degrees between the two parts of a beam that may meet different things
APART = 1.0                # metres between them that make two returns

_NAMES = dict(
    road='road', marking='other-ground', parking='road', sidewalk='sidewalk', other_ground='walkable',
    terrain='walkable', building='building', fence='building', vegetation='vegetation', trunk='tree-trunk', pole='pole',
    sign='sign', car='car', truck='truck', bus='bus', bendy_bus='bus', trailer='other-vehicle',
    construction='other-vehicle', train='other-vehicle', ambulance='car', police_car='car', bicycle='bicycle',
    motorcycle='motorcycle', person='pedestrian', child='pedestrian', worker='pedestrian', police_officer='pedestrian',
    bicyclist='bicyclist', motorcyclist='motorcyclist', personal_mobility='pedestrian', wheelchair='pedestrian',
    cone='construction-cone')  # everything else is undefined
TYPE = {name: number for number, name in enumerate(CLASSES, 1)}
TYPES = np.array([TYPE.get(_NAMES.get(part), 0) for part in PART], np.int16)  # official type of each part
LANE_MARKS = [MARK[name] for name in ('white_solid', 'yellow_solid', 'white_double', 'yellow_double', 'white_dashed',
                                      'yellow_dashed')]


def write_waymo_mini(root: str | Path = 'data/mini/waymo', seed: int = 0, train_segments: int = 6,
                     train_frames: int = 4, val_segments: int = 2, val_frames: int = 4, test_segments: int = 1,
                     test_frames: int = 3, columns: int = 2650, force: bool = False, workers: int = 0) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_segments, val_segments, test_segments: streets of each split.
        train_frames, val_frames, test_frames: frames of each segment, 2 s apart.
        columns: azimuth steps of the TOP LiDAR per turn; the real one has 2650.
        force: write it again even if a complete one is there.
        workers: processes that write segments, 0 for as many as there are cores; the files do not depend on it.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    root = data_path(root)
    counts = dict(train=(train_segments, train_frames), val=(val_segments, val_frames),
                  test=(test_segments, test_frames))
    if seed < 0 or columns < 16 or not all(1 <= n <= 20 for pair in counts.values() for n in pair) or \
            not 0 <= workers <= 64:
        raise DataError(f'write_waymo_mini: seed={seed}, columns={columns}, workers={workers}, segments and frames '
                        f'{counts}, expected a seed of 0 or more, 16 columns or more, 0 to 64 workers and 1 to 20 of '
                        'each. Give numbers in these ranges.')
    stamp = dict(dataset='waymo', simulated=True, scene_version=SCENE_VERSION, writer_version=WRITER_VERSION, seed=seed,
                 counts={split: list(pair) for split, pair in counts.items()}, columns=columns)

    def write(folder: Path) -> None:
        _write_all(folder, seed, counts, replace(TOP, columns=columns), workers)
    return write_stamped(root, stamp, write, 'Waymo', 150, force)


def draw_sheet(root: str | Path, path: str | Path) -> Path:
    """Draws the first frame of each labelled segment, from behind and from above, for people to look at.

    Args:
        root: a data set as `reader.py` reads it.
        path: PNG file to write.

    Raises:
        DataError: there is no labelled frame.
    """
    rows = []
    for split in ('train', 'val'):
        dataset = Waymo(root, split)
        seen = set()
        for index, folder in enumerate(dataset.frames):
            if folder.parent not in seen:
                seen.add(folder.parent)
                sample = dataset.read(index)
                rows.append(draw_scan(sample['points'], CLASSES, PALETTE, labels=sample['labels'],
                                      title=f'{split} {sample["sample_id"]}'))
    return canvas.save_png(path, canvas.stacked(rows))


def _write_all(root: Path, seed: int, counts: dict[str, tuple[int, int]], top: LidarSpec, workers: int) -> None:
    jobs = [(root, seed, split, 100 * code + segment, frames, top)
            for code, (split, (segments, frames)) in enumerate(counts.items()) for segment in range(segments)]
    listed = write_streets(_write_segment, jobs, [job[4] for job in jobs], workers, 'Waymo', 'frame')
    (root / FRAME_LIST).write_text(''.join(listed))


def _write_segment(root: Path, seed: int, split: str, number: int, frames: int, top: LidarSpec) -> str:
    """Writes the frames of a segment; returns the lines of the list of frames to submit."""
    street_seed = (seed, DATASET_CODE, number)
    context = f'{10_000_000_000_000_000_000 + number}_000_000_020_000'
    length = 2 * LEAD_IN + 40 + 30 * frames
    world = build_world(street_seed, STYLES[number % 100 % len(STYLES)], length)
    world = add_works(world, 0, LEAD_IN + 6, length - LEAD_IN)
    caster, listed = world.caster(threads=1), []
    for frame in range(frames):
        t = 2.0 * frame
        caster.set_actors(world.frame(t))
        velocity = (world.drive.pose(t + .05)[:3, 3] - world.drive.pose(t - .05)[:3, 3]) / .1
        timestamp = START + number * 60_000_000 + int(round(t * 1e6))
        folder = root / SPLITS[split] / f'{PREFIX}{context}{SUFFIX}' / str(timestamp)
        write_frame(folder, caster, world.drive.pose(t), velocity, top, (*street_seed, frame),
                    labelled=split != 'test')
        if split == 'test':
            listed.append(f'{context},{timestamp}\n')
    return ''.join(listed)


def write_frame(folder: Path, caster: Caster, ego: np.ndarray, velocity: np.ndarray, top: LidarSpec,
                seed: tuple[int, ...], labelled: bool) -> None:
    """Writes the arrays of one frame.

    Args:
        folder: of the frame; made here.
        caster: the world at this moment.
        ego: (4, 4) pose of the car's ground point.
        velocity: (3,) m/s.
        top: the TOP LiDAR.
        seed: of the noise.
        labelled: whether to write `segment.npy`.
    """
    world = TypeCaster(caster)
    returns: tuple[list, list] = ([], [])
    for number, place in enumerate(PLACES):
        mount, spec = mounting(place), SIDE if number else top
        pair = two_returns(world, ego @ mount, spec, (*seed, number), velocity, half=number > 0)
        for found, (points, types, mask) in zip(returns, pair):
            xyz = points[:, :3].astype(np.float64) @ mount[:3, :3].T + mount[:3, 3]
            found.append((xyz.astype(np.float32), points[:, 3:], types if number == 0 else 0 * types, mask))
    parts = [part for found in returns for part in found]
    masks = np.empty((2, len(PLACES)), object)
    masks[:] = [[part[3] for part in found] for found in returns]
    folder.mkdir(parents=True)
    np.save(folder / 'coord.npy', np.concatenate([part[0] for part in parts]))
    np.save(folder / 'strength.npy', np.tanh(np.concatenate([part[1] for part in parts])))
    np.save(folder / 'pose.npy', ego.astype(np.float32))
    np.save(folder / 'mask.npy', masks, allow_pickle=True)
    if labelled:
        np.save(folder / 'segment.npy', np.concatenate([part[2] for part in parts]).astype(np.int32) - 1)


def mounting(place: tuple[float, float, float, float]) -> np.ndarray:
    """(4, 4) from a LiDAR at x, y, z [m] with a yaw [degrees] to the vehicle."""
    matrix = np.eye(4)
    cos, sin = np.cos(np.deg2rad(place[3])), np.sin(np.deg2rad(place[3]))
    matrix[:2, :2], matrix[:3, 3] = [[cos, -sin], [sin, cos]], place[:3]
    return matrix


def two_returns(caster: TypeCaster, pose: np.ndarray, spec: LidarSpec, seed: tuple[int, ...], velocity: np.ndarray,
                half: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Both returns of a turn: points (N, 4), official types (N,) and the pixels (H, W) that they fill, row by row.

    A beam has a width. A second one beside it stands for its other part: where it meets something at another distance,
    there are two returns.

    Args:
        caster: the world.
        pose: (4, 4) of the LiDAR.
        spec: the LiDAR.
        seed: of the noise.
        velocity: (3,) m/s.
        half: whether the car hides what is behind the LiDAR.
    """
    beside = replace(spec, elevations=tuple(np.array(spec.elevations) - SPREAD), start=spec.start + SPREAD)
    images = []
    for number, part in enumerate((spec, beside)):
        found = scan(caster, pose, part, np.random.default_rng([*seed, number]), velocity)
        images.append(range_image(found, spec, half))
    (points, types, first), (points2, types2, second) = images
    gap = np.linalg.norm(points[..., :3], axis=-1) - np.linalg.norm(points2[..., :3], axis=-1)
    second = second & first & (np.abs(gap) > APART)
    return [(points[first], types[first], first), (points2[second], types2[second], second)]


def range_image(found: Scan, spec: LidarSpec, half: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (H, W, 4), types (H, W) and filled pixels (H, W) of a scan."""
    shape = (len(spec.elevations), spec.columns)
    column = np.rint((found.time / spec.period + spec.reference) * spec.columns).astype(np.int64)
    row = found.ring.astype(np.int64)
    kept = found.points[:, 0] > 0 if half else np.ones(len(row), bool)
    points, types, mask = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.int16), np.zeros(shape, bool)
    place = row[kept], column[kept]
    points[place], mask[place] = found.points[kept], True
    types[place] = np.where(found.part[kept] == PART['outlier'], 0, found.part[kept])
    return points, types, mask


class TypeCaster:
    """A caster whose hits name Waymo's official types instead of parts.

    Args:
        caster: the world.
    """

    def __init__(self, caster: Caster) -> None:
        self.caster = caster

    def cast(self, origin: np.ndarray, direction: np.ndarray) -> Hits:
        """Nearest hits of rays, `part` = 0..22; see `Caster.cast`."""
        hits = self.caster.cast(origin, direction)
        types = TYPES[hits.part]
        types[hits.material == MATERIAL['kerb']] = TYPE['curb']
        types[(hits.part == PART['marking']) & np.isin(hits.mark, LANE_MARKS)] = TYPE['lane-marker']
        light = (hits.part == PART['sign']) & np.isin(hits.material, [MATERIAL['plastic'], MATERIAL['lamp']])
        types[light] = TYPE['traffic-light']  # signal heads; plates of signs are of metal
        return hits._replace(part=np.where(hits.hit, types, np.int16(0)))
