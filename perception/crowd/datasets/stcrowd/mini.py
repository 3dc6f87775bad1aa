"""Mini STCrowd: the toy world with crowds, written in the official layout.

```
<root>/split.json  camera.json
<root>/anno/SEQ.json                        of training and validation sequences
<root>/{left,right}/SEQ/N_SECONDS.jpg       1280 x 720
<root>/pcd/SEQ/SECONDS.bin                  float32 x, y, z, reflection
<root>/mini.json                            what it was made from
```
Frames are 0.4 s apart. As in the real data set people are labelled ahead of the car only, up to 35 m and with at least
15 points; names of images and point clouds do not match, so files are paired through `anno`; people whom the LiDAR
hardly sees are in the images' lists alone; ids are text in some sequences and numbers in others; right images have no
labels. Each sequence has a street of its own.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from perception.common.boxes import points_in_boxes
from perception.common.formats.stamped import write_stamped
from perception.common.scene.camera import CameraSpec, pixel_rays, render
from perception.common.scene.caster import Caster, visible_rays
from perception.common.scene.lidar import OS0_128, LidarSpec, Scan, beams, rained, scan, sensor_pose
from perception.common.scene.mesh import Mesh, merge
from perception.common.scene.shading import Look
from perception.common.scene.workers import write_streets
from perception.common.scene.world import LEAD_IN, SCENE_VERSION, World, build_world
from perception.common.visual import canvas
from perception.utils.errors import DataError
from perception.utils.paths import data_path

TRAIN_SEQUENCES = (3, 9, 1, 7, 10, 5, 2, 8, 4, 6, 11, 12, 13, 14, 15, 16)    # the official list is not sorted either
VAL_SEQUENCES = (33, 35, 39, 43, 47, 50, 51, 52)
TEST_SEQUENCES = (32, 34, 36, 37)
DATASET_CODE = 12          # keeps the streets of the mini data sets apart
WRITER_VERSION = 1         # goes up when files change
INTERVAL = .4              # seconds between labelled frames
IMAGE_RATE = 15            # images a second, which count the images
START = 1_617_249_430_419_396_352      # nanoseconds, of the first scan of sequence 1
DELAY = 582_620_000        # nanoseconds from the name of a scan to that of its image
REACH, LEAST_POINTS = 35.0, 15         # metres and points that a label needs
LEVELS = (.95, .60)        # shares of the hits that a thing alone would get, down to which it has occlusion 0 and 1
PAD = .02                  # metres that boxes are larger than people on each side
SCENE_CLASSES = (1, 2, 3, 5, 6, 7, 8, 9)
STYLES = ('urban', 'residential', 'boulevard', 'avenue')
LOOKS = ('day', 'shadow', 'overcast')
COUNTS = (24, 20, 30, 22, 26, 18, 28, 21, 38, 23)      # people ahead in sequence after sequence
SPEEDS = (.4, .02, 1.0, .7, .02, 1.3)                  # of the car, m/s: it crawls or stands
# `camera.json` of STCrowd
CAMERA = dict(
    p=[[683.8, 0, 673.5907, 0], [0, 684.147, 372.8048, 0], [0, 0, 1, 0]],
    r=[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    t=[[.00852965, -.999945, -.00606215, .0609592], [-.0417155, .00570127, -.999113, -.144364],
       [.999093, .00877497, -.0416646, -.0731114], [0, 0, 0, 1]])
PROJECTION = np.array(CAMERA['p']) @ np.array(CAMERA['r']) @ np.array(CAMERA['t'])
TO_CAMERA = np.array(CAMERA['t'])
# a ZED 2; its calibration counts from the middle of the first pixel, the scene from the image's corner
ZED = CameraSpec(1280, 720, (683.8 + 684.147) / 2, 1.45, -2.4, 0.0, (673.5907 + .5, 372.8048 + .5))
BASELINE = .12             # metres from the left camera to the right one
SHADES = ((90, 200, 90), (240, 200, 60), (235, 90, 80), (150, 150, 160))    # occlusion 0, 1, 2; image alone


@dataclass(frozen=True)
class Job:
    """One sequence to write."""
    root: Path
    seed: int
    sequence: int
    index: int
    frames: int
    columns: int
    detail: float
    labelled: bool

    @property
    def rain(self) -> float:
        """0 for dry weather to 1."""
        return (.6, .9)[self.index // 4 % 2] if self.index % 4 == 2 else 0.0

    def draw_world(self) -> World:
        """The street with its crowd."""
        count = COUNTS[self.index % len(COUNTS)]
        people = dict(count=count, least=max(15, count - 8), seconds=INTERVAL * self.frames,
                      speed=SPEEDS[self.index % len(SPEEDS)], umbrellas=.45 if self.rain else .03)
        length = 2 * LEAD_IN + 50 + SPEEDS[self.index % len(SPEEDS)] * INTERVAL * self.frames
        return build_world((self.seed, DATASET_CODE, self.sequence), STYLES[self.index % len(STYLES)], length, 1 / 200,
                           people=people)


def write_stcrowd_mini(root: str | Path = 'data/mini/stcrowd', seed: int = 0, train_sequences: int = 10,
                       train_frames: int = 12, val_sequences: int = 4, val_frames: int = 20, test_sequences: int = 1,
                       test_frames: int = 6, columns: int = 2048, detail: float = .25, force: bool = False,
                       workers: int = 0) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_sequences, val_sequences, test_sequences: streets of each split, up to 16, 8 and 4.
        train_frames, val_frames, test_frames: frames of each sequence.
        columns: azimuth steps per turn; the real scanner has 1,024 or 2,048.
        detail: share of the width of 1280 pixels at which images are rendered; files have the official size all the
            same.
        force: write it again even if a complete one is there.
        workers: processes that write sequences, 0 for as many as there are cores; the files do not depend on it.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    splits = dict(train=(TRAIN_SEQUENCES, train_sequences, train_frames),
                  val=(VAL_SEQUENCES, val_sequences, val_frames), test=(TEST_SEQUENCES, test_sequences, test_frames))
    for split, (known, count, frames) in splits.items():
        if not 1 <= count <= len(known) or not 1 <= frames <= 100:
            raise DataError(f'write_stcrowd_mini: {split}_sequences={count}, {split}_frames={frames}, expected 1 to '
                            f'{len(known)} sequences of 1 to 100 frames. Give such numbers.')
    if seed < 0 or not 16 <= columns <= 4096 or not .05 <= detail <= 1 or not 0 <= workers <= 64:
        raise DataError(f'write_stcrowd_mini: seed={seed}, columns={columns}, detail={detail}, workers={workers}, '
                        'expected a seed of 0 or more, 16 to 4096 columns, a detail of 0.05 to 1 and 0 to 64 workers. '
                        'Give numbers in these ranges.')
    counts = {split: [count, frames] for split, (_, count, frames) in splits.items()}
    stamp = dict(dataset='stcrowd', simulated=True, scene_version=SCENE_VERSION, writer_version=WRITER_VERSION,
                 seed=seed, sequences=counts, columns=columns, detail=detail)
    write = partial(_write_all, splits=splits, seed=seed, columns=columns, detail=detail, workers=workers)
    frames = sum(count * frames for count, frames in counts.values())
    return write_stamped(data_path(root), stamp, write, 'STCrowd', 1 + round(3 * frames * columns / 2048), force)


def _write_all(root: Path, splits: dict[str, tuple[Sequence[int], int, int]], seed: int, columns: int, detail: float,
               workers: int) -> None:
    jobs = [Job(root, seed, sequence, index, frames, columns, detail, split != 'test')
            for split, (known, count, frames) in splits.items() for index, sequence in enumerate(known[:count])]
    (root / 'anno').mkdir()
    write_streets(write_sequence, [(job,) for job in jobs], [job.frames for job in jobs], workers, 'STCrowd', 'frame')
    (root / 'split.json').write_text(json.dumps({split: known[:count] for split, (known, count, _) in splits.items()}))
    (root / 'camera.json').write_text(json.dumps(CAMERA))


def write_sequence(job: Job) -> None:
    """Writes the files of one sequence."""
    for name in ('left', 'right', 'pcd'):
        (job.root / name / str(job.sequence)).mkdir(parents=True)
    writer = SequenceWriter(job)
    frames = [writer.frame(index) for index in range(job.frames)]
    if job.labelled:
        head = dict(group_id=job.sequence, total_number=job.frames,
                    scene_class=SCENE_CLASSES[job.index % len(SCENE_CLASSES)])
        (job.root / 'anno' / f'{job.sequence}.json').write_text(json.dumps(dict(head, frames=frames)))


class SequenceWriter:
    """Writes the frames of a sequence.

    Args:
        job: what to write.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.world = job, job.draw_world()
        self.caster = self.world.caster(threads=1)
        self.spec: LidarSpec = replace(OS0_128, columns=job.columns)
        self.camera = replace(ZED, scale=job.detail)
        heading = float(np.rad2deg(self.world.street.heading_at(LEAD_IN)))
        self.look = Look('overcast', heading, haze=140.0, exposure=.75) if job.rain else \
            Look(LOOKS[job.index % len(LOOKS)], heading + (130, -75, 60)[job.index % len(LOOKS)])
        self.people = [actor for actor in self.world.actors if actor.part in ('person', 'child')]
        ends = [np.array([mesh.bounds() for mesh in actor.meshes]) for actor in self.people]
        self.bounds = [(pair[:, 0].min(0), pair[:, 1].max(0)) for pair in ends]       # of all steps of a walk
        rays = beams(np.eye(4), self.spec)
        self.rays = rays[(rays[:, 0] > 0) & (np.abs(rays[:, 2] + .1) < .5)]     # those that can meet labelled people
        self.text = bool(job.sequence % 2)      # whether ids are text and numbers are not, or the other way round

    def frame(self, index: int) -> dict:
        """Writes the files of a frame and returns its record."""
        job, t = self.job, INTERVAL * index
        pose = sensor_pose(self.world.drive.pose(t), self.spec)
        self.caster.set_actors(self.world.frame(t))
        found = self._scan(t, pose, index)
        nanoseconds = START + 10**11 * (job.sequence - 1) + round(INTERVAL * 10**9) * index
        names = [f'pcd/{job.sequence}/{_seconds(nanoseconds, 9)}.bin']
        found.points.astype('<f4').tofile(job.root / names[0])
        for side, folder in enumerate(('left', 'right')):
            number = 14 + round(IMAGE_RATE * INTERVAL) * index
            names.append(f'{folder}/{job.sequence}/{number}_{_seconds(nanoseconds + DELAY, 5)}.jpg')
            self._image(pose, side, index, job.root / names[-1])
        if not job.labelled:
            return {}
        items, in_image = self._items(t, pose, found)
        right = dict(image_name=names[2], **{'class': 'left'}, **({'items': []} if job.index % 2 else {}))
        return dict(frameId=index, frame_name=names[0], items=items,
                    images=[{'image_name': names[1], 'class': 'left', 'items': in_image}, right])

    def _scan(self, t: float, pose: np.ndarray, index: int) -> Scan:
        rng = np.random.default_rng([self.job.seed, DATASET_CODE, self.job.sequence, 100, index])
        drive = self.world.drive
        velocity = (drive.pose(t + .05)[:3, 3] - drive.pose(t - .05)[:3, 3]) / .1
        found = scan(self.caster, pose, self.spec, rng, velocity)
        return rained(found, self.job.rain, rng) if self.job.rain else found

    def _image(self, pose: np.ndarray, side: int, index: int, path: Path) -> None:
        rng = np.random.default_rng([self.job.seed, DATASET_CODE, self.job.sequence, 200 + side, index])
        shift = np.eye(4)
        shift[0, 3] = side * BASELINE
        spec = replace(self.camera, scale=self.camera.scale / 3) if side else self.camera
        picture = render(self.caster, pose @ np.linalg.inv(TO_CAMERA) @ shift, spec, self.look, rng).image
        data = cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        path.write_bytes(data.tobytes())

    def _items(self, t: float, pose: np.ndarray, found: Scan) -> tuple[list[dict], list[dict]]:
        """The objects of a frame: those that the LiDAR sees well, and those in the left image."""
        places = [actor.pose(t) for actor in self.people]
        meshes = [actor.shape(t).moved(place).tagged(actor.instance) for actor, place in zip(self.people, places)]
        lidar, image = self._shares(merge(meshes), pose)
        to_sensor = np.linalg.inv(pose)
        boxes = np.array([box_of(*ends, to_sensor @ place) for ends, place in zip(self.bounds, places)])
        hits = np.bincount(found.instance, minlength=len(self.world.actors) + 1)
        inside = points_in_boxes(found.points, boxes)[1]
        items, in_image = [], []
        for number, (actor, box, mesh) in enumerate(zip(self.people, boxes, meshes), 1):
            ids = dict(id=str(number), number=number) if self.text else dict(id=number, number=str(number))
            instance = actor.instance
            if box[0] >= 0 and np.hypot(*box[:2]) <= REACH and hits[instance] >= LEAST_POINTS:
                x, y, z, dx, dy, dz, yaw = (round(float(v), 6) for v in box)
                items.append(dict(
                    ids, category='person', position=dict(x=x, y=y, z=z), boundingbox=dict(x=dx, y=dy, z=dz),
                    rotation=yaw, occlusion=_level(lidar[instance]), pointCount=int(inside[number - 1]), group='',
                    isValid=True))
            record = self._in_image(box, mesh.vertices, pose)
            if record and image[instance] > .04:
                in_image.append(dict(ids, number=number, occlusion=_level(image[instance]), **record))
        return items, in_image

    def _shares(self, people: Mesh, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(I + 1,) visible shares of all instances for the LiDAR and for the left camera."""
        things, count = Caster(people, 1), len(self.world.actors) + 1
        rays = (self.rays @ pose[:3, :3].T).astype(np.float32)
        eye = pose @ np.linalg.inv(TO_CAMERA)
        step = 1 / self.camera.scale
        v, u = (x.ravel() for x in np.mgrid[step / 2:ZED.height:step, step / 2:ZED.width:step])
        result = []
        for origin, way in ((pose, rays), (eye, pixel_rays(eye, ZED, v, u))):
            seen, alone = visible_rays(self.caster, things, origin[:3, 3], way, count)
            result.append(seen / np.maximum(alone, 1))
        return result[0], result[1]

    def _in_image(self, box: np.ndarray, vertices: np.ndarray, pose: np.ndarray) -> dict | None:
        """Corners and 2D box of a person whose middle is in the left image."""
        corners, depth = to_image(corners_of(box))
        (u, v), ahead = to_image(box[None, :3])[0][0], to_image(box[None, :3])[1][0]
        if depth.min() < .3 or ahead < .3 or not (0 <= u < ZED.width and 0 <= v < ZED.height):
            return None
        outline, _ = to_image((vertices - pose[:3, 3]) @ pose[:3, :3])
        limit = np.array([ZED.width, ZED.height])
        low, high = np.clip(outline.min(0), 0, limit), np.clip(outline.max(0), 0, limit)
        if high[1] - low[1] < 15:
            return None
        middle, size = (low + high) / 2, high - low
        return dict(points=[_xy(corner) for corner in corners], boundingbox=_xy(middle), dimension=_xy(size))


def _seconds(nanoseconds: int, digits: int) -> str:
    """Seconds with so many digits after the point, cut off."""
    return f'{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}'[:11 + digits]


def _xy(pair: np.ndarray) -> dict[str, float]:
    return dict(x=round(float(pair[0]), 3), y=round(float(pair[1]), 3))


def _level(share: float) -> int:
    return 2 - int(sum(share >= level for level in LEVELS))


def box_of(low: np.ndarray, high: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(7,) x, y, z of the middle, l, w, h, yaw of a person in the sensor's frame.

    Args:
        low, high: (3,) ends of the person in its own frame, metres.
        place: 4x4 pose of the person in the sensor's frame.
    """
    centre = place[:3, :3] @ ((low + high) / 2) + place[:3, 3]
    return np.array([*centre, *(high - low + 2 * PAD), np.arctan2(place[1, 0], place[0, 0])])


def corners_of(box: np.ndarray) -> np.ndarray:
    """(8, 3) corners of a box (7,): the lower four around, then the upper four."""
    flat = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * box[3:5] / 2
    cos, sin = np.cos(box[6]), np.sin(box[6])
    flat = flat @ np.array([[cos, sin], [-sin, cos]])
    heights = np.repeat([-box[5] / 2, box[5] / 2], 4)
    return np.concatenate([np.concatenate([flat, flat]), heights[:, None]], 1) + box[:3]


def to_image(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2) of the left image, counted from pixel centres, and depths (N,) of LiDAR points (N, 3)."""
    u, v, depth = PROJECTION @ np.concatenate([points, np.ones((len(points), 1))], 1).T
    return np.stack([u, v], -1) / np.maximum(depth, 1e-6)[:, None], depth


def draw_sheet(root: str | Path, path: str | Path) -> Path:
    """Draws the middle frame of each labelled sequence, the left image and the scan from above, for people to look at.

    Args:
        root: a data set in STCrowd's layout.
        path: PNG file to write.

    Raises:
        DataError: there is no labelled sequence, or the picture cannot be written.
    """
    root, tiles = Path(root), []
    for file in sorted(root.glob('anno/*.json'), key=lambda file: (len(file.stem), file.stem)):
        frames = json.loads(file.read_text())['frames']
        frame = frames[len(frames) // 2]
        picture, view = _picture(root, frame), _view(root, frame)
        counts = f'{len(frame["items"])} people in the scan, {len(frame["images"][0]["items"])} in the image'
        title = f'sequence {file.stem}, frame {frame["frameId"]}: {counts}'
        tiles.append(canvas.titled(canvas.beside([picture, view]), title, 'simulated'))
    if not tiles:
        raise DataError(f'{root}: no anno/*.json, expected a data set in STCrowd\'s layout. Give the root of one, or '
                        'write one with tools/make_mini.py.')
    names = ('occlusion 0', 'occlusion 1', 'occlusion 2', 'in the image alone')
    rows = [canvas.beside(tiles[i:i + 2]) for i in range(0, len(tiles), 2)]
    return canvas.save_png(path, canvas.stacked([*rows, canvas.legend(names, np.array(SHADES), rows[0].shape[1])]))


def _picture(root: Path, frame: dict, width: int = 704) -> np.ndarray:
    """The left image with its people."""
    record = frame['images'][0]
    image = cv2.imread(str(root / record['image_name']))[..., ::-1]
    scale = width / image.shape[1]
    image = np.ascontiguousarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    known = {str(item['number']) for item in frame['items']}
    for item in record['items']:
        shade = SHADES[item['occlusion'] if str(item['number']) in known else 3]
        points = np.array([[p['x'], p['y']] for p in item['points']]) * scale
        for pair in [(i, (i + 1) % 4) for i in range(4)]:
            for i, j in (pair, (pair[0] + 4, pair[1] + 4), (pair[0], pair[0] + 4)):
                cv2.line(image, *(tuple(map(int, np.rint(points[k] + .5 * scale))) for k in (i, j)), shade, 1,
                         cv2.LINE_AA)
    return image


def _view(root: Path, frame: dict, pixels: float = 9.0) -> np.ndarray:
    """The front of the scan from above, ahead is up, with its people."""
    image = canvas.blank(round(44 * pixels), round(70 * pixels))
    points = np.fromfile(root / frame['frame_name'], '<f4').reshape(-1, 4)

    def place(xy: np.ndarray) -> np.ndarray:
        return np.stack([(35 - xy[:, 1]) * pixels, (37 - xy[:, 0]) * pixels], -1)
    at = np.floor(place(points)).astype(int)
    fits = ((at >= 0) & (at < image.shape[1::-1])).all(1)
    light = np.clip(70 + 45 * (points[fits, 2] + 1.7), 60, 200).astype(np.uint8)
    order = np.argsort(light, kind='stable')
    image[at[fits][order, 1], at[fits][order, 0]] = light[order, None]
    cv2.circle(image, tuple(map(int, place(np.zeros((1, 2)))[0])), round(REACH * pixels), canvas.FAINT, 1, cv2.LINE_AA)
    for item in frame['items']:
        box = np.array([*item['position'].values(), *item['boundingbox'].values(), item['rotation']])
        corners = corners_of(box)[:4, :2]
        outline = [corners, np.array([box[:2], corners[[0, 3]].mean(0)])]
        for shape in outline:
            cv2.polylines(image, [np.rint(place(shape)).astype(np.int32)[:, None]], len(shape) > 2,
                          SHADES[item['occlusion']], 1, cv2.LINE_AA)
    return image
