"""Find lanes on images with a trained net and draw them; what `perception.apis.inference` offers for this room.

An image of any size is first brought to the shape of the data set's own images: rows are cut off its top (sky) or
columns off its sides until its width and height are in the same proportion, then it is scaled. Lanes come back in
pixels of the image that was given.
"""
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.common.formats.images import read_image
from perception.common.structures import LaneSample
from perception.common.visual.video import IMAGES, VIDEOS, read_frames, show_image
from perception.lanes.datasets.culane.metric import read_lanes
from perception.lanes.draw import attention_map, draw_attention, draw_sample, drawable
from perception.utils.errors import DataError

Image = str | Path | np.ndarray
SUFFIXES = (*IMAGES, *VIDEOS)
MIN_SIDE = 16  # pixels of an image that is worth looking at


def predict(model: BaseModel, image: Image, name: str = 'predict') -> LaneSample:
    """Find the lanes of an image.

    Args:
        model: from `perception.apis.inference.load`; its `dataset_cfg` tells image size, cut and input size.
        image: an image file or (H, W, 3) uint8 RGB.
        name: of an image that is no file, for messages.

    Returns:
        its sample on the CPU, with the net's predictions and `pred_lanes` in pixels of the image.

    Raises:
        DataError: an image that cannot be read, or has another shape or too few pixels.
    """
    pixels = read(image)
    where = str(image) if isinstance(image, (str, Path)) else name
    fitted, box = fit(pixels, model.dataset_cfg['type'].IMAGE_SIZE, where)
    sample = to_sample(fitted, model.dataset_cfg, image)
    with torch.no_grad():
        sample = model.test_step(pseudo_collate([sample]))[0].cpu()
    if 'pred_lanes' in sample:
        left, top, width, height = box
        scale = np.array([width / fitted.shape[1], height / fitted.shape[0]])
        sample.pred_lanes = [np.asarray(lane, np.float64) * scale + (left, top) for lane in sample.pred_lanes]
    sample.set_metainfo(dict(view=box, original_shape=pixels.shape[:2]))
    return sample


def draw(model: BaseModel, image: Image, sample: LaneSample, labels: Mapping | None = None,
         title: str | None = None) -> np.ndarray:
    """Picture of an image with its predicted lanes.

    Args:
        model: its `dataset_meta` names classes and colours.
        image: what was given to `predict`.
        sample: what `predict` returned.
        labels: the truth, `lanes` and `labels` as `draw_sample` takes them.
        title: instead of the sample's name.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    pixels, meta = read(image), model.dataset_meta
    fields = {key: sample.get(key) for key in ('pred_lanes', 'pred_labels', 'crop_top')}
    left, top, width, height = sample.get('view')
    prediction = drawable(dict(fields, original_shape=model.dataset_cfg['type'].IMAGE_SIZE), 'pred_')
    if prediction is not None and prediction['labels'] is not None:
        whole = np.zeros(pixels.shape[:2], np.uint8)
        whole[top:top + height, left:left + width] = cv2.resize(prediction['labels'], (width, height),
                                                                interpolation=cv2.INTER_NEAREST)
        prediction['labels'] = whole
    return draw_sample(pixels, meta['classes'], meta['palette'], prediction, labels,
                       sample.get('sample_id') if title is None else title)


def pictures(path: str | Path, model: BaseModel | None = None, labels: str | Path | None = None, show: bool = False,
             attention: Mapping[str, BaseModel] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Draw an image, each image of a folder or each frame of a video, with predictions, labels, or both.

    Args:
        path: of the file or folder.
        model: None draws without predictions.
        labels: a lane file in CULane's format (`.lines.txt`), or the folder with `<image>.lines.txt` of all.
        show: also open a window for each, where there is a display.
        attention: nets by name: draw where their stages look, a row for each, instead of lanes.

    Yields:
        name and picture of each.

    Raises:
        DataError: an image or its labels cannot be read.
    """
    for name, image in read_frames(path):
        truth, where = None if labels is None else read_truth(labels, name), f'{path} ({name})'
        if attention:
            picture = draw_attention(image, {net: stage_maps(one, image, where) for net, one in attention.items()},
                                     name)
        elif model is not None:
            picture = draw(model, image, predict(model, image, where), truth, name)
        else:
            picture = draw_sample(image, ('background',), ((0, 0, 0),), None, truth, name)
        yield name, picture
        if show:
            show = show_image(picture, name)
            if not show:
                print_log('--show: no window can be opened here, expected a display and an OpenCV with windows. Look '
                          'at the pictures that are written.', 'current', logging.WARNING)


