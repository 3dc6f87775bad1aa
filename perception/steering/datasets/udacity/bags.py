"""ROS bags of Udacity's challenge 2, exported as its own tools do: images, and a list with the wheel at each of them.

Read by the package rosbags, without ROS. The wheel is interpolated linearly onto the time stamps of the images; frames
before the first and after the last report of the car are left out, where the official export writes zeros.
"""
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log

from perception.common.formats.point_files import is_recording
from perception.utils.errors import DataError, PerceptionError
from perception.utils.optional import import_optional
from perception.utils.outputs import part_folder

CENTER = 'center'
COLUMNS = ('index', 'timestamp', 'width', 'height', 'frame_id', 'filename', 'angle', 'torque', 'speed', 'lat', 'long',
           'alt')
CAMERA = '/center_camera/image_color'
IMAGES = (CAMERA, f'{CAMERA}/compressed')
REPORT = '/vehicle/steering_report'
FIXES = ('/vehicle/gps/fix', '/fix')
BAYER = dict(bayer_rggb8=cv2.COLOR_BayerBG2RGB, bayer_bggr8=cv2.COLOR_BayerRG2RGB, bayer_gbrg8=cv2.COLOR_BayerGR2RGB,
             bayer_grbg8=cv2.COLOR_BayerGB2RGB)  # OpenCV names the second row's pixels
CHANNELS = dict(rgb8=3, bgr8=3, rgba8=4, bgra8=4, mono8=1, **dict.fromkeys(BAYER, 1))


def find_bags(root: Path) -> list[Path]:
    """Recordings below a folder that are not exported yet, but for HMB_3, the test, which holds no reports."""
    found = sorted(p for p in root.glob('*') if is_recording(p) and not p.name.startswith('.'))
    return [bag for bag in found if bag.stem != 'HMB_3' and not (root / bag.stem / 'interpolated.csv').is_file()]


def export_bag(bag: str | Path, folder: str | Path) -> Path:
    """Write the centre images of a recording and `interpolated.csv`, wholly or not at all.

    Args:
        bag: a ROS 1 bag, a ROS 2 bag or an MCAP file.
        folder: that appears.

    Returns:
        the folder.

    Raises:
        DataError: the recording cannot be read or has no images or no reports, or the folder cannot be written.
        MissingDependency: rosbags is absent.
    """
    bag, folder = Path(bag), Path(folder)
    print_log(f'{bag}: exported to {folder}, once.', 'current')
    try:
        with part_folder(folder) as part:
            _write(bag, part)
            part.rename(folder)
    except OSError as error:
        if (folder / 'interpolated.csv').is_file():  # another process was faster
            return folder
        raise DataError(f'{folder}: cannot be written ({error.strerror or error}), expected room for the images of '
                        f'{bag.name}. Free some space, or export it elsewhere by export_bag.') from error
    return folder


