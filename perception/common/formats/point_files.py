"""Files of points: what stands in them, and coloured clouds as PLY.

    .bin                 float32 without a header; `.pcd.bin` has nuScenes' five columns, others those that are named
    .npy .npz            an array of columns, a structured array, or one array for each field
    .pcd .ply .las .laz  with named fields; read by pypcd4, plyfile, laspy
    .bag .mcap .db3      ROS recordings, each cloud a scan; read by rosbags
"""
import io
import logging
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from mmengine.logging import print_log

from perception.common.formats.kinds import LARGEST, check_size, recognise
from perception.common.formats.point_columns import COLUMNS, NUSCENES_COLUMNS, doubt_of_columns, plain_name, row_type
from perception.utils.errors import DataError, PerceptionError
from perception.utils.optional import import_optional

FILES = ('.bin', '.npy', '.npz', '.pcd', '.ply', '.las', '.laz')
RECORDINGS = ('.bag', '.mcap', '.db3')
ENDINGS = (*FILES, *RECORDINGS)
MOST_COLUMNS = 32  # that anybody's points have
_PCD_HEADER = ('VERSION', 'FIELDS', 'SIZE', 'TYPE', 'COUNT', 'WIDTH', 'HEIGHT', 'VIEWPOINT', 'POINTS', 'DATA')
_POINTS = ('points', 'xyz', 'xyzi', 'pos', 'position', 'positions', 'coord', 'coords', 'coordinates', 'cloud', 'pc')
ROS_TYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}  # of sensor_msgs/PointField
_believed: set[tuple[str, ...]] = set()  # columns whose doubt was said

Fields = dict[str, np.ndarray]


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


def _read_bin(path: Path, columns: Sequence[str] | None, default: Sequence[str]) -> Fields:
    """Columns of a file without a header, once its content looks like them."""
    known = columns or (NUSCENES_COLUMNS if path.name.lower().endswith('.pcd.bin') else default)
    dtype = row_type(known)
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
    if doubt and columns and not doubt_of_columns(floats, len(known), named=True):
        if known not in _believed:
            print_log(f'{path}: read as {", ".join(known)}, as you name its columns. {doubt}. This is said once.',
                      'current', logging.WARNING)
        _believed.add(known)
    elif doubt:
        raise DataError(f'{path}: {len(data):,} bytes that are no rows of {len(known)} columns ({", ".join(known)}), '
                        f'expected content that fits. {doubt}.')
    if len(data) % dtype.itemsize:
        raise DataError(f'{path}: {len(data):,} bytes, expected a multiple of {dtype.itemsize} ({len(known)} numbers a '
                        f'point: {", ".join(known)}). The file is probably truncated, copy it again, or has other '
                        'columns: name them by columns.')
    rows = data.view(dtype)
    return {name.partition(':')[0]: rows[f'{k}'] for k, name in enumerate(known) if name != '_'}


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
    width = array.shape[1] if array.ndim == 2 else -1
    known = columns or next((names for names in (default, COLUMNS, 'xyz'[:3 * lone]) if len(names) == width), default)
    if array.ndim != 2 or array.shape[1] != len(known) or array.dtype.kind not in 'fiub':
        names = ','.join(('x', 'y', 'z', 'i', *'_' * max(width - 4, 0))[:max(width, 3)])
        fix = f"Name its columns in their order, such as columns='{names}'"
        if array.ndim == 2 and 3 <= len(array) <= MOST_COLUMNS < width:
            fix = 'It looks transposed: give a row for each point (`points.T` in NumPy)'
        elif width == 3:
            fix = 'It has no intensity: give all points one by missing_intensity=0.3'
        raise DataError(f'{where}: {array.dtype} of shape {array.shape}, expected (N, {len(known)}) numbers: '
                        f"{', '.join(known)}. {fix}.")
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
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):  # a zip
        array.close()
        raise ValueError('several arrays')
    return array


def _read_npz(path: Path) -> np.ndarray | Fields:
    """The only array in it, else the (N, 3) or (N, 4) one of points with the arrays (N,) beside it, else an array for
    each field.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST:
        raise DataError(f'{path}: {size:,} bytes when unpacked, expected at most {LARGEST:,} of one scan. Check it.')
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    wide = [name for name, values in arrays.items() if values.ndim == 2 and values.shape[1] in (3, 4)]
    wide = [name for name in wide if name.lower() in _POINTS] or wide
    single = {name: values.reshape(-1) for name, values in arrays.items() if values.ndim in (1, 2) and
              values.size == len(values) and values.dtype.kind in 'fiub'}
    if not wide or {'x', 'y', 'z'} <= set(map(plain_name, single)):
        longest = max((len(values) for values in single.values()), default=0)
        return {name: values for name, values in single.items() if len(values) == longest}
    if len(wide) > 1:
        raise DataError(f'{path}: arrays {", ".join(wide)}, each of which may be the points, expected one. Name it '
                        'points.')
    points = arrays[wide[0]]
    return {axis: points[:, k] for k, axis in enumerate(COLUMNS[:points.shape[1]])} | {
        name: values for name, values in single.items() if len(values) == len(points)}


def _read_pcd(path: Path) -> Fields:
    """Fields of a PCD file: ASCII, binary or compressed."""
    kit = import_optional('pypcd4', 'reading .pcd files', 'pip install pypcd4')
    logging.getLogger('pypcd4').setLevel(logging.ERROR)
    header = {}
    with open(path, 'rb') as file:
        for _, line in zip(range(1000), file):
            words = line.decode(errors='replace').split()
            if words and not words[0].startswith('#'):
                header[words[0].upper()] = words[1:]
            if 'DATA' in header:
                break
        num, sizes = int(header['POINTS'][0]), list(map(int, header['SIZE']))
        if num * sum(sizes) > LARGEST:
            raise DataError(f'{path}: {num:,} points in its header, expected those of one scan. Check the file.')
        if num == 0:
            return {name: np.zeros(0, np.float32) for name in header['FIELDS'] if name.strip('_')}
        rest = file.read(LARGEST)
    full = dict(COUNT=['1'] * len(sizes), VIEWPOINT=list('0001000')) | header | dict(VERSION=['0.7'])
    full['DATA'] = [full['DATA'][0].lower()]  # as older writers and other tools leave them out, or write them
    text = ''.join(f'{name} {" ".join(full[name])}\n' for name in _PCD_HEADER).encode()
    cloud = kit.PointCloud.from_fileobj(io.BytesIO(text + rest))
    if len(cloud.pc_data) != num:
        raise ValueError(f'{len(cloud.pc_data):,} of {num:,} points')
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
                        'expected a ROS bag or MCAP file. Check it by `ros2 bag info`; of a compressed ROS 2 bag give '
                        'the folder.') \
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


def _in_a_line(error: BaseException) -> str:
    """What a library says, short."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:120]}'
