"""HAM10000: photographs of pigmented skin lesions of seven classes, 10,015 images; also ISIC 2018 Task 3.

Either layout is read as it is unpacked; classes are told by their names, never by the order of columns.

    ISIC        ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv
                    image,MEL,NV,BCC,AKIEC,BKL,DF,VASC, one of which is 1.0
                ISIC2018_Task3_Training_LesionGroupings.csv     image,lesion_id,..., for grouped folds; may be absent
                ISIC2018_Task3_Training_Input/ISIC_00xxxxx.jpg
    Dataverse,  HAM10000_metadata.csv                           lesion_id,image_id,dx,...; also .tab or no ending
    Kaggle      HAM10000_images_part_1/ISIC_00xxxxx.jpg, HAM10000_images_part_2/, or anywhere in the folder
    test        ISIC2018_Task3_Test_Input/ISIC_00xxxxx.jpg      1,512 images, of both
                ISIC2018_Task3_Test_GroundTruth/ISIC2018_Task3_Test_GroundTruth.csv     for the split `scored`
"""
from pathlib import Path

import numpy as np

from perception.plugins.medical.datasets.base import ClassImages, Images, check_images
from perception.plugins.medical.folds import read_csv
from perception.registry import DATASETS
from perception.utils.errors import DataError

CLASSES = ('MEL', 'NV', 'BCC', 'AKIEC', 'BKL', 'DF', 'VASC')  # in ISIC's order
TASK = 'ISIC2018_Task3'
METADATA = 'HAM10000_metadata.csv'
METADATA_TOO = ('HAM10000_metadata.tab', 'HAM10000_metadata')  # as the Dataverse names them
NOT_SCORED = 'ISIC_0035068'  # of the test, by ISIC's own program


@DATASETS.register_module()
class HAM10000(ClassImages):
    """Seven kinds of lesions; see `ClassImages` for the arguments. Folds follow the order of the table that is there.

    Where both layouts lie in the folder, the ISIC one is read. The split `scored` are the images of the test that ISIC
    scores, with their classes.
    """

    METAINFO = dict(classes=CLASSES, palette=(
        (90, 60, 50), (230, 160, 120), (220, 90, 130), (240, 130, 40), (200, 190, 70), (80, 160, 170), (190, 40, 60)))
    LABELLED, TESTED, SCORED = 10015, 1512, 1511
    splits = (*ClassImages.splits, 'scored')

    def advice(self) -> str:
        return 'It is at https://challenge.isic-archive.com/data/#2018 and https://doi.org/10.7910/DVN/DBW86T.'

    def labelled(self) -> Images:
        truth = self.data_root / f'{TASK}_Training_GroundTruth' / f'{TASK}_Training_GroundTruth.csv'
        if truth.is_file():
            folders, images = [self.data_root / f'{TASK}_Training_Input'], self._isic(truth)
        else:
            folders = [self.data_root / f'HAM10000_images_part_{part}' for part in (1, 2)]
            if not any(folder.is_dir() for folder in folders):
                folders = [self.data_root]
            tables = [self.data_root / name for name in (METADATA, *METADATA_TOO)]
            images = self._dataverse(next((table for table in tables if table.is_file()), tables[0]), truth)
        return check_images(images, folders, '.jpg', len(CLASSES))

    def scored(self) -> Images:
        truth = self.data_root / f'{TASK}_Test_GroundTruth' / f'{TASK}_Test_GroundTruth.csv'
        if not truth.is_file():
            raise DataError(f'{truth}: no such file, expected the classes of the test. Unpack '
                            f'{TASK}_Test_GroundTruth.zip there, or take another split.')
        return check_images(self._isic(truth), [self.data_root / f'{TASK}_Test_Input'], '.jpg', len(CLASSES))

    def _isic(self, path: Path) -> Images:
        header, rows = read_csv(path)
        rows = [row for row in rows if row[0] != NOT_SCORED]
        if header[0] != 'image' or sorted(header[1:]) != sorted(CLASSES):
            raise DataError(f'{path}: the columns {",".join(header)[:100]}, expected image,{",".join(CLASSES)}. Unpack '
                            'the official file again.')
        try:
            values = np.array([[float(value) for value in row[1:]] for row in rows])
        except ValueError as error:
            raise DataError(f'{path}: {error}, expected 0.0 or 1.0 for each class. Unpack the official file again.'
                            ) from error
        values = values.reshape(-1, len(CLASSES))[:, [header.index(name) - 1 for name in CLASSES]]
        wrong = np.flatnonzero(~((values == 0) | (values == 1)).all(1) | (values.sum(1) != 1))
        if len(wrong):
            raise DataError(f'{path}: {rows[wrong[0]][0]} is of {int((values[wrong[0]] > 0).sum())} classes '
                            f'({",".join(rows[wrong[0]][1:])[:60]}), expected one, with 1.0, and 0.0 for the others '
                            f'({len(wrong):,} such rows). Unpack the official file again.')
        images = Images(path, [row[0] for row in rows], [], values.argmax(1).astype(np.int64))
        table = self.data_root / f'{TASK}_Training_LesionGroupings.csv'
        if table.is_file():
            pairs = read_csv(table, ('image', 'lesion_id'))[1]
            lesions = dict(pairs)
            twice = [name for name, lesion in pairs if lesions[name] != lesion]
            if twice:
                raise DataError(f'{table}: {twice[0]} has two lesions, expected one for each image. Correct it.')
            images.groups = [lesions.get(name, '') for name in images.ids]
        return images

    def _dataverse(self, path: Path, other: Path) -> Images:
        if not path.is_file():
            raise DataError(f'{self.data_root}: neither {other.relative_to(self.data_root)} nor {METADATA}, expected '
                            f'one of them. {self.advice()}')
        _, rows = read_csv(path, ('lesion_id', 'image_id', 'dx'))
        wrong = next((row for row in rows if row[2].upper() not in CLASSES), None)
        if wrong:
            raise DataError(f'{path}: {wrong[1]} has the dx {wrong[2]!r}, expected one of '
                            f'{", ".join(CLASSES).lower()}. Correct it.')
        labels = np.array([CLASSES.index(row[2].upper()) for row in rows], np.int64)
        return Images(path, [row[1] for row in rows], [], labels, [row[0] for row in rows])

    def unlabelled(self) -> Images:
        folder = self.data_root / f'{TASK}_Test_Input'
        ids = sorted(path.stem for path in folder.glob('ISIC_*.jpg')) if folder.is_dir() else []
        if not ids:
            raise DataError(f'{folder}: no images ISIC_*.jpg, expected those of the test. Unpack {TASK}_Test_Input.zip '
                            'there.')
        return check_images(Images(folder, ids, []), [folder], '.jpg', len(CLASSES))
