"""Classifies images with a trained net and shows the likeliest classes."""
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import nn

from perception.common.dataset import build_pipeline, run_pipeline
from perception.common.formats.images import SUFFIXES, read_image
from perception.common.predictor import Predictor
from perception.common.visual import canvas
from perception.prune.models.classifier import ImageSample
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError

WIDTH, BARS = 480, 5  # of a picture; classes below it
BAR = (45, 85, 140)  # dark, as light text stands on it


class ImagePredictor(Predictor):
    """Predictor of the class of an image; a source is an image file or (H, W, 3) uint8 RGB.

    Args:
        model: an ImageClassifier in evaluation mode, or None.
        data: config of the data set it is tested on; its pipeline prepares the images.
    """

    noun = 'image'
    reads = SUFFIXES
    saves = ('json',)

    def __init__(self, model: nn.Module | None, data: dict) -> None:
        super().__init__(model, data)
        self.pipeline = build_pipeline(data.get('pipeline', ()))

    @torch.no_grad()
    def predict(self, sources: Sequence[Any]) -> list[ImageSample]:
        """Classify some images.

        Returns:
            their samples on the CPU, with `scores` (C,) and `pred_label` ().

        Raises:
            DataError: an image that cannot be read, or an array of another kind.
        """
        batch = []
        for source in sources:
            sample = run_pipeline(self.pipeline, dict(image=_image(source)), self.meta.get('classes'))
            name = str(source) if isinstance(source, (str, Path)) else 'array'
            batch.append(dict(inputs=dict(image=torch.from_numpy(sample['image'].transpose(2, 0, 1).copy())),
                              data_samples=ImageSample(metainfo=dict(sample_id=Path(name).stem, image_path=name))))
        return [sample.cpu() for sample in self.model.test_step(pseudo_collate(batch))]

    def draw(self, source: Any, sample: ImageSample | None = None, truth: Any = None, title: str = '') -> np.ndarray:
        """The image, and below it a bar for each of the likeliest classes."""
        return self._drawn(_image(source), sample, title)

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """What the net sees, with the class of the truth above it."""
        names, image = self.meta.get('classes', ()), sample['inputs']['image'].permute(1, 2, 0).numpy()
        label = int(sample['data_samples'].label)
        return self._drawn(image, None, f'{title} {names[label] if label < len(names) else label}'.strip())

    def save(self, form: str, folder: Path, name: str, source: Any, sample: ImageSample) -> Path:
        """`<name>.json`: the likeliest classes with their scores."""
        path = folder / f'{name}.json'
        with atomic_path(path, DataError) as part:
            Path(part).write_text(json.dumps(dict(classes=[
                dict(name=label, number=number, score=score) for label, number, score in self._best(sample)])))
        return path

    def _best(self, sample: ImageSample) -> list[tuple[str, int, float]]:
        names = self.meta.get('classes', ())
        scores, order = sample.scores.sort(descending=True)
        return [(names[i] if i < len(names) else f'class {i}', i, float(score))
                for score, i in zip(scores[:BARS].tolist(), order[:BARS].tolist())]

    def _drawn(self, image: np.ndarray, sample: ImageSample | None, title: str) -> np.ndarray:
        height = max(1, round(WIDTH * image.shape[0] / image.shape[1]))
        large = cv2.resize(image, (WIDTH, height),
                           interpolation=cv2.INTER_AREA if image.shape[1] > WIDTH else cv2.INTER_NEAREST)
        panels = [canvas.titled(large, title)]
        if sample is not None:
            rows = self._best(sample)
            strip = canvas.blank(24 * len(rows), WIDTH)
            for i, (name, _, score) in enumerate(rows):
                strip[24 * i + 3:24 * i + 21, :max(1, round(WIDTH * score))] = BAR
                canvas.write(strip, f'{name}  {score:.1%}', 6, 24 * i + 12)
            panels.append(strip)
        return canvas.stacked(panels)


def _image(source: Any) -> np.ndarray:
    image = source if isinstance(source, np.ndarray) else read_image(source, upright=True)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(f'image: an array of {image.dtype} of shape {image.shape}, expected (H, W, 3) uint8, red '
                        'first. Convert it.')
    return image
