"""Panels, titles, legends and files."""
import errno
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from perception.common.formats.images import read_image
from perception.common.visual import canvas
from perception.utils.errors import ConfigError, DataError


def test_beside_and_stacked_keep_every_pixel():
    a, b = np.full((10, 20, 3), 1, np.uint8), np.full((6, 30, 3), 2, np.uint8)
    row, column = canvas.beside([a, b], gap=3), canvas.stacked([a, b], gap=3)
    assert row.shape == (10, 53, 3)
    assert column.shape == (19, 30, 3)
    assert (row[:, :20] == 1).all() and (row[:6, 23:] == 2).all() and (row[6:, 23:] == canvas.PAPER).all()
    assert (column[:10, :20] == 1).all() and (column[13:] == 2).all() and (column[:10, 20:] == canvas.PAPER).all()


def test_titled_writes_above_and_leaves_the_panel():
    panel = np.full((40, 200, 3), 7, np.uint8)
    image = canvas.titled(panel, 'left', 'right')
    assert (image[-40:] == panel).all()
    head = image[:-40]
    assert (head[:, :60] != canvas.PAPER).any() and (head[:, 150:] != canvas.PAPER).any()
    assert (head[:, 80:120] == canvas.PAPER).all()


@pytest.mark.parametrize('width', [60, 300, 1900])
def test_legend_shows_every_colour_and_fits(width):
    names = [f'class-{i}' for i in range(19)]
    colors = np.random.default_rng(0).integers(0, 256, (19, 3)).astype(np.uint8)
    image = canvas.legend(names, colors, width)
    assert image.shape[1] == width
    shown, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    area = dict(zip(map(tuple, shown), counts))
    assert all(area[tuple(color)] >= 196 for color in colors)


def test_legend_outlines_what_is_absent():
    colors = np.array([[250, 0, 0], [0, 250, 0]], np.uint8)
    image = canvas.legend(['here', 'absent'], colors, 300, [True, False])
    filled, outlined = ((image == color).all(-1).sum() for color in colors)
    assert filled > 3 * outlined > 0


def test_legend_without_names():
    assert canvas.legend([], np.zeros((0, 3)), 100).shape[1] == 100


def test_text_width_is_what_is_written():
    image = canvas.blank(30, 300)
    canvas.write(image, 'road', 10, 15)
    columns = np.flatnonzero((image != canvas.PAPER).any((0, 2)))
    assert columns.min() >= 8
    assert abs(columns.max() - 10 - canvas.text_width('road')) <= 3


