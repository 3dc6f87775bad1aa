"""Panels, titles, legends and files."""
import errno
from pathlib import Path

import cv2
import numpy as np
import pytest

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
    with pytest.raises(DataError, match=r'a\.png: No space left on device .* Free some space'):
        canvas.save_png(tmp_path / 'a.png', np.zeros((4, 4, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_folder_that_is_a_file_gives_a_sentence(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='expected a folder'):
        canvas.save_png(tmp_path / 'file' / 'a.png', np.zeros((4, 4, 3), np.uint8))
