"""Images are read as they are, or refused."""
import struct

import cv2
import numpy as np
import pytest

from perception.common.formats.images import read_image, read_label_image
from perception.utils.errors import DataError

COLORS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def test_colours_come_red_first(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), COLORS[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), COLORS)
    cv2.imwrite(str(tmp_path / 'b.jpg'), np.full((12, 20, 3), (10, 100, 200), np.uint8))
    assert np.abs(read_image(tmp_path / 'b.jpg').astype(int) - (200, 100, 10)).max() < 4


def test_grey_and_transparent_images_get_three_channels(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), COLORS[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), COLORS[..., :1].repeat(3, axis=2))
    cv2.imwrite(str(tmp_path / 'b.png'), np.dstack([COLORS[..., ::-1], COLORS[..., 0]]))
    np.testing.assert_array_equal(read_image(tmp_path / 'b.png'), COLORS)


def test_the_orientation_of_a_phone_does_not_turn_an_image(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.jpg'), COLORS)
    data = (tmp_path / 'a.jpg').read_bytes()
    tiff = b'MM\0*' + struct.pack('>IH', 8, 1) + struct.pack('>HHIHH', 0x112, 3, 1, 6, 0) + bytes(4)  # turned by 90
    exif = b'Exif\0\0' + tiff
    (tmp_path / 'b.jpg').write_bytes(data[:2] + b'\xff\xe1' + struct.pack('>H', 2 + len(exif)) + exif + data[2:])
    assert cv2.imread(str(tmp_path / 'b.jpg')).shape == (20, 12, 3)
    assert read_image(tmp_path / 'b.jpg').shape == (12, 20, 3)


def test_labels_are_the_stored_numbers(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), COLORS[..., 0])
    np.testing.assert_array_equal(read_label_image(tmp_path / 'a.png'), COLORS[..., 0])
    cv2.imwrite(str(tmp_path / 'b.png'), COLORS[..., :1].repeat(3, axis=2))
    np.testing.assert_array_equal(read_label_image(tmp_path / 'b.png'), COLORS[..., 0])
    for wrong in (COLORS, COLORS[..., 0].astype(np.uint16)):
        cv2.imwrite(str(tmp_path / 'c.png'), wrong)
        with pytest.raises(DataError, match=r'c\.png: .*expected one channel of 8 bits'):
            read_label_image(tmp_path / 'c.png')


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_damaged_files_are_refused(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    cv2.imwrite(str(path), COLORS.repeat(8, 0).repeat(8, 1))
    data = path.read_bytes()
    for length in (len(data) - 2 if suffix == '.jpg' else len(data) - 9, len(data) // 2, 30):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match='without its end, expected a whole image'):
            read_image(path)
    if suffix == '.png':
        huge = data[:16] + struct.pack('>II', 30000, 20000) + data[24:]
    else:
        at = data.index(b'\xff\xc0') + 5
        huge = data[:at] + struct.pack('>HH', 20000, 30000) + data[at + 4:]
    path.write_bytes(huge)
    with pytest.raises(DataError, match='states a size of 20,000 x 30,000 pixels, expected at most'):
        read_image(path)
    for wrong, message in ((b'', '0 bytes that are no image'), (b'hello', '5 bytes that are no image')):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=message):
            read_image(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r'a\.png: not readable \(No such file'):
        read_image(tmp_path / 'a.png')
    with pytest.raises(DataError, match='not readable'):
        read_label_image(tmp_path)
