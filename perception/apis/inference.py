"""Use a trained LiDAR segmentation model: load it, predict files or arrays, draw the result; tools/visualize.py.

    model = load('configs/lidarseg/cylinder3d_kitti.py', 'work_dirs/cylinder3d_kitti/model.pth')
    sample = predict(model, '000700.bin')
    names = np.array(model.dataset_meta['classes'])[sample.pred_labels]
    draw(model, '000700.bin', sample, out='000700.png')
"""
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor

from perception.apis.config import load_config
from perception.common.formats.kitti import read_labels, read_points
from perception.common.structures import PointSegSample
from perception.common.visual.canvas import save_png
from perception.common.visual.points import show as show_points
from perception.lidarseg.datasets.semantickitti import SemanticKITTI, to_train_ids
from perception.lidarseg.draw import draw_scan, height_colors, label_colors
from perception.registry import DATASETS, MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.errors import ConfigError, DataError

Scan = str | Path | np.ndarray | Tensor


def load(config: str | Path, checkpoint: str | Path, device: str | torch.device = 'auto',
         mini: bool = False) -> BaseModel:
    """Build the model of a config with the weights of a checkpoint, ready to predict.

    Args:
        config: the config file; of a distillation config the student is built.
        checkpoint: `model.pth`, `student.pth` or a training checkpoint.
        device: `'auto'` takes the GPU where there is one.
        mini: build what `--mini` trained.

    Returns:
        the model in evaluation mode; `model.dataset_meta` holds `classes` and `palette`.

    Raises:
        ConfigError, CheckpointError: they cannot be read or do not fit each other.
    """
    cfg = load_config(config, mini)
    model = MODELS.build(cfg.model.get('student') or cfg.model)
    load_weights(model, checkpoint)
    model.dataset_meta = dataset_type(cfg).METAINFO
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return model.to(device).eval()


def predict(model: BaseModel, scans: Scan | Sequence[Scan]) -> PointSegSample | list[PointSegSample]:
    """Label every point of a scan, or of several, one after the other.

    Args:
        model: from `load`.
        scans: a `.bin` file or an (N, 4) array or tensor of x, y, z [m] and intensity, N may be 0; or a list of them.

    Returns:
        for each scan its sample with `pred_labels` (N,) int64 train ids on the CPU, `sample_id` and `num_points`; a
        list if a list came.

    Raises:
        DataError: a scan that cannot be read, has another shape or is not finite.
    """
    if isinstance(scans, (list, tuple)):
        return [predict(model, scan) for scan in scans]
    points = read_scan(scans)
    meta = dict(sample_id='scan', points_path='', num_points=len(points))
    if isinstance(scans, (str, Path)):
        meta.update(sample_id=Path(scans).stem, points_path=str(scans))
    sample = dict(inputs=dict(points=torch.from_numpy(points)), data_samples=PointSegSample(metainfo=meta))
    with torch.no_grad():
        return model.test_step(pseudo_collate([sample]))[0].cpu()


def draw(model: BaseModel, scan: Scan, sample: PointSegSample, labels: np.ndarray | None = None,
         out: str | Path | None = None) -> np.ndarray:
    """Picture of a predicted scan.

    Args:
        model: from `load`; its class names and colours are used.
        scan: the file or array that was given to `predict`.
        sample: what `predict` returned.
        labels: (N,) true train ids, 255 = ignored, if known: adds ground truth and errors.
        out: PNG file to write, if any.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = draw_scan(read_scan(scan), **model.dataset_meta, pred_labels=sample.pred_labels.numpy(), labels=labels,
                      title=sample.sample_id)
    if out is not None:
        save_png(out, image)
    return image


def visualize(scan: str | Path, out_dir: str | Path, config: str | Path | None = None,
              checkpoint: str | Path | None = None, labels: str | Path | None = None, mini: bool = False,
              show: bool = False, num_colors: int | None = None) -> Iterator[Path]:
    """Draw a scan, or each scan of a folder, with predictions of a model, labels, or both; SemanticKITTI's classes.

    Args:
        scan: a `.bin` file, or a folder of them.
        out_dir: folder of the pictures, `<name of the scan>.png`.
        config, checkpoint: the model; None draws without predictions.
        labels: a `.label` file, or the folder with the labels of all scans.
        mini: the model was trained with `--mini`.
        show: also open a window for each scan, where there is a display.
        num_colors: reduce each picture to a palette of so many colours.

    Yields:
        the picture just written.

    Raises:
        ConfigError: only one of config and checkpoint.
        DataError: a scan or its labels cannot be read, or a picture cannot be written.
    """
    if (config is None) != (checkpoint is None):
        raise ConfigError('visualize: one of config and checkpoint came, expected both or neither. Give both to see '
                          'predictions.')
    files = find_scans(scan)
    model = None if config is None else load(config, checkpoint, mini=mini)
    meta = SemanticKITTI.METAINFO if model is None else model.dataset_meta
    for file in files:
        points, truth, pred_labels = read_points(file), None, None
        if labels is not None:
            path = Path(labels, f'{file.stem}.label') if Path(labels).is_dir() else Path(labels)
            truth = to_train_ids(read_labels(path, len(points)), path, strict=False)
        if model is not None:
            pred_labels = predict(model, points).pred_labels.numpy()
        image = draw_scan(points, **meta, pred_labels=pred_labels, labels=truth, title=file.name)
        yield save_png(Path(out_dir, f'{file.stem}.png'), image, num_colors)
        if show:
            seen = truth if pred_labels is None else pred_labels
            colors = height_colors(points) if seen is None else label_colors(seen, meta['palette'])
            show = show_points(points, colors, file.name)
            if not show:
                print_log('--show: no display can be opened here, expected DISPLAY or WAYLAND_DISPLAY to name one. '
                          f'Look at the pictures in {out_dir}.', 'current', logging.WARNING)


def find_scans(path: str | Path) -> list[Path]:
    """The scan itself, or all `.bin` files of a folder in order.

    Raises:
        DataError: neither is there.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return [path]
    files = sorted(path.glob('*.bin'))
    if not files:
        came = 'no .bin file in it' if path.is_dir() else 'no such file or folder'
        raise DataError(f'{path}: {came}, expected a scan such as sequences/08/velodyne/000000.bin or a folder of '
                        'scans. Check the path.')
    return files


def read_scan(scan: Scan) -> np.ndarray:
    """Points of a file or an array as (N, 4) float32.

    Raises:
        DataError: an unreadable file, an array of another shape.
    """
    if isinstance(scan, (str, Path)):
        return read_points(scan)
    points = scan.detach().cpu().numpy() if isinstance(scan, Tensor) else np.asarray(scan)
    if points.ndim != 2 or points.shape[1] != 4:
        raise DataError(f'predict: an array of shape {points.shape}, expected (N, 4): x, y, z, intensity. Select or '
                        'add these columns first.')
    return np.ascontiguousarray(points, np.float32)


def dataset_type(cfg: Config) -> type:
    """Class of the data set that a config tests on; it knows class names and colours without reading any data.

    Raises:
        ConfigError: there is none with `METAINFO`.
    """
    kind = cfg.get('test_dataloader', {}).get('dataset', {}).get('type')
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    if not {'classes', 'palette'} <= set(getattr(kind, 'METAINFO', {})):
        raise ConfigError(f'{cfg.filename}: test_dataloader.dataset is of type {getattr(kind, "__name__", kind)}, '
                          'expected a data set whose METAINFO holds classes and palette. Take a config of perception.')
    return kind
