"""Drives of one's own: a list for each recording, with an image and the angle of the wheel in each row.

    dict(type=DriveFolder, data_root='data/dashcam', table='**/log.csv', image='frame', angle='steering_deg',
         time='stamp_ns', time_scale=1e-9, speed='kmh', speed_scale=1 / 3.6, test=('sunday',))

    data/dashcam/monday/log.csv         frame,stamp_ns,steering_deg,kmh and other columns
    data/dashcam/monday/**/000001.jpg ...

Columns are named by their header, or numbered from 0. Values are parted by commas, semicolons, tabs or, where none of
these is there, by spaces, such as `0.jpg 0.00` of SullyChen's driving-datasets (`image=0, angle=1, rate=30`). Udacity's
simulator, whose angles are of the front wheels: `table='**/driving_log.csv', image=0, angle=3, degrees=-25`.
"""
import csv
import fnmatch
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from perception.common.folders import find, named_files
from perception.common.formats.images import SUFFIXES, read_image
from perception.common.formats.text import read_text
from perception.registry import DATASETS
from perception.steering.datasets.base import DrivingClips, Recording, check_times
from perception.utils.checks import check_choice, close_matches
from perception.utils.errors import ConfigError, DataError

TABLES = ('.csv', '.txt', '.tsv')
LARGEST = 2000.0  # deg; a wheel turns less than six times
Column = str | int


