"""Submissions to Waymo's 3D semantic segmentation server: range images of each frame, then one checked protobuf.

    <out_dir>/frames/CONTEXT_TIMESTAMP.npz    ri_return1, ri_return2 (H, W, 2) int32: instance 0, official type
    <out_dir>/about.json                      what the leaderboard shows, and the frames of this submission
    <out_dir>/submission.bin                  SemanticSegmentationSubmission; only where waymo-open-dataset is installed

The protobuf's classes come with the package waymo-open-dataset, which needs an old Python and TensorFlow and so seldom
fits beside PyTorch. Where it is missing, the frames are written and checked all the same; in an environment that has
it, `proto.py` makes the protobuf of them and needs nothing else.
"""
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from perception.common.submission import Submission
from perception.lidarseg.datasets.base import predictions_of
from perception.lidarseg.datasets.waymo import proto as waymo_proto
from perception.lidarseg.datasets.waymo import reader as waymo
from perception.registry import METRICS
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import ConfigError, DataError

FRAMES, BINARY, ABOUT = 'frames', 'submission.bin', 'about.json'


@METRICS.register_module()
class WaymoSubmission(Submission):
    """Writes the range images of each predicted frame, and the protobuf of all at the end.

    Predictions of the TOP LiDAR are submitted, of both returns.

    Args:
        out_dir: folder of the submission.
        data_root: folder of the data set; the data set's own by default.
        split: 'test', or 'val' to try the server.
        account_name: e-mail address registered with Waymo.
        unique_method_name: short name on the leaderboard.
        authors, affiliation, description, method_link: as the leaderboard shows them.
        collect_device, prefix: as in mmengine.

    Raises:
        ConfigError: a split without masks.
    """

    unit = 'frames'
    advice = 'Predict every frame of the split; no submission was written.'

    def __init__(self, out_dir: str | Path, data_root: str | Path | None = None, split: str = 'test',
                 account_name: str = '', unique_method_name: str = '', authors: Sequence[str] = (),
                 affiliation: str = '', description: str = '', method_link: str = '', collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(out_dir, collect_device, prefix)
        if split not in ('test', 'val'):
            raise ConfigError(f"WaymoSubmission: split={split!r}, expected 'test' or 'val'. The server scores these.")
        self.data_root, self.split = data_root, split
        self.about = dict(account_name=account_name, unique_method_name=unique_method_name, authors=list(authors),
                          affiliation=affiliation, description=description, method_link=method_link)

    def write(self, name: str, sample: Mapping) -> str:
        """Write the range images of a frame with `points_path` (its folder) and `pred_labels` (N,).

        Raises:
            DataError: predictions are missing, too many or too few, or no train ids; the disk is full.
        """
        pred_labels = predictions_of(sample, 'WaymoSubmission')
        images = range_images(pred_labels, waymo.read_masks(Path(sample['points_path']), len(pred_labels)), name)
        path = self.out_dir / FRAMES / f'{name}.npz'
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, DataError) as part, open(part, 'wb') as file:
            np.savez_compressed(file, ri_return1=images[0], ri_return2=images[1])
        return name

    def finish(self, results: list[str]) -> tuple[Path, list[str]]:
        """Check what was written in this run and write the protobuf where it can be.

        Raises:
            ConfigError: nothing tells where the data set is.
            DataError: the disk is full; no protobuf is left.
        """
        data_root = self.data_root or (self.dataset_meta or {}).get('data_root')
        if data_root is None:
            raise ConfigError('WaymoSubmission: no data_root, expected the folder of the data set. Pass it.')
        binary, names = self.out_dir / BINARY, sorted(set(results))
        for path in (binary, self.out_dir / ABOUT):  # of an earlier run, whose frames may be others now
            path.unlink(missing_ok=True)
        problems = frame_problems(self.out_dir, names, data_root, self.split)
        if problems:
            return self.out_dir, problems
        with atomic_path(self.out_dir / ABOUT, DataError) as part:
            part.write_text(json.dumps(dict(self.about, frames=names), indent=1) + '\n')
        empty = [key for key in ('account_name', 'unique_method_name') if not self.about[key]]
        if empty:
            print_log(f'{self.out_dir / ABOUT}: {" and ".join(empty)} is empty, which the server refuses. Set it under '
                      'submission in the config or by --cfg-options, or there, and then run proto.py.', 'current',
                      logging.WARNING)
        if not waymo_proto.available():
            print_log(f'{self.out_dir / FRAMES}: no protobuf of them, since waymo-open-dataset is not installed. In an '
                      f'environment that has it run `python {Path(waymo_proto.__file__)} {self.out_dir}`.', 'current',
                      logging.WARNING)
            return self.out_dir / FRAMES, []
        with atomic_path(binary, DataError) as part:
            part.write_bytes(waymo_proto.serialize(self.out_dir, self.about, names))
        self.upload = f'Upload it at {waymo.DOWNLOAD}.'
        return binary, []


def range_images(pred_labels: np.ndarray, masks: list[list[np.ndarray]], name: str) -> list[np.ndarray]:
    """Predictions of the TOP LiDAR as range images of both returns.

    Args:
        pred_labels: (N,) train ids 0..21 of all points of a frame.
        masks: see `read_masks`.
        name: of the frame, for messages.

    Returns:
        two (H, W, 2) int32 images: instance 0 and official type 1..22, 0 where there is no point.

    Raises:
        DataError: another number of predictions than points, or a number that is no train id.
    """
    counts = [[int(mask.sum()) for mask in returns] for returns in masks]
    if sum(map(sum, counts)) != len(pred_labels):
        raise DataError(f'WaymoSubmission: {len(pred_labels):,} predictions for {sum(map(sum, counts)):,} points of '
                        f'{name}, expected equal numbers. Predict every point of the frame.')
    wrong = (pred_labels < 0) | (pred_labels >= len(waymo.CLASSES))
    if wrong.any():
        raise DataError(f'{name}: predicted class {pred_labels[wrong][0]}, expected train ids '
                        f'0..{len(waymo.CLASSES) - 1}. Check the number of classes of the model.')
    images = []
    for start, returns, count in zip((0, sum(counts[0])), masks, counts):
        image = np.zeros((*returns[0].shape, 2), np.int32)
        image[returns[0], 1] = pred_labels[start:start + count[0]] + 1
        images.append(image)
    return images


def frame_problems(out_dir: str | Path, names: Sequence[str], data_root: str | Path, split: str = 'test') -> list[str]:
    """Compare the frames of a submission with those of the data set.

    Args:
        out_dir: folder of the submission.
        names: ids of the frames to submit.
        data_root: folder of the data set.
        split: 'test' or 'val'.

    Returns:
        one sentence for each problem.

    Raises:
        DataError: the split is not there or damaged.
    """
    frames = {waymo.frame_id(folder): folder for folder in waymo.list_frames(data_root, split)}
    problems = [f'frame {name} is not in the {split} split' for name in names if name not in frames]
    names = set(names)
    for name, folder in frames.items():
        path = Path(out_dir, FRAMES, f'{name}.npz')
        if name not in names or not path.is_file():
            problems.append(f'frame {name} is missing')
            continue
        masks = waymo.read_masks(folder)
        for image, returns in zip(waymo_proto.read_frame(path), masks):
            if image.shape != (*returns[0].shape, 2) or not np.array_equal(image[..., 1] > 0, returns[0]):
                problems.append(f'{path.name} labels other pixels than are points')
                break
            if image.min() < 0 or image[..., 1].max() > len(waymo.CLASSES):
                problems.append(f'{path.name} holds a number that is no type 0..{len(waymo.CLASSES)}')
                break
    return problems
