"""Images are read as they are, or refused with what they are."""
import contextlib
import io
import struct
import sys
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from perception.common.formats.images import MAX_PIXELS, SUFFIXES, read_header, read_image, read_label_image
from perception.utils.errors import DataError, MissingDependency

COLORS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
NUMBERS = (np.arange(12 * 20).reshape(12, 20) % 4).astype(np.uint8)


def turned(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def test_colours_come_red_first(tmp_path):
    for suffix in ('.png', '.bmp', '.tif', '.tiff', '.ppm'):
        Image.fromarray(COLORS).save(tmp_path / f'a{suffix}')
        np.testing.assert_array_equal(read_image(tmp_path / f'a{suffix}'), COLORS)
        assert read_header(tmp_path / f'a{suffix}') == ((12, 20), 'RGB')
    for suffix in ('.jpg', '.webp'):
        Image.new('RGB', (20, 12), (10, 100, 200)).save(tmp_path / f'b{suffix}')
        assert np.abs(read_image(tmp_path / f'b{suffix}').astype(int) - (10, 100, 200)).max() < 4
    assert {'.jpg', '.webp', '.tif', '.bmp', '.heic'} <= set(SUFFIXES)


def test_grey_and_transparent_images_get_three_channels(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), COLORS[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), COLORS[..., :1].repeat(3, axis=2))
    cv2.imwrite(str(tmp_path / 'b.png'), np.dstack([COLORS[..., ::-1], COLORS[..., 0]]))
    np.testing.assert_array_equal(read_image(tmp_path / 'b.png'), COLORS)
    Image.fromarray(COLORS[..., 0].astype(np.uint16) * 257).save(tmp_path / 'c.tif')
    np.testing.assert_array_equal(read_image(tmp_path / 'c.tif'), COLORS[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.tif'])
@pytest.mark.parametrize(('orientation', 'upright'), [
    (2, COLORS[:, ::-1]), (3, COLORS[::-1, ::-1]), (4, COLORS[::-1]), (5, COLORS.transpose(1, 0, 2)),
    (6, np.rot90(COLORS, -1)), (7, np.rot90(COLORS, 2).transpose(1, 0, 2)), (8, np.rot90(COLORS))])
def test_a_phones_picture_is_turned_for_people_and_refused_in_data_sets(tmp_path, suffix, orientation, upright):
    path = tmp_path / f'a{suffix}'
    options = dict(lossless=True) if suffix == '.webp' else {}
    Image.fromarray(COLORS).save(path, exif=turned(orientation), **options)
    picture = read_image(path, upright=True)
    assert picture.shape == upright.shape and picture.flags.c_contiguous
    if suffix != '.jpg':
        np.testing.assert_array_equal(picture, upright)
    with pytest.raises(DataError, match=f'EXIF orientation {orientation}'):
        read_image(path)


def test_labels_are_the_stored_numbers(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), COLORS[..., 0])
    np.testing.assert_array_equal(read_label_image(path), COLORS[..., 0])
    cv2.imwrite(str(path), COLORS[..., :1].repeat(3, axis=2))
    np.testing.assert_array_equal(read_label_image(path), COLORS[..., 0])
    for numbers in (NUMBERS.astype(np.uint16), NUMBERS > 1, np.dstack([NUMBERS] * 3 + [255 - 0 * NUMBERS])):
        Image.fromarray(numbers).save(path)
        np.testing.assert_array_equal(read_label_image(path), numbers if numbers.ndim == 2 else NUMBERS)
    for suffix in ('.bmp', '.tif'):
        Image.fromarray(NUMBERS).save(tmp_path / f'a{suffix}')
        np.testing.assert_array_equal(read_label_image(tmp_path / f'a{suffix}'), NUMBERS)


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_palette_images_are_read_by_index(tmp_path, bits):
    numbers = NUMBERS % (1 << min(bits, 2))
    image = Image.fromarray(numbers).convert('P')
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 255, 255, 255])
    image.save(tmp_path / 'a.png', bits=bits)
    np.testing.assert_array_equal(read_label_image(tmp_path / 'a.png'), numbers)


def test_a_palette_of_dark_greys_holds_the_numbers(tmp_path):
    """As tools make it that make files smaller: slots 0, 2, 3 and 5."""
    image = Image.fromarray(NUMBERS).convert('P')
    image.putpalette([0, 0, 0, 2, 2, 2, 3, 3, 3, 5, 5, 5])
    image.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_label_image(tmp_path / 'a.png'), np.array([0, 2, 3, 5])[NUMBERS])
    image.putpalette([0] * 12)  # of no use to people, so the indices count
    image.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_label_image(tmp_path / 'a.png'), NUMBERS)


