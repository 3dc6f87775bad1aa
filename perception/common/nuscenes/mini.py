"""Mini nuScenes: the toy world written in the official layout, with all tables, to the byte.

```
<root>/v1.0-mini/*.json                       13 tables and lidarseg.json; all ten scenes of the official mini splits
<root>/v1.0-test/*.json                       the same for scenes of the test split, without labels and boxes
<root>/samples/LIDAR_TOP/*.pcd.bin            32 x 1084 points; x, y, z, intensity, ring
<root>/samples/CAM_*/*.jpg                    six cameras of 1600 x 900 pixels, at the times at which the beam passes
<root>/lidarseg/v1.0-mini/*_lidarseg.bin
<root>/maps/*.png                             masks of the carriageways
<root>/mini.json                              what it was made from
```
Each scene has a street of its own. Key frames only, one a second; no radar. Calibrations are those of a car of the data
set.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.common.nuscenes.tables import CATEGORIES
from perception.common.nuscenes.writer import Calibration, SceneRows, Tables, token_of
from perception.common.scene.camera import CameraSpec, render
from perception.common.scene.caster import Caster
from perception.common.scene.labels import NUSCENES, PARTS
from perception.common.scene.lidar import HDL32E, LidarSpec, Scan, full_scan
from perception.common.scene.shading import Look
from perception.common.scene.workers import write_streets
from perception.common.scene.works import add_works
from perception.common.scene.world import LEAD_IN, SCENE_VERSION, World, build_world
from perception.utils.errors import DataError
from perception.utils.paths import data_path

TRAIN_SCENES = ('scene-0061', 'scene-0553', 'scene-0655', 'scene-0757', 'scene-0796', 'scene-1077', 'scene-1094',
                'scene-1100')
VAL_SCENES = ('scene-0103', 'scene-0916')
TEST_SCENES = ('scene-0077', 'scene-0078')
DATASET_CODE = 17          # keeps the streets of the mini data sets apart
WRITER_VERSION = 2         # goes up when files change
INTERVAL = 1.0             # seconds between key frames
START = 1_532_402_927_000_000     # microseconds, of the first scene
STYLES = ('urban', 'residential', 'avenue', 'boulevard')
LOOKS = ('day', 'overcast', 'shadow')
REACH = 70.0               # metres up to which things get boxes
FINE = np.array([CATEGORIES.index(NUSCENES[part]) for part in PARTS], np.uint8)
TURNED = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])    # x forward to x right, y forward

# translation [m] and rotation (w, x, y, z) from the sensor to the ego, as in nuScenes' v1.0-mini
LIDAR = Calibration('LIDAR_TOP', (.943713, 0.0, 1.84023), (.70779551, -.00649224, .01064621, -.70630731))
CAMERAS = (  # with focal length and principal point [pixels], and when the beam passes: ms before the LiDAR's time
    Calibration('CAM_FRONT', (1.700791, .015946, 1.510958), (.49985373, -.50304160, .49979535, -.49728836),
                (1266.4172, 816.2670, 491.5071), -35.5),
    Calibration('CAM_FRONT_RIGHT', (1.550848, -.493405, 1.495748), (.20603368, -.20269252, .68244614, -.67136944),
                (1260.8474, 807.9682, 495.3344), -27.6),
    Calibration('CAM_BACK_RIGHT', (1.014878, -.480568, 1.562395), (.12280984, -.13240151, -.70042820, .69049610),
                (1259.5137, 807.2529, 501.1958), -20.1),
    Calibration('CAM_BACK', (.028326, .003451, 1.579103), (.50378755, -.49740014, -.49419776, .50454962),
                (809.2210, 829.2196, 481.7784), -10.4),
    Calibration('CAM_BACK_LEFT', (1.035691, .484795, 1.590970), (.69242236, -.70315795, -.11648343, .11203176),
                (1256.7415, 792.1126, 492.7758), -.5),
    Calibration('CAM_FRONT_LEFT', (1.523878, .494631, 1.509328), (.67572588, -.67363212, .21214016, -.21122827),
                (1272.5979, 826.6155, 479.7517), -43.1))


@dataclass(frozen=True)
class Job:
    """One scene to write."""
    root: Path
    version: str
    scene: str
    number: int
    seed: int
    frames: int
    columns: int
    detail: float
    labelled: bool


def write_nuscenes_mini(root: str | Path = 'data/mini/nuscenes', seed: int = 0, train_frames: int = 3,
                        val_frames: int = 6, test_frames: int = 3, train_scenes: int = 8, test_scenes: int = 2,
                        columns: int = 1084, detail: float = .2, workers: int = 0, force: bool = False) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_frames, val_frames, test_frames: key frames of each scene of a split.
        train_scenes, test_scenes: up to 8 training and 2 test scenes; of the 2 validation scenes none can be missing,
            for the official evaluation wants them.
        columns: azimuth steps per turn; the real scanner has 1084.
        detail: share of the width of 1600 pixels at which images are rendered; files have the official size all the
            same.
        workers: processes that write scenes, 0 for as many as there are cores; the result does not depend on it.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    counts = (train_frames, val_frames, test_frames)
    scenes = dict(zip((TRAIN_SCENES[:train_scenes], VAL_SCENES, TEST_SCENES[:test_scenes]), counts))
    if min(counts) < 1 or max(counts) > 40 or not 1 <= train_scenes <= len(TRAIN_SCENES) or \
            not 1 <= test_scenes <= len(TEST_SCENES):
        raise DataError(f'write_nuscenes_mini: train_frames, val_frames, test_frames = {counts}, train_scenes='
                        f'{train_scenes}, test_scenes={test_scenes}, expected 1 to 40 key frames, 1 to '
                        f'{len(TRAIN_SCENES)} training and 1 to {len(TEST_SCENES)} test scenes. Give such numbers.')
    if seed < 0 or columns < 16 or not .01 <= detail <= 1 or not 0 <= workers <= 64:
        raise DataError(f'write_nuscenes_mini: seed={seed}, columns={columns}, detail={detail}, workers={workers}, '
                        'expected a seed of 0 or more, 16 columns or more, a detail of 0.01 to 1 and 0 to 64 workers. '
                        'Give numbers in these ranges.')
    stamp = dict(dataset='nuscenes', simulated=True, scene_version=SCENE_VERSION, writer_version=WRITER_VERSION,
                 seed=seed, frames=list(counts), train_scenes=train_scenes, test_scenes=test_scenes, columns=columns,
                 detail=detail)
    write = partial(_write_all, scenes=scenes, seed=seed, columns=columns, detail=detail, workers=workers)
    return write_stamped(data_path(root), stamp, write, 'nuScenes', 80, force)


def _write_all(root: Path, scenes: dict[tuple[str, ...], int], seed: int, columns: int, detail: float,
               workers: int) -> None:
    order = (*TRAIN_SCENES, *VAL_SCENES, *TEST_SCENES)     # a scene is the same whatever others there are
    jobs = [Job(root, 'v1.0-test' if scene in TEST_SCENES else 'v1.0-mini', scene, order.index(scene), seed, count,
                columns, detail, scene not in TEST_SCENES) for names, count in scenes.items() for scene in names]
    for name in ('LIDAR_TOP', *(camera.channel for camera in CAMERAS)):
        (root / 'samples' / name).mkdir(parents=True)
    for folder in ('maps', 'lidarseg/v1.0-mini', 'lidarseg/v1.0-test'):
        (root / folder).mkdir(parents=True)
    written = write_streets(write_scene, [(job,) for job in jobs], [job.frames for job in jobs], workers, 'nuScenes',
                            'key frame')
    for version in ('v1.0-mini', 'v1.0-test'):
        tables = Tables(CATEGORIES, (LIDAR, *CAMERAS))
        for job, rows in zip(jobs, written):
            if job.version == version:
                tables.extend(rows)
        tables.save(root / version)


def write_scene(job: Job) -> dict[str, list[dict]]:
    """Writes the files of one scene and returns the rows of its tables."""
    seed = (job.seed, DATASET_CODE, job.number)
    seconds = INTERVAL * (job.frames + 1)
    length = max(180.0, 2 * LEAD_IN + 20 + 12 * seconds)
    world = build_world(seed, STYLES[job.number % len(STYLES)], length)
    world = add_works(world, 0, LEAD_IN - 10, LEAD_IN + 12 * seconds + 20)
    caster = world.caster(threads=1)
    shift = np.eye(4)        # maps have no negative coordinates
    shift[:2, 3] = 60 - np.array([world.street.x.min(), world.street.y.min()])
    scene = SceneWriter(job, world, caster, shift)
    for frame in range(job.frames):
        scene.key_frame(frame)
    scene.finish()
    return scene.rows.tables


class SceneWriter:
    """Writes the key frames of a scene.

    Args:
        job: what to write.
        world, caster: the street.
        shift: 4x4 from the street's frame to that of the map.
    """

    def __init__(self, job: Job, world: World, caster, shift: np.ndarray) -> None:
        self.job, self.world, self.caster, self.shift = job, world, caster, shift
        self.spec: LidarSpec = replace(HDL32E, columns=job.columns)
        heading = np.rad2deg(world.street.heading_at(LEAD_IN))
        self.look = Look(LOOKS[job.number % len(LOOKS)], azimuth=float(heading + 130))
        self.log = f'n{job.number:03d}-2018-07-24-11-22-45+0800'
        self.rows = SceneRows(job.scene, self.log, f'maps/{token_of(job.scene, "map")}.png', job.labelled)
        self.start = START + 60_000_000 * job.number

    def stamp(self, t: float) -> int:
        """Microseconds of a moment t [s] of the drive."""
        return self.start + round(t * 1e6)

    def ego(self, t: float) -> np.ndarray:
        """4x4 pose of the ego in the map."""
        return self.shift @ self.world.drive.pose(t)

    def key_frame(self, frame: int) -> None:
        """Writes a key frame: sweep, labels, six images, boxes."""
        t = INTERVAL * frame + .5
        sample = self.rows.add_sample(self.stamp(t))
        found = self._sweep(t, frame)
        token = self.rows.add_data(sample, LIDAR, self.stamp(t), self.ego(t), 'pcd.bin')
        path = self.job.root / self.rows.file_of(token)
        ring = np.tile(np.arange(32, dtype='<f4'), self.job.columns)
        np.concatenate([found.points, ring[:, None]], 1).astype('<f4').tofile(path)
        if self.job.labelled:
            name = f'lidarseg/{self.job.version}/{token}_lidarseg.bin'
            FINE[found.part].tofile(self.job.root / name)
            self.rows.add_labels(token, name)
        for index, camera in enumerate(CAMERAS):
            self._image(sample, camera, t + camera.delay / 1000, (frame, index))
        if self.job.labelled:
            self._boxes(sample, t, found)

    def _sweep(self, t: float, frame: int) -> Scan:
        """One turn that ends at t, in nuScenes' LiDAR frame."""
        rng = np.random.default_rng([self.job.seed, DATASET_CODE, self.job.number, 100, frame])
        return sweep(self.caster, self.world, self.world.drive.pose, t, self.spec, rng)

    def _image(self, sample: str, camera: Calibration, t: float, seed: tuple[int, int]) -> None:
        self.caster.set_actors(self.world.frame(t))
        focal, cx, cy = camera.intrinsics
        spec = CameraSpec(1600, 900, focal, camera.translation[2], 0, camera.translation[0], (cx, cy), self.job.detail)
        rng = np.random.default_rng([self.job.seed, DATASET_CODE, self.job.number, 200, *seed])
        picture = render(self.caster, self.world.drive.pose(t) @ camera.matrix, spec, self.look, rng).image
        token = self.rows.add_data(sample, camera, self.stamp(t), self.ego(t), 'jpg')
        data = cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        (self.job.root / self.rows.file_of(token)).write_bytes(data.tobytes())

    def _boxes(self, sample: str, t: float, found: Scan) -> None:
        """Records of all things near the ego that the LiDAR could see."""
        boxes = self.world.boxes(t)
        lidar = self.world.drive.pose(t) @ LIDAR.matrix
        near = np.linalg.norm(boxes.boxes_3d[:, :2] - lidar[:2, 3], axis=1) < REACH
        returned = found.points[np.linalg.norm(found.points[:, :3], axis=1) > self.spec.min_range, :3]
        world = returned @ lidar[:3, :3].T + lidar[:3, 3]
        self.caster.set_actors(self.world.frame(t))
        for index in np.flatnonzero(near):
            box = boxes.boxes_3d[index]
            points = int(inside(world, box).sum())
            seen = float(visible_shares(self.caster, lidar[:3, 3], box[None], boxes.instance[index, None])[0])
            if points or seen > 0:
                speed = float(np.linalg.norm(boxes.velocity[index]))
                self.rows.add_box(sample, boxes.part[index], int(boxes.instance[index]), moved(box, self.shift), points,
                                  seen, speed)

    def finish(self) -> None:
        """Ends the scene and writes the mask of its carriageway."""
        self.rows.finish()
        street = self.world.street
        s = np.arange(-50, street.length + 50, 2.0)
        edges = [street.at(s, np.full(len(s), side * street.half))[:, :2] for side in (1, -1)]
        outline = np.concatenate([edges[0], edges[1][::-1]]) + self.shift[:2, 3]
        size = np.ceil(outline.max(0) * 10).astype(int) + 600      # a pixel is 0.1 m
        mask = np.zeros((size[1], size[0]), np.uint8)
        pixels = np.stack([outline[:, 0] * 10, size[1] - outline[:, 1] * 10], -1)
        cv2.fillPoly(mask, [np.rint(pixels).astype(np.int32)], 255)
        (self.job.root / self.rows.map_file).write_bytes(cv2.imencode('.png', mask)[1].tobytes())


