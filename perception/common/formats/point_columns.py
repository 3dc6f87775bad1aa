"""Columns of points: their names, and whether the content of a file without a header looks like them."""
from collections.abc import Sequence

import numpy as np

from perception.utils.errors import ConfigError

COLUMNS = ('x', 'y', 'z', 'intensity')
NUSCENES_COLUMNS = (*COLUMNS, 'ring')  # of .pcd.bin
PERIODS = range(3, 13)  # numbers of columns that are looked for
BLOCK, PART = 27_720, 8_000  # values: whole rows of each of them; enough to be looked at first
OTHER_TYPES = {'>f4': 'float32 of the other byte order', '<f8': 'float64', '>f8': 'float64 of the other byte order',
               '<f2': 'float16', '<i4': 'int32', '<i2': 'int16'}


def parse_columns(columns: str | Sequence[str]) -> tuple[str, ...]:
    """Names of columns, each with its type if it has one, such as `('x', 'y', 'z', 'i:u1')`; `_` is left out.

    Raises:
        ConfigError: x, y or z is missing, a name comes twice, or a type is none.
    """
    parts = columns if isinstance(columns, (list, tuple)) else str(columns).split(',')
    parts = tuple(str(part).strip() for part in parts)
    names = [part.partition(':')[0] for part in parts]
    wrong = [name for name in names if not name or (name != '_' and names.count(name) > 1)]
    if wrong or not {'x', 'y', 'z'} <= set(map(plain_name, names)):
        raise ConfigError(f'columns={columns!r}: expected x, y, z and other names, each once, in the order of the '
                          "file, such as 'x,y,z,i,ring'. Name columns that are not needed _.")
    row_type(parts)
    return parts


def row_type(columns: Sequence[str]) -> np.dtype:
    """The type of a row.

    Raises:
        ConfigError: a column of a type that is no number.
    """
    try:
        types = [(f'{k}', np.dtype(part.partition(':')[2] or '<f4')) for k, part in enumerate(columns)]
    except TypeError as error:
        raise ConfigError(f'columns={",".join(columns)}: {error}, expected types of NumPy such as f4, f8, u1. Correct '
                          'them.') from error
    if not all(kind.kind in 'fiub' for _, kind in types):
        raise ConfigError(f'columns={",".join(columns)}: a type that is no number, expected f4, f8, u1 or the like.')
    return np.dtype(types)


def plain_name(name: str) -> str:
    """A name as it is looked for."""
    return name.partition(':')[0].strip().lower().removeprefix('scalar_')


def doubt_of_columns(values: np.ndarray, columns: int, named: bool = False) -> str:
    """Why float32 values are probably no rows of so many columns; empty where nothing speaks against it.

    The columns of a scan differ in size, in sign and in whether their numbers are whole; in rows of a wrong length
    each column is a mixture of all. So the number of columns that tells most about a value is the right one.

    Args:
        values: (M,) float32, all of a file.
        columns: how many it is read as.
        named: leave out doubts for which there may be a reason that a user knows who has named the columns: rows that
            repeat in kind only after several of them, as those of two lasers do, and columns one after the other.

    Returns:
        such as `'It looks like 5 columns ...: name them ...'`.
    """
    if len(values) < 100 * columns:
        return ''
    if _transposed(values, columns):
        return '' if named else ('It looks transposed, all x first, then all y, and so on; write a row for each point, '
                                 'as by `points.T.tofile(path)` in NumPy')
    middle = len(values) // 2 // BLOCK * BLOCK
    if len(values) > 2 * BLOCK and not _other_period(values[middle:middle + PART], columns):
        return ''  # a part that fits will do
    best = _other_period(values[:400_000 // BLOCK * BLOCK], columns)
    if best in (None, 1):
        return '' if best is None else _other_numbers(values)
    if named and best % columns == 0:
        return ''
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
        strange = ~driver & (~np.isfinite(size) | (size > 1e7) | ((size > 0) & (size < 1e-9)))
        if strange.mean() > 0.1 and not any(_times(size, strange, period) for period in PERIODS):
            return 1
    features = _features(values)
    told = {period: _told(features, period) for period in PERIODS}
    most, ours = max(told.values()), told.get(columns, 0)
    best = min(period for period in PERIODS if told[period] >= 0.98 * most)
    shorter = [p for p in PERIODS if p < columns and columns % p == 0 and told[p] > 0.98 * ours > 0.05]
    if shorter:
        return shorter[0]
    return None if most < 0.01 + 4 * best / len(values) or ours > 0.6 * most else best


def _transposed(values: np.ndarray, columns: int) -> bool:
    """Whether values differ by the part of the file that they stand in, and not at all by their place in a row."""
    rows = values[:len(values) // columns * columns].reshape(-1, columns)
    parts = rows.reshape(columns, -1).T
    by_row, by_part = (_told(_features(some[::len(some) // 2000 + 1].ravel()), columns) for some in (rows, parts))
    return by_part > 0.2 and by_row < 0.01 * by_part  # real scans: by_row from 0.32 on


def _features(values: np.ndarray) -> np.ndarray:
    """(3, M) in which columns differ: size, sign, whether numbers are whole."""
    with np.errstate(all='ignore'):
        size = np.abs(values.astype(np.float64))
        return np.nan_to_num(np.stack([np.log10(np.clip(size, 1e-3, 1e4)), values < 0, values == np.rint(values)]))


def _times(size: np.ndarray, strange: np.ndarray, period: int) -> bool:
    """Whether strange values (M,) are those of columns that hardly change, such as seconds since 1970."""
    rows, odd = (part[:len(part) // period * period].reshape(-1, period) for part in (size, strange))
    rows = rows[:, odd.mean(axis=0) > 0.01]
    return bool((np.ptp(rows, axis=0) < 1e-3 * rows.max(axis=0)).all() and rows.min(initial=np.inf) > 1e7)


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
