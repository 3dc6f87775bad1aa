"""Pictures composed of panels, titles and legends. All images are (H, W, 3) uint8 RGB."""
import bisect
import functools
import io
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perception.common.visual.fonts import font_for
from perception.utils.errors import ConfigError
from perception.utils.outputs import result_path

PAPER = (30, 30, 36)
INK = (235, 235, 235)
FAINT = (120, 120, 126)


def blank(height: int, width: int, color: Sequence[int] = PAPER) -> np.ndarray:
    """(height, width, 3) uint8 picture of one colour."""
    return np.full((height, width, 3), color, np.uint8)


def text_size(width: int) -> int:
    """Size of letters that are well read in a picture so many pixels wide."""
    return min(max(10 + round(width / 110), 14), 40)


def write(image: np.ndarray, text: str, left: int, middle: int, size: int = 14, color: Sequence[int] = INK) -> None:
    """Write a line of text into a picture, in place; what lies outside is cut off.

    Args:
        image: (H, W, 3) uint8.
        text: one line.
        left: column where the text begins.
        middle: row of the middle of its capital letters.
        size: height of a capital letter is about 0.7 of it, in pixels.
        color: RGB.
    """
    font, line = _font(text, size)
    drawn = Image.new('L', (text_width(text, size) + size, 2 * size))
    ImageDraw.Draw(drawn).text((0, size + round(0.36 * size)), line, 255, font, anchor='ls')
    top, cut = middle - size, (max(size - middle, 0), max(-left, 0))
    part = image[max(top, 0):max(top + 2 * size, 0), max(left, 0):max(left + drawn.width, 0)]
    shown = np.asarray(drawn, np.float32)[cut[0]:, cut[1]:, None][:part.shape[0], :part.shape[1]] / 255
    part[:] = np.round(part + shown * (np.array(color, np.float32) - part)).astype(np.uint8)


def text_width(text: str, size: int = 14) -> int:
    """Width in pixels of a line that `write` draws."""
    font, line = _font(text, size)
    return math.ceil(font.getlength(line))


def fitted(text: str, width: int, size: int = 14) -> str:
    """The text, or as much of its two ends as fits into so many pixels, with a mark where it was cut."""
    if text_width(text, size) <= width:
        return text
    def cut(length: int) -> str:
        return f'{text[:(length + 1) // 2]}\u2026{text[len(text) - length // 2:]}'
    length = bisect.bisect(range(len(text)), width, key=lambda n: text_width(cut(n), size)) - 1
    return cut(length) if length > 0 else ''


