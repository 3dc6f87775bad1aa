"""Predictors of the two nets that are mimicked: classes of each pixel of an image, optical flow of a video."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import nn

from perception.common.dataset import build_pipeline, run_pipeline
from perception.common.formats.images import SUFFIXES, read_image
from perception.common.image_submission import write_png
from perception.common.predictor import Predictor
from perception.common.structures import LaneSample, SteeringSample
from perception.common.visual import canvas
from perception.common.visual.video import VIDEOS, read_frames
from perception.steering.predictor import Source, SteeringPredictor, at_least, frame_image, source_name
from perception.utils.checkpoint import atomic_path
from perception.utils.checks import check_choice
from perception.utils.errors import DataError

SHOWN = 640  # pixels that a picture with the names of its classes is wide at least


class StreetPredictor(Predictor):
    """Classes of street images: files, videos, or (H, W, 3) uint8 RGB; see Predictor."""

    noun = 'image'
    reads = (*SUFFIXES, *VIDEOS)
    saves = ('png', 'npy')

    def __init__(self, model: nn.Module | None, data: dict) -> None:
        super().__init__(model, data)
        self.pipeline = build_pipeline(data.get('pipeline', ()))

    @torch.no_grad()
    def predict(self, sources: Sequence[str | Path | np.ndarray]) -> list[LaneSample]:
        """Classify the pixels of some images.

        Returns:
            their samples on the CPU, with `pred_labels` (h, w) of the data set's `input_size`.

        Raises:
            DataError: an image that cannot be read or is not in colours.
        """
        height, width = self.data['input_size']
        images = [cv2.resize(run_pipeline(self.pipeline, dict(image=_read(source)), self.meta['classes'])['image'],
                             (width, height), interpolation=cv2.INTER_LINEAR) for source in sources]  # as in a test
        batch = [dict(inputs=dict(image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))),
                      data_samples=LaneSample(metainfo=dict(sample_id=source_name(source))))
                 for image, source in zip(images, sources)]
        return [sample.cpu() for sample in self.model.test_step(pseudo_collate(batch))]

    def sources(self, path: str | Path):
        """Name and picture of an image, of each image of a folder or of each frame of a video."""
        return read_frames(path)

    def save(self, form: str, folder: Path, name: str, source: str | Path | np.ndarray, sample: LaneSample) -> Path:
        """Write the classes of each pixel, as numbers from 0, at the size of the image.

        Args:
            form: 'png' or 'npy', (H, W) uint8.
            folder, name, source, sample: see Predictor.
        """
        check_choice('--save-as', form, self.saves)
        labels, path = self._labels(_read(source), sample), folder / f'{name}.{form}'
        if form == 'png':
            write_png(path, labels)
            return path
        with atomic_path(path, DataError) as part, open(part, 'wb') as file:
            np.save(file, labels)
        return path

    def draw(self, source: str | Path | np.ndarray, sample: LaneSample | None = None, truth: None = None,
             title: str = '') -> np.ndarray:
        """The image under the colours of its classes, with their names below: (H, W, 3) uint8 RGB."""
        picture = np.array(_read(source))
        if sample is None:
            return canvas.titled(picture, title or source_name(source))
        labels, palette = self._labels(picture, sample), np.array(self.meta['palette'], np.uint8)
        mixed = (0.45 * picture + 0.55 * palette[labels]).astype(np.uint8)
        present = np.bincount(labels.ravel(), minlength=len(palette)) > 0
        names = canvas.legend(self.meta['classes'], palette, picture.shape[1], present)
        return canvas.stacked([canvas.titled(mixed, title or source_name(source)), names])

    @staticmethod
    def _labels(image: np.ndarray, sample: LaneSample) -> np.ndarray:
        labels = sample.pred_labels.numpy(force=True).astype(np.uint8)
        return cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """See Predictor; the true classes over the image, with their names below."""
        picture, palette = sample['inputs']['image'].permute(1, 2, 0).numpy(), np.array(self.meta['palette'], np.uint8)
        labels = sample['data_samples'].get('labels')
        if labels is None:
            return canvas.titled(at_least(picture, SHOWN), title)
        known = (labels < len(palette)).numpy()
        colors = palette[labels.numpy() * known]
        picture = at_least(np.where(known[..., None], 0.45 * picture + 0.55 * colors, picture).astype(np.uint8), SHOWN)
        present = np.bincount(labels.numpy()[known], minlength=len(palette)) > 0
        names = canvas.legend(self.meta['classes'], palette, picture.shape[1], present)
        return canvas.stacked([canvas.titled(picture, title), names])


class FlowPredictor(SteeringPredictor):
    """Optical flow to each frame of a video from the one before it; see SteeringPredictor for what it takes.

    The sample of a frame has `pred_flow` (1, 2, H, W) from the frame before, NaN for the first one, in pixels of
    `frames` that the net is shown, those of the data set's `input_size`.
    """

    saves = ('npy', 'png')
    cuts = False

    def _apart(self, path: str | Path) -> int:
        """See SteeringPredictor; the flow is from frame to frame, whatever time passes."""
        return 1

    @property
    def input_size(self) -> tuple[int, int]:
        """See SteeringPredictor; that of the data set, as in tests, which the net brings to its own."""
        return tuple(self.data.get('input_size') or self.data['type'].INPUT_SIZE)

    @torch.no_grad()
    def predict(self, sources: Sequence[Source]) -> list[SteeringSample]:
        """See SteeringPredictor; T flows of a clip."""
        read, samples = [self._read(source) for source in sources], []
        for source, (video, frames) in zip(sources, read):
            clip, first = frames, video is not None and video != self._video
            if video is not None:
                if first:
                    self.last = frames
                self._video, clip, self.last = video, torch.cat([self.last, frames]), frames
            clip = clip.to(next(self.model.parameters()).device)
            sample = SteeringSample(metainfo=dict(sample_id=source_name(source)))
            inputs = dict(clip=self.model.data_preprocessor.normalise(clip)[None])
            flow = self.model(inputs, mode='predict')[0].pred_flow.cpu()
            if first:
                flow[1:] = torch.nan
            sample.pred_flow = flow if video is None else flow[1:]
            samples.append(sample)
        return samples

    def restart(self) -> None:
        """See SteeringPredictor."""
        self._video, self.last = None, None

    def save(self, form: str, folder: Path, name: str, source: Source, sample: SteeringSample) -> Path:
        """Write the flow: 'npy', (T, 2, H, W) float32; 'png', in colours, see `flow_colors`."""
        check_choice('--save-as', form, self.saves)
        path, flow = folder / f'{name}.{form}', sample.pred_flow.numpy(force=True)
        if form == 'png':
            return canvas.save_png(path, flow_colors(flow[-1]))
        with atomic_path(path, DataError) as part, open(part, 'wb') as file:
            np.save(file, flow.astype(np.float32))
        return path

    def draw(self, source: Source, sample: SteeringSample | None = None, truth: None = None,
             title: str = '') -> np.ndarray:
        """The frame beside its flow in colours, with words that tell them: (H, W, 3) uint8 RGB."""
        picture, words = np.array(frame_image(source)), ''
        if sample is not None:
            flow = sample.pred_flow[-1].numpy(force=True)
            if np.isfinite(flow).any():
                words = (f'red right, green down, cyan left, violet up, full at {np.nanmax(np.hypot(*flow)):.1f} of '
                         f'{flow.shape[2]} pixels')
            picture = canvas.beside([picture, cv2.resize(flow_colors(flow), picture.shape[1::-1])])
        return canvas.titled(picture, title or source_name(source), words)


def flow_colors(flow: np.ndarray, fastest: float | None = None) -> np.ndarray:
    """Flow as a picture: its direction is the hue, the faster the fuller the colour; unknown is white.

    Args:
        flow: (2, H, W) pixels.
        fastest: length with the fullest colour; the largest of the picture by default.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    right, down = np.nan_to_num(flow)
    length = np.hypot(right, down)
    share = np.clip(length / max(length.max() if fastest is None else fastest, 1e-6), 0, 1)
    hue = (np.degrees(np.arctan2(down, right)) % 360) / 2
    hsv = np.stack([hue, 255 * share, np.full_like(hue, 255)], -1).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _read(source: str | Path | np.ndarray) -> np.ndarray:
    """An image, (H, W, 3) uint8 RGB.

    Raises:
        DataError: it cannot be read, or an array has another shape.
    """
    image = read_image(source, upright=True) if isinstance(source, (str, Path)) else source
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f'StreetPredictor: an array {image.dtype} of shape {image.shape}, expected uint8 (H, W, 3), '
                        'red first. Convert it.')
    return image
