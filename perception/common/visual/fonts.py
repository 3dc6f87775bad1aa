"""Fonts that have the letters of a text: DejaVu Sans, or where it lacks some, one that is installed."""
import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from mmengine.logging import print_log

PLAIN = str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf'))
_FACES = ('italic', 'oblique', 'bold', 'black', 'heavy', 'thin', 'light', 'mono')  # rather not
_said: list[str] = []  # the text that the warning was about


@functools.lru_cache(4096)
def font_for(text: str) -> tuple[str, str]:
    """The file of a font for a text, and the text as it can be written.

    Where no font has all letters, those that DejaVu Sans lacks are written as Python does, `\\u8f66`; that is said
    once.

    Args:
        text: of any letters.
    """
    letters = {ord(letter) for letter in text if letter.isprintable()} - {0xFE0F}  # a variant, drawn as nothing
    lacking = letters - _letters(PLAIN)
    if not lacking:
        return PLAIN, text
    file = next((file for file in _installed() if letters <= _letters(file)), None)
    if file:
        return file, text
    shown = ''.join(ascii(letter)[1:-1] if ord(letter) in lacking else letter for letter in text)
    if not _said:
        print_log(f'{text}: no installed font has these letters, so pictures say {shown}, and others likewise. Install '
                  'one that has, such as Noto Sans CJK for Chinese, Japanese and Korean.', 'current', logging.WARNING)
        _said.append(text)
    return PLAIN, shown


def writable(texts: Sequence[str]) -> list[str]:
    """Texts as they can be written, see `font_for`."""
    return [font_for(text)[1] for text in texts]


def families(texts: Sequence[str]) -> list[str]:
    """Families of the fonts for some texts, as matplotlib knows them, DejaVu Sans first."""
    files = dict.fromkeys([PLAIN, *(font_for(text)[0] for text in texts)])
    return [_family(file) for file in files]


@functools.cache
def _family(file: str) -> str:
    """Name of a font's family, once matplotlib knows the file, which may be newer than its list."""
    if file != PLAIN:
        from matplotlib import font_manager  # reads its list of fonts, which takes a while
        font_manager.fontManager.addfont(file)
    return FT2Font(file).family_name


@functools.cache
def _letters(file: str) -> frozenset[int]:
    """Code points of the letters that a font has; none where it cannot be read."""
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@functools.cache
def _installed() -> list[str]:
    """Files of the fonts of this machine, upright ones of usual weight first."""
    from matplotlib import font_manager

    def rank(file: str) -> tuple[int, str]:
        name = os.path.basename(file).lower()
        return sum(face in name for face in _FACES), name
    return sorted((file for file in font_manager.findSystemFonts() if 'lastresort' not in file.lower()), key=rank)
