"""Toy streets in the official layout of Cityscapes, at half the official size in each direction."""
from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.common.scene.camera import CameraSpec, Frame
from perception.common.scene.labels import PARTS
from perception.common.scene.workers import write_streets
from perception.common.scene.world import SCENE_VERSION
from perception.common.visual import canvas
from perception.steering.datasets.cityscapes.reader import CLASSES, IMAGE, LABEL, Cityscapes
from perception.steering.drives import Journey, check_drives, drive_along, encode, plans
from perception.utils.paths import data_path

CODE, WRITER_VERSION = 11, 2  # the code keeps its streets apart from those of other sets
CAMERA = CameraSpec(2048, 1024, 2262, 1.22, -2.2, forward=1.7, smooth=False).scaled(.5)
CITIES = dict(train='aachen', val='frankfurt', test='berlin')
RATE = 0.4  # images a second: 17 m and more lie between two of a street
# official ids; riders are labelled with what they ride on, as one thing, and a signal's poles and lamps as its sign
_IDS = dict(
    void=0, road=7, marking=7, parking=9, sidewalk=8, other_ground=6, terrain=22, building=11, fence=13,
    other_structure=4, vegetation=21, trunk=21, pole=17, sign=20, car=26, truck=27, bus=28, bendy_bus=28, trailer=30,
    construction=27, train=31, ambulance=26, police_car=26, bicycle=33, motorcycle=32, person=24, child=24, worker=24,
    police_officer=24, bicyclist=25, motorcyclist=25, personal_mobility=25, stroller=5, wheelchair=24, animal=5, cone=5,
    barrier=14, debris=5, pushable=5, rack=4, other_object=4, ego=1, outlier=0)
PART_TO_ID = np.array([_IDS[name] for name in PARTS], np.uint8)
SKY = 23


def write_cityscapes_mini(root: str | Path = 'data/mini/cityscapes', seed: int = 0, train_streets: int = 24,
                          val_streets: int = 6, test_streets: int = 1, images: int = 3, detail: float = .25,
                          workers: int = 0, force: bool = False) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_streets, val_streets, test_streets: of each split, as the sequences of one city.
        images: of each street, 2 or more.
        detail: share of the width of 1024 pixels at which images and labels are rendered before they are enlarged.
        workers: processes that write streets, 0 for as many as there are cores; the files do not depend on it.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    counts = dict(train=[train_streets, images], val=[val_streets, images], test=[test_streets, images])
    check_drives('write_cityscapes_mini', seed, detail, workers, **counts)
    stamp = dict(dataset='cityscapes', simulated=True, scene_version=SCENE_VERSION, writer_version=WRITER_VERSION,
                 seed=seed, streets=counts, detail=detail)
    megabytes = 2 + (train_streets + val_streets + test_streets) * images
    return write_stamped(data_path(root), stamp, partial(_write, seed=seed, counts=counts, detail=detail,
                                                         workers=workers), 'Cityscapes', megabytes, force)


def _write(root: Path, seed: int, counts: dict, detail: float, workers: int) -> None:
    jobs = []
    for number, (split, (streets, images)) in enumerate(counts.items()):
        for folder in ('leftImg8bit', 'gtFine')[:1 if split == 'test' else 2]:
            (root / folder / split / CITIES[split]).mkdir(parents=True)
        jobs += [(plan, CAMERA, _save, root, (split, f'{CITIES[split]}_{k:06d}')) for k, plan in
                 enumerate(plans((seed, CODE, number), streets, images, RATE, detail, first=number))]
    write_streets(drive_along, jobs, [job[0].frames for job in jobs], workers, 'Cityscapes', 'image')


def official_ids(frame: Frame) -> np.ndarray:
    """(H, W) uint8 official ids of what a camera sees."""
    return np.where(frame.depth > 0, PART_TO_ID[frame.part], SKY).astype(np.uint8)


def _save(root: Path, journey: Journey, order: tuple[str, str]) -> None:
    split, name = order
    for i in range(len(journey.times)):
        frame, stem = journey.picture(i), f'{split}/{name.rpartition("_")[0]}/{name}_{i:06d}'
        (root / 'leftImg8bit' / f'{stem}{IMAGE}').write_bytes(encode(frame.image, '.png'))
        if split != 'test':
            (root / 'gtFine' / f'{stem}{LABEL}').write_bytes(encode(official_ids(frame), '.png'))


def draw_sheet(root: str | Path, path: str | Path, most: int = 8, width: int = 1920) -> Path:
    """Draws images of train and val with their labels over them.

    Args:
        root: folder of a data set.
        path: PNG file to write.
        most: images of a split.
        width: of the sheet, pixels.
    """
    colors, rows = np.array([entry.color for entry in CLASSES], np.uint8), []
    for split in ('train', 'val'):
        data = Cityscapes(root, split, input_size=(240, 480))
        picked = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).astype(int)).tolist()
        tiles = []
        for sample in (data[i] for i in picked):
            image, labels = sample['inputs']['image'].permute(1, 2, 0).numpy(), sample['data_samples'].labels.numpy()
            known = (labels < len(colors))[..., None]
            mixed = np.where(known, (image // 2 + colors[np.minimum(labels, len(colors) - 1)] // 2), image)
            tiles.append(canvas.titled(mixed.astype(np.uint8), sample['data_samples'].sample_id))
        rows += [canvas.beside(tiles[i:i + 4]) for i in range(0, len(tiles), 4)]
    return canvas.save_png(path, canvas.stacked([*rows, canvas.legend([entry.name for entry in CLASSES], colors,
                                                                      min(width, rows[0].shape[1]))]))


