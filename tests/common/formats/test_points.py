"""Point files of every kind: what stands in them, what a net gets, and doubts."""
import logging
import os
import shutil
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perception.common.formats import point_files
from perception.common.formats import points as module
from perception.common.formats.point_columns import NUSCENES_COLUMNS, doubt_of_columns, parse_columns
from perception.common.formats.point_files import cloud_of, read_fields, read_recording
from perception.common.formats.points import Frame, PointReader, find_points, scan_name
from perception.utils.errors import ConfigError, DataError, MissingDependency

DTYPE = np.dtype([('x', 'f4'), ('y', 'f4'), ('z', 'f4'), ('intensity', 'f4'), ('ring', 'u2'), ('t', 'f8')])


@pytest.fixture
def cloud():
    """300 points as a structured array, with two columns that nets do not take."""
    rng = np.random.default_rng(0)
    cloud = np.zeros(300, DTYPE)
    for name, low, high in (('x', -40, 40), ('y', -30, 30), ('z', -2, 2), ('intensity', 0, 1), ('t', 0, 0.1)):
        cloud[name] = rng.uniform(low, high, 300)
    cloud['ring'] = np.arange(300) % 64
    return cloud


def matrix(cloud):
    return np.stack([cloud[name] for name in ('x', 'y', 'z', 'intensity')], axis=1)


def write(path, cloud):
    """Write the cloud in the format of the path's ending."""
    kind = path.suffix
    if kind == '.npy':
        np.save(path, cloud)
    elif kind == '.npz':
        np.savez(path, **{name: cloud[name] for name in cloud.dtype.names})
    elif kind == '.bin':
        np.stack([cloud[name] for name in NUSCENES_COLUMNS], 1).astype('<f4').tofile(path)
    elif kind == '.pcd':
        kit = pytest.importorskip('pypcd4')
        kit.PointCloud.from_points([cloud[name] for name in cloud.dtype.names], cloud.dtype.names,
                                   [cloud.dtype[name].type for name in cloud.dtype.names]).save(path)
    elif kind == '.ply':
        kit = pytest.importorskip('plyfile')
        kit.PlyData([kit.PlyElement.describe(cloud, 'vertex')]).write(str(path))
    else:
        kit = pytest.importorskip('laspy')
        las = kit.create(point_format=0)
        las.header.scales = [1e-4] * 3
        las.x, las.y, las.z = (cloud[axis].astype(float) for axis in 'xyz')
        las.intensity = np.rint(cloud['intensity'] * 65535).astype(np.uint16)
        las.classification = cloud['ring'].astype(np.uint8) % 32
        las.write(str(path))
    return path


