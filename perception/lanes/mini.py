"""What the mini data sets of road images share: streets in turn, splits that share none, a stamp, pictures to look at.

Every set has the files that its official archives have, at the official image size; `mini.json` beside them says what
they were made from. Images are rendered smaller and enlarged (`detail`), labels come from geometry at full size. The
writers are `datasets/<name>/mini.py`, the readers beside them say how the folders are laid out.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from perception.common.dataset import SeededDataset
from perception.common.formats.stamped import write_stamped
from perception.common.scene.camera import CameraSpec
from perception.common.scene.world import SCENE_VERSION
from perception.common.visual import canvas
from perception.lanes.draw import PALETTE, overlay_labels
from perception.lanes.shots import Plan, Trace, lower_end, take_all
from perception.utils.errors import DataError
from perception.utils.paths import data_path

SPLITS = ('train', 'val', 'test')
LOOKS = ('day', 'shadow', 'night', 'day', 'glare')  # of streets, in turn
PER_STREET = 3  # images of one street
MOTORWAYS = ('highway', 'wide_highway', 'highway', 'highway', 'wide_highway', 'highway', 'wide_highway')


@dataclass(frozen=True)
class Streets:
    """What the streets of a data set are like; styles, places and looks of numbers without common factor all meet.

    Attributes:
        styles: of the streets, in turn.
        places: of the ego, in turn; every fourth street is seen where it bends most.
        marks: whether arrows and other marks are painted on the lanes.
        crowds: every so many-th street is full of vehicles; 0 for none.
        images: of one street.
    """
    styles: tuple[str, ...]
    places: tuple[str, ...] = ('lane', 'lane', 'change')
    marks: bool = False
    crowds: int = 0
    images: int = PER_STREET


@dataclass(frozen=True)
class MiniSet:
    """A mini data set of road images.

    Attributes:
        name: as in `write_<name>_mini`, and in its stamp.
        title: of the data set, for messages.
        code: a number that no other set has, which keeps their streets apart; 2 to 7 are taken.
        version: of its writer; goes up when files change.
        megabytes: about how much room it takes.
        streets: what they are like.
        least: training images that it needs.
    """
    name: str
    title: str
    code: int
    version: int
    megabytes: int
    streets: Streets
    least: int = 1


@dataclass(frozen=True)
class Order:
    """What a data set is written from: its folder, seed, kind of streets and their length, images of each split."""
    root: Path
    seed: tuple[int, int]
    streets: Streets
    images: dict[str, int]
    length: float
    take: Callable[..., list[list]]

    def plans(self, split: str, names: Sequence[str], **kinds) -> list[Plan]:
        """Some images a street; looks, styles and places in turn unless `kinds` sets them."""
        plans, streets = [], self.streets
        for index, first in enumerate(range(0, len(names), streets.images)):
            kind = dict(look=LOOKS[index % len(LOOKS)], style=streets.styles[index % len(streets.styles)],
                        place='curve' if index % 4 == 3 else streets.places[index % len(streets.places)],
                        special_marks=streets.marks, crowd=bool(streets.crowds) and index % streets.crowds == 0)
            plans.append(Plan((*self.seed, SPLITS.index(split), index), tuple(names[first:first + streets.images]),
                              length=self.length, **dict(kind, **kinds)))
        return plans


def write_set(kind: MiniSet, fill: Callable[[Order], None], root: str | Path, seed: int, images: tuple[int, int, int],
              detail: float, length: float, workers: int, force: bool, **more) -> Path:
    """Writes a mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        kind: the set.
        fill: writes its files.
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        images: of train, val and test.
        detail: share of the official width at which images are rendered; files have the official size all the same.
            Tests that look at no image use .1, which is fast.
        length: metres of each street, 180 or more; shorter ones are faster.
        workers: processes that take images, 0 for as many as there are cores; the result does not depend on it.
        force: write it again even if a complete one is there.
        **more: arguments of this set alone, for the stamp.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    where = f'write_{kind.name}_mini'
    if min(images) < 1 or max(images) > 1000 or images[0] < kind.least:
        raise DataError(f'{where}: train, val, test = {images}, expected {kind.least} or more training images, 1 to '
                        '1000 of each split. Give other numbers.')
    if seed < 0 or not .02 <= detail <= 1 or not 180 <= length <= 1000 or not 0 <= workers <= 64:
        raise DataError(f'{where}: seed={seed}, detail={detail}, length={length}, workers={workers}, expected a seed '
                        'of 0 or more, a detail of 0.02 to 1, streets of 180 to 1000 m and 0 to 64 workers. Give '
                        'numbers in these ranges.')
    counts = dict(zip(SPLITS, images))
    stamp = dict(dataset=kind.name, simulated=True, scene_version=SCENE_VERSION, writer_version=kind.version,
                 seed=seed, images=counts, detail=detail, length=length, **more)

    def write(folder: Path) -> None:
        take = partial(take_all, root=folder, detail=detail, workers=workers, title=kind.title)
        fill(Order(folder, (seed, kind.code), kind.streets, counts, length, take))
    return write_stamped(data_path(root), stamp, write, kind.title, kind.megabytes, force)


