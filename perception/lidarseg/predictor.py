"""Label scans with a trained model and draw them; what `perception.apis.inference` offers for this room."""
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.common.formats.kitti import read_labels, read_points
from perception.common.saving import SavedPredictions
from perception.common.structures import PointSegSample
from perception.common.visual.points import show as show_points
from perception.common.visual.video import find_files
from perception.lidarseg.charts import DrawCharts
from perception.lidarseg.datasets.semantickitti.reader import (
    SemanticKITTI,
    SemanticKITTIMultiScan,
    frame_number,
    lidar_poses,
    past_points,
    to_train_ids,
)
from perception.lidarseg.distance import DistanceMetric
from perception.lidarseg.draw import draw_scan, height_colors, label_colors
from perception.lidarseg.ensemble import EnsembleSegmentor
from perception.lidarseg.film import Film, check_camera, find_poses
from perception.utils.errors import DataError

Scan = str | Path | np.ndarray | Tensor
SUFFIXES = ('.bin',)


def predict(model: BaseModel, scan: Scan) -> PointSegSample:
    """Label every point of a scan.

    To a net for several scans, those before the file are given too, where it lies in a sequence in the official layout.

    Args:
        model: in evaluation mode.
        scan: a `.bin` file (of Waymo a frame's folder, or the `coord.npy` in it), or an (N, 4) array or tensor of
            x, y, z [m] and intensity, N may be 0.

    Returns:
        its sample with `pred_labels` (N,) int64 train ids on the CPU, `sample_id` and `num_points`.

    Raises:
        DataError: a scan that cannot be read, has another shape or is not finite.
    """
    points = read_scan(scan, dataset_of(model))
    meta = dict(sample_id='scan', points_path='', num_points=len(points))
    if isinstance(scan, (str, Path)):
        meta.update(sample_id=Path(scan).stem, points_path=str(scan))
    past = _past_of(model, scan)
    if past:
        meta['origin_len'], points = len(points), np.concatenate([points, *past])
    sample = dict(inputs=dict(points=torch.from_numpy(points)), data_samples=PointSegSample(metainfo=meta))
    with torch.no_grad():
        return model.test_step(pseudo_collate([sample]))[0].cpu()


def _past_of(model: nn.Module, scan: Scan) -> list[np.ndarray]:
    """Points of the scans before a scan in its frame, for nets that take several; none where they cannot be found."""
    cfg = getattr(model, 'dataset_cfg', {})
    if not issubclass(cfg.get('type', object), SemanticKITTIMultiScan):
        return []
    count = cfg.get('past_scans', 2)
    try:
        if not isinstance(scan, (str, Path)):
            raise DataError('an array came, expected the file of a scan to find its neighbours by. Give the file.')
        path = Path(scan).absolute()
        poses = lidar_poses(path.parents[1], frame_number(path) + 1)
        return [points for _, points in past_points(path, poses, count)]
    except DataError as error:
        print_log(f'The net was trained on {count + 1} scans at a time but labels this one alone, which tells moving '
                  f'objects badly: {error}', 'current', logging.WARNING)
        return []


