"""Mini nuScenes for cameras and maps: the toy world in the official layout, small images, with map expansion and CAN.

```
<root>/v1.0-mini/*.json, v1.0-test/*.json          13 tables each; all ten scenes of the official mini splits
<root>/samples/CAM_*/*.jpg                         six cameras, by default a quarter as large as the real ones
<root>/samples/LIDAR_TOP/*.pcd.bin                 at key frames, 2 a second
<root>/sweeps/LIDAR_TOP/*.pcd.bin                  two turns before each of them
<root>/maps/*.png, maps/expansion/<location>.json  one map for all scenes of a location
<root>/can_bus/scene-*_{pose,meta}.json
<root>/mini.json                                   what it was made from
```
Scenes are at the locations where the real ones are, each on a street of its own beside those of the others. Streets are
flat, as the maps have no heights; the ego sways a little on them. Intrinsics count from pixel centres, for images of
their size.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from perception.common.boxes import points_in_boxes
from perception.common.formats.images import read_image
from perception.common.formats.stamped import write_stamped
from perception.common.nuscenes.can_bus import write_can_bus
from perception.common.nuscenes.index import View
from perception.common.nuscenes.map_writer import MapWriter, mask_file
from perception.common.nuscenes.maps import NuScenesMapData, rasterise, read_map
from perception.common.nuscenes.mini import (
    CAMERAS,
    LIDAR,
    REACH,
    START,
    STYLES,
    TEST_SCENES,
    TRAIN_SCENES,
    VAL_SCENES,
    sweep,
    visible_shares,
)
from perception.common.nuscenes.reader import read_index
from perception.common.nuscenes.tables import CATEGORIES
from perception.common.nuscenes.writer import Calibration, SceneRows, Tables
from perception.common.scene.camera import CameraSpec, render
from perception.common.scene.islands import add_islands
from perception.common.scene.lidar import HDL32E, Scan
from perception.common.scene.placement import Stock
from perception.common.scene.shading import Look
from perception.common.scene.street import END, FAR, Street
from perception.common.scene.workers import write_streets
from perception.common.scene.works import add_works
from perception.common.scene.world import LEAD_IN, SCENE_VERSION, World, build_world
from perception.common.visual import canvas
from perception.common.visual.bev import BirdsEye
from perception.common.visual.boxes import BoxLayer, draw_boxes
from perception.utils.errors import DataError
from perception.utils.paths import data_path

DATASET_CODE = 31          # keeps the streets of the mini data sets apart
WRITER_VERSION = 1         # goes up when files change
SWEEPS = (.10, .05)        # seconds before a key frame
SPEED = 12.0               # metres that a street is longer for each second of a drive
BEND = 1 / 120             # 1/metres: cross streets do not meet on the inner side of such a bend
AROUND = 85.0              # metres of street around the ego in which things move
SWAY = .3                  # degrees by which the ego rolls and pitches
# location of each scene, its place there (column, row) and its light
SCENES = {
    'scene-0061': ('singapore-onenorth', (0, 0), 'day'), 'scene-0553': ('boston-seaport', (1, 0), 'day'),
    'scene-0655': ('boston-seaport', (0, 1), 'shadow'), 'scene-0757': ('boston-seaport', (1, 1), 'overcast'),
    'scene-0796': ('singapore-queenstown', (1, 0), 'day'), 'scene-1077': ('singapore-hollandvillage', (0, 0), 'shadow'),
    'scene-1094': ('singapore-hollandvillage', (1, 0), 'overcast'),
    'scene-1100': ('singapore-hollandvillage', (0, 1), 'night'), 'scene-0103': ('boston-seaport', (0, 0), 'overcast'),
    'scene-0916': ('singapore-queenstown', (0, 0), 'day'), 'scene-0077': ('singapore-onenorth', (1, 0), 'shadow'),
    'scene-0078': ('singapore-onenorth', (0, 1), 'overcast')}
# of the things that stand about, cars are the most, as in the real set
STOCK = Stock(('car', 'construction', 'car', 'motorcycle', 'car', 'trailer', 'car', 'bicycle', 'car', 'truck', 'car'),
              (1, 3), .8, .8)
CAMERA_ORDER = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT')
# colours of map layers as the development kit draws them
SHADES = dict(drivable_area=(166, 206, 227), lane=(51, 160, 44), ped_crossing=(251, 154, 153), walkway=(227, 26, 28),
              stop_line=(253, 191, 111), carpark_area=(255, 127, 0), road_divider=(202, 178, 214),
              lane_divider=(106, 61, 154))
# of boxes by the beginnings of their categories
KINDS = {'vehicle.': (255, 158, 0), 'vehicle.bicycle': (255, 61, 99), 'vehicle.motorcycle': (255, 61, 99),
         'human.': (90, 150, 255), 'movable_object.': (200, 200, 200)}


@dataclass(frozen=True)
class Job:
    """One scene to write."""
    root: Path
    scene: str
    number: int
    seed: int
    frames: int
    interval: float
    width: int
    detail: float
    columns: int
    cell: float

    @property
    def labelled(self) -> bool:
        """Whether it gets boxes."""
        return self.scene not in TEST_SCENES

    def draw_world(self) -> World:
        """The street."""
        seconds = self.interval * self.frames + 1
        world = build_world((self.seed, DATASET_CODE, self.number), STYLES[self.number % len(STYLES)],
                            street_length(self.frames, self.interval), BEND, 1.6, stock=STOCK, flat=True)
        return add_islands(add_works(world, 0, LEAD_IN - 10, LEAD_IN + SPEED * seconds + 30, every=44))


def street_length(frames: int, interval: float) -> float:
    """Metres of street for a drive over some key frames."""
    return max(180.0, 2 * LEAD_IN + 20 + SPEED * (interval * frames + 1))


def write_bev_mini(root: str | Path = 'data/mini/nuscenes_rig', seed: int = 0, train_frames: int = 15,
                   val_frames: int = 20, test_frames: int = 2, train_scenes: int = 8, val_scenes: int = 2,
                   test_scenes: int = 1, rate: float = 2.0, width: int = 400, detail: float = .44, columns: int = 360,
                   workers: int = 0, force: bool = False) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_frames, val_frames, test_frames: key frames of each scene of a split.
        train_scenes, val_scenes, test_scenes: up to 8, 2 and 2, of test none will do; the development kit's evaluation
            of mini_val wants both validation scenes.
        rate: key frames a second; nuScenes has 2.
        width: pixels of the images, a multiple of 16; heights are 9/16 of it. The real ones are 1600 wide.
        detail: share of the width at which images are rendered.
        columns: azimuth steps of a turn of the LiDAR; the real one has 1084.
        workers: processes that write scenes, 0 for as many as there are cores; the result does not depend on it.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    splits = dict(train=(TRAIN_SCENES, train_scenes, train_frames), val=(VAL_SCENES, val_scenes, val_frames),
                  test=(TEST_SCENES, test_scenes, test_frames))
    for split, (known, count, frames) in splits.items():
        if not (split != 'test') <= count <= len(known) or not 1 <= frames <= 40:
            raise DataError(f'write_bev_mini: {split}_scenes={count}, {split}_frames={frames}, expected 1 to '
                            f'{len(known)} scenes (0 of test will do) of 1 to 40 key frames. Give such numbers.')
    if not .5 <= rate <= 10 or width % 16 or not 64 <= width <= 1600 or not .05 <= detail <= 1:
        raise DataError(f'write_bev_mini: rate={rate}, width={width}, detail={detail}, expected 0.5 to 10 key frames a '
                        'second, images of 64 to 1600 pixels in steps of 16 and a detail of 0.05 to 1. Give numbers in '
                        'these ranges.')
    if seed < 0 or not 16 <= columns <= 2048 or not 0 <= workers <= 64:
        raise DataError(f'write_bev_mini: seed={seed}, columns={columns}, workers={workers}, expected a seed of 0 or '
                        'more, 16 to 2048 columns and 0 to 64 workers. Give numbers in these ranges.')
    counts = {split: [count, frames] for split, (_, count, frames) in splits.items()}
    stamp = dict(dataset='nuscenes_bev', simulated=True, scene_version=SCENE_VERSION, writer_version=WRITER_VERSION,
                 seed=seed, scenes=counts, rate=rate, width=width, detail=detail, columns=columns)
    write = partial(_write_all, scenes={split: (known[:count], frames) for split, (known, count, frames) in
                                        splits.items()}, seed=seed, interval=1 / rate, width=width, detail=detail,
                    columns=columns, workers=workers)
    frames = sum(count * frames for count, frames in counts.values())
    size = frames * (3 * columns * 640 + 6 * .15 * width * width) / 1e6
    return write_stamped(data_path(root), stamp, write, 'nuScenes with maps', 20 + round(size), force)


def _write_all(root: Path, scenes: dict[str, tuple[tuple[str, ...], int]], seed: int, interval: float, width: int,
               detail: float, columns: int, workers: int) -> None:
    order = (*TRAIN_SCENES, *VAL_SCENES, *TEST_SCENES)     # a street is the same whatever others there are
    longest = max(street_length(frames, interval) for _, frames in scenes.values())
    cell = longest + 2 * (END + FAR) + 20
    jobs = [Job(root, scene, order.index(scene), seed, frames, interval, width, detail, columns, cell)
            for names, frames in scenes.values() for scene in names]
    folders = 'samples/LIDAR_TOP', 'sweeps/LIDAR_TOP', 'can_bus', *(f'samples/{camera.channel}' for camera in CAMERAS)
    for folder in folders:
        (root / folder).mkdir(parents=True)
    written = write_streets(write_scene, [(job,) for job in jobs], [job.frames for job in jobs], workers,
                            'nuScenes with maps', 'key frame')
    for version, labelled in (('v1.0-mini', True), ('v1.0-test', False)):
        tables = Tables(CATEGORIES, (LIDAR, *(resized(camera, width) for camera in CAMERAS)))
        del tables.rows['lidarseg']
        for job, (rows, *_) in zip(jobs, written):
            if job.labelled == labelled:
                tables.extend(rows)
        if tables.rows['scene']:
            tables.save(root / version)
    maps = {}
    for job, (_, street, to_map) in zip(jobs, written):
        location = SCENES[job.scene][0]
        maps.setdefault(location, MapWriter(location)).add_street(street, to_map, job.scene, islands=True)
    for found in maps.values():
        found.save(root)


def resized(camera: Calibration, width: int) -> Calibration:
    """The same camera with images of another width; its intrinsics count from pixel centres."""
    share = width / 1600
    focal, cx, cy = camera.intrinsics
    return replace(camera, intrinsics=(focal * share, (cx + .5) * share - .5, (cy + .5) * share - .5))


def write_scene(job: Job) -> tuple[dict[str, list[dict]], Street, np.ndarray]:
    """Writes the files of one scene; returns the rows of its tables, its street and the 4x4 from that to the map."""
    scene = SceneWriter(job, job.draw_world())
    for frame in range(job.frames):
        scene.key_frame(frame)
    scene.rows.finish()
    write_can_bus(job.root, job.scene, lambda t: scene.to_map @ scene.pose(t), scene.stamp, scene.time(0),
                  scene.time(job.frames - 1))
    return scene.rows.tables, scene.world.street, scene.to_map


class SceneWriter:
    """Writes the key frames of a scene.

    Args:
        job: what to write.
        world: its street.
    """

    def __init__(self, job: Job, world: World) -> None:
        self.job, self.world = job, world
        self.caster = world.caster(threads=1)
        self.location, place, look = SCENES[job.scene]
        self.rng = np.random.default_rng([job.seed, DATASET_CODE, job.number, 9])
        self.to_map = placed(world, self.rng.uniform(-np.pi, np.pi), place, job.cell)
        self.waves = self.rng.uniform([.5, .5, 0, 0], [1.5, 1.5, 2 * np.pi, 2 * np.pi])     # rad/s and phases
        self.spec = replace(HDL32E, columns=job.columns)
        self.look = Look(look, azimuth=float(np.rad2deg(world.street.heading_at(LEAD_IN)) + 130))
        self.log = f'n{job.number:03d}-2018-07-24-11-22-45+0800'
        self.rows = SceneRows(job.scene, self.log, mask_file(self.location), job.labelled, self.location)
        self.rows.tables.pop('lidarseg', None)
        self.start = START + 60_000_000 * job.number

    def stamp(self, t: float) -> int:
        """Microseconds of a moment t [s] of the drive."""
        return self.start + round(t * 1e6)

    def time(self, frame: int) -> float:
        """Seconds of the drive at a key frame."""
        return self.job.interval * frame + .5

    def pose(self, t: float) -> np.ndarray:
        """4x4 pose of the ego on the street, swaying."""
        roll, pitch = np.deg2rad(SWAY) * np.sin(self.waves[:2] * t + self.waves[2:])
        sway = np.eye(4)
        sway[:3, :3] = [[np.cos(pitch), np.sin(pitch) * np.sin(roll), np.sin(pitch) * np.cos(roll)],
                        [0, np.cos(roll), -np.sin(roll)],
                        [-np.sin(pitch), np.cos(pitch) * np.sin(roll), np.cos(pitch) * np.cos(roll)]]
        return self.world.drive.pose(t) @ sway

    def key_frame(self, frame: int) -> None:
        """Writes a key frame: the sweeps before it, its own, six images, boxes."""
        t = self.time(frame)
        sample = self.rows.add_sample(self.stamp(t))
        for index, before in enumerate(SWEEPS):
            self._sweep(sample, t - before, (frame, 1 + index), False)
        found = self._sweep(sample, t, (frame, 0), True)
        for index, camera in enumerate(CAMERAS):
            self._image(sample, camera, t + camera.delay / 1000, (frame, index))
        if self.job.labelled:
            self._boxes(sample, t, found)

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.job.seed, DATASET_CODE, self.job.number, *purpose])

    def _sweep(self, sample: str, t: float, seed: tuple[int, int], key: bool) -> Scan:
        found = sweep(self.caster, self.world, self.pose, t, self.spec, self._rng(100, *seed), AROUND)
        token = self.rows.add_data(sample, LIDAR, self.stamp(t), self.to_map @ self.pose(t), 'pcd.bin', key=key)
        ring = np.tile(np.arange(32, dtype='<f4'), self.job.columns)
        np.concatenate([found.points, ring[:, None]], 1).astype('<f4').tofile(self.job.root / self.rows.file_of(token))
        return found

    def _image(self, sample: str, camera: Calibration, t: float, seed: tuple[int, int]) -> None:
        self.caster.set_actors(self.world.frame(t, AROUND))
        size = self.job.width, self.job.width * 9 // 16
        focal, cx, cy = resized(camera, self.job.width).intrinsics
        spec = CameraSpec(*size, focal, camera.translation[2], 0, camera.translation[0], (cx + .5, cy + .5),
                          self.job.detail, smooth=False)
        picture = render(self.caster, self.pose(t) @ camera.matrix, spec, self.look, self._rng(200, *seed)).image
        token = self.rows.add_data(sample, camera, self.stamp(t), self.to_map @ self.pose(t), 'jpg', size)
        data = cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        (self.job.root / self.rows.file_of(token)).write_bytes(data.tobytes())

    def _boxes(self, sample: str, t: float, found: Scan) -> None:
        """Records of all things near the ego that the LiDAR could see."""
        things = self.world.boxes(t, AROUND)
        lidar = self.pose(t) @ LIDAR.matrix
        near = np.flatnonzero(np.linalg.norm(things.boxes_3d[:, :2] - lidar[:2, 3], axis=1) < REACH)
        boxes, instances = things.boxes_3d[near], things.instance[near]
        returned = found.points[np.linalg.norm(found.points[:, :3], axis=1) > self.spec.min_range, :3]
        centred = boxes + np.pad(boxes[:, 5:6] / 2, ((0, 0), (2, 4)))
        counts = points_in_boxes(returned @ lidar[:3, :3].T + lidar[:3, 3], centred)[1]
        self.caster.set_actors(self.world.frame(t, AROUND))
        seen = visible_shares(self.caster, lidar[:3, 3], boxes, instances)
        boxes = np.concatenate([boxes[:, :3] @ self.to_map[:3, :3].T + self.to_map[:3, 3], boxes[:, 3:6],
                                boxes[:, 6:] + np.arctan2(self.to_map[1, 0], self.to_map[0, 0])], 1)
        speeds = np.linalg.norm(things.velocity[near], axis=1)
        for row in np.flatnonzero((counts > 0) | (seen > 0)):
            self.rows.add_box(sample, things.part[near[row]], int(instances[row]), boxes[row], int(counts[row]),
                              float(seen[row]), float(speeds[row]))


def placed(world: World, angle: float, place: tuple[int, int], cell: float) -> np.ndarray:
    """4x4 from a street's frame to that of its map: turned, in the middle of a square cell of the map.

    Args:
        world: the street.
        angle: radians by which it is turned.
        place: column and row of the cell.
        cell: edge of the cells [m], longer than the street's ground in any direction.
    """
    s = np.arange(-END, world.street.length + END, 5.0)
    ground = np.concatenate([world.street.at(s, np.full(len(s), side * FAR))[:, :2] for side in (1, -1)])
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turned = ground @ matrix[:2, :2].T
    matrix[:2, 3] = (np.array(place) + .5) * cell - (turned.min(0) + turned.max(0)) / 2
    return matrix


def draw_sheet(root: str | Path, path: str | Path) -> Path:
    """Draws the middle key frame of each scene of v1.0-mini: its boxes in the cameras, and from above on the map.

    Args:
        root: a data set in nuScenes' layout, with the map expansion.
        path: PNG file to write.

    Raises:
        DataError: tables or files are missing, or the picture cannot be written.
    """
    index, scenes = read_index(root, 'v1.0-mini'), {}
    for frame in index.frames:
        scenes.setdefault(frame.scene, []).append(frame)
    tiles = []
    for scene, frames in scenes.items():
        frame = frames[len(frames) // 2]
        boxes = index.boxes_of(frame.row)
        names = index.category_names[boxes.categories].tolist()
        colors = np.array([next(color for start, color in reversed(KINDS.items()) if name.startswith(start))
                           if name.startswith(tuple(KINDS)) else (120, 120, 120) for name in names]).reshape(-1, 3)
        layer = BoxLayer(boxes.boxes, colors)
        views = index.views(frame.row)
        panels = [_camera_panel(Path(root), views[name], layer) for name in CAMERA_ORDER if name in views]
        cameras = canvas.stacked([canvas.beside(panels[i:i + 3]) for i in range(0, len(panels), 3)])
        above = _above(read_map(root, frame.location), index.ego_to_world(frame.row) @ index.lidar_to_ego(frame.row),
                       layer, cameras.shape[0])
        tiles.append(canvas.titled(canvas.beside([cameras, above]), f'{scene}, {frame.location}', 'simulated'))
    if not tiles:
        raise DataError(f'{root}: no key frame in v1.0-mini, expected scenes. Write them with tools/make_mini.py.')
    names = (*SHADES, 'vehicles', 'cycles', 'people', 'others')
    shades = np.array([*SHADES.values(), *(KINDS[name] for name in ('vehicle.', 'vehicle.bicycle', 'human.',
                                                                    'movable_object.'))])
    return canvas.save_png(path, canvas.stacked([*tiles, canvas.legend(names, shades, tiles[0].shape[1])]))


def _camera_panel(root: Path, view: View, boxes: BoxLayer, size: tuple[int, int] = (400, 225)) -> np.ndarray:
    """An image with boxes."""
    image = cv2.resize(read_image(root / view.image), size, interpolation=cv2.INTER_AREA)
    scale = np.diag([size[0] / view.width, size[1] / view.height, 1])
    matrix = scale @ view.cam_to_img @ view.lidar_to_cam[:3]
    draw_boxes(image, [boxes], matrix)
    return image


def _above(data: NuScenesMapData, lidar_to_world: np.ndarray, boxes: BoxLayer, height: int) -> np.ndarray:
    """Map and boxes from above, forward up."""
    picture = BirdsEye(height, 50, 50, 50, np.pi / 2)
    yaw = float(np.arctan2(lidar_to_world[1, 0], lidar_to_world[0, 0]))
    masks = rasterise(data, list(SHADES), (*lidar_to_world[:2, 3].tolist(), yaw), (100, 100), picture.image.shape[:2])
    for mask, shade in zip(masks[:, ::-1] > 0, SHADES.values()):
        picture.image[mask] = np.round(.5 * picture.image[mask] + .4 * np.array(shade)).astype(np.uint8)
    picture.draw_boxes(boxes)
    return picture.picture()
