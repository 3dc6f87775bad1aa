"""ROS bags, written here by rosbags, exported and read."""
import cv2
import numpy as np
import pytest

from perception.steering.datasets.udacity.bags import export_bag
from perception.steering.datasets.udacity.reader import UdacityCh2, read_table
from perception.utils.errors import DataError

rosbag1 = pytest.importorskip('rosbags.rosbag1')
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402

START = 1479425441182877835
REPORT = 'dbw_mkz_msgs/msg/SteeringReport'
TEXT = """std_msgs/Header header
float32 steering_wheel_angle
float32 steering_wheel_cmd
float32 steering_wheel_torque
float32 speed
bool enabled"""


@pytest.fixture(scope='module')
def store():
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg(TEXT, REPORT))
    return store


def write_bag(path, store, images=('compressed', 'bgr8', 'rgb8', 'bayer_rggb8', 'mono8'), count=12, report=True):
    """Frames of 16 x 12 pixels every 50 ms in all encodings in turn, reports every 30 ms from 10 ms before to after."""
    kinds = store.types
    header = lambda ns: kinds['std_msgs/msg/Header'](  # noqa: E731
        0, kinds['builtin_interfaces/msg/Time'](*divmod(ns, 10 ** 9)), 'x')
    picture = np.zeros((12, 16, 3), np.uint8)
    picture[:] = (200, 100, 50)  # red first
    with rosbag1.Writer(path) as writer:
        lines = {}

        def put(topic, kind, stamp, message):
            if topic not in lines:
                lines[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(lines[topic], stamp, store.serialize_ros1(message, kind))

        for k in range(count if images else 0):
            stamp, kind = START + k * 50_000_000, images[k % len(images)]
            if kind == 'compressed':
                data = cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].ravel()
                put('/center_camera/image_color/compressed', 'sensor_msgs/msg/CompressedImage', stamp,
                    kinds['sensor_msgs/msg/CompressedImage'](header(stamp), 'jpeg', data))
                continue
            pixels = picture[..., ::-1] if kind == 'bgr8' else picture
            if kind.startswith('bayer'):  # red and green in the first row, green and blue in the second
                pixels = np.zeros((12, 16, 1), np.uint8)
                pixels[::2, ::2], pixels[::2, 1::2], pixels[1::2, ::2], pixels[1::2, 1::2] = 200, 100, 100, 50
            elif kind == 'mono8':
                pixels = picture[..., :1]
            data = np.ascontiguousarray(pixels).ravel()
            put('/center_camera/image_color', 'sensor_msgs/msg/Image', stamp, kinds['sensor_msgs/msg/Image'](
                header(stamp), 12, 16, kind, 0, len(data) // 12, data))
        for k in range(40 if report else 0):
            stamp = START + 10_000_000 + k * 30_000_000
            seconds = .01 + k * .03
            put('/vehicle/steering_report', REPORT, stamp, store.types[REPORT](
                header(stamp), seconds, 0., 2 * seconds, 10 + seconds, True))
    return path


def test_a_bag_becomes_the_official_folder(tmp_path, store):
    folder = export_bag(write_bag(tmp_path / 'HMB_1.bag', store), tmp_path / 'out')
    table = read_table(folder / 'interpolated.csv')
    # the first frame came before the first report
    assert table.stamps.tolist() == [START + k * 50_000_000 for k in range(1, 12)]
    seconds = np.arange(1, 12) * .05
    assert np.allclose(table.angles, seconds, atol=1e-6) and np.allclose(table.torques, 2 * seconds, atol=1e-6)
    assert np.allclose(table.speeds, 10 + seconds, atol=1e-6)
    names = (folder / 'interpolated.csv').read_text().split('\n')[0]
    assert names == 'index,timestamp,width,height,frame_id,filename,angle,torque,speed,lat,long,alt'


def test_a_bag_in_the_data_root_is_read_in_all_encodings(tmp_path, store):
    write_bag(tmp_path / 'HMB_1.bag', store, count=21)
    data = UdacityCh2(tmp_path, 'train', clip_length=5, holdout=.3, input_size=(12, 16))
    assert [r.name for r in data.recordings] == ['HMB_1'] and len(data.recordings[0].frames) == 14
    clip = data.small_frames(0, np.arange(5)).astype(int)[:, 3:9, 4:12].mean((1, 2))
    colour = np.array([200, 100, 50])
    assert np.abs(clip[[0, 1, 2, 4]] - colour).max() < 3 and np.abs(clip[3] - 200).max() == 0  # 1 bgr .. 5 compressed
    stamp = (tmp_path / 'HMB_1/interpolated.csv').stat().st_mtime_ns
    UdacityCh2(tmp_path, 'val', clip_length=5, holdout=.3)
    assert (tmp_path / 'HMB_1/interpolated.csv').stat().st_mtime_ns == stamp


def test_bags_without_images_or_reports_and_damaged_ones(tmp_path, store):
    for name, options, message in (('a', dict(images=()), 'no image'), ('b', dict(report=False), 'no steering report')):
        with pytest.raises(DataError, match=message):
            export_bag(write_bag(tmp_path / f'{name}.bag', store, **options), tmp_path / name)
        assert not (tmp_path / name).exists()
    data = write_bag(tmp_path / 'c.bag', store).read_bytes()
    (tmp_path / 'd.bag').write_bytes(data[:len(data) // 2])
    with pytest.raises(DataError, match=r'd\.bag: the recording cannot be read'):
        export_bag(tmp_path / 'd.bag', tmp_path / 'd')
    assert not list(tmp_path.glob('.*part'))
