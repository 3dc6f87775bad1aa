"""Scans and labels of one's own, in any folders and formats, as a data set by its config alone.

    dict(type=PointFolder, data_root='data/yard', points='*/scans/*.pcd', labels='*/labels/*.npy',
         classes=('ground', 'car', 'person'), label_map={1: 'ground', 2: 'ground', 10: 'car', 30: 'person'},
         ignore=[0, 255], splits=dict(train=['monday', 'tuesday'], val=['friday']))

Train ids 0..C-1 are the classes in their order, 255 is ignored. What stands in `perception/common/formats/points.py`
and `point_files.py` about formats, columns, intensities and frames holds here too.
"""
from __future__ import annotations

import colorsys
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from perception.common import folders
from perception.common.formats.arrays import read_npy
from perception.common.formats.kinds import check_size
from perception.common.formats.kitti import read_labels as read_label_file
from perception.common.formats.point_columns import parse_columns
from perception.common.formats.point_files import FILES, read_fields
from perception.common.formats.points import PointReader
from perception.common.formats.text import read_text
from perception.lidarseg.datasets.base import IGNORE, LidarScans
from perception.registry import DATASETS
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path

OPTIONS = ('columns', 'intensity_scale', 'missing_intensity', 'unit', 'forward', 'height', 'invalid',
           'origin', 'features')  # of PointReader
LABELS = ('.npy', '.label', '.txt')
_UNKNOWN = 254


