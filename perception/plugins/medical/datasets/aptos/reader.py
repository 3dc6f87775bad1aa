"""APTOS 2019: photographs of the retina, graded by diabetic retinopathy (Kaggle, aptos2019-blindness-detection).

    train.csv           id_code,diagnosis       3,662 rows
    train_images/<id_code>.png
    test.csv            id_code                 1,928 rows
    test_images/<id_code>.png

Copies of it that were made smaller are read too: images of another kind (.jpg, .jpeg), in a folder of the same name
inside, names with their ending in the table, grades such as 2.0.
"""
import numpy as np

from perception.plugins.medical.datasets.base import ClassImages, Images, check_images
from perception.plugins.medical.folds import read_csv
from perception.registry import DATASETS
from perception.utils.errors import DataError


@DATASETS.register_module()
class APTOS2019(ClassImages):
    """The grades are the classes; see `ClassImages` for the arguments."""

    METAINFO = dict(
        classes=('No DR', 'Mild', 'Moderate', 'Severe', 'Proliferative DR'),
        palette=((60, 140, 230), (80, 180, 90), (240, 200, 60), (240, 130, 40), (210, 50, 60)), ordered=True)
    LABELLED, TESTED = 3662, 1928

    def advice(self) -> str:
        return 'It is at https://www.kaggle.com/c/aptos2019-blindness-detection/data.'

    def labelled(self) -> Images:
        path = self.data_root / 'train.csv'
        _, rows = read_csv(path, ('id_code', 'diagnosis'))
        grades = [grade.removesuffix('.0') for _, grade in rows]
        wrong = next((row for row, grade in zip(rows, grades) if grade not in ('0', '1', '2', '3', '4')), None)
        if wrong:
            raise DataError(f'{path}: {wrong[0]} has the diagnosis {wrong[1]!r}, expected a grade 0..4. Correct it.')
        images = Images(path, [row[0] for row in rows], [], np.array(grades, np.int64))
        return check_images(images, [self.data_root / 'train_images'], '.png', 5)

    def unlabelled(self) -> Images:
        path = self.data_root / 'test.csv'
        images = Images(path, [row[0] for row in read_csv(path, ('id_code',))[1]], [])
        return check_images(images, [self.data_root / 'test_images'], '.png', 5)
