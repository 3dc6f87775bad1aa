"""Image files as arrays; what cannot be read is an error with its path, never None or a grey picture."""
from pathlib import Path

import cv2
import numpy as np

from perception.utils.errors import DataError

# OpenCV fills the rest of a truncated image with grey; the end mark cannot occur inside the pixels' data
_ENDS = (('JPEG', b'\xff\xd8', b'\xff\xd9'), ('PNG', b'\x89PNG', b'IEND'))


def read_image(path: str | Path) -> np.ndarray:
    """A colour image: (H, W, 3) uint8, red first; grey images are repeated, transparency is dropped.

    Raises:
        DataError: no such file, or no image in it.
    """
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB)


def read_label_image(path: str | Path) -> np.ndarray:
    """A label image of one channel: (H, W) uint8, the numbers as they are stored.

    Raises:
        DataError: no such file, no image in it, or one with colours or more than 8 bits.
    """
    labels = _decode(path, cv2.IMREAD_UNCHANGED)
    if labels.ndim == 3 and labels.dtype == np.uint8 and (labels == labels[..., :1]).all():
        labels = labels[..., 0]  # some tools save grey images with three equal channels
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f'{path}: {labels.dtype} of shape {labels.shape}, expected one channel of 8 bits. This is no '
                        'label image of this data set; copy the file again.')
    return labels


def _decode(path: str | Path, flags: int) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f'{path}: not readable ({error.strerror or error}), expected an image. Unpack the missing '
                        'archive, or correct the list.') from error
    for kind, start, end in _ENDS:
        if data[:len(start)].tobytes() == start and end not in data.tobytes():
            raise DataError(f'{path}: {len(data):,} bytes of a {kind} file without its end, expected a whole image. '
                            'The file is truncated; copy it again.')
    try:
        image = cv2.imdecode(data, flags) if len(data) else None
    except cv2.error as error:
        raise DataError(f'{path}: not readable ({error.err}), expected an image. Copy the file again.') from error
    if image is None:
        raise DataError(f'{path}: {len(data):,} bytes that are no image, expected a JPEG or PNG file. Copy the file '
                        'again.')
    return image
