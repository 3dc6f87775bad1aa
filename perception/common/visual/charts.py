"""Charts: bars, a matrix, a disc of values around the sensor. All images are (H, W, 3) uint8 RGB."""
from collections.abc import Sequence

import cv2
import numpy as np

from perception.common.visual.canvas import FAINT, INK, PAPER, bar, blank, stacked, text_width, write

GRID = (62, 62, 70)
EMPTY = (44, 44, 50)


def bar_chart(names: Sequence[str], values: np.ndarray, colors: np.ndarray, title: str = '', note: str = '',
              mean: float | None = None, width: int = 900) -> np.ndarray:
    """Horizontal bars of shares in percent.

    Args:
        names: C names.
        values: (C,) in [0, 1]; NaN where there is none.
        colors: (C, 3) RGB.
        title, note: written above, at the left and at the right.
        mean: marked by a line, if given.
        width: of the picture in pixels.

    Returns:
        (H, width, 3).
    """
    row, thick, size = 26, 17, 14
    left = 16 + max((text_width(name, size) for name in names), default=0)
    scale = max(width - left - 76, 50)  # pixels of 100 %
    body = blank(row * len(names) + 12, width)
    for share in range(0, 101, 25):
        column = left + round(scale * share / 100)
        cv2.line(body, (column, 4), (column, len(body) - 8), GRID, 1)
    ends = [left + (0 if np.isnan(value) else round(scale * float(value))) for value in values]
    middles = [6 + row * i + row // 2 for i in range(len(names))]
    for middle, end, color in zip(middles, ends, colors):
        box = (left, middle - thick // 2), (end, middle + thick // 2)
        cv2.rectangle(body, *box, tuple(map(int, color)), -1)
        cv2.rectangle(body, *box, FAINT, 1)  # dark colours are to be seen on the dark ground too
    if mean is not None:
        column = left + round(scale * mean)
        for top in range(2, len(body) - 8, 9):
            cv2.line(body, (column, top), (column, top + 4), INK, 1)
    for name, value, middle, end in zip(names, values, middles, ends):
        text, ink = ('does not occur', FAINT) if np.isnan(value) else (f'{100 * value:.1f}', INK)
        body[middle - 9:middle + 10, end + 4:end + 12 + text_width(text, size)] = PAPER
        write(body, text, end + 8, middle, size, ink)
        write(body, name, left - 8 - text_width(name, size), middle, size, ink)
    rows = [bar(width, title, note, height=36, size=17), body]
    foot = blank(30, width)
    for share in range(0, 101, 25):
        text = f'{share} %'
        write(foot, text, left + round(scale * share / 100) - text_width(text, 13) // 2, 10, 13, FAINT)
    return stacked([*rows, foot], gap=0)


def matrix_chart(shares: np.ndarray, row_names: Sequence[str], column_names: Sequence[str], title: str = '',
                 row_notes: Sequence[str] = (), heads: tuple[str, str, str] = ('', '', ''),
                 cell: int = 40) -> np.ndarray:
    """A matrix of shares, brighter for more, with each of at least half a percent written in its cell.

    Args:
        shares: (R, C) in [0, 1]; NaN in rows without any.
        row_names, column_names: R and C names.
        title: written above.
        row_notes: R texts at the right of the rows, such as numbers.
        heads: what rows, columns and notes are.
        cell: edge of a cell in pixels.

    Returns:
        (H, W, 3).
    """
    size = 14
    left = 44 + max(text_width(name, size) for name in row_names)
    right = 24 + max(text_width(note, 13) for note in (heads[2], *row_notes))
    top = 40 + max(text_width(name, size) for name in column_names)
    height, width = cell * len(row_names), cell * len(column_names)
    image = blank(top + height + 12, left + width + right)
    for i, row in enumerate(shares):
        middle = top + cell * i + cell // 2
        write(image, row_names[i], left - 8 - text_width(row_names[i], size), middle, size,
              FAINT if np.isnan(row).all() else INK)
        if row_notes:
            write(image, row_notes[i], left + width + 10, middle, 13, FAINT)
        for j, share in enumerate(row):
            _cell(image, share, left + cell * j, top + cell * i, cell)
    for j, name in enumerate(column_names):
        upright(image, name, left + cell * j + cell // 2, top - 6, size)
    write(image, heads[1], left, 14, 13, FAINT)
    upright(image, heads[0], 14, top + text_width(heads[0], 13) + 4, 13, FAINT)
    write(image, heads[2], left + width + 10, top - 14, 13, FAINT)
    return stacked([bar(image.shape[1], title, height=36, size=17), image], gap=0)


def _cell(image: np.ndarray, share: float, left: int, top: int, cell: int) -> None:
    """One cell of a matrix, in place."""
    color = EMPTY if np.isnan(share) else shade(share ** 0.6)  # small shares are to be seen too
    cv2.rectangle(image, (left, top), (left + cell - 2, top + cell - 2), tuple(map(int, color)), -1)
    if not np.isnan(share) and share >= 0.005:
        text = f'{100 * share:.0f}'
        ink = (0, 0, 0) if np.dot(color, (0.3, 0.6, 0.1)) > 125 else INK
        write(image, text, left + (cell - 2 - text_width(text, 13)) // 2, top + cell // 2 - 1, 13, ink)


def polar_chart(values: np.ndarray, radius: float, title: str = '', note: str = '', ring: float = 10.0,
                size: int = 720) -> np.ndarray:
    """A disc seen from above with a value for each ring and sector; forward is up, left is left.

    Args:
        values: (R, S) in [0, 1] for rings from the centre outwards and sectors counter-clockwise, the first one begins
            behind; NaN where there is none.
        radius: outer bound of the last ring [m].
        title, note: written above, at the left and at the right.
        ring: circles are drawn and labelled every so many m.
        size: edge of the disc's picture in pixels.

    Returns:
        (H, W, 3).
    """
    rows, columns = np.mgrid[:size, :size]
    pixel = 2.05 * radius / size  # m
    forward, leftward = (size / 2 - 0.5 - rows) * pixel, (size / 2 - 0.5 - columns) * pixel
    distance, angle = np.hypot(forward, leftward), np.arctan2(leftward, forward)
    index = polar_index(distance, angle, *values.shape, radius)
    table = np.concatenate([np.where(np.isnan(values)[..., None], EMPTY, shade(np.nan_to_num(values))).reshape(-1, 3),
                            [PAPER]]).astype(np.uint8)
    image = table[index]
    middle = (size // 2, size // 2)
    for metres in np.arange(ring, radius + 1e-6, ring):
        cv2.circle(image, middle, round(metres / pixel), (128, 128, 134), 1, cv2.LINE_AA)
        write(image, f'{metres:g} m', middle[0] + 4, middle[1] - round(metres / pixel) + 9, 13)
    half = np.array([0.95, 2.2]) / pixel
    corners = [(round(middle[0] + a * half[0]), round(middle[1] + b * half[1])) for a, b in ((-1, -1), (1, 1))]
    cv2.rectangle(image, *corners, (255, 255, 255), 1)
    for i, text in enumerate(('forward is up', 'grey: (nearly) no points')):
        write(image, text, 8, size - 28 + 18 * i, 13, FAINT)
    key = _color_key(size)
    width = size + key.shape[1]
    return stacked([bar(width, title, note, height=36, size=17), np.concatenate([image, key], axis=1)], gap=0)


def polar_index(distance: np.ndarray, angle: np.ndarray, rings: int, sectors: int, radius: float) -> np.ndarray:
    """Cell of each place in a disc of `polar_chart`, R * S for places outside.

    Args:
        distance: from the centre [m].
        angle: counter-clockwise from forward [rad], -pi to pi.
        rings, sectors: R and S.
        radius: of the disc [m].
    """
    sector = np.floor((angle + np.pi) / (2 * np.pi) * sectors).astype(np.int64) % sectors
    return np.where(distance < radius, (np.minimum(distance, radius) / radius * rings).astype(np.int64) * sectors
                    + sector, rings * sectors)


def _color_key(height: int) -> np.ndarray:
    """A strip with the colours from 0 to 100 %."""
    image = blank(height, 84)
    low, high = height - 60, 60
    column = shade(np.linspace(1, 0, low - high))[:, None]
    image[high:low, 8:26] = column
    for share in (0, 25, 50, 75, 100):
        write(image, f'{share} %', 32, round(low + (high - low) * share / 100), 13)
    return image


def shade(values: np.ndarray | float) -> np.ndarray:
    """Colours (..., 3) uint8 RGB from dark to bright of values in [0, 1]."""
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    return table[(np.clip(values, 0, 1) * 235 + 20).astype(np.uint8)]


def upright(image: np.ndarray, text: str, middle: int, bottom: int, size: int = 14,
            color: Sequence[int] = INK) -> None:
    """Write a line of text from below to above into a picture, in place.

    Args:
        image: (H, W, 3) uint8.
        text: one line.
        middle: column of the middle of its capital letters.
        bottom: row where the text begins.
        size: see `canvas.write`.
        color: RGB.
    """
    strip = blank(size + 10, text_width(text, size) + 4)
    write(strip, text, 0, len(strip) // 2, size, color)
    strip = np.rot90(strip)
    top, left = bottom - len(strip), middle - strip.shape[1] // 2
    cut = max(-top, 0)
    part = image[max(top, 0):bottom, left:left + strip.shape[1]]
    part[:] = strip[cut:cut + len(part), :part.shape[1]]
