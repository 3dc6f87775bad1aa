"""What the LiDAR data sets share: readers of scans, and the arithmetic of their official scores."""
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception.common.dataset import SeededDataset
from perception.common.formats.points import Cloud, Frame, PointReader, find_points
from perception.common.metrics.confusion import confusion_matrix
from perception.common.saving import read_prediction
from perception.common.structures import PointSegSample
from perception.utils.errors import DataError
from perception.utils.outputs import inside

IGNORE = 255
Scan = str | Path | np.ndarray | Tensor
_EPS = 1e-15  # as in SemanticKITTI's official tool


class LidarScans(SeededDataset):
    """Base of the readers. A reader fills `METAINFO` and writes `__len__`, `read` and `path`.

    `dataset[i]` or `dataset[epoch, i]` gives `dict(inputs=dict(points=(N, 4) float32), data_samples=PointSegSample)`.
    The pipeline sees `dict(points, labels, sample_id, rng, draw)`, see SeededDataset.

    The class methods are what LidarPredictor asks about scans of users, which belong to no split: as they stand here
    they read files of any format, without labels, poses and past scans.

    Args:
        pipeline, seed: see SeededDataset.
    """

    FRAME = Frame()  # what nets of this data set are trained on
    LABEL_SUFFIX = ''  # of the files that `scan_labels` reads; none where scans have no label file each
    RAW_IDS: np.ndarray | None = None  # (256,) ids in label files of train ids, where predictions are saved as such
    POSES = 'scans of a data set that tells poses, such as SemanticKITTI'  # what `scan_poses` asks for

    def check_labelled(self, labels_of: Callable[[int], np.ndarray]) -> None:
        """See that there is something to learn; scans are read until one has a labelled point.

        Args:
            labels_of: train ids (N,) of a scan by its index.

        Raises:
            DataError: no scan has one.
        """
        scans = (labels_of(index) for index in range(len(self)))
        if not any(len(labels) < 2 or (labels != IGNORE).any() for labels in scans):  # reading refuses tiny scans
            raise DataError(f'{self.path(0)}: all points of all {len(self):,} scans are unlabelled or ignored, expected'
                            ' classes to learn in a training set. Check the labels and their map to classes.')

    def read(self, index: int) -> dict:
        """A scan as it is in its files: `points` (N, 4) float32, `sample_id` and, if known, `labels` (N,) int64."""
        raise NotImplementedError(f'{type(self).__name__} has no read; write one that gives points and a sample_id.')

    def path(self, index: int) -> str:
        """Where the points of a scan are."""
        raise NotImplementedError(f'{type(self).__name__} has no path; write one.')

    def pack(self, sample: dict, index: int) -> dict:
        """See SeededDataset."""
        return pack(sample, self.path(index))

    @classmethod
    def reader(cls, data: Mapping, **options) -> PointReader:
        """What reads scans of users.

        Args:
            data: config of the data set.
            **options: of PointReader, that the user gave.
        """
        return PointReader(**options, frame=cls.FRAME)

    @classmethod
    def find_scans(cls, path: str | Path) -> list[Path]:
        """The scan itself, or all scans of a folder in order; ROS recordings too.

        Raises:
            DataError: none is there.
        """
        return find_points(path)

    @classmethod
    def read_scan(cls, path: str | Path, reader: PointReader) -> Cloud:
        """A scan as users give it to a net.

        Raises:
            DataError: it cannot be read.
        """
        return reader.read(path)

    @classmethod
    def label_suffix(cls, data: Mapping) -> str:
        """How label files end that `scan_labels` reads; empty where scans have no label file each."""
        return cls.LABEL_SUFFIX

    @classmethod
    def scan_labels(cls, path: Path, num_points: int, data: Mapping) -> np.ndarray:
        """Train ids (N,) of a file that ends in `label_suffix`; unknown labels count as ignored.

        Args:
            path: the file.
            num_points: rows of the scan.
            data: config of the data set.

        Raises:
            DataError: it cannot be read, or has not a label for each point.
        """
        raise NotImplementedError(f'{cls.__name__} has a LABEL_SUFFIX but no scan_labels; write one.')

    @classmethod
    def raw_ids(cls, data: Mapping) -> np.ndarray | None:
        """(256,) ids of train ids in label files, None where they are the same; `data` is the data set's config."""
        return cls.RAW_IDS

    @classmethod
    def past_scans_of(cls, scan: Scan, data: Mapping, reader: PointReader) -> list[np.ndarray]:
        """Points (N, 4) of the scans before a scan, in its frame, that nets of this data set take with it.

        Args:
            scan: what was given to the predictor.
            data: config of the data set.
            reader: of the scans.
        """
        return []

    @classmethod
    def scan_poses(cls, files: Sequence[Path], data: Mapping) -> np.ndarray | None:
        """Poses of scans that users draw one after the other.

        Args:
            files: F scans, see `find_scans`.
            data: config of the data set.

        Returns:
            (F, 4, 4) from the frame of each scan to a common world, None where nothing tells.
        """
        return None


