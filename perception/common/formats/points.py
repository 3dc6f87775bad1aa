"""Point clouds of any sensor and file, as nets take them: (N, 4) float32 x, y, z [m], intensity.

`point_files.py` reads what stands in a file; a PointReader makes of it what a net takes.
"""
import logging
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log

from perception.common.formats.point_columns import COLUMNS, parse_columns, plain_name
from perception.common.formats.point_files import ENDINGS, Fields, array_fields, is_recording, read_fields
from perception.utils.checks import check_choice, close_matches
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import natural_order
from perception.utils.values import TypedArguments

INTENSITY = ('intensity', 'i', 'intensities', 'remission', 'reflectance', 'reflectivity', 'strength')  # its other names
FARTHEST, STRONGEST = 10_000, 1_000_000  # m, and intensity; what lies beyond is damage, or not in the sensor's frame
LARGE = 300  # of a feature; what is larger outweighs the coordinates
LOWEST = 0.01  # share of the points that may lie below the ground, as reflections do
DOUBTS = ('unit', 'constant', 'scale', 'features', 'precision')  # each is said once
AXES = {'x': 0.0, 'y': np.pi / 2, '-x': np.pi, '-y': -np.pi / 2}  # direction of each, rad from x to y


class Frame(NamedTuple):
    """What a net was trained on.

    Attributes:
        columns: of `.bin` files and of arrays that name none.
        forward: direction of travel, rad from x to y.
        height: of the sensor above the ground [m].
        strongest: largest intensity.
    """
    columns: tuple[str, ...] = COLUMNS
    forward: float = 0.0
    height: float = 1.73
    strongest: float = 1.0


KITTI = Frame()


class Cloud(NamedTuple):
    """A scan as nets take it.

    Attributes:
        points: (N, 4) float32 x, y, z [m], intensity.
        kept: (N,) rows of the file that they are; None where all are.
        num_rows: of the file.
        fields: all columns of the file, each with `num_rows` values.
    """
    points: np.ndarray
    kept: np.ndarray | None
    num_rows: int
    fields: Fields


