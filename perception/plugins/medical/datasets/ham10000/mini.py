"""Simulated photographs of skin lesions in either layout of HAM10000: border, colour and texture tell the class.

MEL: a ragged border, several dark colours. NV: round and evenly brown. BCC: pink and pearly with vessels and a dark
spot. AKIEC: red, scaly, without a sharp border. BKL: tan with a sharp border and pale dots. DF: a pale centre in a
brown ring. VASC: red and purple lacunae. How much of that a lesion shows varies; those that show little look like NV.
Some lesions have several images, as in the real data.
"""
from pathlib import Path

import cv2
import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.plugins.medical.datasets.ham10000.reader import CLASSES, METADATA, TASK
from perception.plugins.medical.mini import check_numbers, class_counts, save_image, write_table
from perception.plugins.medical.paint import blob, clouds, dots, finish, lines, mix
from perception.utils.checks import check_choice
from perception.utils.paths import data_path

OFFICIAL = (1113, 6705, 514, 327, 1099, 115, 142)
LAYOUTS = ('isic', 'dataverse')
BORDERS = dict(  # how rough, how wide
    MEL=(0.35, 0.03), NV=(0.07, 0.03), BCC=(0.15, 0.06), AKIEC=(0.25, 0.14), BKL=(0.15, 0.012), DF=(0.08, 0.08),
    VASC=(0.12, 0.03))
COLORS = dict(MEL=(85, 55, 45), NV=(150, 95, 65), BCC=(225, 150, 145), AKIEC=(205, 115, 100), BKL=(175, 130, 85),
              DF=(165, 115, 90), VASC=(180, 60, 75))
VERSION = 2