@pytest.mark.parametrize('ending', ['.npy', '.npz', '.bin', '.pcd', '.ply', '.las', '.laz'])
def test_every_format_gives_the_same_points(tmp_path, cloud, ending):
    path = write(tmp_path / f'a{ending}', cloud)
    columns = 'x,y,z,intensity,ring' if ending == '.bin' else None
    scale = '1/65535' if ending.startswith('.la') else 1
    found = PointReader(columns, scale).read(path)
    assert found.points.shape == (300, 4) and found.points.dtype == np.float32 and found.kept is None
    np.testing.assert_allclose(found.points, matrix(cloud), atol=1e-4)
    if not ending.startswith('.la'):
        assert (found.fields['ring'] == cloud['ring']).all()
    else:
        assert (np.asarray(found.fields['classification']) == cloud['ring'] % 32).all()
    for cut in (path.stat().st_size // 2, 30):
        path.write_bytes(path.read_bytes()[:cut])
        if ending != '.bin':
            with pytest.raises(DataError, match=rf'a\{ending}: '):
                PointReader().read(path)


@pytest.mark.parametrize('encoding', ['ASCII', 'BINARY', 'BINARY_COMPRESSED'])
def test_all_encodings_of_pcd_are_read(tmp_path, cloud, encoding):
    kit = pytest.importorskip('pypcd4')
    kit.PointCloud.from_xyzi_points(matrix(cloud)).save(tmp_path / 'a.pcd', encoding=kit.Encoding[encoding])
    np.testing.assert_allclose(PointReader().read(tmp_path / 'a.pcd').points, matrix(cloud), rtol=1e-5)


def test_ply_of_text_and_of_the_other_byte_order_are_read(tmp_path, cloud):
    kit = pytest.importorskip('plyfile')
    for options in (dict(text=True), dict(byte_order='>')):
        kit.PlyData([kit.PlyElement.describe(cloud, 'vertex')], **options).write(str(tmp_path / 'a.ply'))
        np.testing.assert_allclose(PointReader().read(tmp_path / 'a.ply').points, matrix(cloud), rtol=1e-5)


def test_recordings_give_each_cloud(tmp_path, cloud):
    pytest.importorskip('pypcd4')
    rosbags = pytest.importorskip('rosbags.rosbag2')
    from rosbags.typesys import Stores, get_typestore
    store = get_typestore(Stores.ROS2_HUMBLE)
    kinds = store.types
    packed = np.ascontiguousarray(cloud[['x', 'y', 'z', 'intensity']].astype(
        [(name, 'f4') for name in ('x', 'y', 'z', 'intensity')]))
    fields = [kinds['sensor_msgs/msg/PointField'](name, 4 * k, 7, 1) for k, name in enumerate(packed.dtype.names)]
    header = kinds['std_msgs/msg/Header'](kinds['builtin_interfaces/msg/Time'](0, 0), 'lidar')
    message = kinds['sensor_msgs/msg/PointCloud2'](header, 1, 300, fields, False, 16, 4800,
                                                   np.frombuffer(packed.tobytes(), np.uint8), True)
    with rosbags.Writer(tmp_path / 'drive', version=9, storage_plugin=rosbags.StoragePlugin.MCAP) as writer:
        line = writer.add_connection('/points', message.__msgtype__, typestore=store)
        for k in range(2):
            writer.write(line, k, store.serialize_cdr(message, message.__msgtype__))
    for path in (tmp_path / 'drive', tmp_path / 'drive/drive.mcap'):
        clouds = list(read_recording(path))
        assert [name for name, _ in clouds] == ['drive_000000', 'drive_000001']
        np.testing.assert_allclose(PointReader().read(clouds[1][1]).points, matrix(cloud), rtol=1e-6)
    with pytest.raises(DataError, match='several clouds'):
        read_fields(tmp_path / 'drive')
    with pytest.raises(DataError, match=r"clouds of /points, expected one topic.*topic='/points'"):
        next(read_recording(tmp_path / 'drive', '/lidar'))
    (tmp_path / 'bad.mcap').write_bytes(b'\x89MCAP0\r\n' + bytes(50))
    with pytest.raises(DataError, match=r'bad\.mcap: the recording cannot be read'):
        next(read_recording(tmp_path / 'bad.mcap'))


@pytest.mark.parametrize('packed', [None, 'BZ2', 'LZ4'])
def test_bags_of_ros_1_give_points_or_one_sentence(tmp_path, packed):
    rosbags = pytest.importorskip('rosbags.rosbag1')
    from rosbags.typesys import Stores, get_typestore
    store = get_typestore(Stores.ROS1_NOETIC)
    kinds, points = store.types, np.linspace(0, 1, 40, dtype='<f4').reshape(10, 4)
    fields = [kinds['sensor_msgs/msg/PointField'](name, 4 * k, 7, 1) for k, name in enumerate(('x', 'y', 'z', 'i'))]
    header = kinds['std_msgs/msg/Header'](0, kinds['builtin_interfaces/msg/Time'](0, 0), 'lidar')
    message = kinds['sensor_msgs/msg/PointCloud2'](header, 1, 10, fields, False, 16, 160,
                                                   np.frombuffer(points.tobytes(), np.uint8), True)
    for name, topics, count in (('a', ['/points'], 1), ('two', ['/points', '/other'], 1), ('empty', [], 0),
                                ('none', ['/points'], 0)):
        writer = rosbags.Writer(tmp_path / f'{name}.bag')
        if packed:
            writer.set_compression(writer.CompressionFormat[packed])
        with writer:
            for topic in topics:
                line = writer.add_connection(topic, message.__msgtype__, typestore=store)
                for k in range(count):
                    writer.write(line, k, store.serialize_ros1(message, message.__msgtype__))
    for path, topic in ((tmp_path / 'a.bag', None), (tmp_path / 'two.bag', '/other')):
        (_, cloud), = read_recording(path, topic)
        np.testing.assert_array_equal(PointReader().read(cloud).points, points)
    data = (tmp_path / 'a.bag').read_bytes()
    (tmp_path / 'cut.bag').write_bytes(data[:len(data) // 2])
    (tmp_path / 'nothing.bag').write_bytes(b'')
    for name, words in (('two', '/other, /points'), ('empty', 'no cloud'), ('none', 'no cloud'),
                        *((name, 'cannot be read') for name in ('cut', 'nothing', 'gone'))):
        with pytest.raises(DataError, match=rf'{name}\.bag: .*{words}') as told:
            list(read_recording(tmp_path / f'{name}.bag'))
        assert '\n' not in str(told.value)


def test_arrays_and_structured_arrays_are_scans(cloud):
    wide = np.concatenate([matrix(cloud), np.zeros((300, 2))], axis=1)
    for given, columns in ((cloud, None), (matrix(cloud), None), (wide, 'x,y,z,i,_,t'), (cloud.reshape(3, 100), None)):
        np.testing.assert_allclose(PointReader(columns).read(given).points, matrix(cloud), rtol=1e-6)
    with pytest.raises(DataError, match=r'float64 of shape \(300, 6\)|float32 of shape'):
        PointReader().read(wide)
    with pytest.raises(DataError, match=r'\(300, 3\), expected \(N, 4\).*by missing_intensity=0.3'):
        PointReader().read(matrix(cloud)[:, :3])
    with pytest.raises(DataError, match=r'\(4, 300\), expected \(N, 4\).*looks transposed'):
        PointReader().read(matrix(cloud).T)
    for column, value in ((0, 1e30), (3, 1e9)):  # the one breaks grids and pictures, the other all batch statistics
        damaged = matrix(cloud)
        damaged[7, column] = value
        with pytest.raises(DataError, match='expected at most 10,000 m and 1,000,000'):
            PointReader().read(damaged)
    assert (PointReader(missing_intensity=0.25).read(matrix(cloud)[:, :3]).points[:, 3] == 0.25).all()
    named = np.zeros(5, [('X', 'f8'), ('Y', 'f8'), ('Z', 'f8'), ('scalar_Reflectivity', 'u1')])
    named['scalar_Reflectivity'] = 200
    assert PointReader(intensity_scale='1/255').read(named).points[0].tolist() == pytest.approx([0, 0, 0, 200 / 255])
    with pytest.raises(DataError, match=r'columns a, b without x, y, z'):
        PointReader().read(np.zeros(3, [('a', 'f4'), ('b', 'f4')]))


# --- columns ---------------------------------------------------------------------------------------------------------
def street(num=4800, seed=0):
    """Columns of the kind that scans have."""
    rng = np.random.default_rng(seed)
    return dict(xyz=rng.normal(0, (15, 12, 1), (num, 3)), i=rng.beta(2, 5, (num, 1)),
                byte=rng.integers(0, 256, (num, 1)), ring=np.arange(num)[:, None] % 32,
                t=np.linspace(0, 0.1, num)[:, None])


@pytest.mark.parametrize(('parts', 'count'), [
    ('xyz', 3), ('xyz i', 4), ('xyz byte ring', 5), ('xyz i ring', 5), ('xyz i t', 5), ('xyz i ring t', 6),
    ('xyz byte ring t i', 7)])
@pytest.mark.parametrize('read_as', [3, 4, 5, 6])
def test_the_number_of_columns_is_doubted_where_another_one_fits(parts, count, read_as):
    columns = street()
    values = np.concatenate([columns[name] for name in parts.split()], axis=1).astype('<f4').reshape(-1)
    doubt = doubt_of_columns(values, read_as)
    assert (doubt == '') if read_as == count else f'looks like {count} columns' in doubt


def test_random_constant_and_tiny_scans_raise_no_doubt():
    rng = np.random.default_rng(0)
    for values in (rng.random(4000), np.zeros(4000), np.ones(4000), rng.normal(size=12), np.zeros(0)):
        assert doubt_of_columns(values.astype('<f4'), 4) == ''


@pytest.mark.parametrize('dtype', ['>f4', '<f8', '>f8', '<i4', '<i2'])
def test_other_numbers_are_named(tmp_path, dtype):
    points = np.concatenate([street()['xyz'], street()['i']], axis=1) * (100 if 'i' in dtype else 1)
    path = tmp_path / 'a.bin'
    points.astype(dtype).tofile(path)
    with pytest.raises(DataError, match=rf'a\.bin: .*looks like .*x:{dtype}'):
        PointReader().read(path)
    columns = ','.join(f'{name}:{dtype}' for name in ('x', 'y', 'z', 'i'))
    np.testing.assert_allclose(PointReader(columns).read(path).points, points.astype(dtype), rtol=1e-6)


def test_real_scans_are_read_and_those_of_another_sensor_doubted(shared, tmp_path):
    kitti = sorted((shared / 'real').glob('*kitti*/**/velodyne/*.bin'))
    assert len(kitti) > 40
    for path in kitti[::6]:
        points = PointReader().read(path).points
        assert points.shape == (path.stat().st_size // 16, 4)
        assert (points == np.fromfile(path, '<f4').reshape(-1, 4)).all()
        with pytest.raises(DataError, match=r'looks like 4 columns|expected a multiple of 20'):
            PointReader(frame=Frame(NUSCENES_COLUMNS)).read(path)
    sweep = next((shared / 'real/nuscenes_frame').glob('*.pcd.bin'))
    assert PointReader().read(sweep).points.shape == (34688, 4)  # the ending tells
    shutil.copy(sweep, tmp_path / 'a.bin')
    with pytest.raises(DataError, match=r"looks like 5 columns, as the sweeps of nuScenes.*columns='x,y,z,i,ring'"):
        PointReader().read(tmp_path / 'a.bin')
    found = PointReader('x,y,z,i,ring', '1/255', forward='y', height=1.84).read(tmp_path / 'a.bin')
    assert found.points.shape == (34688, 4) and found.points[:, 3].max() <= 1
    raw = np.fromfile(sweep, '<f4').reshape(-1, 5)
    np.testing.assert_allclose(found.points[:, 0], raw[:, 1])  # y was forward
    np.testing.assert_allclose(found.points[:, 1], -raw[:, 0])
    np.testing.assert_allclose(found.points[:, 2], raw[:, 2] + (1.84 - 1.73), atol=1e-5)


# --- options ---------------------------------------------------------------------------------------------------------
def test_points_are_brought_into_the_frame_of_the_net():
    point = np.array([[3, 1, -2, 51]], np.float32)
    for forward, expected in (('x', (3, 1)), ('y', (1, -3)), ('-x', (-3, -1)), ('-y', (-1, 3))):
        found = PointReader(forward=forward).read(point).points[0]
        assert found[:2].tolist() == list(expected), forward
    nuscenes = PointReader(forward='x', frame=Frame(forward=np.pi / 2)).read(point).points[0]
    assert nuscenes[:2].tolist() == [-1, 3]  # forward is y there
    found = PointReader(unit=0.01, height=2.0, intensity_scale='1/255').read(point * [100, 100, 100, 1]).points[0]
    np.testing.assert_allclose(found, [3, 1, -2 + 0.27, 0.2], atol=1e-6)


def test_points_of_a_map_are_told_from_the_sensor_before_they_are_rounded(cloud):
    near = matrix(cloud).astype(np.float64)
    utm = near + [691234.567, 5334321.123, 512.25, 0]
    with pytest.raises(DataError, match=r"expected at most 10,000 m.*tell where the sensor stood by origin='x,y,z'"):
        PointReader().read(utm)
    for origin in ('691234.567,5334321.123,512.25', [691234.567, 5334321.123, 512.25]):
        reader = PointReader(origin=origin)
        np.testing.assert_allclose(reader.read(utm).points, near, atol=2e-6)
    reader = PointReader(unit=0.01, forward='y', height=2.0, origin='100,200,300')
    told = reader.read(np.array([[350., 100, 500, 0]])).points[0, :3]
    np.testing.assert_allclose(told, [-1, -2.5, 2.27], atol=1e-6)
    np.testing.assert_allclose((reader.to_frame @ [3.5, 1, 5, 1])[:3], told, atol=1e-6)


@pytest.mark.parametrize('features', ['ring, Red', ('ring', 'red'), dict(ring=1, red='1/65535')])
def test_further_columns_follow_the_intensity(features, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, *args: said.append(text))
    wide = np.column_stack([street(300)['xyz'], street(300)['i'], np.arange(300) % 32, np.linspace(0, 65535, 300)])
    reader = PointReader('x,y,z,i,ring,scalar_Red', features=features)
    for _ in range(2):
        points = reader.read(wide).points
    factor = 1 / 65535 if isinstance(features, dict) else 1
    np.testing.assert_allclose(points, wide * [1, 1, 1, 1, 1, factor], rtol=1e-6)
    assert [text.count("features=dict(red='1/65535')") for text in said] == [1] * (factor == 1)
    with pytest.raises(DataError, match='columns x, y, z, intensity, expected ring, red too'):
        PointReader(features=features).read(wide[:, :4])


@pytest.mark.parametrize('features', ['', 'x', 'ring,ring', ('ring', 'scalar_ring'), dict(ring='a'), [1], 'intensity'])
def test_features_that_cannot_be_are_refused(features):
    with pytest.raises(ConfigError, match='features'):
        PointReader(features=features)


def test_the_middle_of_a_scan_on_the_ground_is_its_origin():
    rng = np.random.default_rng(0)
    scan = np.column_stack([rng.uniform(0, 40, 4000), rng.uniform(0, 20, 4000), rng.uniform(0, 5, 4000),
                            rng.uniform(0, 1, 4000)]) + [691000, 5333000, 100, 0]
    scan[0, 2] = 20  # a reflection below the ground
    found = PointReader(origin='middle', height=0).read(scan).points  # of a net whose sensor stands 1.73 m above it
    np.testing.assert_allclose(np.stack([found[:, :2].min(0), found[:, :2].max(0)]), [[-20, -10], [20, 10]], atol=.1)
    assert abs(np.quantile(found[:, 2], .01) + 1.73) < 0.1
    scan[1, 0] = np.nan
    assert len(PointReader(origin='middle', invalid='drop').read(scan).points) == 3999
    for count in (0, 1):
        assert PointReader(origin='middle').read(scan[5:5 + count]).points[:, :3].tolist() == [[0, 0, 0]] * count


def test_rows_without_numbers_are_refused_or_dropped_and_counted(cloud, monkeypatch):
    points = matrix(cloud)
    points[[5, 7], 2] = np.nan, np.inf
    with pytest.raises(DataError, match=r'in row 5 \(2 such rows\).*invalid=.drop'):
        PointReader().read(points)
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, *args: said.append(text))
    found = PointReader(invalid='drop').read(points)
    assert (found.points.shape, found.num_rows) == ((298, 4), 300)
    assert sorted(set(range(300)) - set(found.kept.tolist())) == [5, 7]
    assert len(said) == 1 and '2 of 300 points' in said[0]


@pytest.mark.parametrize(('change', 'word'), [
    (lambda p: p * [1, 1, 1, 255], 'intensity_scale=1/255'),
    (lambda p: p * [1, 1, 1, 65535], 'intensity_scale=1/65535'),
    (lambda p: p * [1, 1, 1, 0], 'all intensities are 0'), (lambda p: p * [100, 100, 100, 1], 'unit=0.01'),
    (lambda p: p * [0.01, 0.01, 0.01, 1], 'expected metres'),
    (lambda p: p.astype(np.float16), 'expected float32')])
def test_what_a_net_was_not_trained_on_is_said_once(cloud, change, word, monkeypatch):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, logger, level: said.append((text, level)))
    reader = PointReader()
    for _ in range(3):
        reader.read(change(matrix(cloud)))
    assert len(said) == 1 and word in said[0][0] and said[0][1] == logging.WARNING


def test_a_doubt_is_said_by_one_of_all_workers(cloud):
    reader = PointReader()
    data = matrix(cloud) * [1, 1, 1, 255]
    worker = torch.multiprocessing.get_context('fork').Process(target=reader.read, args=(data,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0 and reader._said.tolist() == [kind == 'scale' for kind in module.DOUBTS]


def test_a_net_of_255_intensities_is_told_of_small_ones(cloud, monkeypatch):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, *args: said.append(text))
    PointReader(frame=Frame(strongest=255.0)).read(matrix(cloud))
    assert len(said) == 1 and 'intensity_scale=255' in said[0]


@pytest.mark.parametrize('options', [
    dict(columns='x,y,i'), dict(columns='x,y,z,x'), dict(columns='x,y,z,i:what'), dict(columns=''),
    dict(intensity_scale='a'), dict(intensity_scale=0), dict(unit=-1), dict(forward='z'), dict(invalid='skip'),
    dict(height='high'), dict(missing_intensity='none'), dict(intensity_scale='1/0'), dict(origin='here'),
    dict(origin='1,2'), dict(origin=[1, 2, 'a']), dict(origin=5)])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        PointReader(**options)
    assert parse_columns(['x', ' y', 'z', 'i']) == ('x', 'y', 'z', 'i')


# --- files -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(('content', 'word'), [
    (b'# .PCD v0.7\n' + b'x' * 100, 'a PCD file'), (b'ply\nformat ascii 1.0\n' + b' ' * 100, 'a PLY file'),
    (b'version https://git-lfs.github.com/spec/v1\n' * 3, 'a pointer of Git LFS'),
    (b'<!DOCTYPE html>' * 10, 'a web page'),
    (b'1.0 2.0 3.0 0.5\n' * 10, "text \\('1.0 2.0 3.0"), (b'\x89PNG\r\n' + bytes(100), 'a PNG image')])
def test_what_is_no_scan_is_recognised(tmp_path, content, word):
    (tmp_path / 'a.bin').write_bytes(content)
    with pytest.raises(DataError, match=rf'a\.bin: {word}'):
        PointReader().read(tmp_path / 'a.bin')
    (tmp_path / 'a.txt').write_bytes(content)
    with pytest.raises(DataError, match=rf'a\.txt: {word}.*expected a scan that ends in \.bin'):
        PointReader().read(tmp_path / 'a.txt')


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 4), }"


