"""A structure for people: a table of its groups, and its widths as bars."""
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

UNITS = (('macs', 'M multiply-accumulates', 1e6), ('params', 'M parameters', 1e6),
         ('activations', 'M activations', 1e6), ('latency', 'ms of its layers', 1.0))


def table(structure: Mapping[str, Any]) -> list[str]:
    """Lines with the widths, importance and share in the pool of each group, and the totals.

    Args:
        structure: with the entries of a search.
    """
    rows = [('group', 'role', 'full', 'backbone', 'final', 'kept', 'importance', 'share')]
    for group in structure['groups']:
        rows.append((group['name'], group['role'], str(group['full']), str(group['backbone']), str(group['final']),
                     f'{group["final"] / group["full"]:.0%}', f'{group["importance"]:.3f}', f'{group["share"]:.1%}'))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ['  '.join(cell.ljust(width) if i < 2 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
    for name, unit, scale in UNITS:
        if name in structure:
            numbers = structure[name]
            lines.append(f'{unit}: {numbers["full"] / scale:,.3f} full, {numbers["backbone"] / scale:,.3f} backbone, '
                         f'{numbers["final"] / scale:,.3f} final ({numbers["final"] / numbers["full"]:.1%})')
    target, reached = structure['target'], structure[structure['target']['kind']]['final']
    lines.append(f'target: {target["value"]:,.6g} {target["kind"]}, reached {reached:,.6g}, unspent '
                 f'{(target["value"] - reached) / target["value"]:.2%}')
    if structure.get('kept'):
        lines += [f'kept whole: {name}: {why}' for name, why in structure['kept'].items()]
    return lines


def chart(structure: Mapping[str, Any], title: str = '') -> Figure:
    """Bars of the widths of each group: full, backbone, final.

    Args:
        structure: with the entries of a search.
        title: written above.
    """
    groups = structure['groups']
    figure = Figure((max(7.0, 0.28 * len(groups) + 2), 4.5), layout='constrained')
    axes = figure.add_subplot(title=title, ylabel='channels')
    place = np.arange(len(groups))
    for name, color, width in (('full', '0.88', 0.9), ('final', '#3b7dd8', 0.9), ('backbone', '#1d3f73', 0.9)):
        axes.bar(place, [group[name] for group in groups], width, color=color, label=name)
    axes.set_xticks(place, [group['name'] for group in groups], rotation=90, fontsize=6)
    axes.set_xlim(-0.7, len(groups) - 0.3)
    axes.legend(frameon=False)
    return figure
