"""Point clouds of any sensor and file, as nets take them: (N, 4) float32 x, y, z [m], intensity.

    .bin                 float32 without a header; `.pcd.bin` has nuScenes' five columns, others those that are named
    .npy .npz            an array of columns, a structured array, or one array for each field
    .pcd .ply .las .laz  with named fields; read by pypcd4, plyfile, laspy
    .bag .mcap .db3      ROS recordings, each cloud a scan; read by rosbags

`read_fields` gives what stands in a file; a PointReader makes of it what a net takes.
"""
import logging
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from mmengine.logging import print_log

from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError, PerceptionError
from perception.utils.optional import import_optional

FILES = ('.bin', '.npy', '.npz', '.pcd', '.ply', '.las', '.laz')
RECORDINGS = ('.bag', '.mcap', '.db3')
ENDINGS = (*FILES, *RECORDINGS)
COLUMNS = ('x', 'y', 'z', 'intensity')
NUSCENES_COLUMNS = (*COLUMNS, 'ring')  # of .pcd.bin
INTENSITY = ('intensity', 'i', 'intensities', 'remission', 'reflectance', 'reflectivity', 'strength')  # its other names
AXES = {'x': 0.0, 'y': np.pi / 2, '-x': np.pi, '-y': -np.pi / 2}  # direction of each, rad from x to y
LARGEST = 1 << 30  # bytes of a scan; 64 million points of four float32
PERIODS = range(3, 13)  # numbers of columns that are looked for
BLOCK, PART = 27_720, 8_000  # values: whole rows of each of them; enough to be looked at first
ROS_TYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}  # of sensor_msgs/PointField
OTHER_TYPES = {'>f4': 'float32 of the other byte order', '<f8': 'float64', '>f8': 'float64 of the other byte order',
               '<f2': 'float16', '<i4': 'int32', '<i2': 'int16'}
STARTS = {  # first bytes -> what such a file is
    b'# .PCD': 'a PCD file', b'VERSION ': 'a PCD file', b'ply': 'a PLY file', b'LASF': 'a LAS file',
    b'\x93NUMPY': 'an .npy file', b'PK\x03\x04': 'a zip or .npz file', b'#ROSBAG': 'a ROS bag',
    b'\x89MCAP': 'an MCAP file', b'SQLite format 3': 'a ROS 2 bag', b'\x1f\x8b': 'a gzip file',
    b'\x89PNG': 'a PNG image', b'\xff\xd8\xff': 'a JPEG image',
    b'%PDF': 'a PDF file', b'<!DOCTYPE': 'a web page', b'<html': 'a web page',
    b'version https://git-lfs': 'a pointer of Git LFS, not the file itself'}

Fields = dict[str, np.ndarray]


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


