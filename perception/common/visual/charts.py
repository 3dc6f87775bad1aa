"""Charts by matplotlib: bars, a matrix, a disc of values around the sensor; as pixels and as vectors, for papers."""
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from perception.common.visual.fonts import families, writable
from perception.utils.checks import check_choice
from perception.utils.outputs import result_path

FORMS = ('.png', '.svg', '.pdf')
EMPTY, QUIET = '0.93', '0.45'  # cells without a value; words that matter less
STYLE = {'text.parse_math': False, 'font.size': 10, 'axes.titlesize': 12, 'axes.spines.top': False,
         'axes.spines.right': False, 'svg.hashsalt': 'perception', 'svg.fonttype': 'none', 'pdf.fonttype': 42}


def save_chart(path: str | Path, figure: Figure, forms: Sequence[str] = ('.png', '.svg')) -> list[Path]:
    """Write a chart, the same bytes for the same figure.

    Args:
        path: of the files, without an ending; their folder is made.
        figure: what the functions below return.
        forms: of `FORMS`.

    Returns:
        the files.

    Raises:
        ConfigError: an unknown form.
        DataError: a file cannot be written, or one is there that was not made so.
    """
    files = []
    for form in forms:
        check_choice('form of a chart', form, FORMS)
        files.append(Path(f'{path}{form}'))
        date = {'.png': {}, '.svg': dict(Date=None), '.pdf': dict(CreationDate=None)}[form]
        with result_path(files[-1]) as part, matplotlib.rc_context(STYLE), open(part, 'wb') as file:
            figure.savefig(file, format=form[1:], dpi=150, metadata=date)
    return files


def bar_chart(names: Sequence[str], values: np.ndarray, colors: np.ndarray, title: str = '', note: str = '',
              mean: float | None = None) -> Figure:
    """Horizontal bars of shares in percent, the first name at the top.

    Args:
        names: C names.
        values: (C,) in [0, 1]; NaN where there is none.
        colors: (C, 3) RGB, 0..255.
        title, note: written above and below.
        mean: marked by a line, if given.
    """
    with _style(*names, title, note):
        names, (title, note) = writable(names), writable((title, note))
        figure = Figure((9, 1.3 + 0.28 * len(names)), layout='constrained')
        axes = figure.add_subplot(title=title, xlabel=note, xlim=(0, 100), ylim=(len(names) - 0.4, -0.6))
        axes.set_yticks(range(len(names)), names)
        axes.xaxis.set_major_formatter('{x:g} %')
        axes.set_axisbelow(True)
        axes.grid(axis='x', color='0.85')
        drawn = axes.barh(range(len(names)), 100 * np.nan_to_num(np.asarray(values, float)), 0.7,
                          color=np.reshape(colors, (-1, 3)) / 255, edgecolor=QUIET, linewidth=0.5)
        axes.bar_label(drawn, ['does not occur' if np.isnan(value) else f'{100 * value:.1f}' for value in values],
                       padding=4, bbox=dict(facecolor='white', edgecolor='none', pad=1))
        if mean is not None:
            axes.axvline(100 * mean, color='black', linestyle='--', linewidth=1)
    return figure


def matrix_chart(shares: np.ndarray, row_names: Sequence[str], column_names: Sequence[str], title: str = '',
                 row_notes: Sequence[str] = (), heads: tuple[str, str, str] = ('', '', '')) -> Figure:
    """A matrix of shares, darker for more, with each of at least half a percent written in its cell.

    Args:
        shares: (R, C) in [0, 1]; NaN in rows without any.
        row_names, column_names: R and C names.
        title: written above.
        row_notes: R texts at the right of the rows, such as numbers.
        heads: what rows, columns and notes are.
    """
    with _style(*row_names, *column_names, *row_notes, title, *heads):
        row_names, column_names, row_notes = map(writable, (row_names, column_names, row_notes))
        title, *heads = writable((title, *heads))
        width = max(3.2 + 0.42 * len(column_names), 0.09 * len(title))  # few columns are no wider than the title
        figure = Figure((width, 2.2 + 0.36 * len(row_names)), layout='constrained')
        figure.suptitle(title, fontsize=12)
        axes = figure.add_subplot(ylabel=heads[0], xlabel=heads[1], facecolor=EMPTY)
        # small shares are to be seen too
        axes.pcolormesh(np.ma.masked_invalid(shares) ** 0.6, cmap='Blues', vmin=0, vmax=1, edgecolors='white',
                        linewidth=1)
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(len(column_names)) + 0.5, column_names, rotation=90)
        axes.set_yticks(np.arange(len(row_names)) + 0.5, row_names)
        for row, column in np.argwhere(np.nan_to_num(shares) >= 0.005):
            share = shares[row, column]
            axes.text(column + 0.5, row + 0.5, f'{100 * share:.0f}', ha='center', va='center', fontsize=9,
                      color='white' if share > 0.4 else 'black')
        if len(row_notes):
            right = axes.secondary_yaxis('right')
            right.set_yticks(np.arange(len(row_names)) + 0.5, row_notes, color=QUIET)
            right.set_ylabel(heads[2], color=QUIET)
            right.tick_params(length=0)
            right.spines[:].set_visible(False)
    return figure


def polar_chart(values: np.ndarray, radius: float, title: str = '', note: str = '', ring: float = 10.0) -> Figure:
    """A disc seen from above with a value for each ring and sector; forward is up, left is left.

    Args:
        values: (R, S) in [0, 1] for rings from the centre outwards and sectors counter-clockwise, the first one begins
            behind; NaN where there is none.
        radius: outer bound of the last ring [m].
        title, note: written above and below.
        ring: circles are drawn and labelled every so many m.
    """
    with _style(title, note):
        title, note = writable((title, note))
        figure = Figure((7.5, 7), layout='constrained')
        figure.suptitle(title, fontsize=12)
        axes = figure.add_subplot(projection='polar', facecolor=EMPTY)
        axes.set_theta_zero_location('N')
        rings, sectors = np.shape(values)
        drawn = axes.pcolormesh(np.linspace(-np.pi, np.pi, sectors + 1), np.linspace(0, radius, rings + 1),
                                np.ma.masked_invalid(values), cmap='inferno_r', vmin=0, vmax=1)
        axes.set_ylim(0, radius)
        axes.set_rgrids(np.arange(ring, radius + 1e-6, ring), fmt='%g m', angle=22, fontsize=8,
                        path_effects=[withStroke(linewidth=2, foreground='white')])
        axes.set_thetagrids((0, 90, 180, 270), ('forward', 'left', 'behind', 'right'))
        axes.grid(color='0.6', linewidth=0.6)
        figure.colorbar(drawn, ax=axes, shrink=0.7, pad=0.1, format=lambda share, _: f'{100 * share:.0f} %')
        figure.supxlabel('\n'.join(filter(None, (note, 'light grey: (nearly) no points'))), fontsize=10)
    return figure


def _style(*texts: str) -> AbstractContextManager:
    """The style of a chart, in fonts that have the letters of its texts."""
    return matplotlib.rc_context(STYLE | {'font.family': families(texts)})


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