@DATASETS.register_module()
class PointFolder(LidarScans):
    """Scans of a folder with a class for each point.

    The id of a scan is what the stars of `points` stand for, such as `monday/000012`, of a pattern without a star the
    file's name. Samples are those of SemanticKITTI.

    Args:
        data_root: the folder; a leading `data` gives way to the variable PERCEPTION_DATA.
        classes: names of the C classes, at most 254.
        points: pattern of the scans below `data_root`; a star stands for a part of one name, two for folders.
        labels: pattern of the label files, with as many stars, which stand for the same: `.npy` (N,) integers,
            `.label` (N,) uint32 as SemanticKITTI's, `.txt` an integer a line. A name without star and ending is a
            field of the scan's own file, such as 'label'. None where there are none.
        label_map: id in the label files -> class, its name or its number; by default ids are numbers of classes.
        ignore: ids that are no class.
        split: 'train', 'val', 'test' or another one of `splits`. 'train' refuses scans with fewer than two points,
            'test' needs no labels; where there are some, unknown ids are refused.
        splits: split -> ids of its scans, their paths, patterns of them, folders, or a text file below `data_root` with
            one a line; without 'test' the scans of 'val' are tested. Without splits each fifth scan is for 'val' and
            'test', the rest for 'train'; of fewer than five all are tested.
        palette: C RGB colours; by default some that differ.
        pipeline, seed: see SeededDataset.
        columns, intensity_scale, missing_intensity, unit, forward, height, invalid, origin, features: of the scans,
            see PointReader. A net sees each of the features too: its `in_channels` is larger by one for each.

    Raises:
        ConfigError: classes, patterns, a map or splits that cannot be.
        DataError: no scans, scans without labels, nothing labelled.
    """

    def __init__(self, data_root: str | Path, classes: Sequence[str], points: str = '*.pcd',
                 labels: str | None = '*.npy', label_map: Mapping[int, str | int] | None = None,
                 ignore: int | Sequence[int | str] = (), split: str = 'train',
                 splits: Mapping[str, int | str | Sequence | set] | None = None,
                 palette: Sequence[Sequence[int]] | None = None, pipeline: Sequence[dict | Callable] = (),
                 seed: int = 0, columns: str | Sequence[str] | None = None, intensity_scale: float | str = 1.0,
                 missing_intensity: float | None = None, unit: float = 1.0, forward: str | None = None,
                 height: float | None = None, invalid: str = 'refuse',
                 origin: str | Sequence[float] | None = None,
                 features: str | Sequence[str] | Mapping[str, float | str] = ()) -> None:
        super().__init__(pipeline, seed)
        config = dict(classes=classes, palette=palette, label_map=label_map, ignore=ignore, columns=columns,
                      intensity_scale=intensity_scale, missing_intensity=missing_intensity, unit=unit, forward=forward,
                      height=height, invalid=invalid, origin=origin, features=features)
        self.data_root, self.split = data_path(data_root), split
        self.metainfo = dict(self.describe(config), data_root=str(self.data_root))
        self.label_map, self.points = class_map(config), self.reader(config)
        files = folders.find(self.data_root, points, FILES, 'PointFolder: points')
        chosen = folders.choose(files, splits, split, self.data_root, 'PointFolder')
        self.ids, self.files = chosen, [files[name] for name in chosen]
        self.field = labels if labels and is_field(labels) else None
        self.label_files = self._label_files(points, labels)
        if split == 'train':
            self.check_labelled(self.labels)

    def _label_files(self, points: str, labels: str | None) -> list[Path | None]:
        """The label file of each scan, its own where labels are a field of it, None where there is none."""
        if labels is None or self.field:
            found = [file if self.field else None for file in self.files]
        else:
            if not labels.lower().endswith(LABELS):
                raise ConfigError(f'PointFolder: labels={labels!r}, expected a pattern of files that end in '
                                  f"{', '.join(LABELS)}, or the name of a field such as 'label'. Correct it.")
            found = [folders.pair(self.data_root, file, points, labels, 'PointFolder: labels') for file in self.files]
            there = [file.is_file() for file in found]
            if not all(there) and self.split == 'test':
                return [file if ok else None for file, ok in zip(found, there)]
            if not all(there):
                raise DataError(f'{found[there.index(False)]}: no such file ({there.count(False):,} of {len(found):,} '
                                f'scans have no labels), expected one for each scan, such as {self.files[0].name}. '
                                'Correct the pattern of labels, or leave these scans out by splits.')
        if self.split == 'train' and None in found:
            raise ConfigError('PointFolder: labels=None for the split train, expected labels to learn. Name their '
                              "files by a pattern such as '*/labels/*.npy'.")
        return found

    @classmethod
    def describe(cls, config: Mapping) -> dict[str, Any]:
        """Classes and palette of the config."""
        classes, palette = config.get('classes'), config.get('palette')
        names = tuple(classes) if isinstance(classes, (list, tuple)) else ()
        if not names or len(names) >= _UNKNOWN or len(set(names)) < len(names) or \
                not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f'PointFolder: classes={classes!r}, expected the names of 1 to {_UNKNOWN - 1} classes, '
                              "each once, such as ('ground', 'car', 'person'). Name them.")
        colors = distinct_colors(len(names)) if palette is None else tuple(map(tuple, palette))
        if np.shape(colors) != (len(names), 3) or not all(c in range(256) for color in colors for c in color):
            raise ConfigError(f'PointFolder: palette={palette!r}, expected an RGB colour of 0 to 255 for each of '
                              f'{len(names)} classes. Correct it, or leave it out.')
        return dict(classes=names, palette=colors)

    @classmethod
    def reader(cls, data: Mapping, **options) -> PointReader:
        """See LidarScans; what the user does not give is as the data set has it."""
        ours = {name: data[name] for name in OPTIONS if data.get(name) is not None}
        return PointReader(**{**ours, **options}, frame=cls.FRAME)

    @classmethod
    def label_suffix(cls, data: Mapping) -> str:
        """See LidarScans; labels that are a field stand in files that end as the scans do."""
        labels = data.get('labels', '*.npy')
        return '' if labels is None else Path(data.get('points', '*.pcd') if is_field(labels) else labels).suffix

    @classmethod
    def scan_labels(cls, path: Path, num_points: int, data: Mapping) -> np.ndarray:
        """See LidarScans."""
        labels = data.get('labels', '*.npy')
        raw = read_labels(path, num_points, labels if labels and is_field(labels) else None, data.get('columns'))
        return to_train_ids(raw, class_map(data), path, strict=False)

    @classmethod
    def raw_ids(cls, data: Mapping) -> np.ndarray:
        """See LidarScans: the least id of each class; that of no class is the first of `ignore` from 0 on, else 255."""
        table = np.full(256, IGNORE, np.int64)
        for raw, number in sorted(class_map(data).items(), reverse=True):
            table[number] = raw
        table[IGNORE] = next((raw for raw in ignored_ids(data) if raw >= 0), IGNORE)
        return table.clip(0)

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> str:
        return str(self.files[index])

    def read(self, index: int) -> dict:
        """A scan as it is in its files: `points` (N, 4) float32, `sample_id` and, where there are some, `labels` (M,)
        int64 of its M rows; where rows were dropped also `kept` (N,) and `num_points` M, in training their labels are
        dropped too.

        Raises:
            DataError: damaged files, unknown labels or fewer than two points in training.
        """
        file, training = self.files[index], self.split == 'train'
        cloud = self.points.read(file)
        if training and len(cloud.points) < 2:
            raise DataError(f'{file}: {len(cloud.points)} points in a training scan, expected at least 2. Leave this '
                            'scan out by splits.')
        sample = dict(points=cloud.points, sample_id=self.ids[index])
        if self.label_files[index] is not None:
            raw = cloud.fields if self.field else None
            sample['labels'] = self.labels(index, cloud.num_rows, raw)
        if cloud.kept is not None and training:
            sample['labels'] = sample['labels'][cloud.kept]
        elif cloud.kept is not None:
            sample.update(kept=cloud.kept, num_points=cloud.num_rows)
        return sample

    def labels(self, index: int, num_points: int | None = None, fields: Mapping | None = None) -> np.ndarray:
        """Train ids (N,) int64 of a scan, 255 = ignored.

        Args:
            index: of the scan.
            num_points: rows of the scan; None does not check their number.
            fields: columns of the scan, where one of them holds the labels and they are known.

        Raises:
            DataError: a damaged file, or unknown ids.
        """
        path = self.label_files[index]
        raw = read_labels(path, num_points, self.field, self.points.columns) if fields is None else \
            label_field(fields, self.field, path)
        return to_train_ids(raw, self.label_map, path)


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """RGB colours that differ, for pictures."""
    shades = [((0.58 + k * 0.618034) % 1, (0.85, 0.55)[k % 2], (0.95, 0.75, 1)[k % 3]) for k in range(count)]
    return tuple(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(*shade)) for shade in shades)