@torch.no_grad()
def stage_maps(model: BaseModel, image: Image, name: str = 'predict') -> dict[str, np.ndarray]:
    """Attention of each stage of a net on an image, see `attention_map`.

    Args:
        model: as for `predict`, with sub-modules `stage1`, `stage2`, ...
        image, name: see `predict`.

    Returns:
        stage -> (H, W) map of 0..1 over the image; rows and columns that the net does not see are 0.
    """
    pixels, found, handles = read(image), {}, []
    fitted, (left, top, width, height) = fit(pixels, model.dataset_cfg['type'].IMAGE_SIZE, name)
    stages = {name: module for name, module in model.named_children() if name.startswith('stage')}
    for name, module in stages.items():
        handles.append(module.register_forward_hook(
            lambda module, args, out, name=name: found.update({name: out[0] if isinstance(out, tuple) else out})))
    try:
        model.test_step(pseudo_collate([to_sample(fitted, model.dataset_cfg)]))
    finally:
        for handle in handles:
            handle.remove()
    cut = int(model.dataset_cfg.get('crop_top', 0) * height / fitted.shape[0])
    maps = {}
    for name in stages:
        maps[name] = np.zeros(pixels.shape[:2], np.float32)
        maps[name][top + cut:top + height, left:left + width] = cv2.resize(
            attention_map(found[name][0]), (width, height - cut), interpolation=cv2.INTER_LINEAR)
    return maps


def deployable(model: BaseModel) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
    """What is exported of a net: images in, maps out, with the normalisation inside.

    Args:
        model: a LaneNet.

    Returns:
        the module in evaluation mode, its example inputs by name (`images` (1, 3, h, w) float32 RGB 0..255), and the
        names of its outputs.
    """
    with torch.no_grad():
        names = list(model.eval().compute(torch.zeros(1, 3, *model.input_size)))
    return _Deployable(model, names).eval(), dict(images=torch.rand(1, 3, *model.input_size) * 255), names


class _Deployable(nn.Module):
    """A net without its training side."""

    def __init__(self, model: BaseModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model.compute(self.model.data_preprocessor.normalise(images))
        return tuple(outputs[name] for name in self.names)


def read(image: Image) -> np.ndarray:
    """An image file or array as (H, W, 3) uint8 RGB.

    Raises:
        DataError: an unreadable file, an array of another shape or type.
    """
    if isinstance(image, (str, Path)):
        return read_image(image)
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(f'predict: an array of shape {image.shape} and type {image.dtype}, expected (H, W, 3) uint8 '
                        'RGB. Convert it first.')
    return image


def fit(image: np.ndarray, size: tuple[int, int], where: str = 'fit') -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """An image in the shape of a data set's images.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: (H0, W0) of the data set's images.
        where: start of an error message.

    Returns:
        (H0, W0, 3) image, and the part of the given image that it shows: left, top, width, height in pixels.

    Raises:
        DataError: that part has next to no pixels.
    """
    height, width = image.shape[:2]
    keep_height, keep_width = min(height, round(width * size[0] / size[1])), width
    if height * size[1] < width * size[0] - size[1]:  # too wide: both sides lose columns
        keep_width = round(height * size[1] / size[0])
    if min(keep_height, keep_width) < MIN_SIDE:
        raise DataError(f'{where}: {width} x {height} pixels, of which {keep_width} x {keep_height} have the shape of '
                        f"the data set's {size[1]} x {size[0]}, expected at least {MIN_SIDE} a side. Give a larger "
                        'picture, or one of that shape.')
    left, top = (width - keep_width) // 2, height - keep_height
    part = image[top:, left:left + keep_width]
    if part.shape[:2] != tuple(size):
        part = cv2.resize(part, size[::-1], interpolation=cv2.INTER_LINEAR)
    return part, (left, top, keep_width, keep_height)


def to_sample(image: np.ndarray, dataset: Mapping, source: Image = '') -> dict:
    """A sample as the data set would give it, without labels.

    Args:
        image: (H0, W0, 3) uint8 RGB in the data set's own size.
        dataset: its config, with `input_size` (h, w) and `crop_top`.
        source: the file, if it is one.
    """
    crop_top, (height, width) = dataset.get('crop_top', 0), dataset['input_size']
    small = cv2.resize(image[crop_top:], (width, height), interpolation=cv2.INTER_LINEAR)
    path = source if isinstance(source, (str, Path)) else ''
    sample = LaneSample(metainfo=dict(
        sample_id=Path(path).stem if path else 'image', image_path=str(path), original_shape=image.shape[:2],
        crop_top=crop_top, input_shape=(height, width)))
    return dict(inputs=dict(image=torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)))),
                data_samples=sample)


def read_truth(labels: str | Path, name: str) -> dict:
    """True lanes of an image from a file in CULane's format.

    Args:
        labels: the file, or the folder that holds `<name>.lines.txt`.
        name: of the image.

    Returns:
        `lanes`: a list of (P, 2) arrays.

    Raises:
        DataError: no such file, or one that cannot be read.
    """
    path = Path(labels).expanduser()
    path = path / f'{name}.lines.txt' if path.is_dir() else path
    if not path.is_file():
        raise DataError(f'{path}: no such file, expected the lanes of {name}. An empty file says that there are none; '
                        'without --labels predictions alone are drawn.')
    return dict(lanes=read_lanes(path))
