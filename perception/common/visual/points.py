"""Pictures of point clouds by Open3D, without a display.

Open3D draws every point in a colour that stands for its row number, so one rendering tells which point each pixel
shows. Prediction, ground truth and errors of a scan are then painted from the same rendering, in exact colours.
"""
import atexit
import contextlib
import ctypes
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import ModuleType

import numpy as np

from perception.common.visual.renderer import LARGEST
from perception.utils.errors import ConfigError, DataError, MissingDependency
from perception.utils.optional import import_optional
from perception.utils.paths import PROJECT_ROOT

BACKGROUND = (14, 14, 17)


@dataclass(frozen=True)
class View:
    """A camera on a point cloud, in metres of the LiDAR frame (x forward, y left, z up).

    Attributes:
        eye: where the camera stands.
        target: what it looks at.
        up: the direction that points upwards in the picture.
        fov: vertical opening angle in degrees; 0 gives a parallel projection of the given `height`.
        height: metres from the lower to the upper edge of a parallel projection.
        point_size: edge of a point in pixels.
        metres: edge of a point in metres, where that is more; near points are drawn larger, up to `NEAREST` times.
    """
    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float] = (0., 0., 1.)
    fov: float = 45.
    height: float = 0.
    point_size: float = 2.
    metres: float = 0.1


BEHIND = View(eye=(-12.5, 0., 9.5), target=(11., 0., -2.))
# forward is to the right, so that a street fills a wide picture
TOP = View(eye=(0., 0., 90.), target=(0., 0., 0.), up=(0., 1., 0.), fov=0., height=44., point_size=1., metres=0.)


def visible_points(points: np.ndarray, view: View = BEHIND, width: int = 640, height: int = 360) -> np.ndarray:
    """Which point each pixel of a view shows.

    Args:
        points: (N, 3+) x, y, z [m] and any further columns; N may be 0.
        view: the camera.
        width, height: size of the picture in pixels.

    Returns:
        (height, width) int64 row of the visible point, -1 where the background is seen.

    Raises:
        DataError: the shape is another one, or a coordinate is not finite.
        ConfigError: the picture is larger than `LARGEST`.
        MissingDependency: Open3D or the Vulkan libraries are missing.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] < 3:
        raise DataError(f'drawing points: an array of shape {points.shape}, expected (N, 3) or wider. '
                        'Pass one row of x, y, z per point.')
    xyz = np.ascontiguousarray(points[:, :3], dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(xyz).all(1))
    if len(bad):
        raise DataError(f'drawing points: row {bad[0]} is {xyz[bad[0]].tolist()}, expected finite coordinates. '
                        f'Remove the {len(bad)} rows that are not.')
    if not (0 < width <= LARGEST[0] and 0 < height <= LARGEST[1]):
        raise ConfigError(f'drawing points: a picture of {width} x {height} pixels, expected 1 x 1 to '
                          f'{LARGEST[0]} x {LARGEST[1]}. Choose a smaller one.')
    if not len(xyz):
        return np.full((height, width), -1, np.int64)
    return _renderer().draw(xyz, view, width, height).astype(np.int64)


def view_matrix(view: View, width: int, height: int) -> np.ndarray:
    """What a view does to a place: (4, 4), from x, y, z, 1 [m] to u w, v w, w, depth [m].

    u, v are pixels, 0 in the middle of the first one; w is 1 in a parallel projection, else the depth.
    """
    eye, forward = np.array(view.eye, np.float64), np.subtract(view.target, view.eye).astype(np.float64)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, view.up)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])  # right, down, forward
    to_camera = np.concatenate([axes, -axes @ eye[:, None]], axis=1)
    focal = height / 2 / np.tan(np.radians(view.fov) / 2) if view.fov else height / view.height
    scale = to_camera[2] if view.fov else np.array([0, 0, 0, 1.0])
    return np.stack([focal * to_camera[0] + (width - 1) / 2 * scale, focal * to_camera[1] + (height - 1) / 2 * scale,
                     scale, to_camera[2]])


def height_greys(points: np.ndarray, low: float, high: float) -> np.ndarray:
    """Greys (N, 3) uint8 RGB of points (N, 3+), brighter from z = low to z = high [m]: boxes in colours stand out."""
    share = np.clip((np.asarray(points, np.float32)[:, 2] - low) / (high - low), 0, 1)
    return np.round(72 + share[:, None] * (np.array([160, 170, 186]) - 72)).astype(np.uint8)


def paint(visible: np.ndarray, colors: np.ndarray, background: Sequence[int] = BACKGROUND) -> np.ndarray:
    """The picture of a view for given point colours.

    Args:
        visible: (H, W) visible point of each pixel, -1 for none, from `visible_points`.
        colors: (N, 3) uint8 RGB of each point.
        background: RGB where no point is.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    table = np.concatenate([np.asarray(colors, np.uint8).reshape(-1, 3), np.array([background], np.uint8)])
    return table[visible]


