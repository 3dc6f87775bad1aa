"""Pictures of point clouds by Open3D, without a display.

Open3D draws every point in a colour that stands for its row number, so one rendering tells which point each pixel
shows. Prediction, ground truth and errors of a scan are then painted from the same rendering, in exact colours.
"""
import atexit
import contextlib
import ctypes
import functools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from perception.utils.errors import ConfigError, DataError, MissingDependency
from perception.utils.optional import import_optional

BACKGROUND = (14, 14, 17)
LARGEST = (1920, 1080)  # width, height of the renderer's own picture; smaller ones are a corner of it


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
    """
    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float] = (0., 0., 1.)
    fov: float = 45.
    height: float = 0.
    point_size: float = 2.


BEHIND = View(eye=(-12.5, 0., 9.5), target=(11., 0., -2.))
# forward is to the right, so that a street fills a wide picture
TOP = View(eye=(0., 0., 90.), target=(0., 0., 0.), up=(0., 1., 0.), fov=0., height=44., point_size=1.)


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
    o3d, renderer = _renderer()
    number = np.arange(1, len(xyz) + 1)
    cloud = o3d.t.geometry.PointCloud(o3d.core.Tensor(xyz))
    cloud.point.colors = o3d.core.Tensor((number[:, None] >> (16, 8, 0) & 255).astype(np.float32) / 255)
    material = o3d.visualization.rendering.MaterialRecord()
    material.shader = 'defaultUnlit'
    material.point_size = view.point_size
    scene = renderer.scene
    scene.add_geometry('points', cloud, material)
    try:
        _aim(o3d, scene.camera, view, width, height)
        image = np.asarray(renderer.render_to_image())[:height, :width].astype(np.int64)
    finally:
        # Filament aborts the process when it is torn down while geometry is still in a scene
        scene.clear_geometry()
    return (image << (16, 8, 0)).sum(-1) - 1


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


def render(points: np.ndarray, colors: np.ndarray, view: View = BEHIND, width: int = 1280,
           height: int = 720) -> np.ndarray:
    """One picture of a coloured point cloud, without a display.

    Args:
        points: (N, 3+) x, y, z [m] and any further columns.
        colors: (N, 3) uint8 RGB.
        view: the camera.
        width, height: size of the picture in pixels.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    if len(colors) != len(points):
        raise DataError(f'drawing points: {len(colors):,} colours for {len(points):,} points, expected equal numbers. '
                        'Pass one RGB row per point.')
    return paint(visible_points(points, view, width, height), colors)


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


def _aim(o3d: ModuleType, camera: object, view: View, width: int, height: int) -> None:
    """Point Open3D's camera so that the view fills the upper left width x height pixels of the renderer's picture."""
    near, far = 0.5, 500.
    kinds = o3d.visualization.rendering.Camera.Projection
    kind = kinds.Perspective if view.fov else kinds.Ortho
    half = near * math.tan(math.radians(view.fov) / 2) if view.fov else view.height / 2
    pixel = 2 * half / height
    left = -width / 2 * pixel
    camera.set_projection(kind, left, left + LARGEST[0] * pixel, half - LARGEST[1] * pixel, half, near, far)
    camera.look_at(*(np.array(vector, np.float32) for vector in (view.target, view.eye, view.up)))


def _open3d() -> ModuleType:
    return import_optional('open3d', 'drawing point clouds', 'pip install open3d; apt-get install libusb-1.0-0')


@functools.cache
def _renderer() -> tuple[ModuleType, object]:
    """Open3D and the one renderer of this process: with two of them, or one alive at its end, Open3D aborts it."""
    atexit.register(_renderer.cache_clear)
    o3d = _open3d()
    if sys.platform == 'linux' and (reason := vulkan_problem()):
        raise MissingDependency(f'drawing point clouds: {reason}, expected a Vulkan device (a software one will do). '
                                'Run `apt-get install libvulkan1 mesa-vulkan-drivers`.')
    o3d.utility.set_verbosity_level(o3d.utility.VerbosityLevel.Error)
    with _no_output():
        renderer = o3d.visualization.rendering.OffscreenRenderer(*LARGEST)
    scene = renderer.scene
    scene.set_background([0., 0., 0., 1.])
    # colours carry numbers here: nothing may blend or tone them
    scene.view.set_post_processing(False)
    scene.view.set_antialiasing(False)
    scene.view.set_sample_count(1)
    return o3d, renderer


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """Keep Filament's greeting, which it writes past Python, off the standard output."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def vulkan_problem() -> str | None:
    """Why Vulkan cannot draw here, or None. Asked first, as Open3D aborts the whole process where no driver is."""
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