def pack(sample: dict, points_path: str = '') -> dict:
    """A sample of arrays as the tensors that the collate function takes.

    Args:
        sample: `points` (N, 4), `sample_id` and, if known, `labels` (N,), `origin_len`, `first_len`; where rows of the
            file were left out also `kept` (N,), which ones are there, and `num_points`, how many there were; labels
            are then of the ones or the others.
        points_path: the scan's file.

    Returns:
        dict(inputs=dict(points=Tensor), data_samples=PointSegSample).
    """
    points = torch.from_numpy(np.ascontiguousarray(sample['points'], np.float32))
    info = dict(sample_id=sample['sample_id'], points_path=points_path, num_points=len(points))
    info.update({key: sample[key] for key in ('origin_len', 'first_len', 'kept', 'num_points') if key in sample})
    data_sample = PointSegSample(metainfo=info)
    if 'labels' in sample:
        data_sample.labels = torch.from_numpy(np.ascontiguousarray(sample['labels'], np.int64))
    return dict(inputs=dict(points=points), data_samples=data_sample)


def check_rigid(matrices: np.ndarray, where: str) -> None:
    """Make sure that (M, 4, 4) matrices turn and shift, and nothing else; the first other one is named.

    Raises:
        DataError: a matrix that stretches or mirrors, or a shift of more than 1000 km.
    """
    turns = matrices[:, :3, :3]
    with np.errstate(all='ignore'):
        stretch = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
        good = (stretch < 1e-3) & (np.abs(matrices[:, :3, 3]).max(axis=1) < 1e6) & (np.linalg.det(turns) > 0)
    if not good.all():
        row = int(np.argmin(good))
        number = f' {row + 1}' if where.endswith('line') else ''
        raise DataError(f'{where}{number} is no rigid motion (rotation {np.round(turns[row], 4).tolist()}, shift '
                        f'{np.round(matrices[row, :3, 3], 2).tolist()}), expected a rotation and metres. Correct '
                        'it.')


def rows_of(values: np.ndarray | Tensor, sample: Mapping) -> np.ndarray | Tensor:
    """Of values (M, ...) for each row of a scan's file those (N, ...) of the points that were kept; or they are it."""
    kept = sample.get('kept')
    return values if kept is None or values is None or len(values) == len(kept) else values[kept]


def spread_rows(values: Tensor, sample: Mapping, fill: float) -> Tensor:
    """Of values (N, ...) of the points that were kept those (M, ...) of each row of the file; the others get `fill`."""
    kept = sample.get('kept')
    if kept is None:
        return values
    rows = values.new_full((sample.get('num_points'), *values.shape[1:]), fill)
    rows[torch.from_numpy(kept).to(values.device)] = values
    return rows