class PointReader:
    """Reads scans of users for a net that was trained on another sensor, or on the same.

    Args:
        columns: names of the columns of `.bin` and `.npy` files and of arrays, such as `'x,y,z,i,ring'`; a type may
            follow, `'x:f8,y:f8,z:f8,i:u1'` (float32 by default). In files that name their columns they take the names'
            place. By default those of `frame`, five in `.pcd.bin`.
        intensity_scale: factor of the intensities, also as a fraction such as `'1/255'`.
        missing_intensity: the intensity of all points of scans that have none; without it those are refused.
        unit: metres that 1 of x, y, z is, such as 0.01.
        forward: the axis that points forward in the files, 'x', 'y', '-x' or '-y'; points are turned into the net's
            frame. By default they are in it.
        height: of the sensor above the ground [m], or 0 where z is 0 on the ground; points are shifted along z to
            where the net knows the ground. By default they are as they should be.
        invalid: what is done about points that are not finite, as drivers write them: 'refuse' or 'drop', which says
            how many.
        topic: of the clouds in a ROS recording; needed where it has several.
        frame: what the net was trained on.

    Raises:
        ConfigError: one of them cannot be.
    """

    def __init__(self, columns: str | Sequence[str] | None = None, intensity_scale: float | str = 1.0,
                 missing_intensity: float | None = None, unit: float = 1.0, forward: str | None = None,
                 height: float | None = None, invalid: str = 'refuse', topic: str | None = None,
                 frame: Frame = KITTI) -> None:
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
        self.invalid, self.topic, self.frame = invalid, topic, frame
        self._said: set[str] = set()

    def read(self, source: str | Path | np.ndarray) -> Cloud:
        """A scan as the net takes it.

        Args:
            source: a file, or an array: (N, C) of columns, or structured, (N,) with named fields.

        Raises:
            DataError: it cannot be read, has no x, y, z or intensity, or points that are not finite.
            MissingDependency: the package that reads such files is absent.
        """
        where = source if isinstance(source, (str, Path)) else 'points'
        if isinstance(source, (str, Path)):
            fields = read_fields(source, self.columns, self.frame.columns, self.topic, self.missing is not None)
        else:
            fields = array_fields(source, self.columns, self.frame.columns, lone=self.missing is not None)
        return self.cloud(fields, where)

    def cloud(self, fields: Fields, where: str | Path) -> Cloud:
        """The points of the columns of a scan; `where` is the file, for messages."""
        names = {_plain(name): name for name in reversed(fields)}
        absent = [axis for axis in 'xyz' if axis not in names]
        if absent:
            raise DataError(f'{where}: columns {", ".join(fields)} without {", ".join(absent)}, expected x, y, z. '
                            "Name all columns in their order, such as columns='x,y,z,i'.")
        num = len(fields[names['x']])
        points = np.empty((num, 4), np.float32)
        strength = next((names[name] for name in INTENSITY if name in names), None)
        if strength is None and self.missing is None:
            raise DataError(f'{where}: columns {", ".join(fields)} without an intensity, expected x, y, z, intensity. '
                            "Name it by columns='x,y,z,i', or give all points one by missing_intensity=0.3.")
        with np.errstate(over='ignore', invalid='ignore'):
            for k, axis in enumerate('xyz'):
                points[:, k] = fields[names[axis]] if self.unit == 1 else fields[names[axis]] * self.unit
            if strength is None:
                points[:, 3] = self.missing
            else:
                points[:, 3] = fields[strength] if self.scale == 1 else fields[strength] * self.scale
        points, kept = self._finite(points, where)
        if self.turn is not None:
            points[:, :2] = points[:, :2] @ self.turn.T.astype(np.float32)
        if self.lift:
            points[:, 2] += np.float32(self.lift)
        self._doubt(points[::max(1, len(points) // 4000)], where)
        return Cloud(points, kept, num, fields)

    def _finite(self, points: np.ndarray, where: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
        """The points that are finite, and which rows they are."""
        good = np.isfinite(points).all(axis=1)
        if good.all():
            return points, None
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
                               'are centimetres, give unit=0.01.')
        elif far < 0.5 and np.ptp(points[:, :3]) > 0:
            self._warn('unit', f'{where}: half of the points are less than {far:.3f} m away, expected metres. If they '
                               'are scaled, give the metres of 1 by unit.')
        if self.missing is None and np.ptp(strong) == 0:
            self._warn('constant', f'{where}: all intensities are {strong[0]:.4g}, expected values from 0 to {most:g}; '
                                   'a net that was trained with them labels such a scan badly.')
        elif np.abs(strong).max() > 2 * most:
            self._warn('scale', f'{where}: intensities of {strong.min():,.4g} to {strong.max():,.4g}, expected 0 to '
                                f'{most:g} as the net was trained on. Give intensity_scale={most:g}/'
                                f'{_full_scale(np.abs(strong).max())}.')
        elif most > 2 and strong.max() <= 1:
            self._warn('scale', f'{where}: intensities up to {strong.max():.4g}, expected 0 to {most:g} as the net was '
                                f'trained on. If 1 is the largest, give intensity_scale={most:g}.')

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            print_log(f'{text} This is said once.', 'current', logging.WARNING)


def parse_columns(columns: str | Sequence[str]) -> tuple[str, ...]:
    """Names of columns, each with its type if it has one, such as `('x', 'y', 'z', 'i:u1')`; `_` is left out.

    Raises:
        ConfigError: x, y or z is missing, a name comes twice, or a type is none.
    """
    parts = columns.split(',') if isinstance(columns, str) else list(columns)
    parts = tuple(str(part).strip() for part in parts)
    names = [part.partition(':')[0] for part in parts]
    wrong = [name for name in names if not name or (name != '_' and names.count(name) > 1)]
    if wrong or not {'x', 'y', 'z'} <= set(map(_plain, names)):
        raise ConfigError(f'columns={columns!r}: expected x, y, z and other names, each once, in the order of the '
                          "file, such as 'x,y,z,i,ring'. Name columns that are not needed _.")
    _dtype(parts)
    return parts


def _dtype(columns: Sequence[str]) -> np.dtype:
    """The type of a row."""
    try:
        types = [(f'{k}', np.dtype(part.partition(':')[2] or '<f4')) for k, part in enumerate(columns)]
    except TypeError as error:
        raise ConfigError(f'columns={",".join(columns)}: {error}, expected types of NumPy such as f4, f8, u1. Correct '
                          'them.') from error
    if not all(kind.kind in 'fiub' for _, kind in types):
        raise ConfigError(f'columns={",".join(columns)}: a type that is no number, expected f4, f8, u1 or the like.')
    return np.dtype(types)


def read_fields(path: str | Path, columns: Sequence[str] | None = None, default: Sequence[str] = COLUMNS,
                topic: str | None = None, lone: bool = False) -> Fields:
    """All columns of a scan.

    Args:
        path: a file that ends in one of `ENDINGS`; a recording must hold one cloud.
        columns: see `parse_columns`; None for those that the file names, or `default`.
        default: columns of `.bin` files and of arrays without names.
        topic: of the cloud in a recording.
        lone: rows of three numbers without names are x, y, z.

    Returns:
        name -> (N,) numbers, in the order of the file.

    Raises:
        DataError: it cannot be read, or its content does not look like these columns.
        MissingDependency: the package that reads such files is absent.
    """
    path = Path(path).expanduser()
    kind = path.suffix.lower()
    if kind in RECORDINGS or path.is_dir():
        clouds = read_recording(path, topic)
        first = next(clouds)[1]
        if next(clouds, None) is not None:
            raise DataError(f'{path}: several clouds, expected one in a file that is read as a scan. Label or draw all '
                            'of them by tools/visualize.py.')
        return array_fields(first, columns, default, path)
    check_size(path)
    if kind in ('', '.bin'):
        return _read_bin(path, columns, default)
    if kind not in _READERS:
        raise DataError(f'{path}: {recognise(path)}, expected a scan that ends in {", ".join(ENDINGS)}. Convert or '
                        'rename it.')
    try:
        found = _READERS[kind](path)
    except PerceptionError:
        raise
    except (Exception, MemoryError) as error:  # damaged files fail in the libraries in many ways
        raise DataError(f'{path}: {recognise(path)} that cannot be read ({_in_a_line(error)}), '
                        f'expected {kind[1:].upper()}. It is probably damaged or cut; write or copy it again.') \
            from error
    if isinstance(found, np.ndarray):
        return array_fields(found, columns, default, path, lone)
    return _renamed(found, columns, path)


def check_size(path: str | Path) -> None:
    """Refuse a file that is absent, a folder or too large to be a scan, before it is read.

    Raises:
        DataError: it is one of these.
    """
    try:
        size, regular = Path(path).stat().st_size, Path(path).is_file()
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        reason = getattr(error, 'strerror', None) or error
        raise DataError(f'{path}: {reason}, expected a readable file. Check the path and the copy of the data set.') \
            from error
    if not regular:
        raise DataError(f'{path}: no regular file, expected a readable file. Check the path.')
    if size > LARGEST:
        raise DataError(f'{path}: {size:,} bytes, expected at most {LARGEST:,} of one scan. Cut it into scans, or '
                        'check the file.')


def recognise(path: str | Path) -> str:
    """What a file is, by its first bytes, as a part of a message."""
    try:
        with open(path, 'rb') as file:
            start = file.read(512)
    except OSError:
        return 'a file'
    if not start:
        return 'an empty file'
    for sign, name in STARTS.items():
        if start.startswith(sign):
            return name
    if start.startswith((b'\xff\xfe', b'\xfe\xff')):
        return 'text in UTF-16'
    if not re.search(rb'[^\t\n\r -~]', start.removeprefix(b'\xef\xbb\xbf')):
        return f'text ({start[:40].decode(errors="replace").splitlines()[0]!r})'
    return 'a file of unknown content'


def _read_bin(path: Path, columns: Sequence[str] | None, default: Sequence[str]) -> Fields:
    """Columns of a file without a header, once its content looks like them."""
    known = columns or (NUSCENES_COLUMNS if path.name.lower().endswith('.pcd.bin') else default)
    dtype = _dtype(known)
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f'{path}: {error.strerror}, expected a readable file. Check the path and its copy.') from error
    floats = data[:len(data) // 4 * 4].view('<f4')
    seen = recognise(path)
    if len(data) and not seen.startswith('a file') and (len(data) > 64 or not seen.startswith('text')):
        raise DataError(f'{path}: {seen}, expected {len(known)} numbers a point without a header. Give it the ending '
                        f'of what it is ({", ".join(ENDINGS)}), or take the right file.')
    plain = dtype == np.dtype([(f'{k}', '<f4') for k in range(len(known))])
    doubt = doubt_of_columns(floats, len(known)) if plain else ''
    if doubt:
        raise DataError(f'{path}: {len(data):,} bytes that are no rows of {len(known)} columns ({", ".join(known)}), '
                        f'expected content that fits. {doubt}.')
    if len(data) % dtype.itemsize:
        raise DataError(f'{path}: {len(data):,} bytes, expected a multiple of {dtype.itemsize} ({len(known)} numbers a '
                        f'point: {", ".join(known)}). The file is probably truncated, copy it again, or has other '
                        'columns: name them by columns.')
    rows = data.view(dtype)
    return {name.partition(':')[0]: rows[f'{k}'] for k, name in enumerate(known) if name != '_'}


def doubt_of_columns(values: np.ndarray, columns: int) -> str:
    """Why float32 values are probably no rows of so many columns; empty where nothing speaks against it.

    The columns of a scan differ in size, in sign and in whether their numbers are whole; in rows of a wrong length
    each column is a mixture of all. So the number of columns that tells most about a value is the right one.

    Args:
        values: (M,) float32, all of a file.
        columns: how many it is read as.

    Returns:
        such as `'It looks like 5 columns ...: name them ...'`.
    """
    if len(values) < 100 * columns:
        return ''
    middle = len(values) // 2 // BLOCK * BLOCK
    if len(values) > 2 * BLOCK and not _other_period(values[middle:middle + PART], columns):
        return ''  # a part that fits will do
    best = _other_period(values[:400_000 // BLOCK * BLOCK], columns)
    if best in (None, 1):
        return '' if best is None else _other_numbers(values)
    whole = '' if len(values) % best == 0 else ', but is cut'
    example = {3: 'x,y,z', 4: 'x,y,z,i', 5: 'x,y,z,i,ring', 6: 'x,y,z,i,ring,time'}.get(best, 'x,y,z,i,_,...')
    nuscenes = ', as the sweeps of nuScenes have' if best == 5 else ''
    return (f'It looks like {best} columns{nuscenes}{whole} (values repeat with period {best}); name them in their '
            f"order, such as columns='{example}'")


def _other_period(values: np.ndarray, columns: int) -> int | None:
    """The number of columns that fits clearly better than that given, 1 where the numbers are none of a scan."""
    with np.errstate(all='ignore'):
        size = np.abs(values.astype(np.float64))
        driver = np.isin(values.view('<u4'), (0x7FC00000, 0xFFC00000))  # NaN as drivers write it
        strange = ~driver & (~np.isfinite(size) | (size > 1e9) | ((size > 0) & (size < 1e-12)))
        if strange.mean() > 0.1:
            return 1
        features = np.nan_to_num(np.stack([np.log10(np.clip(size, 1e-3, 1e4)), values < 0, values == np.rint(values)]))
    told = {period: _told(features, period) for period in PERIODS}
    most, ours = max(told.values()), told.get(columns, 0)
    best = min(period for period in PERIODS if told[period] >= 0.98 * most)
    shorter = [p for p in PERIODS if p < columns and columns % p == 0 and told[p] > 0.98 * ours > 0.05]
    if shorter:
        return shorter[0]
    return None if most < 0.04 + 4 * best / len(values) or ours > 0.6 * most else best


def _told(features: np.ndarray, period: int) -> float:
    """How much of the variance of (F, M) features the position in a row of `period` values tells, 0 to 1."""
    part = features[:, :features.shape[1] // period * period]
    spread = part.var(axis=1)
    means = part.reshape(len(part), -1, period).mean(axis=1)
    with np.errstate(all='ignore'):
        return float(np.where(spread > 1e-9, means.var(axis=1) / spread, 0).mean())


def _other_numbers(values: np.ndarray) -> str:
    """What bytes that are no float32 of this machine look like."""
    data = np.ascontiguousarray(values).view(np.uint8)
    for dtype, name in OTHER_TYPES.items():
        kind = np.dtype(dtype)
        with np.errstate(all='ignore'):
            size = np.abs(data[:len(data) // kind.itemsize * kind.itemsize].view(kind).astype(np.float64))
            if np.mean((size < 1e5) & ((size == 0) | (size > 1e-7))) > 0.95:
                return f"It looks like {name}; name the types too, such as columns='x:{dtype},y:{dtype},...'"
    return 'Its numbers are no float32; it is damaged or of another kind'


def array_fields(array: Any, columns: Sequence[str] | None = None, default: Sequence[str] = COLUMNS,
                 where: str | Path = 'points', lone: bool = False) -> Fields:
    """Columns of an array.

    Args:
        array: (N, C) numbers, or a structured array of any shape, whose fields are flattened.
        columns: names of the C columns.
        default: names where none are given.
        where: the file, for messages.
        lone: x, y, z may stand alone.

    Raises:
        DataError: an array of another shape or type, or of another number of columns.
    """
    array = np.asarray(array)
    if array.dtype.names:
        return _renamed(_structured(array), columns, where)
    width = array.shape[1] if array.ndim == 2 else 0
    known = columns or next((names for names in (default, COLUMNS, 'xyz'[:3 * lone]) if len(names) == width), default)
    if array.ndim != 2 or array.shape[1] != len(known) or array.dtype.kind not in 'fiub':
        raise DataError(f'{where}: {array.dtype} of shape {array.shape}, expected (N, {len(known)}) numbers: '
                        f"{', '.join(known)}. Name its columns in their order, such as columns='x,y,z,i,_'.")
    return {name.partition(':')[0]: array[:, k] for k, name in enumerate(known) if name != '_'}


def _structured(array: np.ndarray) -> Fields:
    """Fields of a structured array, those of several numbers a point as several."""
    fields = {}
    array = array.reshape(-1)
    for name in array.dtype.names:
        values = array[name]
        if name.strip('_') and values.dtype.kind in 'fiub':
            flat = values.reshape(len(array), -1)
            fields.update({name: values} if values.ndim == 1 else
                          {f'{name}_{k}': flat[:, k] for k in range(flat.shape[1])})
    return fields


def _renamed(fields: Fields, columns: Sequence[str] | None, where: str | Path) -> Fields:
    """Fields under the names that were asked for, in their order."""
    sizes = {len(values) for values in fields.values()}
    if len(sizes) != 1:
        raise DataError(f'{where}: fields {", ".join(fields) or "without numbers"} of {sorted(sizes)} values, expected '
                        'columns of one length. Write one scan into it.')
    if columns is None:
        return fields
    if len(columns) != len(fields):
        raise DataError(f'{where}: {len(fields)} columns {", ".join(fields)} for the {len(columns)} names '
                        f'{", ".join(columns)}, expected equal numbers. Leave columns out, or name each.')
    return {name.partition(':')[0]: values for name, values in zip(columns, fields.values()) if name != '_'}


def _read_npy(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _read_npz(path: Path) -> np.ndarray | Fields:
    """The only array of columns or with fields in it, else an array for each field; (N, 3) ones are x, y, z."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST:
        raise DataError(f'{path}: {size:,} bytes when unpacked, expected at most {LARGEST:,} of one scan. Check it.')
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    fields = {}
    for name, values in arrays.items():
        if values.ndim == 2 and values.shape[1] in (3, 4):
            fields.update({axis: values[:, k] for k, axis in enumerate(COLUMNS[:values.shape[1]])})
        elif values.ndim <= 2 and values.size == len(np.atleast_1d(values)) and values.dtype.kind in 'fiub':
            fields[name] = values.reshape(-1)
    longest = max((len(values) for values in fields.values()), default=0)
    return {name: values for name, values in fields.items() if len(values) == longest}


def _read_pcd(path: Path) -> Fields:
    """Fields of a PCD file: ASCII, binary or compressed."""
    kit = import_optional('pypcd4', 'reading .pcd files', 'pip install pypcd4')
    logging.getLogger('pypcd4').setLevel(logging.ERROR)
    header = {}
    with open(path, 'rb') as file:
        for _, line in zip(range(40), file):
            words = line.split()
            header.update({words[0].upper(): words[1:]} if words else {})
            if words and words[0].upper() == b'DATA':
                break
    if int(header[b'POINTS'][0]) * sum(map(int, header[b'SIZE'])) > LARGEST:
        raise DataError(f'{path}: {int(header[b"POINTS"][0]):,} points in its header, expected those of one scan. '
                        'Check the file.')
    cloud = kit.PointCloud.from_path(path)
    if len(cloud.pc_data) != int(header[b'POINTS'][0]):
        raise ValueError(f'{len(cloud.pc_data):,} of {int(header[b"POINTS"][0]):,} points')
    return _structured(cloud.pc_data)


def _read_ply(path: Path) -> Fields:
    """Fields of the vertices of a PLY file: ASCII or binary of either byte order."""
    kit = import_optional('plyfile', 'reading .ply files', 'pip install plyfile')
    with open(path, 'rb') as file:
        header = file.read(1 << 16).partition(b'end_header')[0]
    counts = [int(count) for count in re.findall(rb'element\s+\S+\s+(\d+)', header)]
    if max(counts, default=0) > LARGEST // 12:
        raise DataError(f'{path}: {max(counts):,} points in its header, expected those of one scan. Check the file.')
    return _structured(np.asarray(kit.PlyData.read(str(path))['vertex'].data))


def _read_las(path: Path) -> Fields:
    """Dimensions of a LAS or LAZ file; x, y, z with its scales and offsets."""
    kit = import_optional('laspy', f'reading {path.suffix} files', "pip install 'laspy[lazrs]'")
    _check_las(path)
    try:
        with kit.open(path, laz_backend=kit.LazBackend.Lazrs) as file:  # LazrsParallel trusts the size of a chunk
            if file.header.point_count > LARGEST // 20:
                raise DataError(f'{path}: {file.header.point_count:,} points in its header, expected those of one '
                                'scan. Cut it into scans.')
            las = file.read()
    except BaseException as error:
        if type(error).__name__ == 'PanicException':  # of lazrs, which is no Exception
            raise ValueError(str(error)) from error
        raise
    if len(las.points) != las.header.point_count:
        raise ValueError(f'{len(las.points):,} of {las.header.point_count:,} points')
    fields = {axis: np.asarray(las[axis]) for axis in 'xyz'}
    for name in las.point_format.dimension_names:
        if name not in 'XYZ':
            values = np.asarray(las[name])
            fields.update({name: values} if values.ndim == 1 and values.dtype.kind in 'fiub' else {})
    return fields


def _check_las(path: Path) -> None:
    """Refuse counts in a header that laspy would loop over or lazrs would take memory for, and abort.

    Raises:
        ValueError: more records or chunks than the file has room for.
    """
    size = path.stat().st_size
    with open(path, 'rb') as file:
        start = file.read(247).ljust(247, b'\0')
        records = struct.unpack('<I', start[100:104])[0] + struct.unpack('<I', start[243:247])[0] * (start[25] >= 4)
        if records * 54 > size:
            raise ValueError(f'{records:,} records in a header')
        if start[104] & 0x80:  # compressed: a table of chunks, its place before the points or at the end of the file
            file.seek(struct.unpack('<I', start[96:100])[0])
            table = struct.unpack('<q', file.read(8).ljust(8, b'\0'))[0]
            if table == -1:
                file.seek(max(size - 8, 0))
                table = struct.unpack('<q', file.read(8).ljust(8, b'\0'))[0]
            file.seek(min(max(table, 0), size))
            chunks = struct.unpack('<4xI', file.read(8).ljust(8, b'\xff'))[0]
            if chunks > size:
                raise ValueError(f'{chunks:,} chunks in a table')


_READERS = {'.npy': _read_npy, '.npz': _read_npz, '.pcd': _read_pcd, '.ply': _read_ply, '.las': _read_las,
            '.laz': _read_las}


def is_recording(path: str | Path) -> bool:
    """Whether a path is a ROS recording: a file, or the folder of a ROS 2 bag."""
    path = Path(path).expanduser()
    return path.suffix.lower() in RECORDINGS or (path / 'metadata.yaml').is_file()


def read_recording(path: str | Path, topic: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Clouds of a ROS 1 bag, a ROS 2 bag or an MCAP file, one after the other.

    Args:
        path: of the file or the bag's folder.
        topic: of the clouds; None where there is but one.

    Yields:
        name `<path>_NNNNNN` and structured array (N,) of each.

    Raises:
        DataError: it cannot be read, or has no cloud, or several topics of them.
        MissingDependency: rosbags is absent.
    """
    path = Path(path).expanduser()
    kit = import_optional('rosbags.highlevel', 'reading ROS recordings', 'pip install rosbags')
    stores = import_optional('rosbags.typesys', 'reading ROS recordings', 'pip install rosbags')
    count = 0
    try:
        for file in [path] if path.is_file() else path.glob('*.mcap'):
            _check_mcap(file)
        with kit.AnyReader([path], default_typestore=stores.get_typestore(stores.Stores.LATEST)) as reader:
            clouds = [c for c in reader.connections if c.msgtype == 'sensor_msgs/msg/PointCloud2']
            topics = sorted({c.topic for c in clouds})
            if (topic is None and len(topics) > 1) or (topic is not None and topic not in topics):
                raise DataError(f'{path}: clouds of {", ".join(topics) or "no topic"}, expected one topic of them. '
                                f"Name it, such as topic='{topics[0] if topics else '/points'}'.")
            clouds = [c for c in clouds if topic in (None, c.topic)]
            for connection, _, data in reader.messages(connections=clouds) if clouds else ():
                message = reader.deserialize(data, connection.msgtype)
                yield f'{path.stem}_{count:06d}', cloud_of(message)
                count += 1
    except (PerceptionError, GeneratorExit):
        raise
    except (Exception, MemoryError) as error:  # damaged recordings fail in the library in many ways
        raise DataError(f'{path}: the recording cannot be read after {count:,} clouds ({_in_a_line(error)}), '
                        'expected a ROS bag or MCAP file. Check it by `ros2 bag info`.') \
            from error
    if not count:
        raise DataError(f'{path}: no cloud in it, expected messages of sensor_msgs/PointCloud2. Take the recording of '
                        'the LiDAR.')


def cloud_of(message: Any) -> np.ndarray:
    """The points of a sensor_msgs/PointCloud2 as a structured array (N,).

    Raises:
        ValueError: fields that lie outside a point, or another number of bytes than points take.
    """
    order = '>' if message.is_bigendian else '<'
    sizes = [field.count * np.dtype(ROS_TYPES[field.datatype]).itemsize for field in message.fields]
    rows = np.asarray(message.data, np.uint8)
    if len(rows) != message.height * message.row_step or message.row_step < message.width * message.point_step or any(
            field.offset + size > message.point_step for field, size in zip(message.fields, sizes)):
        raise ValueError(f'{len(rows):,} bytes for {message.height} x {message.width} points of {message.point_step}')
    dtype = np.dtype(dict(
        names=[field.name for field in message.fields], offsets=[field.offset for field in message.fields],
        formats=[(f'{order}{ROS_TYPES[field.datatype]}', (field.count,) if field.count != 1 else ())
                 for field in message.fields], itemsize=message.point_step))
    rows = rows.reshape(message.height, message.row_step)[:, :message.width * message.point_step]
    return np.ascontiguousarray(rows).reshape(-1).view(dtype)


def _check_mcap(path: Path) -> None:
    """Refuse records that are longer than an MCAP file, for which rosbags would take memory.

    Raises:
        ValueError: one is.
    """
    size, at = path.stat().st_size, 8
    with open(path, 'rb') as file:
        if file.read(5) != b'\x89MCAP':
            return
        while at + 9 <= size - 8:
            file.seek(at)
            at += 9 + struct.unpack('<xQ', file.read(9))[0]
    if at != size - 8:
        raise ValueError(f'a record that ends at {at:,} of {size:,} bytes')


def write_ply(file: BinaryIO, points: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> None:
    """Write a coloured cloud as binary PLY.

    Args:
        file: opened for writing.
        points: (N, 4) x, y, z [m], intensity.
        labels: (N,) train ids.
        colors: (N, 3) uint8 RGB.

    Raises:
        MissingDependency: plyfile is absent.
    """
    kit = import_optional('plyfile', 'writing .ply files', 'pip install plyfile')
    kinds = [*((name, '<f4') for name in COLUMNS), *((name, 'u1') for name in ('red', 'green', 'blue', 'label'))]
    vertices = np.empty(len(points), kinds)
    for k, (name, _) in enumerate(kinds):
        vertices[name] = points[:, k] if k < 4 else colors[:, k - 4] if k < 7 else labels
    kit.PlyData([kit.PlyElement.describe(vertices, 'vertex')], byte_order='<').write(file)


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


def natural_order(path: Path) -> list:
    """Key by which `9.bin` comes before `10.bin`."""
    return [(1, int(part), '') if part.isdecimal() else (0, 0, part) for part in re.split(r'(\d+)', path.as_posix())]


def scan_name(path: Path) -> str:
    """The name of a scan's file without its endings, of `.pcd.bin` both."""
    return path.name[:-8] if path.name.lower().endswith('.pcd.bin') else path.stem


def _in_a_line(error: BaseException) -> str:
    """What a library says, short."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:120]}'


def _plain(name: str) -> str:
    """A name as it is looked for."""
    return name.partition(':')[0].strip().lower().removeprefix('scalar_')


def _full_scale(value: float) -> int:
    """The range that intensities up to a value are probably of."""
    return next((limit for limit in (100, 255, 4095, 65535) if limit / 10 < value <= limit), int(np.ceil(value)))


def _number(name: str, value: float | str) -> float:
    """A number, or a text such as `1/255`."""
    try:
        number = float(Fraction(value)) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        number = np.nan
    if isinstance(value, bool) or not np.isfinite(number):
        raise ConfigError(f"{name}={value!r}, expected a number or a fraction such as '1/255'. Correct it.")
    return number
