"""Toy motorways in the official layout of TuSimple, without frames 1 to 19 of the clips, which have no labels."""
from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from perception.common.scene.camera import TUSIMPLE
from perception.lanes.datasets.tusimple.reader import ROWS
from perception.lanes.mini import MOTORWAYS, MiniSet, Order, Streets, flat, save_jpeg, write_lines, write_set
from perception.lanes.shots import Save, View, lower_end
from perception.utils.errors import DataError

STREETS = dict(
    tusimple=Streets(MOTORWAYS),
    many_lanes=Streets(('wide_highway', 'boulevard', 'highway', 'wide_highway', 'boulevard', 'wide_highway', 'urban'),
                       ('lane', 'change', 'change')))
SET = MiniSet('tusimple', 'TuSimple', code=3, version=2, megabytes=40, streets=STREETS['tusimple'])


def write_tusimple_mini(root: str | Path = 'data/mini/tusimple', seed: int = 0, train: int = 42, val: int = 12,
                        test: int = 18, detail: float = .5, length: float = 260.0, workers: int = 0,
                        force: bool = False, streets: str = 'tusimple') -> Path:
    """Writes a mini TuSimple; see `write_set`.

    Args:
        streets: `'tusimple'` for motorways with the five nearest lanes labelled, as in the official files;
            `'many_lanes'` for wide motorways and boulevards, half of them seen while the ego changes lanes, with all
            lanes labelled.

    Raises:
        DataError: other streets.
    """
    if streets not in STREETS:
        raise DataError(f'write_tusimple_mini: streets={streets!r}, expected tusimple or many_lanes. Correct it.')
    save = _save if streets == 'tusimple' else _save_all_lanes
    return write_set(replace(SET, streets=STREETS[streets]), partial(_fill, save=save), root, seed, (train, val, test),
                     detail, length, workers, force, streets=streets)


def _fill(order: Order, save: Save) -> None:
    half = (order.images['train'] + 1) // 2
    for split, start, files in (('train', 0, (('label_data_0313', '0313-1', 0, half),
                                              ('label_data_0601', '0601', half, order.images['train']))),
                                ('val', 0, (('label_data_0531', '0531', 0, order.images['val']),)),
                                ('test', 0, (('test_label', '0530', 0, order.images['test']),))):
        names = [f'clips/{date}/{start + 1494452000 + 7 * i}/20.jpg' for _, date, first, stop in files
                 for i in range(first, stop)]
        records = flat(order.take(order.plans(split, names), TUSIMPLE, save=save))
        for file, _, first, stop in files:
            if first < stop:
                write_lines(order.root / f'{file}.json', [json.dumps(record) for record in records[first:stop]])
    tasks = [dict(h_samples=record['h_samples'], raw_file=record['raw_file']) for record in records]
    write_lines(order.root / 'test_tasks_0627.json', [json.dumps(task) for task in tasks])


def _save(root: Path, name: str, view: View) -> dict:
    """The image; returns the line of the label file with the five nearest lanes."""
    nearest = sorted(view.traces, key=lambda found: abs(lower_end(found, view.spec) - view.spec.width / 2))[:5]
    return _save_all_lanes(root, name, view._replace(traces=sorted(nearest, key=lambda found: lower_end(
        found, view.spec))))


def _save_all_lanes(root: Path, name: str, view: View) -> dict:
    """The image; returns the line of the label file with all lanes in view."""
    save_jpeg(root / name, view.frame.image)
    lanes = []
    for found in view.traces:
        columns = np.rint(found.at(np.array(ROWS)))
        inside = (columns >= 0) & (columns < view.spec.width)
        if inside.sum() > 3:
            lanes.append(np.where(inside, columns, -2).astype(int).tolist())
    return dict(lanes=lanes, h_samples=list(ROWS), raw_file=name)
