"""Simulated photographs of the retina in the layout of APTOS 2019: vessels, the optic disc, and what each grade shows.

Mild: a few microaneurysms (dots). Moderate: more of them, bleedings and yellow exudates. Severe: bleedings in all
quarters and pale spots. Proliferative: fine new vessels and a large bleeding.
"""
from pathlib import Path

import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.plugins.medical.mini import check_numbers, class_counts, save_image, write_table
from perception.plugins.medical.paint import blob, clouds, dots, finish, grid, lines, mix, soft
from perception.utils.paths import data_path

OFFICIAL = (1805, 370, 999, 193, 295)
VERSION = 2


def write_aptos_mini(root: str | Path = 'data/mini/aptos', seed: int = 0, train: int = 300, test: int = 40,
                     size: int = 128, force: bool = False) -> Path:
    """Writes a mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train: images with grades, in the proportions of the real ones.
        test: images without.
        size: of an image, pixels; photographs vary around it.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    check_numbers('write_aptos_mini', seed, train, test, size, 40)
    stamp = dict(dataset='aptos', simulated=True, writer_version=VERSION, seed=seed, train=train, test=test, size=size)

    def write(folder: Path) -> None:
        rng = np.random.default_rng([seed, 11])
        grades = rng.permutation(np.repeat(range(5), class_counts(train, OFFICIAL, 8)))
        hidden = rng.choice(5, test, p=np.array(OFFICIAL) / sum(OFFICIAL))
        names = [f'{number:012x}' for number in rng.choice(2 ** 40, train + test, replace=False)]
        for i, (name, grade) in enumerate(zip(names, (*grades, *hidden))):
            kind = 'train' if i < train else 'test'
            image = paint_retina(np.random.default_rng([seed, 11, i]), int(grade), size)
            save_image(folder / f'{kind}_images' / f'{name}.png', image)
        write_table(folder / 'train.csv', ('id_code', 'diagnosis'), list(zip(names, grades)))
        write_table(folder / 'test.csv', ('id_code',), [[name] for name in names[train:]])
        write_table(folder / 'sample_submission.csv', ('id_code', 'diagnosis'), [[name, 0] for name in names[train:]])

    return write_stamped(data_path(root), stamp, write, 'APTOS 2019', 12, force)


def paint_retina(rng: np.random.Generator, grade: int, size: int) -> np.ndarray:
    """A photograph, (H, W, 3) uint8 RGB.

    Args:
        rng: random numbers.
        grade: 0..4.
        size: about H and W.
    """
    size = int(size * rng.uniform(0.85, 1.15))
    x, y = grid(size)
    radius = np.hypot(x, y)
    inside = soft(radius - 0.95, 0.01)
    shade = 1 - 0.35 * radius ** 2 + 0.08 * clouds(rng, size, 5)
    tint = np.array([205, 95, 45]) * rng.uniform(0.8, 1.1, 3) * rng.uniform(0.8, 1.1)
    image = tint * shade[..., None]
    side = rng.choice((-1, 1))
    disc = np.array([side * rng.uniform(0.42, 0.55), rng.uniform(-0.1, 0.1)])
    paths, widths = _vessels(rng, disc, side)
    image = mix(image, tint * (0.5, 0.35, 0.4), 0.75 * lines(size, paths, widths))
    image = mix(image, tint * 0.6, 0.5 * np.exp(-((x + side * 0.1) ** 2 + y ** 2) / 0.02))  # the fovea
    image = mix(image, (250, 215, 140), 0.9 * blob(rng, size, tuple(disc), 0.14, 0.05, 0.02))
    field = soft(radius - 0.85, 0.01) * (np.hypot(x - disc[0], y - disc[1]) > 0.25)
    dark, yellow, pale = tint * (0.45, 0.2, 0.3), (245, 220, 110), (240, 225, 200)
    spots = ((0, 0), (4, 8), (10, 18), (18, 30), (8, 20))[grade]
    image = mix(image, dark, dots(rng, size, rng.integers(*spots) if spots[1] else 0, (0.018, 0.032), field))
    bleeds = (0, 0, int(rng.integers(2, 6)), int(rng.integers(12, 20)), int(rng.integers(3, 8)))[grade]
    image = mix(image, dark * 0.9, dots(rng, size, bleeds, (0.035, 0.075), field, 0.02))
    crusts = (0, 0, int(rng.integers(6, 16)), int(rng.integers(3, 10)), int(rng.integers(3, 12)))[grade]
    image = mix(image, yellow, 0.9 * dots(rng, size, crusts, (0.015, 0.045), field))
    if grade == 3:
        image = mix(image, pale, 0.7 * dots(rng, size, int(rng.integers(3, 7)), (0.05, 0.09), field, 0.04))
    if grade == 4:
        starts = disc + rng.normal(0, 0.06, (24, 1, 2))
        curls = starts + np.cumsum(rng.normal(0, 0.035, (24, 14, 2)), 1)
        image = mix(image, dark, 0.9 * lines(size, list(curls), [0.006] * 24))
        place = (float(-side * rng.uniform(0.1, 0.4)), float(rng.uniform(0.25, 0.55)))
        image = mix(image, dark * 0.8, 0.95 * blob(rng, size, place, rng.uniform(0.16, 0.26), 0.3, 0.02))
    return finish(rng, image * inside[..., None])


def _vessels(rng: np.random.Generator, disc: np.ndarray, side: int) -> tuple[list[np.ndarray], list[float]]:
    """Arcs from the optic disc around the fovea, each with branches: (P, 2) paths and their widths."""
    paths, widths = [], []
    for up in (-1, 1):
        for bend, width in ((0.55, 0.022), (0.75, 0.016), (0.35, 0.012)):
            t = np.linspace(0, 1, 24)
            bend = bend * rng.uniform(0.85, 1.15)
            x = disc[0] - side * t * rng.uniform(1.1, 1.4)
            y = disc[1] + up * bend * np.sin(np.pi * np.minimum(t * 0.9 + 0.05, 1)) + rng.normal(0, 0.006, 24).cumsum()
            arc = np.stack([x, y], 1)
            paths.append(arc)
            widths.append(width)
            for start in rng.integers(5, 20, 3):
                turn = rng.uniform(0.4, 1.1) * up
                steps = np.stack([np.full(10, -side * 0.03), np.full(10, 0.035 * turn)], 1)
                paths.append(arc[start] + (steps + rng.normal(0, 0.008, (10, 2))).cumsum(0))
                widths.append(width / 2)
    return paths, widths