def shaded(colors: np.ndarray, remission: np.ndarray | None) -> np.ndarray:
    """Colours (N, 3) uint8 RGB, darker the less the points (N,) reflect.

    The scale of a sensor does not matter: the brightest twentieth keeps its colours. Where all reflect alike, as where
    a sensor tells nothing, all do.
    """
    if remission is None or not len(remission) or np.ptp(remission) == 0:
        return colors
    low, high = np.percentile(remission, (2, 95))
    share = np.clip((remission - low) / max(high - low, 1e-9), 0, 1)
    return np.round(colors * (0.6 + 0.4 * np.sqrt(share))[:, None]).astype(np.uint8)


def show(points: np.ndarray, colors: np.ndarray, title: str = 'points', point_size: float = 2.) -> bool:
    """Open a window to turn a point cloud by mouse, and wait until it is closed.

    Args:
        points: (N, 3+) x, y, z [m] and any further columns.
        colors: (N, 3) uint8 RGB.
        title: of the window.
        point_size: edge of a point in pixels.

    Returns:
        Whether there was a display to open the window on.
    """
    if not has_display():
        return False
    o3d = _open3d()
    window = o3d.visualization.Visualizer()
    if not window.create_window(title, 1280, 720):
        return False
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.asarray(points)[:, :3].astype(np.float64)))
    cloud.colors = o3d.utility.Vector3dVector(np.asarray(colors, np.float64) / 255)
    window.add_geometry(cloud)
    window.get_render_option().background_color = np.array(BACKGROUND) / 255
    window.get_render_option().point_size = point_size
    camera = window.get_view_control()
    camera.set_front(np.subtract(BEHIND.eye, BEHIND.target))
    camera.set_lookat(BEHIND.target)
    camera.set_up(BEHIND.up)
    camera.set_zoom(0.15)
    window.run()
    window.destroy_window()
    return True


def has_display() -> bool:
    """Whether a window can be opened. Asked first, as Open3D would go on without a window and never come back."""
    if sys.platform != 'linux':
        return True
    for library, connect, disconnect in (('libX11.so.6', 'XOpenDisplay', 'XCloseDisplay'),
                                         ('libwayland-client.so.0', 'wl_display_connect', 'wl_display_disconnect')):
        try:
            functions = ctypes.CDLL(library)
        except OSError:
            continue
        connect = getattr(functions, connect)
        connect.restype = ctypes.c_void_p
        if display := connect(None):
            getattr(functions, disconnect)(ctypes.c_void_p(display))
            return True
    return False


def _open3d() -> ModuleType:
    return import_optional('open3d', 'drawing point clouds', 'pip install open3d; apt-get install libusb-1.0-0')


class _Renderer:
    """A process that draws, see `renderer.py`; it is replaced after so many pictures, for each costs it memory."""

    PICTURES = 100

    def __init__(self) -> None:
        self.process = None
        self.drawn = 0
        atexit.register(self.stop)

    def start(self) -> None:
        if sys.platform == 'linux' and (reason := vulkan_problem()):
            raise _cannot_draw(reason)
        paths = [str(PROJECT_ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'perception.common.visual.renderer'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)))
        self.drawn = 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):  # what was not sent is of no interest any more
                    pipe.close()
            self.log.close()
            self.process = None

    def draw(self, xyz: np.ndarray, view: View, width: int, height: int) -> np.ndarray:
        """(height, width) int32 row of the visible one of (N, 3) float32 points, -1 for none."""
        if self.drawn >= self.PICTURES:
            self.stop()
        if self.process is None:
            self.start()
        self.drawn += 1
        size = 4 * width * height
        try:
            answer = b''
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps([asdict(view), width, height, len(xyz)]).encode() + b'\n')
                self.process.stdin.write(xyz.tobytes())
                self.process.stdin.flush()
                answer = self.process.stdout.read(size)
            if len(answer) < size:
                self.process.wait()
                self.log.seek(0)
                lines = self.log.read().decode(errors='replace').split('\n')
                raise _cannot_draw(next((line.strip() for line in reversed(lines) if line.strip()), 'Open3D ended'))
        except BaseException:  # after Ctrl-C too, the next request must not read an old answer
            self.stop()
            raise
        return np.frombuffer(answer, np.int32).reshape(height, width)


@functools.cache
def _renderer() -> _Renderer:
    return _Renderer()


def _cannot_draw(reason: str) -> MissingDependency:
    return MissingDependency(
        f'drawing point clouds: {reason}, expected Open3D and a Vulkan device (a software one will do). Run '
        '`pip install open3d` and `apt-get install libusb-1.0-0 libvulkan1 mesa-vulkan-drivers`.')


def vulkan_problem() -> str | None:
    """Why Vulkan cannot draw here, or None; Open3D itself just aborts where there is no driver."""
    try:
        vulkan = ctypes.CDLL('libvulkan.so.1')
    except OSError:
        return 'libvulkan.so.1 cannot be loaded'
    # struct VkInstanceCreateInfo without layers and extensions: its type number 1, then zeros
    create_info, instance, count = (ctypes.c_uint64 * 8)(1), ctypes.c_void_p(), ctypes.c_uint32()
    if vulkan.vkCreateInstance(create_info, None, ctypes.byref(instance)):
        return 'Vulkan finds no driver'
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    vulkan.vkDestroyInstance(instance, None)
    return None if count.value else 'Vulkan finds no device'
