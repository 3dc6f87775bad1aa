"""A small scan in each format that people bring, for `tools/benchmark.py fuzz`."""
from pathlib import Path

import numpy as np

from perception.utils.errors import MissingDependency
from perception.utils.optional import import_optional

POINTS = 200


def write_point_files(folder: str | Path) -> Path:
    """Write a scan of a flat road and a wall as `.bin`, `.npy`, `.npz`, `.pcd`, `.ply` and, with laspy, `.las`.

    Args:
        folder: gets a folder for each format.

    Returns:
        the folder.
    """
    folder, rng = Path(folder), np.random.default_rng(0)
    points = rng.uniform((-30, -20, -1.8, 0), (30, 20, -1.6, 1), (POINTS, 4)).astype('<f4')
    points[::4, 1:3] = np.stack([np.full(POINTS // 4, 8.0), rng.uniform(-1.7, 2, POINTS // 4)], 1)
    text = ''.join(f'{x:.6g} {y:.6g} {z:.6g} {i:.6g}\n' for x, y, z, i in points).encode()
    pcd = ('# .PCD v0.7\nVERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n'
           f'WIDTH {POINTS}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {POINTS}\nDATA %s\n')
    ply = (f'ply\nformat %s 1.0\nelement vertex {POINTS}\n'
           + ''.join(f'property float {name}\n' for name in ('x', 'y', 'z', 'intensity')) + 'end_header\n')
    files = {'bin/a.bin': points.tobytes(), 'pcd_ascii/a.pcd': (pcd % 'ascii').encode() + text,
             'pcd_binary/a.pcd': (pcd % 'binary').encode() + points.tobytes(),
             'ply_ascii/a.ply': (ply % 'ascii').encode() + text,
             'ply_binary/a.ply': (ply % 'binary_little_endian').encode() + points.tobytes()}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for name, save in (('npy', np.save), ('npz', np.savez)):
        (folder / name).mkdir()
        save(folder / name / f'a.{name}', points)
    try:
        laspy = import_optional('laspy', 'writing .las', 'pip install laspy')
    except MissingDependency:
        return folder
    cloud = laspy.create(point_format=0, file_version='1.2')
    cloud.x, cloud.y, cloud.z = points[:, :3].T.astype(np.float64)
    cloud.intensity = (points[:, 3] * 65535).astype(np.uint16)
    (folder / 'las').mkdir()
    cloud.write(str(folder / 'las/a.las'))
    return folder