@pytest.mark.parametrize(('name', 'content'), [
    ('a.pcd', b'\n'.join((b'VERSION .7', b'FIELDS x y z', b'SIZE 4 4 4', b'TYPE F F F', b'COUNT 1 1 1',
                          b'WIDTH 999999999999', b'HEIGHT 1', b'POINTS 999999999999', b'DATA binary', b''))),
    ('a.ply', b'ply\nformat binary_little_endian 1.0\nelement vertex 999999999999\nproperty float x\nend_header\n'),
    ('a.npy', np.lib.format.magic(1, 0) + struct.pack('<H', 118) + HEADER.ljust(117) + b'\n'),
    ('a.npy', b'\x93NUMPY'), ('a.npz', b'PK\x03\x04'), ('a.las', b'LASF'), ('a.laz', b'LASF' + bytes(400)),
    ('a.ply', b'')])
def test_forged_sizes_and_rests_get_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        PointReader().read(tmp_path / name)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('ending', 'place'), [('.las', 100), ('.laz', 100), ('.laz', 'table'), ('.laz', 'chunk')])
def test_counts_in_las_headers_are_checked_before_they_are_used(tmp_path, cloud, ending, place):
    path = write(tmp_path / f'a{ending}', cloud)
    data = bytearray(path.read_bytes())
    start = struct.unpack('<I', data[96:100])[0]
    if place == 'table':
        place = struct.unpack('<q', data[start:start + 8])[0] + 4
    elif place == 'chunk':
        place = data.index(struct.pack('<I', 50_000), 227)
    data[place:place + 4] = b'\xf0\xff\xff\xff'
    path.write_bytes(data)
    try:
        assert len(PointReader(intensity_scale='1/65535').read(path).points) == 300
    except DataError as error:
        assert str(path) in str(error)


