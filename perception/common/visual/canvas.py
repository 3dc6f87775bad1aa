"""Pictures composed of panels, titles and legends. All images are (H, W, 3) uint8 RGB."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from perception.utils.errors import ConfigError, DataError

PAPER = (30, 30, 36)
INK = (235, 235, 235)
FAINT = (120, 120, 126)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def blank(height: int, width: int, color: Sequence[int] = PAPER) -> np.ndarray:
    """(height, width, 3) uint8 picture of one colour."""
    return np.full((height, width, 3), color, np.uint8)


def write(image: np.ndarray, text: str, left: int, middle: int, size: int = 14, color: Sequence[int] = INK) -> None:
    """Write a line of text into a picture, in place.

    Args:
        image: (H, W, 3) uint8.
        text: one line; characters that the font lacks appear as question marks.
        left: column where the text begins.
        middle: row of the middle of its capital letters.
        size: height of a capital letter is about 0.7 of it, in pixels.
        color: RGB.
    """
    cv2.putText(image, text, (left, middle + round(size * 0.35)), FONT, size / 30, tuple(map(int, color)), 1,
                cv2.LINE_AA)


def text_width(text: str, size: int = 14) -> int:
    """Width in pixels of a line that `write` draws."""
    return cv2.getTextSize(text, FONT, size / 30, 1)[0][0]


def bar(width: int, left: str = '', right: str = '', height: int = 26, size: int = 14) -> np.ndarray:
    """(height, width, 3) strip with a text at its left end and one at its right end."""
    image = blank(height, width)
    write(image, left, 8, height // 2, size)
    write(image, right, width - 8 - text_width(right, size), height // 2, size)
    return image


def titled(panel: np.ndarray, title: str, right: str = '') -> np.ndarray:
    """The panel with a title above it, and a second text at the title's right end."""
    return np.concatenate([bar(panel.shape[1], title, right), panel])


def beside(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures side by side, the lower ones filled up at the bottom."""
    height = max(len(image) for image in images)
    parts = []
    for image in images:
        parts += [cv2.copyMakeBorder(image, 0, height - len(image), 0, 0, cv2.BORDER_CONSTANT, value=PAPER),
                  blank(height, gap)]
    return np.concatenate(parts[:-1], axis=1)


def stacked(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures one below the other, the narrower ones filled up at the right."""
    width = max(image.shape[1] for image in images)
    parts = []
    for image in images:
        parts += [cv2.copyMakeBorder(image, 0, 0, 0, width - image.shape[1], cv2.BORDER_CONSTANT, value=PAPER),
                  blank(gap, width)]
    return np.concatenate(parts[:-1])


def legend(names: Sequence[str], colors: np.ndarray, width: int, present: Sequence[bool] | None = None,
           size: int = 14) -> np.ndarray:
    """Names beside swatches of their colours, in as many columns as fit.

    Args:
        names: C names.
        colors: (C, 3) RGB.
        width: of the picture in pixels.
        present: for each name whether it is written brightly; faintly otherwise. All bright by default.
        size: of the letters.

    Returns:
        (H, width, 3) uint8.
    """
    swatch, row = size, size + 8
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


def save_png(path: str | Path, image: np.ndarray, num_colors: int | None = None) -> Path:
    """Write a picture, never half of one.

    Args:
        path: of the file; its folder is made.
        image: (H, W, 3) uint8 RGB.
        num_colors: reduce the picture to a palette of so many colours, 2 to 256, which makes a far smaller file.

    Returns:
        The path.

    Raises:
        ConfigError: another number of colours.
        DataError: the file cannot be written, as on a full disk.
    """
    path = Path(path)
    if num_colors is not None and not 2 <= num_colors <= 256:
        raise ConfigError(f'{path}: {num_colors} colours, expected 2 to 256. Without a number all are kept.')
    if num_colors is None:
        data = cv2.imencode('.png', image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes()
    else:
        data = _palette_png(image, num_colors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        if path.is_file():
            path.unlink()
        raise DataError(f'{path}: {error.strerror} while writing a picture of {len(data):,} bytes, expected a folder '
                        'with room for it. Free some space or choose another folder.') from error
    return path


def _palette_png(image: np.ndarray, num_colors: int) -> bytes:
    import io

    from PIL import Image
    file = io.BytesIO()
    Image.fromarray(image).quantize(num_colors, dither=Image.Dither.NONE).save(file, 'PNG', optimize=True)
    return file.getvalue()
