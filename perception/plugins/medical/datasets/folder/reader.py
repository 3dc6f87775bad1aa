"""Images and classes of one's own: a table with a row for each image, or a folder for each class.

    dict(type=ClassFolder, data_root='data/clinic', table='photos.csv', image='photo', label='diagnosis',
         group='patient', classes=('healthy', 'ill'))
    dict(type=ClassFolder, data_root='data/xray', classes=dict(NORMAL='normal', PNEUMONIA='pneumonia'),
         splits=dict(train='train', val='val', test='test'))

    <data_root>/photos.csv              photo,diagnosis,patient and other columns
    <data_root>/**/*.jpg                images of any kind, in any folders
or
    <data_root>/**/<class>/*.jpg        the folder that an image lies in names its class
"""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.common.folders import choose, named_files
from perception.common.formats.images import SUFFIXES
from perception.plugins.medical.datasets.base import ClassImages, Images
from perception.plugins.medical.folds import read_csv
from perception.registry import DATASETS
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError, DataError

PALETTE = ((60, 140, 230), (210, 50, 60), (80, 180, 90), (240, 200, 60), (150, 90, 200), (240, 130, 40), (80, 160, 170),
           (230, 160, 200), (140, 100, 60), (120, 120, 120))


@DATASETS.register_module()
class ClassFolder(ClassImages):
    """Images of a folder with a class each; see `ClassImages` for the other arguments.

    One of five folds is held out, or `splits` names the images of each split; then the test has classes too. An image's
    id is its path below `data_root` without its ending.

    Args:
        data_root: the folder; a leading `data` gives way to the variable PERCEPTION_DATA.
        classes: what the table or the folders call them, in the order of the net's outputs, or a dict of that and their
            names, such as `{'0': 'healthy', '1': 'ill'}`.
        table: a CSV file in `data_root`; without it folders name the classes, and what lies in others is left out.
        image, label: columns of the table: an image's name or its path in `data_root`, with its ending or without, and
            its class.
        group: column of what images belong to, such as the patient, for `folds='grouped'`.
        splits: split -> folders, paths, patterns of them, or a text file with one a line, see `common/folders.py`.
        ordered: the classes are grades, so that kappa comes first among the scores.

    Raises:
        ConfigError: arguments that cannot be.
        DataError: missing files, images without a class that is known, or names that fit several.
    """

    def __init__(self, data_root: str | Path, split: str = 'train', *, classes: Sequence[str] | Mapping[str, str],
                 table: str | None = None, image: str = 'image', label: str = 'label', group: str | None = None,
                 splits: Mapping[str, Any] | None = None, ordered: bool = False, **arguments: Any) -> None:
        described = self.describe(dict(classes=classes, ordered=ordered))
        self.keys = {str(key): k for k, key in enumerate(classes)}
        self.table, self.columns, self.named = table, (image, label, *([] if group is None else [group])), splits
        self.METAINFO = dict(self.METAINFO, **described)
        self.splits = ('train', 'val', 'all') if splits is None else tuple(dict.fromkeys((*splits, 'val', 'test')))
        super().__init__(data_root, split, **arguments)

    @classmethod
    def describe(cls, config: Mapping) -> dict[str, Any]:
        """Names and colours of the classes of a config."""
        classes = config.get('classes') or ()
        if isinstance(classes, str) or len({str(key) for key in classes}) < 2:
            raise ConfigError(f'ClassFolder: classes={classes!r}, expected two or more different ones as the table or '
                              'the folders call them. Name them in the order of the outputs of the net.')
        names = classes.values() if isinstance(classes, Mapping) else classes
        return dict(classes=tuple(map(str, names)), ordered=bool(config.get('ordered')),
                    palette=tuple(PALETTE[k % len(PALETTE)] for k in range(len(classes))))

    def advice(self) -> str:
        return ('Set data_root to the folder of your images, or set PERCEPTION_DATA to the folder that replaces data/.')

    def official(self) -> None:
        return None

    def labelled(self) -> Images:
        files = named_files([self.data_root], SUFFIXES)
        images = self._of_folders(files) if self.table is None else self._of_table(files)
        absent = [key for key, k in self.keys.items() if k not in images.labels]
        if absent:
            raise DataError(f'{images.where}: no image of class {", ".join(map(repr, absent))}, expected some of each. '
                            f'{close_matches(absent[0], sorted(self.others))} Correct classes.')
        return images

    unlabelled = labelled  # of the test, where `splits` names one

    def rows(self, images: Images) -> np.ndarray:
        if self.named is None:
            return super().rows(images)
        row = {name: i for i, name in enumerate(images.ids)}
        chosen = choose(dict(zip(images.ids, map(Path, images.paths))), self.named, self.split, self.data_root,
                        type(self).__name__)
        return np.array([row[name] for name in chosen])

    def _of_folders(self, files: Mapping[str, list[Path]]) -> Images:
        paths = sorted({path for some in files.values() for path in some})
        self.others = {path.parent.name for path in paths} - {*self.keys}
        paths = [path for path in paths if path.parent.name in self.keys]
        return Images(self.data_root, self._ids(paths), [str(path) for path in paths],
                      np.array([self.keys[path.parent.name] for path in paths], np.int64))

    def _of_table(self, files: Mapping[str, list[Path]]) -> Images:
        where = self.data_root / self.table
        _, rows = read_csv(where, self.columns)
        labels = [row[1] if row[1] in self.keys else row[1].removesuffix('.0') for row in rows]
        self.others = {label for label in labels if label not in self.keys}
        for row, label in zip(rows, labels):
            found = files.get(row[0].removeprefix('./'), [])
            if label not in self.keys:
                raise DataError(f'{where}: {row[0]} is of class {row[1]!r}, expected one of {", ".join(self.keys)}. '
                                f'Correct classes or the row, or take it out.')
            if len(found) != 1:
                many = ' and '.join(map(str, found[:2]))
                raise DataError(f'{where}: {row[0]!r} names {many or "no image"}, expected one image in '
                                f'{self.data_root}. {"Give its path there." if found else "Copy it there."}')
        paths = [files[row[0].removeprefix('./')][0] for row in rows]
        twice = len(paths) - len(set(paths))
        if twice or not paths:
            raise DataError(f'{where}: {f"{twice:,} images come twice" if twice else "no rows below the header"}, '
                            'expected one row for each image. Correct the table.')
        return Images(where, self._ids(paths), [str(path) for path in paths],
                      np.array([self.keys[label] for label in labels], np.int64),
                      [row[2] for row in rows] if len(self.columns) == 3 else None)

    def _ids(self, paths: Sequence[Path]) -> list[str]:
        """Paths below the folder without their endings, or with them where two would be the same."""
        short = [path.relative_to(self.data_root).with_suffix('').as_posix() for path in paths]
        return short if len(set(short)) == len(short) else [path.relative_to(self.data_root).as_posix()
                                                            for path in paths]
