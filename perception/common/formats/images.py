"""Image files as arrays; what cannot be read is an error that says what the file is, never None or a grey picture.

JPEG, PNG, BMP, WebP, TIFF and PPM are read, HEIC where pillow-heif is installed. A file is told by its first bytes, not
by its name. Its header is looked at before a pixel is decoded, so that neither a damaged nor a hostile one costs
seconds or gigabytes.
"""
import io
import os
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from perception.utils.errors import DataError
from perception.utils.optional import import_optional

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.heic', '.heif')  # of pictures, lower case
MAX_PIXELS = 1 << 26  # 67 million; phones take 48, 50 and 64
MAX_BYTES = 8 * MAX_PIXELS
MAX_SCANS = 100  # of a progressive JPEG, each of which goes through all pixels; usual ones have ten
DARKEST = 64  # a palette of greys below it holds the numbers themselves: a tool has made the file smaller
_READ = 'JPEG, PNG, BMP, WebP, TIFF or PPM'
_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8}
_LOSSY = ('JPEG', 'WEBP')
_ORIENTATION = 0x112
_MARKER = re.compile(rb'\xff+([^\xff\x00])', re.DOTALL)  # of a JPEG, after any number of fill bytes
_ANIMATED = re.compile(rb'acTL|fcTL|fdAT')  # of a PNG, which OpenCV 4.11 crashes on where it is damaged
_STARTS = {b'\xff\xd8': 'JPEG', b'\x89PNG\r\n\x1a\n': 'PNG', b'BM': 'BMP', b'II*\0': 'TIFF', b'MM\0*': 'TIFF',
           b'P4': 'PPM', b'P5': 'PPM', b'P6': 'PPM'}
_OTHERS = {b'GIF8': 'a GIF file', b'%PDF': 'a PDF file', b'PK\3\4': 'a zip archive', b'\x1f\x8b': 'a gzip archive',
           b'\x93NUMPY': 'a NumPy array', b'version https://git-lfs': 'a Git LFS pointer', b'{': 'JSON text',
           b'<': 'an HTML or XML page', b'\0\0\0\x0cjP': 'a JPEG 2000 file', b'v/1\1': 'an OpenEXR file',
           b'#?RADIANCE': 'a Radiance HDR file', b'8BPS': 'a Photoshop file'}
_HEIC = (b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis', b'mif1', b'msf1')
_TURNS = {  # EXIF orientation -> what brings the stored pixels upright
    2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1], 5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1), 8: lambda x: x.swapaxes(0, 1)[::-1]}


def read_image(path: str | Path, upright: bool = False, reduce: int = 1) -> np.ndarray:
    """A colour image: (H, W, 3) uint8, red first; grey images are repeated, transparency is dropped.

    Args:
        path: the file.
        upright: turn a picture as its EXIF orientation says, as people see it. Without, such a picture is refused:
            nobody knows whether the labels of a data set belong to the turned or to the stored pixels.
        reduce: 2, 4 or 8 for the mean of so many rows and columns, rounded up at the borders; a JPEG is decoded at
            that size, in half the time.

    Raises:
        DataError: no such file, no image in it, a damaged one, or one that must be turned.
        MissingDependency: a HEIC file without pillow-heif.
    """
    return decode_image(_bytes(path), path, upright, reduce)


