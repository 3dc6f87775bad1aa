"""Rigid motions as nuScenes' tables have them: a translation [m] and a quaternion w, x, y, z."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from perception.utils.errors import DataError

RIGID = 1e-3          # how far the length of a quaternion may be from 1


def rotations(quaternions: np.ndarray) -> np.ndarray:
    """The (..., 3, 3) rotation matrices of quaternions (..., 4) w, x, y, z of length 1."""
    w, x, y, z = np.moveaxis(quaternions, -1, 0)
    rows = ((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)))
    return np.stack([np.stack(row, -1) for row in rows], -2)


def transforms(poses: np.ndarray) -> np.ndarray:
    """The (..., 4, 4) transforms of poses (..., 7): translation [m] and quaternion w, x, y, z of length 1."""
    matrices = np.zeros((*poses.shape[:-1], 4, 4))
    matrices[..., :3, :3] = rotations(poses[..., 3:])
    matrices[..., :3, 3] = poses[..., :3]
    matrices[..., 3, 3] = 1
    return matrices


def inverse_rigid(transform: np.ndarray) -> np.ndarray:
    """Inverses of (..., 4, 4) rigid transforms."""
    inverse = np.zeros_like(transform)
    inverse[..., :3, :3] = np.swapaxes(transform[..., :3, :3], -1, -2)
    inverse[..., :3, 3:] = -inverse[..., :3, :3] @ transform[..., :3, 3:]
    inverse[..., 3, 3] = 1
    return inverse


def rigid(record: dict, where: str) -> np.ndarray:
    """The (4, 4) float64 transform of a record with `translation` [m] and `rotation` (a quaternion w, x, y, z).

    Raises:
        DataError: one is missing or not finite, or the quaternion's length is not 1.
    """
    translation = finite_numbers(record.get('translation'), (3,), f'{where}: translation')
    quaternion = finite_numbers(record.get('rotation'), (4,), f'{where}: rotation')
    unit_quaternions(quaternion, lambda bad: where)      # its last bit may be another one; mini data depend on it
    return transforms(np.concatenate([translation, quaternion / np.linalg.norm(quaternion)]))


def unit_quaternions(quaternions: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    """Quaternions (..., 4) with a length of exactly 1.

    Args:
        quaternions: of a length of nearly 1.
        where: gives the start of a message for the number of a quaternion, counted along all but the last dimension.

    Raises:
        DataError: another length, which is no rigid motion.
    """
    lengths = np.linalg.norm(quaternions, axis=-1, keepdims=True)
    wrong = np.abs(lengths - 1) > RIGID
    if wrong.any():
        bad = int(np.flatnonzero(wrong)[0])
        raise DataError(f'{where(bad)}: a rotation of length {lengths.flat[bad]:.6g}, expected a quaternion of length '
                        f'1, which keeps bodies rigid. Correct the calibration or unpack the metadata again.')
    return quaternions / lengths


def finite_numbers(values: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A JSON value as a float64 array of a shape.

    Raises:
        DataError: another shape, or something that is no finite number.
    """
    try:
        array = np.array(values)
    except ValueError:      # lists of several lengths
        array = np.full(0, np.nan)
    if array.shape != shape or array.dtype.kind not in 'iuf' or not np.isfinite(array).all():
        raise DataError(f'{where} is {str(values)[:60]}, expected {" x ".join(map(str, shape)) or "1"} finite numbers. '
                        f'Correct the calibration or unpack the metadata again.')
    return array.astype(np.float64)
