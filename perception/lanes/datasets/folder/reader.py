"""Road images and lanes of one's own, in any folders and of any size, as a data set by its config alone.

    dict(type=LaneFolder, data_root='data/yard', images='**/*.jpg', labels='**/*.lines.txt', num_lanes=4,
         splits=dict(train='train', val=['monday', 'friday/000*'], test='test.txt'))

Labels are told by the end of their pattern; the stars stand for the same in both patterns:

    **/*.lines.txt    CULane's lines: a lane a line, u v u v ...
    **/*.png          label images, 0 = background, 1..L = lanes from left to right, or with `instances=True` any number
                      for each lane, 255 = ignored; palette images are read by index; for one lane also masks of 0 and
                      255, where no label has another number
    **/*.json         labelme: line strips and lines, or polygons around lanes, whose middle counts
    lanes.json        without a star: TuSimple's lines, {"raw_file": ..., "h_samples": [...], "lanes": [...]}
    annotations.xml   without a star: "CVAT for images 1.1", polylines, or polygons around lanes
"""
import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log

from perception.common import folders
from perception.common.formats.images import SUFFIXES, read_header, read_label_image
from perception.common.formats.text import read_json_lines
from perception.lanes.datasets.base import IGNORE, PROBED, RoadImages, Truth, check_size, image_name, same_shape
from perception.lanes.datasets.culane.metric import lane_width
from perception.lanes.datasets.culane.reader import LABEL_WIDTH, read_lanes
from perception.lanes.datasets.folder.labelling import Drawing, lanes_of, middle, of_files, read_cvat, read_labelme
from perception.lanes.datasets.tusimple.reader import parse_lanes
from perception.lanes.polylines import draw_instances, draw_lanes, ego_slots
from perception.registry import DATASETS
from perception.utils.checks import check_choice, check_positive, rows_and_columns
from perception.utils.errors import ConfigError, DataError

LABEL_IMAGES = ('.png', '.bmp', '.tif', '.tiff', '.webp')
LINES = ('.lines.txt', '.txt')
LABELS = (*LINES, '.json', '.xml', *LABEL_IMAGES)
UNLABELLED = ('refuse', 'skip', 'empty')  # what becomes of images that have no labels
MAX_LANES = 64
PALETTE = ((255, 140, 0), (255, 60, 60), (60, 190, 75), (60, 120, 255), (160, 60, 220), (0, 200, 200), (255, 105, 180),
           (170, 220, 60))


