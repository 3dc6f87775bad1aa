"""Fonts: letters that DejaVu Sans lacks are drawn by a font that has them, or escaped, never as boxes with warnings."""
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from perception.common.visual import fonts
from perception.common.visual.canvas import legend, text_width
from perception.common.visual.charts import bar_chart, matrix_chart, polar_chart, save_chart

NAMES = ('\u8f66', '\u8def b', '\u0434\u043e\u0440\u043e\u0433\u0430', 'a $x_{$')
COLORS = np.full((4, 3), 90, np.uint8)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Sets the fonts that are installed."""
    def use(*files):
        monkeypatch.setattr(fonts, '_installed', lambda: list(files))
        monkeypatch.setattr(fonts, '_said', [])
        fonts.font_for.cache_clear()
    yield use
    monkeypatch.undo()
    fonts.font_for.cache_clear()


@pytest.fixture
def font(tmp_path):
    """A font whose letters are black squares: two of Chinese, a, b and space."""
    pen = TTGlyphPen(None)
    for k, point in enumerate(((0, 0), (0, 800), (800, 800), (800, 0))):
        (pen.lineTo if k else pen.moveTo)(point)
    pen.closePath()
    glyph, names = pen.glyph(), ['.notdef', 'square']
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict.fromkeys((0x8f66, 0x8def, ord('a'), ord('b'), ord(' ')), 'square'))
    builder.setupGlyf(dict.fromkeys(names, glyph))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable(dict(familyName='Squares', styleName='Regular'))
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / 'squares.ttf')
    return str(tmp_path / 'squares.ttf')


def drawn(folder):
    """SVG of all charts, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        charts = (bar_chart(NAMES, np.full(4, 0.5), COLORS, NAMES[0]), matrix_chart(np.eye(4), NAMES, NAMES, NAMES[0]),
                  polar_chart(np.zeros((2, 4)), 20, NAMES[0], NAMES[1]))
        files = [save_chart(folder / f'{k}', chart)[1] for k, chart in enumerate(charts)]
    return [path.read_text() for path in files]


def test_letters_are_drawn_by_a_font_that_has_them(installed, font, tmp_path):
    installed('/no/font.ttf', font)
    assert fonts.font_for(NAMES[1]) == (font, NAMES[1]) and fonts.font_for(NAMES[2]) == (fonts.PLAIN, NAMES[2])
    assert fonts.families(NAMES) == ['DejaVu Sans', 'Squares']
    for svg in drawn(tmp_path / 'charts'):
        assert f'>{NAMES[0]}</text>' in svg and "'DejaVu Sans', 'Squares'" in svg
    assert text_width(NAMES[0], 20) == 18  # 0.9 of the size
    assert not np.array_equal(legend(NAMES[:1], COLORS, 200), legend([' '], COLORS, 200))


def test_without_such_a_font_letters_are_escaped_and_that_is_said_once(installed, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(fonts, 'print_log', lambda text, *_: said.append(text))
    installed()
    for svg in drawn(tmp_path / 'charts'):
        assert r'>\u8f66</text>' in svg
    assert r'\u8def b' in svg and len(said) == 1 and 'font has these letters' in said[0]
    escaped = [*(name.encode('ascii', 'backslashreplace').decode() for name in NAMES[:2]), *NAMES[2:]]
    assert np.array_equal(legend(NAMES, COLORS, 300), legend(escaped, COLORS, 300))