def test_labels_that_are_no_numbers_say_what_they_are(tmp_path):
    path = tmp_path / 'c.png'
    for wrong, message in ((COLORS, r'c\.png: a PNG image of colours \(mode RGB'),
                           (COLORS[..., 0].astype(np.uint16) * 257, r'c\.png: .* of uint16 numbers from .* to \d+')):
        Image.fromarray(wrong).save(path)
        with pytest.raises(DataError, match=message + '.*expected one channel of 8 bits'):
            read_label_image(path)
    for extra in ({}, dict(icc_profile=b'odd'), dict(icc_profile=b'even', exif=b'Exif')):
        Image.fromarray(NUMBERS).save(path, 'WEBP', lossless=True, **extra)
        assert (read_label_image(path) == NUMBERS).all()
        Image.fromarray(NUMBERS).save(path, 'WEBP', **extra)
        with pytest.raises(DataError, match='a WEBP image, whose pixels are changed'):
            read_label_image(path)
    for kind in ('JPEG', 'WEBP'):
        Image.fromarray(NUMBERS).save(path, kind)
        with pytest.raises(DataError, match=f'a {kind} image, whose pixels are changed.*lossless'):
            read_label_image(path)


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_damaged_files_are_refused(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    cv2.imwrite(str(path), COLORS.repeat(8, 0).repeat(8, 1))
    data = path.read_bytes()
    for length in (len(data) - 2 if suffix == '.jpg' else len(data) - 9, len(data) // 2, 30):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match='without its end, expected a whole image'):
            read_image(path)
    for wrong, message in ((b'', '0 bytes that are no image'), (b'hello', '5 bytes that are no image')):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=message):
            read_image(path)


@pytest.mark.parametrize('suffix', ['.bmp', '.tif', '.webp', '.ppm'])
def test_truncated_files_of_other_kinds_are_refused(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    Image.fromarray(COLORS.repeat(8, 0).repeat(8, 1)).save(path)
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(DataError, match='cannot be|no image'):
        read_image(path)


def stated(kind, height, width):
    """Bytes of a small file whose header states another size."""
    buffer = io.BytesIO()
    Image.fromarray(COLORS).save(buffer, kind)
    data = buffer.getvalue()
    if kind == 'PNG':
        head = b'IHDR' + struct.pack('>II', width, height) + data[24:29]
        return data[:12] + head + struct.pack('>I', zlib.crc32(head)) + data[33:]
    if kind == 'TIFF':
        buffer = io.BytesIO()
        Image.new('L', (20, 12)).save(buffer, 'TIFF')
        sides = [(struct.pack('<HHIHH', tag, 4, 1, old, 0), struct.pack('<HHII', tag, 4, 1, new))
                 for tag, old, new in ((256, 20, width), (257, 12, height))]
        return buffer.getvalue().replace(*sides[0]).replace(*sides[1])
    if kind == 'BMP':
        return data[:18] + struct.pack('<ii', width, height) + data[26:]
    at = data.index(b'\xff\xc0') + 5
    return data[:at] + struct.pack('>HH', height, width) + data[at + 4:]


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'JPEG', 'fill bytes', 'TIFF'])
def test_a_header_bounds_memory(tmp_path, kind):
    path = tmp_path / 'a.img'
    data = stated(kind if kind != 'fill bytes' else 'JPEG', 30_000, 30_000)
    if kind == 'fill bytes':  # libjpeg skips them, so the guard must
        at = data.index(b'\xff\xc0')
        data = data[:at] + b'\xff' * 9 + data[at:]
    path.write_bytes(data)
    for read in (read_image, read_label_image, read_header):
        with pytest.raises(DataError, match=f'30,000 x 30,000 pixels, expected at most {MAX_PIXELS:,}'):
            read(path)