def test_files_are_found_in_order_without_hidden_ones(tmp_path):
    for name in ('10.bin', '9.bin', '._9.bin', 'a_b.pcd.bin', 'c.txt', '1532402927647951.ply'):
        (tmp_path / name).write_bytes(b'')
    assert [scan_name(path) for path in find_points(tmp_path)] == ['9', '10', '1532402927647951', 'a_b']
    with pytest.raises(DataError, match='no such file or folder'):
        find_points(tmp_path / 'none')
    os.mkfifo(tmp_path / 'pipe.bin')
    with pytest.raises(DataError, match='no regular file'):
        read_fields(tmp_path / 'pipe.bin')


def test_a_missing_package_is_named(tmp_path, cloud, monkeypatch):
    path = write(tmp_path / 'a.ply', cloud)
    monkeypatch.setitem(__import__('sys').modules, 'plyfile', None)
    with pytest.raises(MissingDependency, match='pip install plyfile'):
        PointReader().read(path)


def test_clouds_of_ros_may_be_padded_and_of_either_byte_order():
    point = np.dtype(dict(names=['x', 'y', 'z', 'i'], formats=['f4', 'f4', 'f4', 'u1'], offsets=[0, 4, 8, 16],
                          itemsize=20))
    points = np.zeros((2, 3), point)
    points['x'], points['i'] = np.arange(6).reshape(2, 3), 7
    fields = [SimpleNamespace(name=name, offset=point.fields[name][1], count=1, datatype=2 if name == 'i' else 7)
              for name in point.names]
    for big in (False, True):
        stored = points.astype(point.newbyteorder('>')) if big else points
        data = np.zeros((2, 70), np.uint8)
        data[:, :60] = np.frombuffer(stored.tobytes(), np.uint8).reshape(2, 60)
        message = SimpleNamespace(width=3, height=2, point_step=20, row_step=70, fields=fields, is_bigendian=big,
                                  data=data.reshape(-1))
        found = cloud_of(message)
        assert found['x'].tolist() == [0, 1, 2, 3, 4, 5] and found['i'].tolist() == [7] * 6
    fields[0].count = 1_000_000_000
    with pytest.raises(ValueError, match='140 bytes for 2 x 3 points of 20'):
        cloud_of(message)


