"""Simulated photographs of skin as people keep their own: a table, images of two kinds in two folders, patients."""
from pathlib import Path

import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.plugins.medical.datasets.ham10000.mini import paint_lesion
from perception.plugins.medical.datasets.ham10000.reader import CLASSES
from perception.plugins.medical.mini import check_numbers, class_counts, save_image, write_table
from perception.utils.paths import data_path

NAMES = dict(NV='naevus', MEL='melanoma', VASC='angioma')
SHARES = (5, 2, 1)


def write_class_folder_mini(root: str | Path = 'data/mini/class_folder', seed: int = 0, images: int = 160,
                            size: int = 128, force: bool = False) -> Path:
    """Writes the data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        images: how many, 5 : 2 : 1 of the classes; each third patient has two of one lesion.
        size: width of an image, pixels; its height is three quarters of it.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    check_numbers('write_class_folder_mini', seed, images, 1, size, 30)
    stamp = dict(dataset='class_folder', simulated=True, writer_version=1, seed=seed, images=images, size=size)

    def write(folder: Path) -> None:
        kinds, rows = list(NAMES), []
        for k, count in enumerate(class_counts(images, SHARES, 8)):
            patients = np.repeat(np.arange(count), 1 + (np.arange(count) % 3 == 0))[:count]
            rows += [(k, 1000 * (k + 1) + int(patient)) for patient in patients]
        rows = [rows[i] for i in np.random.default_rng([seed, 21]).permutation(images)]
        table = []
        for i, (k, patient) in enumerate(rows):
            picture = paint_lesion(np.random.default_rng([seed, 21, patient]), np.random.default_rng([seed, 22, i]),
                                   CLASSES.index(kinds[k]), size)
            name = f'{"north" if 2 * i < images else "south"}/{i:04d}{".jpg" if i % 2 else ".png"}'
            save_image(folder / name, picture)
            table.append((i, name, NAMES[kinds[k]], f'P{patient}'))
        write_table(folder / 'photos.csv', ('number', 'photo', 'diagnosis', 'patient'), table)

    return write_stamped(data_path(root), stamp, write, 'photographs in folders', 3, force)
