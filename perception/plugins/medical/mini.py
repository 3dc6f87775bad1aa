"""What the mini data sets share: numbers of images by class as unequal as the real ones, and files."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from perception.common.visual import canvas
from perception.plugins.medical.datasets.base import ClassImages
from perception.utils.errors import DataError


def class_counts(total: int, official: Sequence[int], least: int) -> np.ndarray:
    """Images of each class, in the proportions of the official ones, but no fewer than `least`."""
    counts = np.maximum(np.round(total * np.asarray(official) / sum(official)).astype(int), least)
    counts[counts.argmax()] += total - counts.sum()
    return counts


def check_numbers(where: str, seed: int, train: int, test: int, size: int, least: int) -> None:
    """See that the arguments of a writer can be.

    Raises:
        DataError: one is out of range.
    """
    if seed < 0 or not least <= train <= 5000 or not 1 <= test <= 5000 or not 32 <= size <= 1024:
        raise DataError(f'{where}: seed={seed}, train={train}, test={test}, size={size}, expected a seed of 0 or more, '
                        f'{least} to 5000 images to train with, 1 to 5000 to test and 32 to 1024 pixels. Give numbers '
                        'in these ranges.')


def save_image(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as the ending of its name says; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image[..., ::-1])[1].tobytes())


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Write a CSV file; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(','.join(map(str, row)) for row in (header, *rows)) + '\n')


def draw_sheet(root: str | Path, path: str | Path, dataset: type[ClassImages], most: int = 8, side: int = 150) -> Path:
    """Draws some images of each class side by side.

    Args:
        root: folder of a data set.
        path: PNG file to write.
        dataset: its reader.
        most: images of a class.
        side: of an image, pixels.

    Raises:
        DataError: a data set that cannot be read, or a picture that cannot be written.
    """
    samples, rows = dataset(root, 'all', input_size=(side, side)), []
    for k, name in enumerate(samples.metainfo['classes']):
        chosen = np.flatnonzero(samples.labels == k)
        rows.append(canvas.bar(most * (side + 4) - 4, name, f'{len(chosen)} images'))
        rows.append(canvas.beside([samples.read(int(i))['image'] for i in chosen[:most]]))
    return canvas.save_png(path, canvas.stacked(rows))