def test_a_zip_that_is_called_npy_is_no_array(tmp_path):
    with open(tmp_path / 'a.npy', 'wb') as file:
        np.savez(file, a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(DataError, match=r'a\.npy: a zip or \.npz file .*several arrays'):
        PointReader().read(tmp_path / 'a.npy')


def pcd(points, *left_out, comments=1, **lines):
    """The text and bytes of a PCD file, with other lines in its header, or without some."""
    header = dict(VERSION='0.7', FIELDS='x y z intensity', SIZE='4 4 4 4', TYPE='F F F F', COUNT='1 1 1 1',
                  WIDTH=len(points), HEIGHT=1, VIEWPOINT='0 0 0 1 0 0 0', POINTS=len(points), DATA='binary')
    rows = [f'{name} {value}\n' for name, value in {**header, **lines}.items() if name not in left_out]
    return ('# a comment\n' * comments + ''.join(rows)).encode() + points.tobytes()


@pytest.mark.parametrize(('left_out', 'lines'), [
    (['COUNT'], {}), (['COUNT', 'VIEWPOINT'], dict(VERSION='.5')), ([], dict(DATA='BINARY')), ([], dict(comments=200))])
def test_pcd_files_of_other_writers_are_read(tmp_path, cloud, left_out, lines):
    points = matrix(cloud).astype('<f4')
    (tmp_path / 'a.pcd').write_bytes(pcd(points, *left_out, **lines))
    np.testing.assert_array_equal(PointReader().read(tmp_path / 'a.pcd').points, points)


def test_an_empty_pcd_is_an_empty_scan(tmp_path):
    (tmp_path / 'a.pcd').write_bytes(pcd(np.zeros((0, 4), '<f4')))
    assert PointReader().read(tmp_path / 'a.pcd').points.shape == (0, 4)


def test_other_matrices_of_an_npz_are_not_its_points(tmp_path):
    points = np.hstack([street()['xyz'], street()['i']]).astype('<f4')
    for others in (dict(pose=np.eye(4)), dict(normals=np.zeros((len(points), 3))), dict(calib=np.zeros((9000, 4)))):
        np.savez(tmp_path / 'a.npz', xyz=points[:, :3], intensity=points[:, 3:4], **others)
        np.testing.assert_array_equal(PointReader().read(tmp_path / 'a.npz').points, points)
    np.savez(tmp_path / 'b.npz', first=points, second=points)
    with pytest.raises(DataError, match='first, second'):
        PointReader().read(tmp_path / 'b.npz')


def test_points_that_hardly_differ_by_axis_still_tell_their_columns():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30_000, 3)) * (10, 12, 6)
    assert '3 columns' in doubt_of_columns(points.astype('<f4').ravel(), 4)
    assert not doubt_of_columns(points.astype('<f4').ravel(), 3)