def write_ham10000_mini(root: str | Path = 'data/mini/ham10000', seed: int = 0, train: int = 350, test: int = 40,
                        size: int = 128, layout: str = 'isic', force: bool = False) -> Path:
    """Writes a mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train: images with classes, in the proportions of the real ones.
        test: images without.
        size: width of an image, pixels; its height is three quarters of it.
        layout: `'isic'` or `'dataverse'`.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        ConfigError: another layout.
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    check_choice('write_ham10000_mini: layout', layout, LAYOUTS)
    check_numbers('write_ham10000_mini', seed, train, test, size, 60)
    stamp = dict(dataset='ham10000', simulated=True, writer_version=VERSION, seed=seed, train=train, test=test,
                 size=size, layout=layout)

    def write(folder: Path) -> None:
        rng = np.random.default_rng([seed, 12])
        labels, lesions = [], []
        for k, count in enumerate(class_counts(train, OFFICIAL, 8)):
            number = np.repeat(np.arange(count), rng.choice([1, 2, 3], count, p=[0.7, 0.2, 0.1]))[:count]
            labels += [k] * count
            lesions += [1000 * (k + 1) + int(i) for i in number]
        order = rng.permutation(train)
        labels, lesions = np.array(labels)[order], np.array(lesions)[order]
        names = [f'ISIC_{24306 + i:07d}' for i in range(train)]
        for i, (name, k, lesion) in enumerate(zip(names, labels, lesions)):
            image = paint_lesion(np.random.default_rng([seed, 12, int(lesion)]), np.random.default_rng([seed, 13, i]),
                                 int(k), size)
            place = f'{TASK}_Training_Input' if layout == 'isic' else f'HAM10000_images_part_{1 + (2 * i >= train)}'
            save_image(folder / place / f'{name}.jpg', image)
        if layout == 'isic':
            one_hot = np.eye(len(CLASSES))[labels]
            write_table(folder / f'{TASK}_Training_GroundTruth' / f'{TASK}_Training_GroundTruth.csv',
                        ('image', *CLASSES), [(name, *row) for name, row in zip(names, one_hot)])
            write_table(folder / f'{TASK}_Training_LesionGroupings.csv',
                        ('image', 'lesion_id', 'diagnosis_confirm_type'), [
                            (name, f'HAM_{lesion:07d}', 'histopathology') for name, lesion in zip(names, lesions)])
        else:
            write_table(folder / METADATA, ('lesion_id', 'image_id', 'dx', 'dx_type', 'age', 'sex', 'localization'),
                        [(f'HAM_{lesion:07d}', name, CLASSES[k].lower(), 'histo', '50.0', 'female', 'back')
                         for name, k, lesion in zip(names, labels, lesions)])
        for i in range(test):
            k = rng.choice(len(CLASSES), p=np.array(OFFICIAL) / sum(OFFICIAL))
            randoms = [np.random.default_rng([seed, use, i]) for use in (14, 15)]
            image = paint_lesion(*randoms, int(k), size)
            save_image(folder / f'{TASK}_Test_Input' / f'ISIC_{34524 + i:07d}.jpg', image)

    return write_stamped(data_path(root), stamp, write, 'HAM10000', 4, force)


def paint_lesion(rng: np.random.Generator, view: np.random.Generator, label: int, size: int) -> np.ndarray:
    """A photograph, (3/4 W, W, 3) uint8 RGB.

    Args:
        rng: random numbers of the lesion.
        view: of the photograph; those of one lesion differ in them alone.
        label: 0..6, of CLASSES.
        size: W.
    """
    skin = np.array([225, 175, 150]) * rng.uniform(0.94, 1.04, 3) * rng.uniform(0.75, 1.05)
    image = skin * (1 + 0.04 * clouds(rng, size, 6))[..., None]
    kind, center = CLASSES[label], tuple(rng.uniform(-0.12, 0.12, 2))
    radius = rng.uniform(0.35, 0.5)
    clear = rng.uniform(0.1, 0.8)  # how much it shows of its class
    rough, edge = clear * np.array(BORDERS[kind]) + (1 - clear) * np.array(BORDERS['NV'])
    body = blob(rng, size, center, radius, rough, edge)
    color = (clear * np.array(COLORS[kind]) + (1 - clear) * np.array(COLORS['NV'])) * rng.uniform(0.85, 1.15, 3)
    image = mix(image, color, 0.92 * body)
    patches, inside = clouds(rng, size, 4), clear * body
    if kind == 'MEL':
        image = mix(image, (35, 25, 30), inside * (patches > 0.15) * 0.85)
        image = mix(image, (80, 90, 125), inside * (patches < -0.3) * 0.7)
    elif kind == 'NV':
        image *= (1 + 0.07 * body * clouds(rng, size, 24))[..., None]
    elif kind == 'BCC':
        starts = np.array(center) + rng.uniform(-0.3, 0.3, (7, 1, 2))
        image = mix(image, (170, 40, 50), 0.8 * inside * lines(
            size, list(starts + rng.normal(0, 0.05, (7, 10, 2)).cumsum(1)), [0.012] * 7))
        image = mix(image, (70, 40, 40), clear * blob(rng, size, (center[0] + 0.1, center[1]), 0.09, 0.3, 0.02))
    elif kind == 'AKIEC':
        image = mix(image, (240, 215, 195), 0.7 * inside * (clouds(rng, size, 18) > 0.25))
    elif kind == 'BKL':
        image = mix(image, (245, 225, 170), clear * dots(rng, size, int(rng.integers(12, 22)), (0.018, 0.035), body))
        image = mix(image, (110, 75, 50), 0.5 * inside * (clouds(rng, size, 12) > 0.4))
    elif kind == 'DF':
        image = mix(image, (240, 215, 200), 0.9 * clear * blob(rng, size, center, 0.5 * radius, 0.1, 0.06))
    else:
        lakes = dots(rng, size, int(rng.integers(10, 18)), (0.06, 0.11), body, 0.02)
        image = mix(image, (110, 25, 75), 0.9 * clear * lakes)
    hairs = int(view.integers(0, 5))
    paths = view.uniform(-1, 1, (hairs, 1, 2)) + view.normal(0, 0.08, (hairs, 1, 2)) * np.arange(20)[None, :, None]
    image = mix(image, (50, 35, 30), 0.8 * lines(size, list(paths), [0.008] * hairs))
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2,) * 2, view.uniform(-15, 15), view.uniform(1.0, 1.15))
    image = cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REFLECT) * view.uniform(0.9, 1.08)
    cut = size // 8
    return finish(view, image[cut:size - cut])