def class_map(config: Mapping) -> dict[int, int]:
    """Train id of each id in the label files, 255 of those to be ignored.

    Raises:
        ConfigError: a key that is no whole number, or a value that is no class.
    """
    classes, given = tuple(config['classes']), config.get('label_map')
    table = dict(given.items()) if isinstance(given, Mapping) else dict(enumerate(range(len(classes))))
    if given is not None and (not isinstance(given, Mapping) or not table):
        raise ConfigError(f'PointFolder: label_map={given!r}, expected a dict of ids and classes, such as '
                          "{1: 'ground', 10: 'car'}. Correct it.")
    found = {}
    for raw, name in table.items():
        if not _is_id(raw):
            raise ConfigError(f'PointFolder: label_map has the id {raw!r}, expected whole numbers as they stand in the '
                              'label files. Correct it.')
        if name not in classes and name not in range(len(classes)):
            raise ConfigError(f'PointFolder: label_map says {raw}: {name!r}, expected a class. '
                              f'{close_matches(str(name), classes)}')
        found[int(raw)] = classes.index(name) if name in classes else int(name)
    ignored = ignored_ids(config)
    twice = [raw for raw in ignored if raw in found and given is not None]
    if twice:
        raise ConfigError(f'PointFolder: {twice[0]} stands in label_map and in ignore, expected one. Correct it.')
    return found | dict.fromkeys(ignored, IGNORE)


def ignored_ids(config: Mapping) -> list[int]:
    """Ids in the label files that are no class.

    Raises:
        ConfigError: something else than whole numbers.
    """
    given = config.get('ignore')
    ids = [] if given is None else list(given) if isinstance(given, (list, tuple, set)) else [given]
    if not all(map(_is_id, ids)):
        raise ConfigError(f'PointFolder: ignore={given!r}, expected whole numbers as they stand in the label files, '
                          'such as [0, 255]. Correct it.')
    return [int(raw) for raw in ids]


