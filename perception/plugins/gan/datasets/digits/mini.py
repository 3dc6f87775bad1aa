"""1,797 real handwritten digits, which come with scikit-learn, as a folder of images of 32 pixels."""
from pathlib import Path

from perception.common.digits import digits
from perception.common.formats.stamped import write_stamped
from perception.utils.errors import DataError
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

    def write(folder: Path) -> None:
        for i, (label, file) in enumerate(digits(count, size)):
            (folder / f'{i:04d}_{label}.png').write_bytes(file)

    stamp = dict(dataset='digits', simulated=False, writer_version=1, seed=seed, count=count, size=size)
    return write_stamped(data_path(root), stamp, write, 'handwritten digits', 3, force)