def test_png_round_trip_makes_its_folder(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    path = canvas.save_png(tmp_path / 'a' / 'b.png', image)
    assert (cv2.imread(str(path))[..., ::-1] == image).all()


def test_palette_makes_a_smaller_file_of_nearly_the_same_picture(tmp_path):
    colors = np.random.default_rng(0).integers(0, 256, (20, 3)).astype(np.uint8)
    image = colors[np.random.default_rng(1).integers(0, 20, (100, 200))]
    full, small = canvas.save_png(tmp_path / 'full.png', image), canvas.save_png(tmp_path / 'small.png', image, 32)
    assert small.stat().st_size < 0.8 * full.stat().st_size
    assert np.abs(cv2.imread(str(small))[..., ::-1].astype(int) - image).max() <= 2


def test_colours_of_areas_stay_true_in_a_small_palette(tmp_path):
    """A legend and what it explains keep their colours beside a photograph."""
    image = np.random.default_rng(0).integers(0, 255, (120, 90, 3), np.uint8)
    classes = np.array([(255, 158, 0), (255, 127, 80), (233, 150, 70), (255, 140, 0), (14, 14, 17)])
    image[60:] = classes[np.arange(60) // 12][:, None]
    for colors in (16, 256):
        small = canvas.save_png(tmp_path / 'a.png', image, colors)
        assert (read_image(small)[60:] == image[60:]).all() and Image.open(small).mode == 'P'
        assert np.abs(read_image(small)[:60].astype(int) - image[:60]).mean() < 60
    few = np.tile(image[60:], (1, 2, 1))
    assert (read_image(canvas.save_png(tmp_path / 'b.png', few, 10)) == few).all()


@pytest.mark.parametrize('number', [0, 1, 257])
def test_a_palette_of_an_impossible_size_is_refused(number, tmp_path):
    with pytest.raises(ConfigError, match=f'x.png: {number} colours, expected 2 to 256'):
        canvas.save_png(tmp_path / 'x.png', np.zeros((4, 4, 3), np.uint8), number)


def test_full_disk_gives_a_sentence_and_leaves_no_half_file(tmp_path, monkeypatch):
    def full(self, data):
        with open(self, 'wb') as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(DataError, match=r'a\.png: writing failed \(No space left on device\).* Free some space'):
        canvas.save_png(tmp_path / 'a.png', np.zeros((4, 4, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_folder_that_is_a_file_gives_a_sentence(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='expected a folder'):
        canvas.save_png(tmp_path / 'file' / 'a.png', np.zeros((4, 4, 3), np.uint8))


def test_letters_follow_the_picture_and_are_cut_where_there_is_no_room():
    assert [canvas.text_size(width) for width in (100, 640, 1280, 9000)] == [14, 16, 22, 40]
    assert len(canvas.bar(1280)) > len(canvas.bar(640))
    text = canvas.fitted('a long name of a file', 80)
    assert text.startswith('a l') and '\u2026' in text and text.endswith('ile') and 60 < canvas.text_width(text) <= 80
    assert canvas.fitted('short', 80) == 'short' and canvas.fitted('long', 5) == ''
    head = canvas.bar(300, 'x' * 100, 'right')
    gap = np.flatnonzero((head == canvas.PAPER).all((0, 2)))
    assert np.diff(np.flatnonzero(np.diff(gap) > 1)).size  # the two do not touch


def test_letters_outside_of_a_picture_are_cut_off():
    image = canvas.blank(20, 30)
    for left, middle in ((-20, 10), (25, 10), (5, -3), (5, 23), (-999, 5), (99, 99)):
        canvas.write(image, 'road', left, middle)
    assert image.shape == (20, 30, 3) and (image[8:12, :8] != canvas.PAPER).any()


def test_umlauts_and_greek_letters_are_written():
    a, b = canvas.blank(30, 60), canvas.blank(30, 60)
    canvas.write(a, 'Straße α', 2, 15)
    canvas.write(b, 'Stra?e ?', 2, 15)
    assert (a != b).any()


@pytest.mark.parametrize(('pixel', 'metres'), [(0.1, 10), (0.05, 5), (1.0, 100)])
def test_a_scale_bar_is_as_long_as_it_says(pixel, metres):
    image = canvas.blank(200, 400)
    canvas.scale_bar(image, pixel)
    bar = (image[-20:] == canvas.INK).all(-1).sum(1).max()
    assert abs(bar - metres / pixel) <= 1


@pytest.mark.parametrize(('angle', 'column', 'row'), [(0.0, 1, 0), (np.pi / 2, 0, -1)])
def test_an_arrow_shows_where_forward_is(angle, column, row):
    image = canvas.blank(100, 200)
    canvas.arrow(image, angle)
    rows, columns = np.nonzero((image[:60, :52] != canvas.PAPER).any(-1))
    assert np.sign(np.round([columns.mean() - 28, rows.mean() - 28])).tolist() == [column, row]  # its tip is heavier


def test_a_picture_of_other_origin_is_never_replaced(tmp_path):
    image = canvas.blank(10, 10)
    path = canvas.save_png(tmp_path / 'a.png', image)
    canvas.save_png(path, image + 1)  # our own may be
    (tmp_path / 'b.png').write_bytes(b'mine')
    (tmp_path / 'c.png').symlink_to(tmp_path / 'b.png')
    path.write_bytes(b'changed')
    for name in 'abc':
        with pytest.raises(DataError, match=rf'{name}\.png: a file that no command of this project wrote is there'):
            canvas.save_png(tmp_path / f'{name}.png', image)
    assert (tmp_path / 'b.png').read_bytes() == b'mine' and path.read_bytes() == b'changed'