@DATASETS.register_module()
class DriveFolder(DrivingClips):
    """Clips of recordings of one's own; see `DrivingClips` for the other arguments.

    Val is the last part of each recording that is no test. A recording ends where no frame came for more than a second.

    Args:
        data_root: the folder; a leading `data` gives way to the variable PERCEPTION_DATA.
        table: pattern of the lists below it, one for each recording, whose name is what the stars stand for.
        image: column of the image: its path or name below the folder of the list, with its ending or without.
        angle: column of the wheel.
        time, torque, speed: columns, None where there is none; times are numbers or as `2018-07-01 17:09:44.912`.
        degrees: degrees of the steering wheel, positive to the left, of one unit: 57.29578 of radians, negative
            where right is positive.
        time_scale, speed_scale: seconds and m/s of one unit.
        rate: frames a second, which are the times where no column says them; videos are seen at that rate.
        test: names of the recordings of the test, folders or patterns of them; without them the test is val.
        missing: 'refuse' rows without an image, or 'drop' them.
        camera, car: of the pictures, see `METAINFO` of UdacityCh2.

    Raises:
        ConfigError: arguments that cannot be.
        DataError: missing or damaged files, images that are not there, values that cannot be.
    """

    def __init__(self, data_root: str | Path, split: str = 'train', *, table: str = '**/*.csv',
                 image: Column = 'image', angle: Column = 'angle', time: Column | None = None,
                 torque: Column | None = None, speed: Column | None = None, degrees: float = 1.0,
                 time_scale: float = 1.0, speed_scale: float = 1.0, rate: float = 20.0, test: Sequence[str] = (),
                 missing: str = 'refuse', camera: Mapping[str, float] | None = None,
                 car: Mapping[str, float] | None = None, **arguments: Any) -> None:
        check_choice('DriveFolder: missing', missing, ('refuse', 'drop'))
        if not all(np.isfinite(x) and x for x in (degrees, time_scale, speed_scale)) or time_scale < 0:
            raise ConfigError(f'DriveFolder: degrees={degrees}, time_scale={time_scale}, speed_scale='
                              f'{speed_scale}, expected numbers other than 0, of time above it. Correct them.')
        self.table, self.missing = table, missing
        self.columns = dict(image=image, angle=angle, time=time, torque=torque, speed=speed)
        self.scales = dict(angle=degrees, time=time_scale, torque=1.0, speed=speed_scale)
        self.test = (test,) if isinstance(test, str) else tuple(test)
        self.METAINFO = self.describe(dict(rate=rate, camera=camera, car=car))
        if split == 'test' and not self.test:
            print_log('DriveFolder: no recordings are named by test, so the end of each is tested, as in val.',
                      'current')
            split = 'val'
        super().__init__(data_root, split, rate=rate, **arguments)

    @classmethod
    def describe(cls, config: Mapping) -> dict[str, Any]:
        """Targets and rate, and camera and car where the config tells them."""
        told = {key: dict(config[key]) for key in ('camera', 'car') if config.get(key)}
        return dict(super().describe(config), **told)

    def list_recordings(self) -> list[Recording]:
        tables = find(self.data_root, self.table, TABLES, 'DriveFolder: table')
        fitting = {pattern: {name for name in tables if fnmatch.fnmatchcase(name, pattern)
                             or name.startswith(f'{pattern}/')} for pattern in self.test}
        tested, wrong = set().union(*fitting.values()), [pattern for pattern, names in fitting.items() if not names]
        if wrong or len(tested) == len(tables):
            came = f'test={wrong[0]!r} names no recording' if wrong else 'test names all recordings'
            raise ConfigError(f'DriveFolder: {came}, expected some of {", ".join(list(tables)[:5])}. '
                              f'{close_matches(wrong[0] if wrong else "", list(tables))}'.rstrip())
        found: list[Recording] = []
        for name, path in tables.items():
            if (name in tested) == (self.split == 'test'):
                found += self.whole_pieces(self._recording(name, path))
        return found

    def _recording(self, name: str, path: Path) -> Recording:
        rows = self._rows(path)
        files = named_files([path.parent], SUFFIXES)
        paths = [self._image(row['image'], where, files, path.parent) for where, row in rows]
        lost = [k for k, image in enumerate(paths) if image is None]
        if lost and (self.missing == 'refuse' or len(lost) == len(rows)):
            where, row = rows[lost[0]]
            raise DataError(f'{where}: no image {row["image"][:80]!r} below {path.parent} ({len(lost):,} of '
                            f"{len(rows):,} are missing), expected one for each row. Copy them there, or leave these "
                            "rows out by missing='drop'.")
        if lost:
            print_log(f'{path}: {len(lost):,} of {len(rows):,} rows have no image and are left out.', 'current')
        rows = [row for row, image in zip(rows, paths) if image is not None]
        paths = [image for image in paths if image is not None]
        values = {key: np.array([_value(row[key], key, where) for where, row in rows]) * scale
                  for key, scale in self.scales.items() if self.columns[key] is not None}
        nothing = np.full(len(rows), np.nan)
        worst = int(np.abs(values['angle']).argmax())
        if not abs(values['angle'][worst]) < LARGEST:
            raise DataError(f'{rows[worst][0]}: an angle of {values["angle"][worst]:,.0f} deg, expected less than '
                            f'{LARGEST:,.0f}. Correct the row, or set degrees.')
        times = values.get('time', np.arange(len(rows)) / self.metainfo['rate'])
        check_times(times, [where for where, _ in rows])
        targets = np.stack([values['angle'], values.get('torque', nothing), values.get('speed', nothing)], 1)
        stems = [Path(image).stem for image in paths]
        if len(set(stems)) < len(stems):
            stems = [Path(image).relative_to(path.parent).with_suffix('').as_posix() for image in paths]
        return Recording(name, stems, times, targets.astype(np.float32), paths, paths)

    def _rows(self, path: Path) -> list[tuple[str, dict[str, str]]]:
        """`file:row` and the cells that are read of each row, by what they are."""
        text = read_text(path, 'a list of frames, with an image and an angle in each row')
        lines = text.splitlines()
        first = next((line for line in lines if line.strip()), '')
        sign = max(',;\t', key=first.count)
        table = csv.reader(io.StringIO(text), delimiter=sign) if sign in first else (line.split() for line in lines)
        try:
            cells = [(f'{path}:{k}', [cell.strip() for cell in row]) for k, row in enumerate(table, 1) if any(row)]
        except csv.Error as error:
            raise DataError(f'{path}: no table ({error}), expected values with commas between them. Copy it again.'
                            ) from error
        if not cells:
            raise DataError(f'{path}: an empty file, expected a list of frames. Copy it again, or move it away.')
        head, places = cells[0][1], {}
        for key, column in self.columns.items():
            if column is None:
                continue
            if isinstance(column, str) and head.count(column) != 1 or not isinstance(column, str) and not (
                    0 <= column < len(head)):
                raise DataError(f'{path}: no column {column!r} of the {key} among {", ".join(head)[:120]}, expected '
                                f'one. {close_matches(str(column), head)} Set {key} of the data set, or a table that '
                                'names the lists of frames alone.')
            places[key] = head.index(column) if isinstance(column, str) else column
        if any(isinstance(column, str) for column in self.columns.values()) or not _is_number(head[places['angle']]):
            cells = cells[1:]
        short = next((where for where, row in cells if len(row) <= max(places.values())), None)
        if short or not cells:
            raise DataError(f'{short or path}: {"too few values" if short else "no row below the header"}, expected '
                            f'{len(head)} in each row ({", ".join(head)[:120]}). The file is damaged; copy it again.')
        return [(where, {key: row[place] for key, place in places.items()}) for where, row in cells]

    @staticmethod
    def _image(cell: str, where: str, files: Mapping[str, list[Path]], folder: Path) -> str | None:
        """The file that a row names, None where there is none; of a path from elsewhere its name counts."""
        cell = cell.replace('\\', '/').removeprefix('./')
        found = next((files[key] for key in (cell, cell.rpartition('/')[2]) if key in files), [])
        if len(found) > 1:
            raise DataError(f'{where}: {cell[:80]!r} names {found[0]} and {found[1]}, expected one image. Give its '
                            f'path below {folder}.')
        return str(found[0]) if found else None

    def read_frames(self, recording: Recording, indices: Sequence[int]) -> list[np.ndarray]:
        return [read_image(recording.source[i], upright=True) for i in indices]


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text)) and '_' not in text
    except ValueError:
        return False


def _value(text: str, key: str, where: str) -> float:
    """A number of a cell, of a time also seconds of a date; NaN of a torque or speed that is not there."""
    if _is_number(text):
        return float(text)
    if not text and key in ('torque', 'speed'):
        return np.nan
    try:
        if key == 'time':
            return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    kind = 'a number or a date and time' if key == 'time' else 'a number'
    raise DataError(f'{where}: {key} {text[:40]!r}, expected {kind}. Correct the row or take it out.')