@pytest.mark.parametrize('time', [1.5e9, 1.5e18])
def test_times_since_1970_are_numbers_of_a_scan(time):
    points = np.hstack([street()['xyz'], street()['i'], np.full((4800, 1), time)]).astype('<f4')
    assert not doubt_of_columns(points.ravel(), 5)
    assert '5 columns' in doubt_of_columns(points.ravel(), 4)
    assert 'float16' in doubt_of_columns(points[:, :4].astype('<f2').ravel().view('<f4'), 4)


def test_a_number_is_no_list_of_columns():
    with pytest.raises(ConfigError, match='columns=4'):
        PointReader(columns=4)


@pytest.mark.parametrize('lasers', [2, 3])
def test_named_columns_of_several_lasers_are_believed(tmp_path, lasers, monkeypatch):
    said = []
    monkeypatch.setattr(point_files, '_believed', set())
    monkeypatch.setattr(point_files, 'print_log', lambda text, *_: said.append(text))
    angle, rings = np.linspace(-np.pi, np.pi, 2000)[:, None], np.array([[-0.3, 0.05, 0.2]])[:, :lasers]
    distance = 12 + 3 * np.sin(3 * angle) + 10 * (rings > 0)
    points = np.stack([distance * np.cos(angle), distance * np.sin(angle), distance * np.tan(rings)], axis=-1)
    points = points.reshape(-1, 3).astype('<f4')
    for name in ('a.bin', 'b.bin'):
        points.tofile(tmp_path / name)
        found = PointReader('x,y,z', missing_intensity=0).read(tmp_path / name).points
        np.testing.assert_array_equal(found[:, :3], points)
    assert len(said) == 1 and f'looks like {3 * lasers} columns' in said[0]
    with pytest.raises(DataError, match=r'a\.bin: .*bytes that are no rows of 4'):
        PointReader('x,y,z,i').read(tmp_path / 'a.bin')


def test_columns_one_after_the_other_are_recognised(tmp_path, shared):
    points = np.hstack([street()['xyz'], street()['i']]).astype('<f4')
    real = [np.fromfile(path, '<f4') for path in sorted((shared / 'real').glob('*kitti*/**/velodyne/*.bin'))[::9]]
    for rows in (points, *(values.reshape(-1, 4) for values in real)):
        assert not doubt_of_columns(rows.ravel(), 4)
        assert 'looks transposed' in doubt_of_columns(rows.T.ravel(), 4)
    points.T.tofile(tmp_path / 'a.bin')
    with pytest.raises(DataError, match=r'a\.bin: .*looks transposed.*points\.T\.tofile'):
        PointReader().read(tmp_path / 'a.bin')
    assert len(PointReader('x,y,z,i').read(tmp_path / 'a.bin').points) == len(points)  # who names them is believed
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(6000, 4)).astype('<f4')
    assert not doubt_of_columns(ball[np.argsort(np.linalg.norm(ball, axis=1))].ravel(), 4)