def _font(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """A font that has the letters of a text, and the text as one line of them."""
    file, shown = font_for(' '.join(text.split('\n')))
    return _opened(file, size), shown


@functools.cache
def _opened(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def bar(width: int, left: str = '', right: str = '', height: int | None = None, size: int | None = None) -> np.ndarray:
    """A strip with a text at its left end and one at its right end, the left one cut where there is no room for both.

    Args:
        width: of the strip.
        left, right: texts.
        height, size: of the strip and of its letters; by default they follow the width.

    Returns:
        (height, width, 3) uint8.
    """
    size = size or text_size(width)
    image, edge = blank(height or round(1.9 * size), width), width - 8 - text_width(right, size)
    write(image, fitted(left, max(edge if right else width - 8, 0) - 8 - size, size), 8, len(image) // 2, size)
    write(image, right, edge, len(image) // 2, size)
    return image


def titled(panel: np.ndarray, title: str, right: str = '') -> np.ndarray:
    """The panel (H, W, 3) with a title above it, and a second text at the title's right end."""
    return np.concatenate([bar(panel.shape[1], title, right), panel])


def beside(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures (H, W, 3) side by side, the lower ones filled up at the bottom."""
    height = max(len(image) for image in images)
    parts = []
    for image in images:
        parts += [cv2.copyMakeBorder(image, 0, height - len(image), 0, 0, cv2.BORDER_CONSTANT, value=PAPER),
                  blank(height, gap)]
    return np.concatenate(parts[:-1], axis=1)


def stacked(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures (H, W, 3) one below the other, the narrower ones filled up at the right."""
    width = max(image.shape[1] for image in images)
    parts = []
    for image in images:
        parts += [cv2.copyMakeBorder(image, 0, 0, 0, width - image.shape[1], cv2.BORDER_CONSTANT, value=PAPER),
                  blank(gap, width)]
    return np.concatenate(parts[:-1])


def legend(names: Sequence[str], colors: np.ndarray, width: int, present: Sequence[bool] | None = None,
           size: int | None = None) -> np.ndarray:
    """Names beside swatches of their colours, in as many columns as fit.

    Args:
        names: C names.
        colors: (C, 3) RGB.
        width: of the picture in pixels.
        present: for each name whether it is written brightly; faintly otherwise. All bright by default.
        size: of the letters; by default it follows the width.

    Returns:
        (H, width, 3) uint8.
    """
    size = size or text_size(width)
    swatch, row = size, round(1.6 * size)
    column = max((text_width(name, size) for name in names), default=0) + swatch + 24
    columns = max(1, min(len(names), (width - 8) // column))
    rows = -(-len(names) // columns)
    column = (width - 8) // columns
    image = blank(rows * row + 8, width)
    for i, (name, color) in enumerate(zip(names, colors)):
        left, middle = 8 + i // rows * column, 4 + i % rows * row + row // 2
        bright = present is None or present[i]
        cv2.rectangle(image, (left, middle - swatch // 2), (left + swatch, middle + swatch // 2),
                      tuple(map(int, color)), -1 if bright else 1)
        write(image, name, left + swatch + 6, middle, size, INK if bright else FAINT)
    return image


def scale_bar(image: np.ndarray, pixel: float, size: int = 14) -> None:
    """Draw how long some metres are into the lower left corner of a view from above, in place.

    Args:
        image: (H, W, 3) uint8.
        pixel: metres of a pixel.
        size: of the letters.
    """
    steps = [m for m in (1, 2, 5, 10, 20, 50, 100, 200, 500) if m <= 0.25 * image.shape[1] * pixel] or [1]
    left, length, bottom = size, round(steps[-1] / pixel), image.shape[0] - size
    cv2.rectangle(image, (left, bottom - max(size // 5, 2)), (left + length, bottom), INK, -1)
    write(image, f'{steps[-1]} m', left, bottom - size, size)


def arrow(image: np.ndarray, angle: float = 0.0, size: int = 14) -> None:
    """Draw an arrow that shows where forward is into the upper left corner of a view from above, in place.

    Args:
        image: (H, W, 3) uint8.
        angle: of the arrow, rad, counter-clockwise from the right.
        size: of the letters.
    """
    middle, half = np.array([2 * size, 2 * size]), 1.1 * size * np.array([np.cos(angle), -np.sin(angle)])
    ends = [tuple(np.round(middle + sign * half).astype(int).tolist()) for sign in (-1, 1)]
    cv2.arrowedLine(image, *ends, INK, max(size // 7, 2), cv2.LINE_AA, tipLength=0.4)
    write(image, 'forward', 4 * size, 2 * size, size)


def save_png(path: str | Path, image: np.ndarray, num_colors: int | None = None) -> Path:
    """Write a picture, never half of one and never over a file that was not made so.

    Args:
        path: of the file; its folder is made.
        image: (H, W, 3) uint8 RGB.
        num_colors: reduce the picture to a palette of so many colours, 2 to 256, which makes a far smaller file.

    Returns:
        The path.

    Raises:
        ConfigError: another number of colours.
        DataError: the file cannot be written, as on a full disk, or another one is there, see `result_path`.
    """
    path = Path(path)
    if num_colors is not None and not 2 <= num_colors <= 256:
        raise ConfigError(f'{path}: {num_colors} colours, expected 2 to 256. Without a number all are kept.')
    if num_colors is None:
        data = cv2.imencode('.png', image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes()
    else:
        data = _palette_png(image, num_colors)
    with result_path(path) as part:
        part.write_bytes(data)
    return path


def _palette_png(image: np.ndarray, num_colors: int) -> bytes:
    """Colours of areas, such as the swatches of a legend, stay as they are, up to half of the palette; photographs and
    edges share the others."""
    codes = image.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    flat = codes[1:, 1:][(codes[1:, 1:] == codes[1:, :-1]) & (codes[1:, 1:] == codes[:-1, 1:])]
    found, counts = np.unique(flat, return_counts=True)
    kept = np.sort(found[np.argsort(-counts, kind='stable')[:num_colors // 2]])
    exact = np.isin(codes, kept)
    palette, indices = Image.new('P', (1, 1)), np.searchsorted(kept, codes).astype(np.uint8)
    colors = (kept[:, None] >> (16, 8, 0) & 255).ravel().tolist()
    if not exact.all():
        rest = Image.fromarray(image[~exact][None])
        colors += rest.quantize(num_colors - len(kept)).getpalette()[:3 * (num_colors - len(kept))]
        palette.putpalette(colors)
        indices[~exact] = np.asarray(rest.quantize(palette=palette, dither=Image.Dither.NONE))[0]
    picture, file = Image.fromarray(indices), io.BytesIO()
    picture.putpalette(colors)
    picture.save(file, 'PNG', optimize=True)
    return file.getvalue()
