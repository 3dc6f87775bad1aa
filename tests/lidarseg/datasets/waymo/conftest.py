"""A handful of Waymo's frames as preprocess_waymo.py writes them, and simulated ones."""
from pathlib import Path

import numpy as np
import pytest

from perception.lidarseg.datasets.waymo.mini import write_waymo_mini

SHAPES = ((3, 8), (4, 5), (4, 5), (4, 5), (4, 5))  # of the range images of five LiDARs


def write_frame(folder: Path, seed: int = 0, labelled: bool = True) -> None:
    """A small frame, with the labels of TOP alone, as preprocess_waymo.py writes it."""
    rng = np.random.default_rng(seed)
    masks = [[rng.random(shape) < share for shape in SHAPES] for share in (.8, .2)]
    counts = [[int(mask.sum()) for mask in returns] for returns in masks]
    total = sum(map(sum, counts))
    folder.mkdir(parents=True)
    np.save(folder / 'coord.npy', rng.uniform(-30, 30, (total, 3)).astype(np.float32))
    np.save(folder / 'strength.npy', np.tanh(rng.exponential(.3, (total, 1))).astype(np.float32))
    np.save(folder / 'pose.npy', np.eye(4, dtype=np.float32))
    np.save(folder / 'mask.npy', np.array(masks, dtype=object), allow_pickle=True)
    if labelled:
        types_ = [rng.integers(0, 23, n) if k == 0 else np.zeros(n, int) for row in counts for k, n in enumerate(row)]
        np.save(folder / 'segment.npy', np.concatenate(types_).astype(np.int32) - 1)


def frame_folder(root: Path, split: str, context: str = '12_3_4', timestamp: int = 1000) -> Path:
    return root / split / f'segment-{context}_with_camera_labels' / str(timestamp)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two frames for training, one for validation, two for test."""
    root = tmp_path / 'waymo'
    write_frame(frame_folder(root, 'training', timestamp=2000), 1)
    write_frame(frame_folder(root, 'training', timestamp=1000), 2)
    (frame_folder(root, 'training') / 'mask.npy').unlink()  # the public script writes none there
    write_frame(frame_folder(root, 'validation'), 3)
    for i in range(2):
        write_frame(frame_folder(root, 'testing', f'9_{i}'), 4 + i, labelled=False)
    return root


@pytest.fixture(scope='session')
def mini(tmp_path_factory) -> Path:
    """One frame in training and validation, two for test."""
    return write_waymo_mini(tmp_path_factory.mktemp('mini') / 'waymo', train_segments=1, train_frames=1,
                            val_segments=1, val_frames=1, test_frames=2, columns=330, workers=1)
