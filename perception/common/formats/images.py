"""Image files as arrays; what cannot be read is an error with its path, never None or a grey picture."""
from pathlib import Path

import cv2
import numpy as np

from perception.utils.errors import DataError

MAX_PIXELS = 1 << 25  # 8K video has as many
_PNG, _JPEG, _JPEG_END = b'\x89PNG\r\n\x1a\n', b'\xff\xd8', b'\xff\xd9'


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
    if not _is_whole(data):
        raise DataError(f'{path}: {len(data):,} bytes of an image without its end, expected a whole image. The file is '
                        'truncated or damaged; copy it again.')
    height, width = _stated_size(data)
    if height * width > MAX_PIXELS:  # a damaged size would cost seconds and gigabytes
        raise DataError(f'{path}: states a size of {height:,} x {width:,} pixels, expected at most {MAX_PIXELS:,} '
                        'pixels. The file is damaged; copy it again.')
    try:
        image = cv2.imdecode(data, flags) if len(data) else None
    except cv2.error as error:
        raise DataError(f'{path}: not readable ({error.err}), expected an image. Copy the file again.') from error
    if image is None:
        raise DataError(f'{path}: {len(data):,} bytes that are no image, expected a JPEG or PNG file. Copy the file '
                        'again.')
    return image


def _is_whole(data: np.ndarray) -> bool:
    """Whether a PNG or JPEG file has its end mark; OpenCV fills the rest of a truncated image with grey."""
    start = data[:8].tobytes()
    if start.startswith(_JPEG):
        return _JPEG_END in data.tobytes()  # cannot occur inside the pixels' data
    at = 8
    while start == _PNG and at + 12 <= len(data):  # chunk by chunk: length, kind, content, checksum
        kind = data[at + 4:at + 8].tobytes()
        at += 12 + int(data[at:at + 4].view('>u4')[0])
        if kind == b'IEND':
            return at <= len(data)
    return start != _PNG


def _stated_size(data: np.ndarray) -> tuple[int, int]:
    """Rows and columns that the header of a PNG or JPEG file states; (0, 0) when it states none."""
    start, at = data[:8].tobytes(), 2
    if start == _PNG and len(data) >= 24:
        width, height = data[16:24].view('>u4').tolist()
        return height, width
    while start.startswith(_JPEG) and at + 9 <= len(data) and data[at] == 0xff:
        kind = int(data[at + 1])
        if 0xc0 <= kind <= 0xcf and kind not in (0xc4, 0xc8, 0xcc):  # start of frame
            height, width = data[at + 5:at + 9].view('>u2').tolist()
            return height, width
        at += 2 + int(data[at + 2]) * 256 + int(data[at + 3])
    return 0, 0