def labels_of(sample: Mapping, where: str, num_points: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and truth of a scan, checked.

    Args:
        sample: `pred_labels` (N,) and `labels` (N,), tensors of train ids, and `sample_id`.
        where: start of an error message.
        num_points: of the scan, at least N; None does not check it.

    Returns:
        (N,) predictions and (N,) labels, of the points that were kept.

    Raises:
        DataError: one is missing, or their numbers do not fit.
    """
    name = sample.get('sample_id', 'a scan')
    for key in ('labels', 'pred_labels'):
        if sample.get(key) is None:
            raise DataError(f'{where}: {name} has no {key}, expected labels and predictions. Evaluate a split that has '
                            'labels, with a model that predicts.')
    pred_labels, labels = (rows_of(sample[key].cpu().numpy(), sample) for key in ('pred_labels', 'labels'))
    if len(pred_labels) != len(labels) or (num_points is not None and len(labels) > num_points):
        points = '' if num_points is None else f' and {num_points:,} points'
        raise DataError(f'{where}: {len(pred_labels):,} predictions for {len(labels):,} labels{points} of {name}, '
                        'expected equal numbers. Predict every point of the scan.')
    return pred_labels, labels


def predictions_of(sample: Mapping, where: str) -> np.ndarray:
    """Predictions (N,) of all points of a scan, for a submission.

    Args:
        sample: `pred_labels` (N,), a tensor of train ids, `sample_id` and, if known, `num_points` and `origin_len`.
        where: start of an error message.

    Raises:
        DataError: they are missing, or are not one for each point.
    """
    name = sample.get('sample_id', 'a scan')
    if sample.get('pred_labels') is None:
        raise DataError(f'{where}: {name} has no pred_labels, expected predictions. Use a model that predicts.')
    pred_labels = sample['pred_labels'].cpu().numpy()
    num_points = sample.get('num_points', len(pred_labels))
    if sample.get('kept') is None:  # else `num_points` are those of the scan itself, without past ones
        num_points = sample.get('origin_len', num_points)
    if len(pred_labels) != num_points:
        raise DataError(f'{where}: {len(pred_labels):,} predictions for {num_points:,} points of {name}, expected '
                        'equal numbers. Predict every point of the scan.')
    return pred_labels


def other_predictions(folder: Path, sample: Mapping) -> Tensor:
    """What another model predicted for a scan, as `tools/test.py ... --save DIR` keeps it.

    Args:
        folder: DIR.
        sample: `sample_id` and `labels`; with `kept`, see `rows_of`.

    Returns:
        (N,) int64 train ids of the points that were kept.

    Raises:
        DataError: none are there, or not one for each point.
    """
    path = inside(folder, f'{sample["sample_id"]}.npy')
    saved = read_prediction(path)
    found = None if saved is None else rows_of(saved, sample)
    expected = len(rows_of(sample['labels'], sample))
    if found is None or len(found) != expected:
        raise DataError(f'{path}: {"no" if found is None else f"{len(found):,}"} predictions for {expected:,} points, '
                        f'expected one for each. Write them with tools/test.py ... --save {folder} on the same split.')
    return found


def official_confusion(pred_labels: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix over the official classes 0 (unlabelled) and 1..C.

    Args:
        pred_labels: (N,) train ids 0..C-1, 255 = unlabelled.
        labels: (N,) train ids 0..C-1, 255 = unlabelled.
        num_classes: C.

    Returns:
        (C + 1, C + 1) int64, rows = predicted, columns = true class.

    Raises:
        DataError: different lengths, or a number that is no train id.
    """
    # 255 becomes 0, k becomes k + 1; anything else stays out of range and is refused
    return confusion_matrix(_official(pred_labels), _official(labels), num_classes + 1)


def _official(train_ids: np.ndarray) -> np.ndarray:
    if train_ids.dtype == np.uint8:
        return train_ids + np.uint8(1)  # 255 wraps around to 0
    return np.where(train_ids == 255, 0, np.where(train_ids < 0, -1, train_ids + 1))


def scores(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """The scores of SemanticKITTI's official tool of a confusion matrix.

    Args:
        confusion: (C + 1, C + 1) int64, see `official_confusion`.
        classes: C names.

    Returns:
        `miou`, `accuracy`, `miou_present` (the mean over classes that occur in the truth) and `iou_<name>`, each in
        [0, 1].
    """
    counted = confusion[:, 1:]  # points whose truth is unlabelled do not count
    hits = np.diagonal(confusion)[1:]
    predicted, true = counted[1:].sum(axis=1), counted.sum(axis=0)
    iou = hits / (predicted + true - hits + _EPS)
    present = true > 0
    return dict(miou=float(iou.mean()), accuracy=float(hits.sum() / (predicted.sum() + _EPS)),
                miou_present=float(iou[present].mean()) if present.any() else 0.0,
                **{f'iou_{name}': float(value) for name, value in zip(classes, iou)})


def score_table(result: dict[str, float], confusion: np.ndarray, classes: Sequence[str]) -> str:
    """IoU, points and class name a line, then the means, in percent, of `scores` and a confusion (C + 1, C + 1)."""
    true = confusion[:, 1:].sum(axis=0)
    lines = [f'{"class":<22}{"IoU [%]":>8}{"points":>15}']
    lines += [f'{name:<22}{100 * result[f"iou_{name}"]:8.2f}{count:15,}' for name, count in zip(classes, true)]
    present = int((true > 0).sum())
    lines += [f'{"mIoU":<22}{100 * result["miou"]:8.2f}{true.sum():15,}',
              f'{f"mIoU of {present} present":<22}{100 * result["miou_present"]:8.2f}',
              f'{"accuracy":<22}{100 * result["accuracy"]:8.2f}']
    return '\n'.join(lines)
