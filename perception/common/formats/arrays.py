"""Files of arrays: `.npy`, read without executing anything and without believing a damaged header."""
import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from perception.utils.errors import DataError


def read_npy(path: str | Path) -> np.ndarray:
    """The array of a `.npy` file.

    Raises:
        DataError: no such file, no array of plain numbers in it, or a header that does not fit the size of the file.
    """
    path = Path(path)
    try:
        with open(path, 'rb') as file:
            try:
                version = npy.read_magic(file)
                header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
                shape, by_column, dtype = header(file)
            except OSError:
                raise
            except Exception as error:  # NumPy parses the header as Python, which fails in many ways
                said = ' '.join(str(error).split())[:80]
                raise DataError(f'{path}: no .npy header ({type(error).__name__}: {said}), expected an array of '
                                'numpy.save. The file is damaged or something else.') from error
            rest, wanted = path.stat().st_size - file.tell(), math.prod(shape) * dtype.itemsize
            if dtype.hasobject or dtype.kind not in 'biufc' or min(shape, default=0) < 0:
                raise DataError(f'{path}: an array of {dtype}, expected plain numbers. Save it as such; objects are '
                                'never read, for they could execute code.')
            if rest != wanted:
                raise DataError(f'{path}: {rest:,} bytes for an array of shape {shape} and type {dtype}, expected '
                                f'{wanted:,}. The file is truncated or damaged; write it again.')
            values = np.fromfile(file, dtype, math.prod(shape))
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f'{path}: not readable ({getattr(error, "strerror", None) or error}), expected a .npy file. '
                        'Check the path.') from error
    return values.reshape(shape, order='F' if by_column else 'C')
