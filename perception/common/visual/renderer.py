"""The process that draws for `points.py`.

Open3D 0.20 loses several megabytes with each picture, aborts the process when a renderer is removed or a second one is
made, and writes to the standard output. So it draws in a process of its own, which is replaced now and then.

A request is a line of JSON, `[view, width, height, number of points]`, then x, y, z as float32; the answer is
(height, width) int32, the visible point of each pixel or -1.
"""
import json
import math
import os
import signal
import sys

import numpy as np

NEAREST = 3  # times the size of far points
LARGEST = (1920, 1080)  # width, height of the renderer's own picture; smaller ones are a corner of it


def serve() -> None:
    """Answer requests from the standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    answers = os.fdopen(os.dup(1), 'wb')
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import open3d
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    renderer = open3d.visualization.rendering.OffscreenRenderer(*LARGEST)
    scene = renderer.scene
    scene.set_background([0., 0., 0., 1.])
    # colours carry numbers here: nothing may blend or tone them
    scene.view.set_post_processing(False)
    scene.view.set_antialiasing(False)
    scene.view.set_sample_count(1)
    requests = sys.stdin.buffer
    while line := requests.readline():
        view, width, height, num_points = json.loads(line)
        xyz = np.frombuffer(requests.read(12 * num_points), np.float32).reshape(-1, 3)
        answers.write(visible(open3d, renderer, xyz, view, width, height).astype(np.int32).tobytes())
        answers.flush()
    os._exit(0)  # without Open3D's own end, which aborts


def visible(open3d, renderer, xyz: np.ndarray, view: dict, width: int, height: int) -> np.ndarray:
    """Draw each of (N, 3) points in the colour that stands for its row, and read rows (height, width) back."""
    row = np.arange(1, len(xyz) + 1)[:, None]
    colors, sizes = (row >> (16, 8, 0) & 255).astype(np.float32) / 255, point_sizes(xyz, view, height)
    renderer.scene.clear_geometry()
    for size in np.unique(sizes):
        some = sizes == size
        cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor(xyz[some]))
        cloud.point.colors = open3d.core.Tensor(colors[some])
        material = open3d.visualization.rendering.MaterialRecord()
        material.shader = 'defaultUnlit'
        material.point_size = size
        renderer.scene.add_geometry(f'points of {size}', cloud, material)
    aim(open3d, renderer.scene.camera, view, width, height)
    image = np.asarray(renderer.render_to_image())[:height, :width].astype(np.int64)
    return (image << (16, 8, 0)).sum(-1) - 1


def point_sizes(xyz: np.ndarray, view: dict, height: int) -> np.ndarray:
    """Edge in pixels (N,) of points (N, 3) in a view of `height` pixels, larger for near ones; whole above the least.

    Args:
        xyz: points [m].
        view: of points.py, as a dict.
        height: of the picture in pixels.
    """
    least = view['point_size']
    if not view['fov'] or not view['metres']:
        return np.full(len(xyz), least)
    focal = height / 2 / math.tan(math.radians(view['fov']) / 2)
    distance = np.linalg.norm(xyz - np.array(view['eye'], np.float32), axis=1)
    return np.clip(np.round(view['metres'] * focal / np.maximum(distance, 1e-3)), least, NEAREST * least)


def aim(open3d, camera, view: dict, width: int, height: int) -> None:
    """Point the camera so that the view fills the upper left width x height pixels of the renderer's picture."""
    near, far = 0.5, 500.
    kinds = open3d.visualization.rendering.Camera.Projection
    kind = kinds.Perspective if view['fov'] else kinds.Ortho
    half = near * math.tan(math.radians(view['fov']) / 2) if view['fov'] else view['height'] / 2
    pixel = 2 * half / height
    left = -width / 2 * pixel
    camera.set_projection(kind, left, left + LARGEST[0] * pixel, half - LARGEST[1] * pixel, half, near, far)
    camera.look_at(*(np.array(view[name], np.float32) for name in ('target', 'eye', 'up')))


if __name__ == '__main__':
    serve()