def decode_image(data: bytes, path: str | Path, upright: bool = False, reduce: int = 1) -> np.ndarray:
    """A colour image given by its bytes, see `read_image`; `path` is the file, for messages."""
    kind, header = _open(data, path)
    if kind not in ('JPEG', 'PNG') or kind == 'PNG' and _ANIMATED.search(data):
        if not upright:
            _check_orientation(header, data, path)
        return reduced(_pixels(header, path, upright), reduce)
    turn = _orientation(header, data)
    if turn != 1 and not upright:
        _check_orientation(header, data, path)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8),
                             (_REDUCED[reduce] if kind == 'JPEG' else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise _damaged(path, kind, header, error.err) from error
    if image is None or image.shape[1::-1] != tuple(-(-n // (reduce if kind == 'JPEG' else 1)) for n in header.size):
        raise _damaged(path, kind, header, 'no decoder takes its content')
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    image = image if kind == 'JPEG' else reduced(image, reduce)
    return np.ascontiguousarray(_TURNS[turn](image)) if turn != 1 else image


def reduced(image: np.ndarray, reduce: int) -> np.ndarray:
    """The mean of so many rows and columns of an image (H, W, 3); borders are repeated where the size does not fit."""
    if reduce == 1:
        return image
    height, width = (-(-n // reduce) for n in image.shape[:2])
    below, beside = height * reduce - image.shape[0], width * reduce - image.shape[1]
    whole = cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


class Header(NamedTuple):
    """What an image file says before its pixels: rows and columns as they are stored, and Pillow's mode."""

    size: tuple[int, int]
    mode: str


def read_header(path: str | Path) -> Header:
    """The header of an image.

    Raises:
        DataError: as `read_image`.
    """
    return decode_header(_bytes(path), path)


def decode_header(data: bytes, where: str | Path) -> Header:
    """The header of an image given by its bytes; `where` is the file, for messages."""
    header = _open(data, where)[1]
    return Header(header.size[::-1], header.mode)


def read_label_image(path: str | Path) -> np.ndarray:
    """A label image: (H, W) uint8, the numbers as they are stored; see `decode_label_image`."""
    return decode_label_image(_bytes(path), path)


def decode_label_image(data: bytes, where: str | Path) -> np.ndarray:
    """The numbers of a label image as they are stored.

    Of a palette image these are the indices, whatever the colours are for people to look at; the colours count where
    all are dark greys, which is what tools that make files smaller do to images of numbers. Of colours the three
    channels must be equal. Numbers of 1, 2, 4 and 16 bits are read as numbers, not scaled.

    Args:
        data: bytes of a PNG, BMP, TIFF, PPM or lossless WebP file.
        where: the file, for messages.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: no image, a lossy one, one of colours or of numbers above 255.
    """
    kind, header = _open(data, where)
    if (kind in _LOSSY and not _lossless_webp(data)) or header.info.get('compression') in ('jpeg', 'webp'):
        raise DataError(f'{where}: a {kind} image, whose pixels are changed when it is saved, expected numbers in a '
                        'lossless format. Make the labels again as PNG; those in this file are lost at their edges.')
    _check_orientation(header, data, where)
    _load(header, where)
    labels = np.asarray(header)
    if header.mode == 'P':
        used = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
        colors = np.zeros((256, 3), np.uint8)
        palette = np.array(header.getpalette('RGB'), np.uint8).reshape(-1, 3)[:256]
        colors[:len(palette)] = palette
        greys = colors[used, 0]
        if (colors[used] == greys[:, None]).all() and greys.max() < DARKEST and len(np.unique(greys)) == len(greys):
            labels = colors[labels, 0]
    elif header.mode == '1':
        labels = labels.astype(np.uint8)
    elif header.mode == 'L' and kind == 'PNG' and data[24] < 8:  # grey of few bits comes stretched to 0..255
        labels = labels // (255 // ((1 << data[24]) - 1))
    elif header.mode == 'LA':
        labels = labels[..., 0]
    if labels.ndim == 3 and labels.dtype == np.uint8 and (labels[..., :3] == labels[..., :1]).all():
        labels = labels[..., 0]  # some tools save grey images with three equal channels
    if labels.ndim == 3:
        raise DataError(f'{where}: a {kind} image of colours (mode {header.mode}, {_colors(labels)}), expected one '
                        'channel of 8 bits with a number for each pixel. Map the colours to numbers first.')
    if labels.dtype.kind not in 'iu' or labels.min(initial=0) < 0 or labels.max(initial=0) > 255:
        raise DataError(f'{where}: a {kind} image of {labels.dtype} numbers from {labels.min():g} to {labels.max():g}, '
                        'expected one channel of 8 bits, 0 to 255. This is no label image of this data set; map the '
                        'numbers first.')
    return np.array(labels, np.uint8)


def _lossless_webp(data: bytes) -> bool:
    """Whether the pixels of a WebP file are stored as they were; an extended file may have other chunks before them."""
    at = 12
    while data[at:at + 4] in (b'VP8X', b'ICCP'):
        at += 8 + (int.from_bytes(data[at + 4:at + 8], 'little') + 1) // 2 * 2
    return data[:4] == b'RIFF' and data[at:at + 4] == b'VP8L'


def _bytes(path: str | Path) -> bytes:
    try:
        size = os.stat(path).st_size
        if size > MAX_BYTES:
            raise DataError(f'{path}: {size:,} bytes, expected an image of at most {MAX_BYTES:,}. Give the picture '
                            'that belongs there.')
        return Path(path).read_bytes()
    except DataError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise DataError(f'{path}: not readable ({reason}), expected an image. Unpack the missing archive, or correct '
                        'the list.') from error


def _open(data: bytes, where: str | Path) -> tuple[str, Image.Image]:
    """What kind of image it is, and the image with its header read and its pixels still to be decoded."""
    kind = _kind(data, where)
    scans = _scans(data, kind)
    if not scans:
        raise DataError(f'{where}: {len(data):,} bytes of an image without its end, expected a whole image. The file '
                        'is truncated or damaged; copy it again.')
    if scans > MAX_SCANS:
        raise DataError(f'{where}: a progressive JPEG of {scans:,} scans, expected {MAX_SCANS} at most. Save it anew.')
    try:
        if kind == 'HEIC':
            import_optional('pillow_heif', f'{where}: a HEIC picture', 'pip install pillow-heif'
                            ).register_heif_opener()
            header = Image.OPEN['HEIF'][0](io.BytesIO(data), '')
        else:
            Image.preinit()
            if kind not in Image.OPEN:
                Image.init()
            header = Image.OPEN[kind][0](io.BytesIO(data), '')  # Image.open would refuse 180 million pixels its own way
        width, height = header.size
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged header makes Pillow raise almost anything
        raise DataError(f'{where}: {len(data):,} bytes of a {kind} file whose header cannot be read '
                        f'({str(error)[:100]}), expected an image. The file is damaged; copy it again.') from error
    if height * width > MAX_PIXELS:
        raise DataError(f'{where}: states a size of {height:,} x {width:,} pixels, expected at most {MAX_PIXELS:,} '
                        'pixels. Scale it down; if it is no such picture, the file is damaged.')
    if not height * width:
        raise DataError(f'{where}: states a size of {height} x {width} pixels, expected an image. The file is damaged; '
                        'copy it again.')
    if header.tile and header.tile[0][0] == 'bmp_rle':  # Pillow decodes it in Python, seconds for a picture
        raise DataError(f'{where}: a BMP file with run-length encoding, expected a plain one. Save it as PNG.')
    return kind, header


def _kind(data: bytes, where: str | Path) -> str:
    """Name of the format as Pillow has it, or 'HEIC'."""
    for start, kind in _STARTS.items():
        if data.startswith(start):
            return kind
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        return 'WEBP'
    if data[4:8] == b'ftyp' and data[8:12] in _HEIC:
        return 'HEIC'
    other = next((name for start, name in _OTHERS.items() if data.lstrip()[:32].startswith(start)), None)
    if data[4:8] == b'ftyp':
        other = 'an AVIF file' if data[8:12] in (b'avif', b'avis') else 'a video'
    if other:
        fix = ('Fetch the file itself by `git lfs pull`.' if 'LFS' in other else f'Convert it to {_READ} first, or '
               'give the picture that belongs there.')
        raise DataError(f'{where}: {other} of {len(data):,} bytes, expected an image in {_READ}. {fix}')
    raise DataError(f'{where}: {len(data):,} bytes that are no image, expected {_READ}. '
                    + ('The file is empty; copy it again.' if not data else 'Check what the file is.'))


def _scans(data: bytes, kind: str) -> int:
    """How often the pixels are gone through, 0 for a PNG or JPEG file without its end mark.

    OpenCV fills the rest of a truncated image with grey; of other formats Pillow notices.
    """
    at = 8
    while kind == 'PNG':  # chunk by chunk: length, kind, content, checksum; OpenCV makes room for any length
        name = data[at + 4:at + 8]
        at += 12 + int.from_bytes(data[at:at + 4], 'big')
        if name == b'IEND' or at > len(data) or not name.isalpha():
            return int(name == b'IEND' and at <= len(data))
    at = 2
    while kind == 'JPEG':
        marker = _MARKER.search(data, at)
        if marker is None or marker.end() + 2 > len(data):
            return 0
        code, at = marker[1][0], marker.end()
        if code == 0xda:  # pixels follow; the end mark of a thumbnail in the header lies before
            end = data.find(b'\xff\xd9', at)
            return 0 if end < 0 else 1 + data.count(b'\xff\xda', at, end)
        if code != 1 and not 0xd0 <= code <= 0xd9:
            at += max(int.from_bytes(data[at:at + 2], 'big'), 2)
    return 1


def _orientation(header: Image.Image, data: bytes) -> int:
    """EXIF orientation 1..8; 1 is upright, and what is taken where nothing readable is said."""
    try:
        if header.format == 'PNG' and b'eXIf' not in data or header.format == 'PPM':
            return 1  # Pillow would decode all pixels to look behind them
        turn = header.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  a damaged note beside the pixels makes Pillow raise almost anything
        return 1
    return turn if turn in _TURNS else 1


def _check_orientation(header: Image.Image, data: bytes, where: str | Path) -> None:
    turn = _orientation(header, data)
    if turn != 1:
        raise DataError(f'{where}: EXIF orientation {turn}, so that viewers turn the picture, expected upright pixels '
                        'in a data set: its labels may belong to either. Turn the pixels themselves (`mogrify '
                        '-auto-orient`), or remove the tag, whichever fits the labels.')


def _load(header: Image.Image, where: str | Path) -> None:
    try:
        header.load()
    except Exception as error:  # noqa: BLE001  damaged content makes Pillow raise almost anything
        raise _damaged(where, header.format, header, str(error)[:100]) from error


def _pixels(header: Image.Image, where: str | Path, upright: bool) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image that Pillow decodes."""
    _load(header, where)
    if header.mode in ('I;16', 'I;16L', 'I;16B'):
        grey = np.asarray(header)
        return (grey >> 8).astype(np.uint8)[..., None].repeat(3, axis=2)
    if header.mode in ('I', 'F'):
        raise DataError(f'{where}: a {header.format} image of 32-bit numbers, expected a picture of 8 or 16 bits. '
                        'Convert it first.')
    image = ImageOps.exif_transpose(header) if upright else header
    return np.array(image.convert('RGB'))


def _damaged(where: str | Path, kind: str, header: Image.Image, reason: str) -> DataError:
    return DataError(f'{where}: a {kind} file of {header.size[1]:,} x {header.size[0]:,} pixels that cannot be decoded '
                     f'({reason}), expected an image. The file is damaged; copy it again.')


def _colors(labels: np.ndarray) -> str:
    """How many colours there are, for a message."""
    few = labels[::max(1, labels.shape[0] // 64), ::max(1, labels.shape[1] // 64)]
    count = len(np.unique(few.reshape(-1, few.shape[-1]), axis=0))
    return f'{count} colours' if count < 1000 else 'a photograph'
