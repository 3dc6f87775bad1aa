"""Range images of predicted frames to Waymo's protobuf; needs NumPy and waymo-open-dataset, nothing of this project.

    python proto.py SUBMISSION_FOLDER      reads about.json and its frames/*.npz, writes submission.bin
"""
import argparse
import importlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def available() -> bool:
    """Whether the package is installed and can be imported."""
    try:
        _modules()
    except (ImportError, TypeError):  # its generated code raises TypeError beside a newer protobuf
        return False
    return True


def serialize(folder: str | Path, about: dict, names: Iterable[str]) -> bytes:
    """A `SemanticSegmentationSubmission` of frames on disk.

    Args:
        folder: holds `frames/CONTEXT_TIMESTAMP.npz`.
        about: account_name, unique_method_name, authors, affiliation, description, method_link.
        names: `CONTEXT_TIMESTAMP` of each frame.

    Returns:
        the serialised message.
    """
    dataset, metrics, submission = _modules()
    message = submission.SemanticSegmentationSubmission()
    for key, value in about.items():
        if key == 'authors':
            message.authors.extend(value)
        else:
            setattr(message, key, value)
    message.sensor_type = submission.SemanticSegmentationSubmission.LIDAR_ALL
    message.number_past_frames_exclude_current = 0
    message.number_future_frames_exclude_current = 0
    for name in names:
        first, second = read_frame(Path(folder, 'frames', f'{name}.npz'))
        laser = dataset.Laser()
        laser.name = dataset.LaserName.TOP
        laser.ri_return1.segmentation_label_compressed = _compressed(first, dataset)
        laser.ri_return2.segmentation_label_compressed = _compressed(second, dataset)
        frame = metrics.SegmentationFrame()
        frame.segmentation_labels.append(laser)
        frame.context_name, timestamp = name.rsplit('_', 1)
        frame.frame_timestamp_micros = int(timestamp)
        message.inference_results.frames.append(frame)
    return message.SerializeToString()


def read_frame(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Range images (H, W, 2) int32 of the first and the second return."""
    with np.load(path, allow_pickle=False) as images:
        return images['ri_return1'], images['ri_return2']


def _compressed(image: np.ndarray, dataset: object) -> bytes:
    """A range image as a compressed `MatrixInt32`."""
    matrix = dataset.MatrixInt32()
    matrix.shape.dims.extend(image.shape)
    matrix.data.extend(image.reshape(-1).tolist())
    return zlib.compress(matrix.SerializeToString())


def _modules() -> tuple:
    names = ('dataset_pb2', 'protos.segmentation_metrics_pb2', 'protos.segmentation_submission_pb2')
    return tuple(importlib.import_module(f'waymo_open_dataset.{name}') for name in names)


def main(arguments: list[str] | None = None) -> None:
    """Read a submission folder and write its protobuf."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='what tools/test.py --submit wrote')
    folder = parser.parse_args(arguments).folder
    if not (folder / 'about.json').is_file():
        parser.error(f'{folder}: no about.json in it, expected the folder that tools/test.py --submit wrote')
    if not available():
        parser.error('the package waymo-open-dataset cannot be imported; run pip install waymo-open-dataset-tf-2-12-0')
    about = json.loads((folder / 'about.json').read_text())
    names = about.pop('frames', None)  # the folder may hold others of an earlier run
    if names is None:
        parser.error(f'{folder}/about.json: it came without a list of frames, expected one as tools/test.py --submit '
                     'writes it; run that again')
    (folder / 'submission.bin').write_bytes(serialize(folder, about, names))


if __name__ == '__main__':
    main()
