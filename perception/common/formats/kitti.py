"""Files of KITTI: scans, calibration and objects; and labels, poses and times as SemanticKITTI has them."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perception.common.formats.kinds import check_size, recognise
from perception.common.formats.point_columns import COLUMNS
from perception.common.formats.point_files import read_fields
from perception.common.formats.text import read_text
from perception.utils.errors import DataError

POINT_BYTES = 16  # x, y, z, remission as little-endian float32
TEXT_BYTES = 1 << 24  # of the largest file of poses; the official ones have 1 MB
MOST_IDS = 1000  # semantic ids are below, where labels are doubted
OTHER_LABELS = {'<f4': 'float32', '>u4': 'uint32 of the other byte order', '>f4': 'float32 of the other byte order'}


def read_points(path: str | Path, columns: tuple[str, ...] = COLUMNS) -> np.ndarray:
    """Read a scan, `velodyne/FFFFFF.bin`, or one of another data set that differs in its columns.

    Args:
        path: file of rows of little-endian float32 without a header.
        columns: names of the numbers of a point.

    Returns:
        (N, columns) float32: x, y, z [m], remission and what follows.

    Raises:
        DataError: no such file, a size or a content that does not fit the columns, NaN or infinite values.
    """
    points = np.stack(list(read_fields(path, columns).values()), axis=1)
    if not np.isfinite(points).all():
        rows = np.flatnonzero(~np.isfinite(points).all(axis=1))
        raise DataError(f'{path}: {points[rows[0]].tolist()} in row {rows[0]} ({len(rows):,} such rows), expected '
                        f'finite numbers. Repair or replace the file; points are never dropped silently.')
    return points


def read_labels(path: str | Path, num_points: int | None = None) -> np.ndarray:
    """Read the labels of a scan, `labels/FFFFFF.label`.

    Args:
        path: file of little-endian uint32, one per point.
        num_points: how many the scan has; None does not check it.

    Returns:
        (N,) uint32: semantic id in the lower 16 bits, instance id in the upper 16.

    Raises:
        DataError: no such file, a size that is no multiple of 4 bytes, another number of labels than points, numbers
            of another type.
    """
    check_size(path)
    data = _read(path, 'u1')
    other = other_labels(data, num_points)
    if other:
        raise DataError(f'{path}: {len(data):,} bytes that look like {other}, expected one little-endian uint32 a '
                        "point. Write them by labels.astype('<u4').tofile(path).")
    if len(data) % 4:
        raise DataError(f'{path}: {len(data):,} bytes, expected a multiple of 4 (one uint32 a point). It is '
                        f'{recognise(path)}, truncated or no label file; take the right one.')
    labels = data.view('<u4')
    if num_points is not None and len(labels) != num_points:
        raise DataError(f'{path}: {len(labels):,} labels for {num_points:,} points, expected equal numbers. The file '
                        f'is probably truncated or belongs to another scan.')
    return labels


def other_labels(data: np.ndarray, num_points: int | None = None) -> str:
    """What the bytes of a label file look like where they are no little-endian uint32; empty where they may be.

    Args:
        data: (M,) uint8.
        num_points: of the scan, if known.
    """
    size = len(data) / num_points if num_points else 0
    if num_points and num_points > 1 and size in (1, 2):
        few = data.view(f'<u{int(size)}') != 0  # of uint32 that were cut, hardly any of the upper halves would be set
        return f'uint{8 * int(size)}' if few[1::2].mean() > few[::2].mean() / 2 > 0 else ''
    labels = data[:len(data) // 4 * 4].view('<u4')
    if len(labels) >= 2 and len(labels) % 2 == 0 and (num_points is None or size == 8):
        pairs = data.view('<i8') if len(data) % 8 == 0 else np.zeros(0, np.int64)
        if pairs.any() and ((pairs >= -1) & (pairs < MOST_IDS)).all() and (num_points or len(pairs) >= 16):
            return 'int64'
        if size == 8 and _whole(data.view('<f8')):
            return 'float64'
    if not labels.any() or 0 < (labels & 0xFFFF).max() < MOST_IDS:
        return ''
    return next((name for dtype, name in OTHER_LABELS.items() if _whole(labels.view(dtype))), '')


def _whole(values: np.ndarray) -> bool:
    """Whether all are whole numbers that may be semantic ids."""
    with np.errstate(invalid='ignore'):
        return bool(((values >= -1) & (values < MOST_IDS) & (values == np.floor(values))).all())


def join_labels(semantic: np.ndarray, instance: np.ndarray | int = 0) -> np.ndarray:
    """Raw labels (N,) uint32 of semantic ids (N,) and instance ids (N,), both below 65536."""
    return np.asarray(semantic).astype(np.uint32) | (np.asarray(instance).astype(np.uint32) << 16)


def read_calib(path: str | Path) -> dict[str, np.ndarray]:
    """Read `calib.txt`, or a file of the folder `calib` of KITTI's objects.

    Args:
        path: lines `NAME: 12 numbers`, and a `calib_time` that is left out; `Tr` (of objects `Tr_velo_to_cam`) leads
            from the LiDAR to camera 0, `P0`..`P3` project camera 0, turned by `R0_rect` of 9 numbers where there is
            one, to images.

    Returns:
        name -> (4, 4) float64, the last row 0 0 0 1.

    Raises:
        DataError: no such file, or a line that is no 3 x 4 matrix of finite numbers.
    """
    matrices = {}
    for number, line in enumerate(read_text(path, 'a calibration', TEXT_BYTES).splitlines(), 1):
        name, _, values = line.partition(':')
        if name.strip() == 'R0_rect' and len(cells := values.split()) == 9:
            values = ' '.join([*cells[:3], '0', *cells[3:6], '0', *cells[6:], '0'])
        if line.strip() and name.strip() != 'calib_time':
            matrices[name.strip()] = _matrices(path, [values], number)[0]
    return matrices


def read_objects(path: str | Path, classes: Sequence[str] = ('Pedestrian',)) -> np.ndarray:
    """Read the objects of an image, `label_2/FFFFFF.txt`.

    Args:
        path: lines of a class and 14 numbers, or 15 where the last is a score.
        classes: those that are wanted.

    Returns:
        (K, 7) float64 x, y, z, l, h, w, rotation_y in the camera's frame, as `boxes.from_kitti` takes them.

    Raises:
        DataError: no such file, or a line that is no such object.
    """
    rows = []
    for number, line in enumerate(read_text(path, 'objects', TEXT_BYTES).splitlines(), 1):
        name, *cells = line.split() or ['']
        if name not in classes:
            continue
        try:
            values = np.array(cells, np.float64)
        except ValueError:
            values = np.full(1, np.nan)
        if len(values) not in (14, 15) or not np.isfinite(values).all():
            raise DataError(f'{path}: line {number} is {line[:80]!r}, expected a class and 14 finite numbers. Correct '
                            'it, or copy the file again.')
        rows.append(values[[10, 11, 12, 9, 7, 8, 13]])
    return np.array(rows).reshape(-1, 7)


def read_poses(path: str | Path) -> np.ndarray:
    """Read `poses.txt`: poses of camera 0, one a line, as 12 numbers of a 3 x 4 matrix.

    Args:
        path: the file.

    Returns:
        (M, 4, 4) float64, from camera 0 of scan m to camera 0 of scan 0.

    Raises:
        DataError: no such file, or a line without 12 finite numbers.
    """
    return _matrices(path, read_text(path, 'poses', TEXT_BYTES).rstrip().splitlines())


def write_points(path: str | Path, points: np.ndarray) -> None:
    """Write a scan of (N, 4) points."""
    np.ascontiguousarray(points, '<f4').tofile(path)


def write_labels(path: str | Path, labels: np.ndarray) -> None:
    """Write (N,) raw labels as uint32."""
    np.ascontiguousarray(labels, '<u4').tofile(path)


def write_calib(path: str | Path, matrices: dict[str, np.ndarray]) -> None:
    """Write name -> (3, 4) or (4, 4) matrices as `calib.txt`."""
    Path(path).write_text(''.join(f'{name}: {_row(matrix)}\n' for name, matrix in matrices.items()))


def write_poses(path: str | Path, poses: np.ndarray) -> None:
    """Write (M, 3, 4) or (M, 4, 4) poses as `poses.txt`."""
    Path(path).write_text(''.join(f'{_row(pose)}\n' for pose in poses))


def write_times(path: str | Path, times: np.ndarray) -> None:
    """Write (M,) seconds as `times.txt`."""
    Path(path).write_text(''.join(f'{time:.6e}\n' for time in times))


def _row(matrix: np.ndarray) -> str:
    return ' '.join(f'{value:.12e}' for value in (np.asarray(matrix)[:3] + 0.0).ravel())  # no -0


def _matrices(path: str | Path, rows: list[str], first_line: int = 1) -> np.ndarray:
    """(M, 4, 4) of M texts of 12 numbers."""
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    for i, row in enumerate(rows):
        try:
            matrices[i, :3] = np.array(row.split(), np.float64).reshape(3, 4)
        except ValueError as error:
            raise DataError(f'{path}: line {first_line + i} is {row.strip()[:60]!r}, expected 12 numbers, as in '
                            'KITTI odometry. Take the file of that benchmark, or correct the line.') from error
        if not np.isfinite(matrices[i]).all():
            raise DataError(f'{path}: line {first_line + i} holds {row.strip()[:60]!r}, expected finite numbers. '
                            'Correct the line.')
    return matrices


def _read(path: str | Path, dtype: str) -> np.ndarray:
    try:
        return np.fromfile(path, dtype)
    except OSError as error:
        raise DataError(f'{path}: {error.strerror}, expected a readable file. Check the path and the copy of the data '
                        'set.') from error