def _write(bag: Path, folder: Path) -> None:
    (folder / CENTER).mkdir()
    frames, reports, fixes = {}, {}, {}
    for topic, stamp, message in _messages(bag):
        if topic == REPORT:
            reports[stamp] = (message.steering_wheel_angle, message.steering_wheel_torque, message.speed)
        elif topic in FIXES:
            fixes[stamp] = (message.latitude, message.longitude, message.altitude)
        elif stamp not in frames:
            frames[stamp] = _save(message, folder / CENTER / str(stamp), bag)
    for what, found in (('image of the centre camera', frames), ('steering report', reports)):
        if not found:
            raise DataError(f'{bag}: no {what}, expected topics {IMAGES[0]} and {REPORT}. Take a recording of '
                            "Udacity's challenge 2.")
    stamps = np.array(sorted(frames), np.int64)
    known = np.array(sorted(reports), np.int64)
    kept = stamps[(stamps >= known[0]) & (stamps <= known[-1])]
    if not len(kept):
        raise DataError(f'{bag}: no image between the first and the last of {len(known):,} steering reports, expected '
                        'some. The recording is damaged.')
    values = _interpolated(kept, known, reports)
    places = _interpolated(kept, np.array(sorted(fixes), np.int64), fixes) if fixes else np.zeros((len(kept), 3))
    with open(folder / 'interpolated.csv', 'w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(COLUMNS)
        for stamp, row, place in zip(kept.tolist(), values, places):
            height, width, ending = frames[stamp]
            index = np.datetime64(stamp, 'ns').astype('datetime64[us]').item().isoformat(' ')
            writer.writerow([index, stamp, width, height, 'center_camera', f'{CENTER}/{stamp}{ending}',
                             *(f'{value:.12g}' for value in (*row, *place))])


def _interpolated(stamps: np.ndarray, known: np.ndarray, values: dict[int, tuple]) -> np.ndarray:
    """(N, K) values at the time stamps, those of the nearest where there is none beyond."""
    table = np.array([values[stamp] for stamp in known.tolist()], np.float64)
    at = (stamps - known[0]) / 1e9  # small numbers keep all digits
    return np.stack([np.interp(at, (known - known[0]) / 1e9, column) for column in table.T], 1)


def _messages(bag: Path) -> Iterator[tuple[str, int, Any]]:
    """Topic, time stamp [ns] of the header and message of what is exported."""
    kit = import_optional('rosbags.highlevel', 'reading ROS recordings', 'pip install rosbags')
    stores = import_optional('rosbags.typesys', 'reading ROS recordings', 'pip install rosbags')
    count = 0
    try:
        with kit.AnyReader([bag], default_typestore=stores.get_typestore(stores.Stores.LATEST)) as reader:
            wanted = [c for c in reader.connections if c.topic in (*IMAGES, REPORT, *FIXES)]
            for connection, _, data in reader.messages(connections=wanted) if wanted else ():
                message = reader.deserialize(data, connection.msgtype)
                stamp = message.header.stamp
                yield connection.topic, stamp.sec * 10 ** 9 + stamp.nanosec, message
                count += 1
    except (PerceptionError, GeneratorExit, OSError):
        raise
    except (Exception, MemoryError) as error:  # damaged recordings fail in the library in many ways
        raise DataError(f'{bag}: the recording cannot be read after {count:,} messages ({type(error).__name__}: '
                        f'{" ".join(str(error).split())[:120]}), expected a ROS bag. Copy it again.') from error


def _save(message: Any, path: Path, bag: Path) -> tuple[int, int, str]:
    """Write an image; its rows, columns and ending."""
    data = np.asarray(message.data, np.uint8)
    if not hasattr(message, 'encoding'):  # compressed
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
        if image is None:
            raise DataError(f'{bag}: the image at {path.name} has {len(data):,} bytes that are none, expected JPEG or '
                            'PNG. The recording is damaged.')
        ending = '.png' if data[:4].tobytes() == b'\x89PNG' else '.jpg'
        path.with_name(path.name + ending).write_bytes(data.tobytes())
        return *image.shape[:2], ending
    channels = CHANNELS.get(message.encoding)
    if channels is None or message.step < message.width * channels or len(data) != message.step * message.height:
        raise DataError(f'{bag}: the image at {path.name} has {len(data):,} bytes of encoding {message.encoding!r} for '
                        f'{message.height} x {message.width} pixels, expected one of {", ".join(CHANNELS)}. Export it '
                        'by its own tools.')
    image = data.reshape(message.height, message.step)[:, :message.width * channels]
    image = image.reshape(message.height, message.width, channels)
    if message.encoding in BAYER:
        image = cv2.cvtColor(image, BAYER[message.encoding])[..., ::-1]
    elif message.encoding.startswith('rgb'):
        image = image[..., 2::-1]
    path.with_name(f'{path.name}.png').write_bytes(cv2.imencode('.png', image[..., :3])[1].tobytes())
    return *image.shape[:2], '.png'