def flat(records: list[list]) -> list:
    """The records of all streets, one after the other."""
    return [record for street in records for record in street]


def save_image(path: Path, image: np.ndarray, *options: int) -> None:
    """Writes an RGB or a grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix, image[..., ::-1] if image.ndim == 3 else image, options)
    if not ok:
        raise DataError(f'{path}: OpenCV could not encode it, expected a picture. This is a bug; please report it.')
    path.write_bytes(data.tobytes())


def save_jpeg(path: Path, image: np.ndarray) -> None:
    """Writes an RGB image as JPEG of quality 90."""
    save_image(path, image, cv2.IMWRITE_JPEG_QUALITY, 90)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Writes a text file of some lines; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


def beside_ego(traces: Sequence[Trace], spec: CameraSpec, each: int) -> dict[int, Trace]:
    """The boundaries next to the ego: 0 and up to the right, -1 and down to the left, at most `each` on a side."""
    ends = [lower_end(found, spec) for found in traces]
    left = [found for end, found in zip(ends, traces) if end < spec.width / 2][::-1][:each]
    right = [found for end, found in zip(ends, traces) if end >= spec.width / 2][:each]
    return dict(sorted({**{-1 - i: found for i, found in enumerate(left)}, **dict(enumerate(right))}.items()))


def draw_polyline(image: np.ndarray, points: np.ndarray, value: int | Sequence[int], thickness: int) -> None:
    """Draws (P, 2) pixels as a line that is not smoothed, in place."""
    cv2.polylines(image, [np.rint(np.clip(points, -9e3, 9e3)).astype(np.int32)[:, None]], False, value, thickness,
                  cv2.LINE_8)


def draw_sheet(root: str | Path, path: str | Path, dataset: type[SeededDataset], most: int = 12,
               width: int = 1920) -> Path:
    """Draws images of each split with their labels over them.

    Args:
        root: folder of a data set.
        path: PNG file to write.
        dataset: its reader.
        most: images of a split.
        width: of the sheet, pixels; the fewer images, the larger they are, four beside each other at most.

    Raises:
        DataError: a data set that cannot be read, or a picture that cannot be written.
    """
    splits, rows = {split: dataset(root, split) for split in SPLITS}, []
    columns = min(4, max(len(samples) for samples in splits.values()))
    for split, samples in splits.items():
        picked = np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).astype(int))
        tiles = [_tile(samples[int(i)], samples.metainfo['palette'], (width + 4) // columns - 4) for i in picked]
        rows.append(canvas.bar(width, f'{split}: {len(samples)} image{"s" * (len(samples) != 1)}', dataset.__name__))
        rows += [canvas.beside(tiles[i:i + columns]) for i in range(0, len(tiles), columns)]
    return canvas.save_png(path, canvas.stacked(rows))


def _tile(sample: dict, palette: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """A small picture with labels and lanes over it."""
    image, truth = sample['inputs']['image'].permute(1, 2, 0).numpy(), sample['data_samples']
    scale = width / image.shape[1]
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if 'labels' in truth:
        labels = cv2.resize(truth.labels.numpy().astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        image = overlay_labels(image, labels, palette, .5)
    for index, lane in enumerate(truth.lanes if 'lanes' in truth else ()):
        draw_polyline(image, lane * scale, PALETTE[index % len(PALETTE)], -(-width // 480))
    category = truth.metainfo.get('category')
    return canvas.titled(image, f'{category}: {truth.sample_id}' if category else truth.sample_id)
