"""1,797 real handwritten digits, which come with scikit-learn, as a folder of images of 32 pixels.

E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits, UCI, 1998: 8 x 8 pixels of 17 greys, written by 43
people.
"""
from pathlib import Path

import cv2
import numpy as np

from perception.common.formats.stamped import write_stamped
from perception.utils.errors import DataError
from perception.utils.optional import import_optional
from perception.utils.paths import data_path


def write_digits(root: str | Path = 'data/mini/digits', seed: int = 0, count: int = 1797, size: int = 32,
                 force: bool = False) -> Path:
    """Write the digits, or keep those that are there if they were made from the same arguments.

    Args:
        root: folder of the data set; it appears when it is complete.
        seed: not used, for the images are real; in the stamp.
        count: of the images, the first ones.
        size: rows and columns of a picture.
        force: write it again even if it is complete.

    Raises:
        DataError: numbers out of range, or a folder that holds something else.
        MissingDependency: scikit-learn is not installed.
    """
    if not 8 <= count <= 1797 or not 8 <= size <= 256:
        raise DataError(f'write_digits: count={count}, size={size}, expected 8 to 1797 images of 8 to 256 pixels. Give '
                        'numbers in these ranges.')
    data = import_optional('sklearn.datasets', 'the handwritten digits', 'pip install scikit-learn').load_digits()

    def write(folder: Path) -> None:
        for i in range(count):
            image = np.clip(data.images[i] * 15.9375, 0, 255).astype(np.uint8)  # 0..16 to 0..255
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
            (folder / f'{i:04d}_{data.target[i]}.png').write_bytes(cv2.imencode('.png', image)[1].tobytes())

    stamp = dict(dataset='digits', simulated=False, writer_version=1, seed=seed, count=count, size=size)
    return write_stamped(data_path(root), stamp, write, 'handwritten digits', 3, force)