class PointReader(TypedArguments):
    """Reads scans of users for a net that was trained on another sensor, or on the same.

    Args:
        columns: names of the columns of `.bin` and `.npy` files and of arrays, such as `'x,y,z,i,ring'`; a type may
            follow, `'x:f8,y:f8,z:f8,i:u1'` (float32 by default). In files that name their columns they take the names'
            place. By default those of `frame`, five in `.pcd.bin`.
        intensity_scale: factor of the intensities, also as a fraction such as `'1/255'`.
        missing_intensity: the intensity of all points of scans that have none; without it those are refused.
        unit: metres that 1 of x, y, z is, such as 0.01.
        origin: where the sensor stands in the files' frame, for points in that of a map (UTM), as `'x,y,z'` in their
            unit; or 'middle', of each scan for itself the middle of x and y and the height of its lowest points, which
            are then at 0: for that give `height=0`. Taken off before anything is rounded to float32.
        forward: the axis that points forward in the files, 'x', 'y', '-x' or '-y'; points are turned into the net's
            frame. By default they are in it.
        height: of the sensor above the ground [m], or 0 where z is 0 on the ground; points are shifted along z to
            where the net knows the ground. By default they are as they should be.
        invalid: what is done about points that are not finite, as drivers write them: 'refuse' or 'drop', which says
            how many.
        topic: of the clouds in a ROS recording; needed where it has several.
        frame: what the net was trained on.
        features: further columns of the files that the net sees behind the intensity, such as `('red', 'ring')`, or
            with factors `dict(red='1/65535', ring=1)`.

    Raises:
        ConfigError: one of them cannot be.
    """

    def __init__(self, columns: str | Sequence[str] | None = None, intensity_scale: float | str = 1.0,
                 missing_intensity: float | None = None, unit: float = 1.0, forward: str | None = None,
                 height: float | None = None, invalid: str = 'refuse', topic: str | None = None,
                 origin: str | Sequence[float] | None = None, frame: Frame = KITTI,
                 features: str | Sequence[str] | Mapping[str, float | str] = ()) -> None:
        check_choice('invalid', invalid, ('refuse', 'drop'))
        if forward is not None:
            check_choice('forward', forward, AXES)
        self.columns = None if columns is None else parse_columns(columns)
        self.scale, self.unit = _number('intensity_scale', intensity_scale), _number('unit', unit)
        if self.unit <= 0 or self.scale <= 0:
            raise ConfigError(f'intensity_scale={intensity_scale!r}, unit={unit!r}: expected numbers above 0. Correct '
                              'them.')
        self.missing = None if missing_intensity is None else _number('missing_intensity', missing_intensity)
        turn = 0.0 if forward is None else frame.forward - AXES[forward]
        self.turn = np.rint(np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])) \
            if forward is not None else None
        self.lift = 0.0 if height is None else _number('height', height) - frame.height
        self.origin, self.features = _place(origin), _factors(features)
        self.invalid, self.topic, self.frame = invalid, topic, frame
        self._said = torch.zeros(len(DOUBTS), dtype=torch.bool).share_memory_()  # of DOUBTS, by any worker

    @property
    def to_frame(self) -> np.ndarray:
        """(4, 4) from x, y, z [m] of the files to those of the net, as `origin`, `forward` and `height` tell."""
        move = np.eye(4)
        if self.turn is not None:
            move[:2, :2] = self.turn
        if isinstance(self.origin, np.ndarray):
            move[:3, 3] = -move[:3, :3] @ self.origin * self.unit
        move[2, 3] += self.lift
        return move

    def read(self, source: str | Path | np.ndarray) -> Cloud:
        """A scan as the net takes it.

        Args:
            source: a file, or an array: (N, C) of columns, or structured, (N,) with named fields.

        Raises:
            DataError: it cannot be read, has no x, y, z or intensity, or points that are not finite or too far away.
            MissingDependency: the package that reads such files is absent.
        """
        where = source if isinstance(source, (str, Path)) else 'points'
        if isinstance(source, (str, Path)):
            fields = read_fields(source, self.columns, self.frame.columns, self.topic, self.missing is not None)
        else:
            fields = array_fields(source, self.columns, self.frame.columns, lone=self.missing is not None)
        return self.cloud(fields, where)

    def cloud(self, fields: Fields, where: str | Path) -> Cloud:
        """The points (N, 4 and one for each of `features`) of the columns (N,) of a scan; `where` is the file, for
        messages.

        Raises:
            DataError: a column is absent, or a point is not finite.
        """
        names = {plain_name(name): name for name in reversed(fields)}
        absent = [axis for axis in 'xyz' if axis not in names]
        if absent:
            raise DataError(f'{where}: columns {", ".join(fields)} without {", ".join(absent)}, expected x, y, z. '
                            "Name all columns in their order, such as columns='x,y,z,i'.")
        absent = [name for name in self.features if name not in names]
        if absent:
            raise DataError(f'{where}: columns {", ".join(fields)}, expected {", ".join(absent)} too, which the config '
                            f'names as features. {close_matches(absent[0], names)}')
        num = len(fields[names['x']])
        points = np.empty((num, 4 + len(self.features)), np.float32)
        strength = next((names[name] for name in INTENSITY if name in names), None)
        if strength is None and self.missing is None:
            raise DataError(f'{where}: columns {", ".join(fields)} without an intensity, expected x, y, z, intensity. '
                            "Name it by columns='x,y,z,i', or give all points one by missing_intensity=0.3.")
        with np.errstate(over='ignore', invalid='ignore'):
            place = self._origin([fields[names[axis]] for axis in 'xyz'])
            for k, axis in enumerate('xyz'):
                values = fields[names[axis]] if place is None else fields[names[axis]] - place[k]
                points[:, k] = values if self.unit == 1 else values * self.unit
            if strength is None:
                points[:, 3] = self.missing
            else:
                points[:, 3] = fields[strength] if self.scale == 1 else fields[strength] * self.scale
            for k, (name, factor) in enumerate(self.features.items(), 4):
                points[:, k] = fields[names[name]] * np.float64(factor)
        points, kept = self._finite(points, where)
        if self.turn is not None:
            points[:, :2] = points[:, :2] @ self.turn.T.astype(np.float32)
        if self.lift:
            points[:, 2] += np.float32(self.lift)
        far = [float(np.abs(column).max(initial=0)) for column in points.T]
        if max(far[:3]) > FARTHEST or far[3] > STRONGEST:
            raise DataError(f'{where}: points up to {max(far[:3]):,.5g} m away with intensities up to {far[3]:,.5g}, '
                            f'expected at most {FARTHEST:,} m and {STRONGEST:,}. {self._repair(points)}')
        self._doubt(points[::max(1, len(points) // 4000)], where)
        if any(fields[names[axis]].dtype == np.float16 for axis in 'xyz') and max(far[:3]) > 4:
            step = float(np.spacing(np.float16(min(max(far[:3]), 65504)))) * 100
            self._warn('precision', f'{where}: float16 coordinates, which {max(far[:3]):,.0f} m away are rounded to '
                                    f'{step:.2g} cm, expected float32. Store the points as float32.')
        return Cloud(points, kept, num, fields)

    def _origin(self, xyz: Sequence[np.ndarray]) -> np.ndarray | None:
        """The place (3,) float64 that points (N,) each of x, y, z are told from; None where nothing is taken off."""
        if not isinstance(self.origin, str):
            return self.origin
        columns = np.stack(xyz, 1).astype(np.float64)
        columns = columns[np.isfinite(columns).all(axis=1)]
        if not len(columns):
            return None
        return np.array([*(columns[:, :2].min(0) + columns[:, :2].max(0)) / 2, np.quantile(columns[:, 2], LOWEST)])

    def _repair(self, points: np.ndarray) -> str:
        """What to do about points (N, 4) that are too far away: those of a map lie close together far out."""
        low, high = points[:, :3].min(0), points[:, :3].max(0)
        if self.origin is None and (high - low).max() < FARTHEST:
            return ("They lie around a place of a map: tell where the sensor stood by origin='x,y,z', or give "
                    "origin='middle'.")
        return 'Repair the file, or move the points into the frame of the sensor.'

    def _finite(self, points: np.ndarray, where: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
        """The points that are finite, and which rows they are."""
        if np.isfinite(points).all():  # of all at once, which is much faster than of each row
            return points, None
        good = np.isfinite(points).all(axis=1)
        row, count = int(np.argmin(good)), int((~good).sum())
        if self.invalid == 'refuse':
            raise DataError(f'{where}: {points[row].tolist()} in row {row} ({count:,} such rows), expected finite '
                            "numbers. Points are never dropped silently: repair the file, or give invalid='drop'.")
        print_log(f"{where}: {count:,} of {len(points):,} points are not finite and are left out (invalid='drop'); "
                  'their rows count as ignored.', 'current')
        return points[good], np.flatnonzero(good)

    def _doubt(self, points: np.ndarray, where: str | Path) -> None:
        """Warn, once of each kind, of values that a net of this frame was not trained on."""
        if len(points) < 100:
            return  # too few to tell
        far = float(np.median(np.abs(points[:, :2]).max(axis=1)))
        strong, most = points[:, 3], self.frame.strongest
        if far > 150:
            self._warn('unit', f'{where}: half of the points are more than {far:,.0f} m away, expected metres. If they '
                               "are centimetres, give unit=0.01; if they are in a map's frame, give origin.")
        elif far < 0.5 and np.ptp(points[:, :3]) > 0:
            self._warn('unit', f'{where}: half of the points are less than {far:.3f} m away, expected metres. If they '
                               'are scaled, give the metres of 1 by unit.')
        if self.missing is None and np.ptp(strong) == 0:
            self._warn('constant', f'{where}: all intensities are {strong[0]:.4g}, expected values from 0 to {most:g}; '
                                   'a net that was trained with them labels such a scan badly.')
        elif np.abs(strong).max() > 2 * most:
            self._warn('scale', f'{where}: intensities of {strong.min():,.4g} to {strong.max():,.4g}, expected 0 to '
                                f'{most:g}, the range of this config. Give intensity_scale={most:g}/'
                                f'{_full_scale(np.abs(strong).max())}.')
        elif most > 2 and strong.max() <= 1:
            self._warn('scale', f'{where}: intensities up to {strong.max():.4g}, expected 0 to {most:g}, the range of '
                                f'this config. If 1 is the largest, give intensity_scale={most:g}.')

        for name, column in zip(self.features, points.T[4:]):
            if np.abs(column).max() > LARGE:
                most = float(np.abs(column).max())
                self._warn('features', f'{where}: {name} up to {most:,.5g}, expected numbers like coordinates. Give it '
                                       f"a factor: features=dict({name}='1/{_full_scale(most)}').")

    def _warn(self, kind: str, text: str) -> None:
        if not self._said[DOUBTS.index(kind)]:
            self._said[DOUBTS.index(kind)] = True
            print_log(f'{text} This is said once.', 'current', logging.WARNING)


def find_points(path: str | Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """The scan or recording itself, or all of a folder in the order of the numbers in their names.

    Hidden files, such as the `._*` of a Mac, are left out.

    Raises:
        DataError: none is there.
    """
    path = Path(path).expanduser()
    if path.is_file() or is_recording(path):
        return [path]
    files = sorted((p for p in path.glob('*') if p.suffix.lower() in endings and not p.name.startswith('.')),
                   key=natural_order)
    if not files:
        came = f'no {endings[0]} file in it' if path.is_dir() else 'no such file or folder'
        raise DataError(f'{path}: {came}, expected a scan such as sequences/08/velodyne/000000.bin or a folder of '
                        f'scans ({", ".join(endings)}). Check the path.')
    return files


def scan_name(path: Path) -> str:
    """The name of a scan's file without its endings, of `.pcd.bin` both."""
    return path.name[:-8] if path.name.lower().endswith('.pcd.bin') else path.stem


def _full_scale(value: float) -> int:
    """The range that intensities up to a value are probably of."""
    return next((limit for limit in (100, 255, 4095, 65535) if limit / 10 < value <= limit), int(np.ceil(value)))


def _place(origin: str | Sequence[float] | None) -> str | np.ndarray | None:
    """'middle' or None as it is, else three numbers (3,) float64."""
    if origin is None or origin == 'middle':
        return origin
    parts = origin.split(',') if isinstance(origin, str) else origin
    if not isinstance(parts, (list, tuple)) or len(parts) != 3:
        raise ConfigError(f"origin={origin!r}, expected x,y,z of the sensor, such as '691234.5,5334321,112', or "
                          "'middle'. Correct it.")
    return np.array([_number('origin', part) for part in parts])


def _factors(features: str | Sequence[str] | Mapping[str, float | str]) -> dict[str, float]:
    """Plain name of each feature and its factor."""
    given = [part.strip() for part in features.split(',')] if isinstance(features, str) else features
    known = given if isinstance(given, Mapping) else dict.fromkeys(given, 1)
    found = {plain_name(name): _number(f'features: {name}', factor) for name, factor in known.items()
             if isinstance(name, str)}
    if len(found) != len(given) or set(found) & {'', *COLUMNS}:
        raise ConfigError(f"features={features!r}, expected names of further columns, each once, such as ('red', "
                          "'ring') or dict(red='1/65535', ring=1). Correct them.")
    return found


def _number(name: str, value: float | str) -> float:
    """A number, or a text such as `1/255`."""
    try:
        number = float(Fraction(value)) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        number = np.nan
    if isinstance(value, bool) or not np.isfinite(number):
        raise ConfigError(f"{name}={value!r}, expected a number or a fraction such as '1/255'. Correct it.")
    return number