def test_a_truncated_photo_with_a_thumbnail_is_refused(tmp_path):
    """The end mark of the thumbnail in its header is none of the photo's."""
    thumbnail = io.BytesIO()
    Image.fromarray(COLORS).save(thumbnail, 'JPEG')
    note = b'Exif\0\0' + thumbnail.getvalue()
    buffer = io.BytesIO()
    Image.fromarray(COLORS.repeat(8, 0).repeat(8, 1)).save(buffer, 'JPEG')
    data = buffer.getvalue()
    data = data[:2] + b'\xff\xe1' + struct.pack('>H', 2 + len(note)) + note + data[2:]
    (tmp_path / 'a.jpg').write_bytes(data)
    assert read_image(tmp_path / 'a.jpg').shape == (96, 160, 3)
    (tmp_path / 'a.jpg').write_bytes(data[:-2000])
    with pytest.raises(DataError, match='without its end'):
        read_image(tmp_path / 'a.jpg')


def test_no_chunk_of_a_png_makes_room_for_gigabytes(tmp_path):
    """OpenCV believes any length; this one took three seconds and two gigabytes."""
    cv2.imwrite(str(tmp_path / 'a.png'), COLORS)
    data = bytearray((tmp_path / 'a.png').read_bytes())
    at = data.index(b'IDAT')
    data[at - 4:at] = struct.pack('>I', 0x7f00_0000)
    (tmp_path / 'a.png').write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(DataError, match='without its end'):
        read_image(tmp_path / 'a.png')
    assert time.perf_counter() < start + 1


def test_a_jpeg_of_a_thousand_scans_is_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(COLORS).save(buffer, 'JPEG', progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b'\xff\xda'):-2]
    (tmp_path / 'a.jpg').write_bytes(data[:-2] + 1000 * last + b'\xff\xd9')
    with pytest.raises(DataError, match=r'progressive JPEG of 1,0\d\d scans'):
        read_image(tmp_path / 'a.jpg')


@pytest.mark.parametrize(('data', 'message'), [
    (b'GIF89a' + bytes(40), 'a GIF file'), (b'version https://git-lfs.github.com/spec/v1\n', 'a Git LFS pointer.*pull'),
    (b'<!DOCTYPE html><html>', 'an HTML'), (b'PK\3\4' + bytes(40), 'a zip archive'),
    (b'\0\0\0\x1cftypavif' + bytes(20), 'an AVIF file'), (b'\x93NUMPY' + bytes(40), 'a NumPy array')])
def test_what_is_no_picture_is_named(tmp_path, data, message):
    (tmp_path / 'a.jpg').write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / 'a.jpg')


def test_heic_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    (tmp_path / 'a.heic').write_bytes(b'\0\0\0\x1cftypheic' + bytes(20))
    with pytest.raises(MissingDependency, match='pip install pillow-heif'):
        read_image(tmp_path / 'a.heic')


def test_a_picture_of_48_megapixels_is_read(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.jpg'), np.full((6000, 8000, 3), 90, np.uint8))
    assert read_image(tmp_path / 'a.jpg').shape == (6000, 8000, 3)


def test_no_file_larger_than_a_picture_is_read(tmp_path):
    with open(tmp_path / 'a.png', 'wb') as file:
        file.truncate(3 << 30)  # sparse: it takes no room
    with pytest.raises(DataError, match='3,221,225,472 bytes, expected an image of at most'):
        read_image(tmp_path / 'a.png')


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r'a\.png: not readable \(No such file'):
        read_image(tmp_path / 'a.png')
    with pytest.raises(DataError, match='not readable'):
        read_label_image(tmp_path)


def test_an_animated_png_is_its_first_picture_and_damage_in_it_ends_no_process(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / 'a.png'
    first, second = rng.integers(0, 256, (2, 60, 80, 3), np.uint8)
    Image.fromarray(first).save(path, save_all=True, append_images=[Image.fromarray(second)])
    np.testing.assert_array_equal(read_image(path), first)
    data = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 10):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            assert read_image(path).ndim == 3


@pytest.mark.parametrize('ending', ['.jpg', '.png'])
@pytest.mark.parametrize('reduce', [2, 4, 8])
def test_decoding_at_a_fraction_of_the_size(tmp_path, ending, reduce):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (101, 150, 3)).astype(np.uint8), (0, 0), 6)
    path = str(tmp_path / f'a{ending}')
    cv2.imwrite(path, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    found = read_image(path, reduce=reduce)
    rows, columns = -(-101 // reduce), -(-150 // reduce)
    assert found.shape == (rows, columns, 3)
    inner = image[:101 // reduce * reduce, :150 // reduce * reduce].reshape(101 // reduce, reduce, -1, reduce, 3)
    gap = found[:101 // reduce, :150 // reduce].astype(float) - inner.mean((1, 3))
    assert np.abs(gap).mean() < 2
