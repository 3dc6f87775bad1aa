"""Recordings for the viewer Rerun: points, boxes, images and lines on a time line, live or in a `.rrd` file."""
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perception.utils.errors import MissingDependency
from perception.utils.optional import import_optional
from perception.utils.outputs import result_path

INSTALL = "pip install 'perception[rerun]'"


class Recording:
    """What is logged between two calls of `at` belongs to one moment.

    Args:
        path: of an `.rrd` file, which is there when the block ends; None opens the viewer.
        title: of the recording.

    Raises:
        MissingDependency: rerun-sdk is not installed, or its viewer cannot be opened.
        DataError: the file cannot be written.
    """

    def __init__(self, path: str | Path | None, title: str) -> None:
        self.rerun = import_optional('rerun', '--viewer rerun', INSTALL)
        self.stream = self.rerun.RecordingStream('perception', recording_id=title)
        self.path, self._moment = path, -1

    def __enter__(self) -> 'Recording':
        if self.path is None:
            if not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY') or os.name == 'nt'):
                raise MissingDependency('--viewer rerun: no display here, expected one for its window. Write a '
                                        'recording by --out FILE.rrd and open it where there is one.')
            self.rerun.spawn(recording=self.stream)
        else:
            self._writing = result_path(self.path)
            self.rerun.save(self._writing.__enter__(), recording=self.stream)
        return self

    def __exit__(self, *error: object) -> None:
        self.rerun.disconnect(self.stream)
        self.stream = None  # which writes what is left
        if self.path is not None:
            self._writing.__exit__(*error)

    def at(self, name: str) -> None:
        """Go on to the next moment, that of the source `name`."""
        self._moment += 1
        self.rerun.set_time('source', sequence=self._moment, recording=self.stream)
        self._log('name', self.rerun.TextDocument(name))

    def points(self, place: str, points: np.ndarray, colors: np.ndarray) -> None:
        """Log points.

        Args:
            place: in the viewer's tree, such as `'scan/prediction'`.
            points: (N, 3+) x, y, z [m].
            colors: (N, 3) uint8 RGB.
        """
        self._log(place, self.rerun.Points3D(np.asarray(points, np.float32)[:, :3], colors=colors, radii=0.04))

    def boxes(self, place: str, boxes: np.ndarray, colors: np.ndarray, texts: Sequence[str] = ()) -> None:
        """Log boxes in space.

        Args:
            place: in the viewer's tree.
            boxes: (K, 7+) x, y, z of the centre, l, w, h [m], yaw [rad].
            colors: (K, 3) uint8 RGB.
            texts: K texts beside them, or none.
        """
        boxes = np.asarray(boxes, np.float32)
        half = boxes[:, 6] / 2
        turns = np.stack([0 * half, 0 * half, np.sin(half), np.cos(half)], 1)  # x, y, z, w
        self._log(place, self.rerun.Boxes3D(centers=boxes[:, :3], half_sizes=boxes[:, 3:6] / 2, quaternions=turns,
                                            colors=colors, labels=list(texts) or None))

    def image(self, place: str, image: np.ndarray) -> None:
        """Log a picture (H, W, 3) uint8 RGB, as JPEG, which makes a small recording."""
        self._log(place, self.rerun.Image(image).compress(jpeg_quality=90))

    def lines(self, place: str, lines: Sequence[np.ndarray], colors: Sequence[Sequence[int]]) -> None:
        """Log polylines (P, 2) in pixels over an image, each in its colour."""
        self._log(place, self.rerun.LineStrips2D([np.asarray(line, np.float32) for line in lines],
                                                 colors=np.array(colors, np.uint8).reshape(-1, 3)))

    def _log(self, place: str, what: object) -> None:
        self.rerun.log(place, what, recording=self.stream)