def sweep(caster: Caster, world: World, pose: Callable[[float], np.ndarray], t: float, spec: LidarSpec,
          rng: np.random.Generator, reach: float = np.inf) -> Scan:
    """One turn of the LiDAR that ends at a moment, in nuScenes' LiDAR frame.

    Args:
        caster: of the world; it is taken to the middle of the turn.
        world: the street.
        pose: gives the 4x4 pose of the ego in the street's frame at a time [s].
        t: seconds.
        spec: the scanner.
        rng: source of its noise.
        reach: metres of street up to which there is anything that moves.
    """
    caster.set_actors(world.frame(t - spec.period / 2, reach))
    mount = LIDAR.matrix @ TURNED
    velocity = ((pose(t) @ mount)[:3, 3] - (pose(t - .05) @ mount)[:3, 3]) / .05
    found = full_scan(caster, pose(t) @ mount, spec, rng, velocity)
    points = np.concatenate([found.points[:, :3] @ TURNED[:3, :3].T, found.points[:, 3:]], 1)
    return found._replace(points=points.astype(np.float32))


def inside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(N,) whether points (N, 3) lie in a box (7,): x, y, z of the bottom centre, dx, dy, dz, yaw."""
    local = points - box[:3]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    x, y = local[:, 0] * cos + local[:, 1] * sin, local[:, 1] * cos - local[:, 0] * sin
    return (np.abs(x) <= box[3] / 2) & (np.abs(y) <= box[4] / 2) & (local[:, 2] >= 0) & (local[:, 2] <= box[5])


def visible_shares(caster: Caster, eye: np.ndarray, boxes: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """(K,) shares of 27 points inside each of K boxes (K, 7) that nothing but the thing itself hides from `eye` (3,).

    Args:
        caster: the world at this moment.
        eye: metres.
        boxes: (K, 7) x, y, z of the bottom centre, dx, dy, dz, yaw.
        instances: (K,) ids of the things.
    """
    grid = np.stack(np.meshgrid(*[[-.4, 0, .4]] * 2, [.1, .5, .9], indexing='ij'), -1).reshape(-1, 3) * boxes[:, None,
                                                                                                          3:6]
    turn = np.zeros((len(boxes), 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(boxes[:, 6])
    turn[:, 0, 1] = np.sin(boxes[:, 6])
    turn[:, 1, 0], turn[:, 2, 2] = -turn[:, 0, 1], 1
    points = grid @ turn + boxes[:, None, :3]
    way = (points - eye).astype(np.float32).reshape(-1, 3)
    hits = caster.cast(np.broadcast_to(eye.astype(np.float32), way.shape), way)
    clear = ~hits.hit | (hits.distance >= 1) | (hits.instance == np.repeat(instances, 27))
    return clear.reshape(-1, 27).mean(1)


def moved(box: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """A box (7,) in the frame that a pure translation leads to."""
    return np.concatenate([box[:3] + shift[:3, 3], box[3:]])