def draw(model: BaseModel, scan: Scan, sample: PointSegSample, labels: np.ndarray | None = None) -> np.ndarray:
    """Picture of a predicted scan.

    Args:
        model: its `dataset_meta` names classes and colours.
        scan: the file or array that was given to `predict`.
        sample: what `predict` returned.
        labels: (N,) true train ids, 255 = ignored, if known: adds ground truth and errors.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    meta, points = model.dataset_meta, read_scan(scan, dataset_of(model))
    return draw_scan(points, meta['classes'], meta['palette'], sample.pred_labels.numpy(), labels, sample.sample_id,
                     forward=meta.get('forward', 0.0))


def pictures(path: str | Path, model: BaseModel | None = None, labels: str | Path | None = None,
             show: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    """Draw a scan, or each scan of a folder, with predictions of a model, labels, or both; SemanticKITTI's classes.

    Args:
        path: a `.bin` file, or a folder of them.
        model: None draws without predictions.
        labels: a `.label` file, or the folder with the labels of all scans.
        show: also open a window for each scan, where there is a display.

    Yields:
        name and picture of each scan.

    Raises:
        DataError: a scan or its labels cannot be read.
    """
    meta = SemanticKITTI.METAINFO if model is None else model.dataset_meta
    for file, points, pred_labels, truth in labelled_scans(path, model, labels):
        yield file.stem, draw_scan(points, meta['classes'], meta['palette'], pred_labels, truth, file.name,
                                   forward=meta.get('forward', 0.0))
        if show:
            seen = truth if pred_labels is None else pred_labels
            colors = height_colors(points) if seen is None else label_colors(seen, meta['palette'])
            show = show_points(points, colors, file.name)
            if not show:
                print_log('--show: no display can be opened here, expected DISPLAY or WAYLAND_DISPLAY to name one. '
                          'Look at the pictures that are written.', 'current', logging.WARNING)


def flight(path: str | Path, model: BaseModel | None = None, labels: str | Path | None = None,
           camera: str = 'follow') -> Iterator[tuple[str, np.ndarray]]:
    """Frames of a film of a drive, see `perception/lidarseg/film.py`.

    Args:
        path: a folder of `.bin` files.
        model, labels: see `pictures`; with both, errors stand beside the prediction.
        camera: 'follow', behind the car, or 'fixed', beside the road, which needs the poses of SemanticKITTI's layout.

    Yields:
        name and picture of each scan.

    Raises:
        ConfigError: an unknown camera.
        DataError: a scan or its labels cannot be read, or a fixed camera without poses.
    """
    check_camera(camera)
    meta, files = SemanticKITTI.METAINFO if model is None else model.dataset_meta, find_scans(path)
    film = Film(camera, find_poses(files), meta['classes'], meta['palette'], meta.get('forward', 0.0))
    for i, (file, points, pred_labels, truth) in enumerate(labelled_scans(path, model, labels)):
        title = f'{file.parent.parent.name} / {file.name}   {i + 1} of {len(files)}'
        yield file.stem, film.frame(i, points, pred_labels, truth, title)


def labelled_scans(path: str | Path, model: BaseModel | None = None, labels: str | Path | None = None,
                   ) -> Iterator[tuple[Path, np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """File, points (N, 4), predicted and true train ids (N,) of a scan or of each scan of a folder; see `pictures`."""
    kind = dataset_of(model)
    if labels is not None and not issubclass(kind, SemanticKITTI):
        raise DataError(f'{labels}: label files came for a net of {kind.__name__}, expected those of SemanticKITTI. '
                        'Draw its scans with their labels by tools/test.py --draw.')
    for file in find_scans(path):
        points, truth, pred_labels = read_scan(file, kind), None, None
        if labels is not None:
            label_path = Path(labels, f'{file.stem}.label') if Path(labels).is_dir() else Path(labels)
            truth = to_train_ids(read_labels(label_path, len(points)), label_path, strict=False, table=kind.TABLE)
        if model is not None:
            pred_labels = predict(model, file).pred_labels.numpy()
        yield file, points, pred_labels, truth


def dataset_of(model: nn.Module | None) -> type:
    """The data set that a model from `perception.apis.inference.load` knows; SemanticKITTI for any other."""
    return getattr(model, 'dataset_cfg', {}).get('type', SemanticKITTI)


def find_scans(path: str | Path) -> list[Path]:
    """The scan itself, or all `.bin` files of a folder in order.

    Raises:
        DataError: neither is there.
    """
    return find_files(path, SUFFIXES, 'a scan such as sequences/08/velodyne/000000.bin or a folder of scans')


def read_scan(scan: Scan, kind: type = SemanticKITTI) -> np.ndarray:
    """Points of a file or an array as (N, 4) float32.

    Args:
        scan: the file or array.
        kind: data set in whose format the file is; it may have a function `read_scan` for that.

    Raises:
        DataError: an unreadable file, an array of another shape.
    """
    if isinstance(scan, (str, Path)):
        return np.ascontiguousarray(getattr(kind, 'read_scan', read_points)(scan)[:, :4])  # nuScenes: ring behind
    points = scan.detach().cpu().numpy() if isinstance(scan, Tensor) else np.asarray(scan)
    if points.ndim != 2 or points.shape[1] != 4:
        raise DataError(f'predict: an array of shape {points.shape}, expected (N, 4): x, y, z, intensity. Select or '
                        'add these columns first.')
    return np.ascontiguousarray(points, np.float32)


def ensemble(models: Sequence[nn.Module]) -> EnsembleSegmentor:
    """One model of several; the mean of their probabilities decides."""
    return EnsembleSegmentor(models)


def saved(model: nn.Module, folder: str | Path, stamp: Mapping, replace: bool = False) -> SavedPredictions:
    """A model that keeps its predictions on disk, see SavedPredictions."""
    return SavedPredictions(model, folder, stamp, replace)


def charts(out_dir: str | Path) -> dict:
    """Config of a metric that draws charts of a whole test."""
    return dict(type=DrawCharts, out_dir=str(out_dir))


def distances(edges: Sequence[float] = ()) -> dict:
    """Config of the metric that scores by distance; no edges stand for the official ones."""
    return dict(type=DistanceMetric, **(dict(edges=tuple(edges)) if edges else {}))