@DATASETS.register_module()
class LaneFolder(RoadImages):
    """Images of a folder with their lanes; see `RoadImages` for the other arguments.

    Labelled samples have `labels` (0..L), `exist` (L,) and `lanes`; their ids are what the stars of `images` stand for.
    Label images are drawn from lines: lanes are ordered by their angle, the middle slots are the borders of the own
    lane, and a lane for which there is no slot is in `lanes` alone. From label images `lanes` is the middle of each
    slot's pixels.

    Args:
        data_root: the folder; a leading `data` gives way to the variable PERCEPTION_DATA.
        images: pattern of the images below it.
        labels: pattern of the labels, or the one file that holds them all, see above; None where there are none.
        num_lanes: L, slots; the net has `num_lanes=L` and `num_classes=L + 1`. With one, all lanes are of one class.
        splits: split -> ids, paths, patterns of them, folders, or a text file below `data_root` with one a line;
            without 'test' the images of 'val' are tested. Without splits each fifth image is for 'val' and 'test',
            the rest for 'train'; of fewer than five all are tested.
        image_size: (rows, columns) of the images that the labels, `crop_top` and `horizon` were made on, where images
            were scaled since; by default they belong to each image as it is.
        horizon: row of the horizon, about; for predictions that are to show the net the same part of a picture.
        thickness: pixels of a lane in label images drawn from lines; by default as 16 are of CULane's 1,640 columns.
        shapes: labels of the shapes of labelme or CVAT that are lanes; all by default.
        unlabelled: what becomes of images without labels: 'refuse' all (test images have no lanes then), 'skip' these
            images, or take them as 'empty', without lanes. Labelme saves no file where nothing is drawn, and CVAT's
            file does not tell either whether such an image has no lanes or was not labelled yet.
        all_lanes: number the lanes 1, 2, ... from left to right, however many there are, instead of slots; without
            `exist`. For networks that tell any number of lanes apart.
        instances: label images hold a number for each lane, any one, such as LaneNet's 20, 70, 120, 170, not its slot,
            which is found as that of lines is.

    Raises:
        ConfigError: patterns, numbers or splits that cannot be.
        DataError: no images, images without labels, nothing labelled.
    """

    IMAGE_SIZE = None
    OFFICIAL_SIZES = dict(train=0, val=0, test=0)

    def __init__(self, data_root: str | Path = 'data/lane_folder', split: str = 'train', images: str = '**/*.jpg',
                 labels: str | None = '**/*.lines.txt', num_lanes: int = 4,
                 splits: Mapping[str, int | str | Sequence | set] | None = None,
                 image_size: Sequence[int] | None = None, horizon: float | None = None, thickness: int | None = None,
                 shapes: Sequence[str] | None = None, unlabelled: str = 'refuse', all_lanes: bool = False,
                 instances: bool = False, pipeline: Sequence[dict | Callable] = (),
                 input_size: Sequence[int] | None = None, crop_top: int = 0, seed: int = 0) -> None:
        described = self.describe(dict(num_lanes=num_lanes))
        if labels is not None and not str(labels).lower().endswith(LABELS):
            raise ConfigError(f'LaneFolder: labels={labels!r}, expected a pattern that ends in {", ".join(LABELS)}, '
                              "such as '**/*.lines.txt'. Correct it.")
        if split == 'train' and labels is None:
            raise ConfigError('LaneFolder: labels=None for the split train, expected labels to learn. Name their files '
                              "by a pattern such as '**/*.lines.txt'.")
        if image_size is not None:
            self.IMAGE_SIZE = rows_and_columns('LaneFolder: image_size', image_size)
        if thickness is not None:
            check_positive('LaneFolder', thickness=thickness)
        check_choice('LaneFolder: unlabelled', unlabelled, UNLABELLED)
        self.horizon, self.unlabelled = horizon, unlabelled
        self.images, self.label_pattern, self.splits, self.num_lanes = images, labels, splits, num_lanes
        self.thickness, self.shapes, self.all_lanes, self.instances = thickness, shapes, all_lanes, instances
        super().__init__(data_root, split, pipeline, input_size, crop_top, seed)
        self.metainfo.update(described)
        if split == 'train':
            self._check_labelled()

    @classmethod
    def describe(cls, config: Mapping) -> dict[str, Any]:
        """Classes and palette for the `num_lanes` of the config."""
        count = config.get('num_lanes', 4)
        if type(count) is not int or not 1 <= count <= MAX_LANES:
            raise ConfigError(f'LaneFolder: num_lanes={count!r}, expected 1 to {MAX_LANES} slots. Correct it.')
        names = [f'lane {slot}' for slot in range(1, count + 1)] if count > 1 else ['lane']
        return dict(classes=('background', *names),
                    palette=((0, 0, 0), *(PALETTE[slot % len(PALETTE)] for slot in range(count))))

    def list_samples(self) -> list[tuple]:
        files = self.files = folders.find(self.data_root, self.images, SUFFIXES, 'LaneFolder: images')
        ids = folders.choose(files, self.splits, self.split, self.data_root, 'LaneFolder')
        labels = self._label_files({name: files[name] for name in ids})
        entries = [(name, str(files[name]), label) for name, label in zip(ids, labels)]
        lacking = [path for _, path, label in entries if label is None]
        if not lacking or self.split == 'test' and (self.unlabelled == 'refuse' or len(lacking) == len(ids)):
            return entries
        came = f'no labels by {self.label_pattern!r} ({len(lacking):,} of {len(ids):,} images have none)'
        if self.unlabelled == 'refuse' or len(lacking) == len(ids):
            raise DataError(f"{lacking[0]}: {came}, expected some for each image. Correct the pattern, or say what "
                            "these images are: unlabelled='skip' leaves them out, 'empty' takes them as without lanes.")
        if self.unlabelled == 'empty':
            return [(name, path, [] if label is None else label) for name, path, label in entries]
        print_log(f'{self.data_root}: {came}; they are left out.', 'current', logging.WARNING)
        return [entry for entry in entries if entry[2] is not None]

    def label_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The `image_size` that was given, else that of each image itself.

        Raises:
            DataError: an image of another shape.
        """
        told = self.IMAGE_SIZE
        if told is not None and not same_shape(size, told):
            raise DataError(f'{self.data_root}: an image of {size[0]} x {size[1]} pixels, expected the shape of '
                            f'image_size={told}, in which its labels count. Leave image_size away where labels belong '
                            'to each image as it is.')
        return told or size

    def _label_files(self, files: Mapping[str, Path]) -> list[str | Drawing | list[np.ndarray] | None]:
        """The label file of each image, or what one file that holds them all has of it; None where there is none."""
        pattern = self.label_pattern
        if pattern is None:
            return [None] * len(files)
        starred = '*' in pattern or '?' in pattern
        if starred and pattern.lower().endswith('.xml'):
            raise ConfigError(f'LaneFolder: labels={pattern!r}, expected one file of CVAT for all images, such as '
                              "'annotations.xml'. Name it without stars; of several tasks export their project.")
        if starred:
            paths = [folders.pair(self.data_root, path, self.images, pattern, 'LaneFolder: labels')
                     for path in files.values()]
            return [str(path) if path.is_file() else None for path in paths]
        if pattern.lower().endswith('.xml'):  # of all images, since those of other splits may be called alike
            paths = [path.relative_to(self.data_root).as_posix() for path in self.files.values()]
            found = of_files(read_cvat(self.data_root / pattern), paths, self.data_root / pattern)
            drawn = dict(zip(self.files, found))
            return [drawn[name] for name in files]
        if not pattern.lower().endswith('.json'):
            raise ConfigError(f'LaneFolder: labels={pattern!r}, expected a star for the name of each image, or one '
                              "file, of TuSimple's form that ends in .json or of CVAT's that ends in .xml. Correct it.")
        lanes = {}
        for where, record in read_json_lines(self.data_root / pattern, "lanes in TuSimple's form"):
            name = image_name(str(record.get('raw_file')), f'{where}: raw_file').removeprefix('./').lstrip('/')
            if name in lanes:
                raise DataError(f'{where}: a second line of {name}, expected all lanes of an image in one. Join the '
                                'lines, or take out the one that is wrong.')
            found = parse_lanes(record, where)[1]
            lanes[name] = found and [lane for lane in found if len(lane)]  # tools fill up with lanes that are absent
        return [lanes.get(path.relative_to(self.data_root).as_posix()) for path in files.values()]

    def _check_labelled(self) -> None:
        """See that there is something to learn."""
        labelled = [entry for entry in self.samples if entry[2] != []]
        probed = labelled[::-(-len(labelled) // PROBED)]
        for _, path, label in probed:
            if any(len(lane) > 1 for lane in self.read_lanes(label, read_header(path).size)[1]):
                return
        raise DataError(f'{self.data_root}: no lane in the labels of {len(probed):,} training images, expected some. '
                        f'Look at the files of {self.images!r} and {self.label_pattern!r}, and at their labels.')

    @cached_property
    def masks(self) -> bool:
        """Whether label images of one lane are masks of 0 and 255: no label of any split that is looked at has another
        number. Where one has, 255 is ignored, also on images without a lane."""
        some = dict(itertools.islice(self.files.items(), 0, None, -(-len(self.files) // PROBED)))
        for label in filter(None, self._label_files(some)):
            with contextlib.suppress(DataError):  # what is wrong with it is said when it is read
                if _numbers(read_label_image(label)):
                    return False
        return True

    def read_truth(self, entry: Sequence, size: tuple[int, int]) -> tuple[Truth, dict]:
        if entry[2] is None:
            return Truth(), {}
        labels, lanes = self.read_lanes(entry[2], size)
        lanes = [lane if len(lane) < 2 or lane[0, 1] >= lane[-1, 1] else lane[::-1] for lane in lanes]
        thickness = self.thickness or lane_width(size, LABEL_WIDTH)
        if self.all_lanes:
            return Truth(draw_instances(lanes, size, thickness) if labels is None else labels, None, lanes), {}
        if labels is None:
            slots = ego_slots(lanes, self.num_lanes)
            labels = draw_lanes([lanes[i] for i in slots], list(slots.values()), size, thickness)
        present = np.bincount(labels.ravel(), minlength=self.num_lanes + 1)[1:self.num_lanes + 1] > 0
        return Truth(labels, present.astype(np.float32), lanes), {}

    def read_lanes(self, label: str | Drawing | list[np.ndarray], size: tuple[int, int],
                   ) -> tuple[np.ndarray | None, list[np.ndarray]]:
        """Label image, where it is one, and lanes of an image.

        Args:
            label: file, what a labelling tool saved, or the lanes themselves.
            size: (rows, columns) of the pixels that they count in.

        Returns:
            (H, W) uint8 of that size or None, and lanes (P, 2).

        Raises:
            DataError: a file that cannot be read or belongs to another image.
        """
        if isinstance(label, list):
            return None, label
        if isinstance(label, Drawing) or label.lower().endswith('.json'):
            return None, lanes_of(label if isinstance(label, Drawing) else read_labelme(label), size, self.shapes)
        if not label.lower().endswith(LABEL_IMAGES):
            return None, read_lanes(label)
        labels = check_size(read_label_image(label), size, label)
        if labels.shape != tuple(size):
            labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
        if self.num_lanes == 1 and not _numbers(labels) and self.masks:
            labels = labels // IGNORE
        numbers = [int(k) for k in np.unique(labels) if 0 < k < IGNORE]
        lanes = [middle(labels == k) for k in numbers]
        if self.instances and not self.all_lanes:
            slots = np.where(np.arange(256) == IGNORE, IGNORE, 0).astype(np.uint8)
            for i, slot in ego_slots(lanes, self.num_lanes).items():
                slots[numbers[i]] = slot
            labels = slots[labels]
        elif not self.all_lanes and max(numbers, default=0) > self.num_lanes:
            raise DataError(f'{label}: label {max(numbers)} at {(labels == max(numbers)).sum():,} pixels, expected '
                            f'0..{self.num_lanes}, the slots of the lanes. Say instances=True where each lane has a '
                            'number that is no slot, or give num_lanes.')
        return labels, [lane for lane in lanes if len(lane) > 1]


def _numbers(labels: np.ndarray) -> bool:
    """Whether a label image has other numbers than 0 and 255."""
    return bool(((labels > 0) & (labels < IGNORE)).any())
