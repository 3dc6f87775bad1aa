"""Files of the KITTI odometry layout, which SemanticKITTI extends: scans, labels, calibration, poses, times."""
from pathlib import Path

import numpy as np

from perception.utils.errors import DataError

POINT_BYTES = 16  # x, y, z, remission as little-endian float32


def read_points(path: str | Path, columns: int = 4) -> np.ndarray:
    """Read a scan, `velodyne/FFFFFF.bin`, or one of another data set that differs in its columns.

    Args:
        path: file of N x columns little-endian float32 without a header.
        columns: numbers of a point.

    Returns:
        (N, columns) float32: x, y, z [m], remission and what follows.

    Raises:
        DataError: no such file, a size that is no multiple of a point's, NaN or infinite values.
    """
    data = _read(path, 'u1')
    if len(data) % (4 * columns):
        raise DataError(f'{path}: {len(data):,} bytes, expected a multiple of {4 * columns} ({columns} float32 a '
                        'point). The file is probably truncated; copy it again.')
    points = data.view('<f4').reshape(-1, columns)
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
        (N,) uint32: semantic id in the lower 16 bits, instance id in the upper 16, see `split_labels`.

    Raises:
        DataError: no such file, a size that is no multiple of 4 bytes, another number of labels than points.
    """
    data = _read(path, 'u1')
    if len(data) % 4:
        raise DataError(f'{path}: {len(data):,} bytes, expected a multiple of 4 (one uint32 a point). The file is '
                        f'probably truncated; copy it again.')
    labels = data.view('<u4')
    if num_points is not None and len(labels) != num_points:
        raise DataError(f'{path}: {len(labels):,} labels for {num_points:,} points, expected equal numbers. The file '
                        f'is probably truncated or belongs to another scan.')
    return labels


def split_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Semantic ids (N,) uint16 and instance ids (N,) uint16 of raw labels (N,) uint32."""
    return (labels & 0xFFFF).astype(np.uint16), (labels >> 16).astype(np.uint16)


def join_labels(semantic: np.ndarray, instance: np.ndarray | int = 0) -> np.ndarray:
    """Raw labels (N,) uint32 of semantic ids (N,) and instance ids (N,), both below 65536."""
    return np.asarray(semantic).astype(np.uint32) | (np.asarray(instance).astype(np.uint32) << 16)


def read_calib(path: str | Path) -> dict[str, np.ndarray]:
    """Read `calib.txt`.

    Args:
        path: lines `NAME: 12 numbers`; `Tr` leads from the LiDAR to camera 0, `P0`..`P3` project camera 0 to images.

    Returns:
        name -> (4, 4) float64, the last row 0 0 0 1.

    Raises:
        DataError: no such file, or a line that is no 3 x 4 matrix of finite numbers.
    """
    matrices = {}
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        name, _, values = line.partition(':')
        if line.strip():
            matrices[name.strip()] = _matrices(path, [values], number)[0]
    return matrices


def read_poses(path: str | Path) -> np.ndarray:
    """Read `poses.txt`: poses of camera 0, one a line, as 12 numbers of a 3 x 4 matrix.

    Args:
        path: the file.

    Returns:
        (M, 4, 4) float64, from camera 0 of scan m to camera 0 of scan 0.

    Raises:
        DataError: no such file, or a line without 12 finite numbers.
    """
    return _matrices(path, _read_text(path).splitlines())


def read_times(path: str | Path) -> np.ndarray:
    """Read `times.txt`: (M,) float64 seconds since the first scan.

    Raises:
        DataError: no such file, or a line that is no finite number.
    """
    try:
        times = np.array(_read_text(path).split(), np.float64)
    except ValueError as error:
        raise DataError(f'{path}: {error}, expected one number of seconds a line. Copy the file again.') from error
    if not np.isfinite(times).all():
        line = int(np.argmin(np.isfinite(times)))
        raise DataError(f'{path}: {times[line]} in line {line + 1}, expected finite seconds. Copy the file again.')
    return times


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
    return ' '.join(f'{value:.12e}' for value in np.asarray(matrix)[:3].ravel())


def _matrices(path: str | Path, rows: list[str], first_line: int = 1) -> np.ndarray:
    """(M, 4, 4) of M texts of 12 numbers."""
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    for i, row in enumerate(rows):
        try:
            matrices[i, :3] = np.array(row.split(), np.float64).reshape(3, 4)
        except ValueError as error:
            raise DataError(f'{path}: line {first_line + i} is {row.strip()[:60]!r}, expected 12 numbers. Copy the '
                            f'file again.') from error
        if not np.isfinite(matrices[i]).all():
            raise DataError(f'{path}: line {first_line + i} holds {row.strip()[:60]!r}, expected finite numbers. Copy '
                            f'the file again.')
    return matrices


def _read(path: str | Path, dtype: str) -> np.ndarray:
    try:
        return np.fromfile(path, dtype)
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        raise _unreadable(path, error) from error


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> DataError:
    text = 'not a text file' if isinstance(error, UnicodeDecodeError) else error
    reason = getattr(error, 'strerror', None) or text
    return DataError(f'{path}: {reason}, expected a readable file. Check the path and the copy of the data set.')
