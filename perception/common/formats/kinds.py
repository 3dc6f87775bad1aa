"""What a file is by its first bytes, and whether it is too large to be a scan."""
import re
from pathlib import Path

from perception.utils.errors import DataError

LARGEST = 1 << 30  # bytes of a scan; 64 million points of four float32
STARTS = {  # first bytes -> what such a file is
    b'# .PCD': 'a PCD file', b'VERSION ': 'a PCD file', b'ply': 'a PLY file', b'LASF': 'a LAS file',
    b'\x93NUMPY': 'an .npy file', b'PK\x03\x04': 'a zip or .npz file', b'#ROSBAG': 'a ROS bag',
    b'\x89MCAP': 'an MCAP file', b'SQLite format 3': 'a ROS 2 bag', b'\x1f\x8b': 'a gzip file',
    b'\x89PNG': 'a PNG image', b'\xff\xd8\xff': 'a JPEG image',
    b'%PDF': 'a PDF file', b'<!DOCTYPE': 'a web page', b'<html': 'a web page',
    b'version https://git-lfs': 'a pointer of Git LFS, not the file itself'}


def check_size(path: str | Path) -> None:
    """Refuse a file that is absent, a folder or too large to be a scan, before it is read.

    Raises:
        DataError: it is one of these.
    """
    try:
        size, regular = Path(path).stat().st_size, Path(path).is_file()
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        reason = getattr(error, 'strerror', None) or error
        raise DataError(f'{path}: {reason}, expected a readable file. Check the path and the copy of the data set.') \
            from error
    if not regular:
        raise DataError(f'{path}: no regular file, expected a readable file. Check the path.')
    if size > LARGEST:
        raise DataError(f'{path}: {size:,} bytes, expected at most {LARGEST:,} of one scan. Cut it into scans, or '
                        'check the file.')


def recognise(path: str | Path) -> str:
    """What a file is, by its first bytes, as a part of a message."""
    try:
        with open(path, 'rb') as file:
            start = file.read(512)
    except OSError:
        return 'a file'
    if not start:
        return 'an empty file'
    for sign, name in STARTS.items():
        if start.startswith(sign):
            return name
    if start.startswith((b'\xff\xfe', b'\xfe\xff')):
        return 'text in UTF-16'
    if not re.search(rb'[^\t\n\r -~]', start.removeprefix(b'\xef\xbb\xbf')):
        return f'text ({start[:40].decode(errors="replace").splitlines()[0]!r})'
    return 'a file of unknown content'
