"""Finds lanes on images with a trained net and draws them.

An image of any size is first brought to the shape of the data set's own images: rows are cut off its top (sky) or
columns off its sides until its width and height are in the same proportion, then it is scaled. Lanes come back in
pixels of the image that was given.
"""
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate

from perception.common.formats.images import read_image
from perception.common.predictor import Found, Predictor
from perception.common.structures import LaneSample
from perception.common.visual.recording import Recording
from perception.common.visual.video import IMAGES, VIDEOS, find_files, is_video, read_frames
from perception.lanes.attention import attention_map, draw_attention, record_stages
from perception.lanes.datasets.base import resize, to_tensors
from perception.lanes.datasets.culane.reader import read_lanes
from perception.lanes.draw import PALETTE, draw_sample, drawable
from perception.utils.errors import ConfigError, DataError

Image = str | Path | np.ndarray
MIN_SIDE = 16  # pixels of an image that is worth looking at


class LanePredictor(Predictor):
    """Predictor of lanes; a source is an image file or (H, W, 3) uint8 RGB.

    Args:
        model: a LaneNet in evaluation mode, or None.
        data: config of the data set it is tested on, with `input_size` and `crop_top`.
    """

    noun = 'image'
    reads = (*IMAGES, *VIDEOS)
    views = ('plain', 'attention')

    def predict(self, sources: Sequence[Image]) -> list[LaneSample]:
        """Find the lanes of some images.

        Returns:
            their samples on the CPU, with the net's predictions, `pred_lanes` in pixels of the image, and `seen`, the
            part of it that the net saw: left, top, width, height.

        Raises:
            DataError: an image that cannot be read, or has another shape or too few pixels.
        """
        images = [read(source) for source in sources]
        fitted = [fit(image, self.image_size, _name(source)) for image, source in zip(images, sources)]
        samples = self._run([part for part, _ in fitted], sources)
        for sample, image, (part, box) in zip(samples, images, fitted):
            if 'pred_lanes' in sample:
                left, top, width, height = box
                scale = np.array([width / part.shape[1], height / part.shape[0]])
                sample.pred_lanes = [np.asarray(lane, np.float64) * scale + (left, top) for lane in sample.pred_lanes]
            sample.set_metainfo(dict(seen=box, original_shape=image.shape[:2]))
        return samples

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of the data set's own images."""
        return self.data['type'].IMAGE_SIZE

    @torch.no_grad()
    def _run(self, images: Sequence[np.ndarray], sources: Sequence[Image]) -> list[LaneSample]:
        """The net's predictions for images (H0, W0, 3) of the data set's own size."""
        crop_top, batch = self.data.get('crop_top', 0), []
        for image, source in zip(images, sources):
            path = source if isinstance(source, (str, Path)) else ''
            info = dict(sample_id=Path(path).stem if path else 'image', image_path=str(path),
                        original_shape=image.shape[:2], crop_top=crop_top)
            batch.append(to_tensors(resize(dict(image=image[crop_top:]), self.data['input_size']), info=info))
        return [sample.cpu() for sample in self.model.test_step(pseudo_collate(batch))]

    def sources(self, path: str | Path) -> Iterator[tuple[str, Image]]:
        """Name and file of an image or of each image of a folder, or name and picture of each frame of a video."""
        for file in find_files(path, IMAGES, 'an image, a video or a folder of images'):
            if is_video(file):
                yield from read_frames(file)
            else:
                yield file.stem, file

    def truth(self, labels: str | Path, name: str, source: Any) -> dict:
        """True lanes of an image from a file in CULane's format.

        Args:
            labels: the file, or the folder that holds `<name>.lines.txt`.
            name: of the image.
            source: not used.

        Returns:
            `lanes`: a list of (P, 2) arrays.

        Raises:
            DataError: no such file, or one that cannot be read.
        """
        path = Path(labels).expanduser()
        path = path / f'{name}.lines.txt' if path.is_dir() else path
        if not path.is_file():
            raise DataError(f'{path}: no such file, expected the lanes of {name}. An empty file says that there are '
                            'none; without --labels predictions alone are drawn.')
        return dict(lanes=read_lanes(path))

    def draw(self, source: Image, sample: LaneSample | None = None, truth: dict | None = None,
             title: str = '') -> np.ndarray:
        """Picture of an image with its predicted lanes and the true ones; arguments as of `Predictor.draw`."""
        pixels = read(source)
        title = title or ('' if sample is None else sample.get('sample_id', ''))
        prediction = None if sample is None else self._prediction(sample, pixels.shape[:2])
        return draw_sample(pixels, self.meta['classes'], self.meta['palette'], prediction, truth, title)

    def _prediction(self, sample: LaneSample, shape: tuple[int, int]) -> dict | None:
        """What a sample holds to be drawn on the whole image of (H, W) pixels, see `drawable`."""
        fields = {key: sample.get(key) for key in ('pred_lanes', 'pred_labels', 'crop_top')}
        found = drawable(dict(fields, original_shape=self.image_size), 'pred_')
        if found is not None and found['labels'] is not None:
            left, top, width, height = sample.get('seen')
            whole = np.zeros(shape, np.uint8)
            whole[top:top + height, left:left + width] = cv2.resize(found['labels'], (width, height),
                                                                    interpolation=cv2.INTER_NEAREST)
            found['labels'] = whole
        return found

    def view(self, view: str, source: Image, sample: LaneSample | None, truth: dict | None, name: str) -> np.ndarray:
        """The plain picture, or where the stages of the net look.

        Raises:
            ConfigError: attention without a net.
        """
        if view != 'attention':
            return self.draw(source, sample, truth, name)
        return draw_attention(read(source), self.stage_maps(source), name)

    def log(self, recording: Recording, found: Found) -> None:
        """Put an image into a recording with its predicted and its true lanes; without lanes its picture."""
        known = dict(prediction=(found.sample, 'pred_lanes'), truth=(found.truth, 'lanes'))
        lanes = {name: part.get(key) for name, (part, key) in known.items() if part is not None}
        if any(some is None for some in lanes.values()):
            super().log(recording, found)
            return
        recording.image('image', read(found.source))
        for name, some in lanes.items():
            recording.lines(f'image/{name}', some, [PALETTE[i % len(PALETTE)] for i in range(len(some))])

    def stage_maps(self, source: Image) -> dict[str, np.ndarray]:
        """Attention of each stage of the net on an image, see `attention_map`.

        Returns:
            stage -> (H, W) map of 0..1 over the image; rows and columns that the net does not see are 0.

        Raises:
            ConfigError: there is no net.
            DataError: see `__call__`.
        """
        if self.model is None:
            raise ConfigError('--view attention: no net came, expected one whose stages are looked at. Give a config '
                              'and a checkpoint.')
        pixels, maps = read(source), {}
        fitted, (left, top, width, height) = fit(pixels, self.image_size, _name(source))
        with record_stages(self.model) as found:
            self._run([fitted], [source])
        cut = int(self.data.get('crop_top', 0) * height / fitted.shape[0])
        for name, feats in found.items():
            maps[name] = np.zeros(pixels.shape[:2], np.float32)
            maps[name][top + cut:top + height, left:left + width] = cv2.resize(
                attention_map(feats[0]), (width, height - cut), interpolation=cv2.INTER_LINEAR)
        return maps


def read(image: Image) -> np.ndarray:
    """An image file or array as (H, W, 3) uint8 RGB.

    Raises:
        DataError: an unreadable file, an array of another shape or type.
    """
    if isinstance(image, (str, Path)):
        return read_image(image)
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(f'LanePredictor: an array of shape {image.shape} and type {image.dtype}, expected (H, W, 3) '
                        'uint8 RGB. Convert it first.')
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


def _name(source: Image) -> str:
    """What a source is called in messages."""
    return str(source) if isinstance(source, (str, Path)) else 'an image'