def _is_id(raw: Any) -> bool:
    """Whether it is a whole number, or the text of one, as keys on the command line are."""
    return isinstance(raw, (int, np.integer)) or (isinstance(raw, str) and re.fullmatch(r'-?[0-9]+', raw) is not None)


def is_field(labels: str) -> bool:
    """Whether `labels` names a field of the scans and no files."""
    return not {'*', '?'} & set(labels) and not Path(labels).suffix


def read_labels(path: Path, num_points: int | None, field: str | None = None,
                columns: Sequence[str] | None = None) -> np.ndarray:
    """Ids of the points of a scan.

    Args:
        path: file that ends in one of `LABELS`, or the scan itself for a field of it.
        num_points: rows of the scan; None does not check their number.
        field: of the scan.
        columns: of the scan, see PointReader.

    Returns:
        (N,) int64.

    Raises:
        DataError: it cannot be read, holds no whole numbers, or not one for each point.
    """
    kind = path.suffix.lower()
    if field:
        labels = label_field(read_fields(path, columns and parse_columns(columns)), field, path)
    elif kind == '.label':
        labels = (read_label_file(path, num_points) & 0xFFFF).astype(np.int64)
    elif kind == '.txt':
        labels = _numbers(read_text(path, 'an id a line', 1 << 28).split(), path)
    else:
        check_size(path)
        labels = read_npy(path)
        labels = _numbers(labels.reshape(-1) if labels.ndim == 2 and 1 in labels.shape else labels, path)
    if num_points is not None and len(labels) != num_points:
        raise DataError(f'{path}: {len(labels):,} labels for {num_points:,} points, expected equal numbers. The file '
                        'belongs to another scan, or points were left out.')
    return labels


def label_field(fields: Mapping[str, np.ndarray], field: str, path: Path) -> np.ndarray:
    """Ids (N,) int64 in a column of a scan.

    Raises:
        DataError: it has none of this name.
    """
    if field not in fields:
        raise DataError(f'{path}: columns {", ".join(fields)}, expected {field!r} with the labels. '
                        f'{close_matches(field, fields)}')
    return _numbers(fields[field], path)


def _numbers(values: Any, path: Path) -> np.ndarray:
    """(N,) int64 of whole numbers of any type."""
    values = np.asarray(values)
    try:
        numbers = values.astype(np.float64) if values.dtype.kind in 'fUiub' else None
    except ValueError:
        numbers = None
    if numbers is None or values.ndim != 1 or not (np.abs(numbers) < 1 << 53).all() or (numbers % 1).any():
        raise DataError(f'{path}: {values.dtype} of shape {values.shape}, expected whole numbers (N,), one for each '
                        'point. Write the ids of the labels.')
    return numbers.astype(np.int64)


def to_train_ids(raw: np.ndarray, table: Mapping[int, int], where: str | Path, strict: bool = True) -> np.ndarray:
    """Train ids (N,) int64 of ids (N,) in label files.

    Args:
        raw: ids.
        table: see `class_map`.
        where: the file, for messages.
        strict: refuse unknown ids; otherwise they are ignored, with a warning.

    Raises:
        DataError: an unknown id.
    """
    ids, rows = np.unique(raw, return_inverse=True)
    unknown = [int(k) for k in ids if int(k) not in table]
    if unknown:
        text = f'{where}: unknown labels {", ".join(map(str, unknown[:8]))} at {np.isin(raw, unknown).sum():,} points'
        if strict:
            raise DataError(f'{text}, expected ids of label_map or ignore ({", ".join(map(str, list(table)[:20]))}). '
                            'Add them to one of both, or correct the labels.')
        print_log(f'{text}; they count as ignored.', 'current', logging.WARNING)
    return np.array([table.get(int(k), IGNORE) for k in ids], np.int64)[rows.reshape(-1)] if len(ids) else \
        np.zeros(0, np.int64)
