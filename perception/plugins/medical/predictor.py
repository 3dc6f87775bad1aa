"""Classifies images of any size and shows where the nets look."""
import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import nn

from perception.common.dataset import build_pipeline, run_pipeline
from perception.common.formats.images import read_image
from perception.common.predictor import Predictor
from perception.common.visual.video import IMAGES, find_files
from perception.plugins.medical.datasets.base import resize
from perception.plugins.medical.draw import draw_cams, draw_scores
from perception.plugins.medical.gradcam import grad_cam
from perception.plugins.medical.structures import ClassSample
from perception.utils.checkpoint import atomic_path, load_checkpoint, load_weights, weights_of
from perception.utils.checks import check_choice
from perception.utils.errors import CheckpointError, ConfigError, DataError

Image = str | Path | np.ndarray


class ClassPredictor(Predictor):
    """Predictor of classes; a source is an image file or (H, W, 3) uint8 RGB, which the net sees as in a test: resized,
    then through the pipeline of the data set.

    The view `cam` shows where the net looks for the class that it predicts, and beside it its mean teacher.

    Args:
        model: a DenseNet in evaluation mode, or None.
        data: config of the data set it is tested on, with `input_size`.
        teacher: training checkpoint (`epoch_N.pth`) of a distillation, whose mean teacher is looked at too.

    Raises:
        CheckpointError: it holds no mean teacher.
    """

    noun = 'image'
    reads = tuple(IMAGES)
    views = ('plain', 'cam')
    saves = ('json',)

    def __init__(self, model: nn.Module | None, data: dict, teacher: str | None = None) -> None:
        super().__init__(model, data)
        self.teacher, self.pipeline = None, build_pipeline(data.get('pipeline', ()))
        if teacher is not None and model is not None:
            self.teacher = copy.deepcopy(model)
            load_weights(self.teacher, teacher_weights(teacher))

    @torch.no_grad()
    def predict(self, sources: Sequence[Image]) -> list[ClassSample]:
        """Classify some images.

        Returns:
            their samples on the CPU, with `pred_scores` (K,), `pred_label` and `feature` (D,).

        Raises:
            DataError: an image that cannot be read.
        """
        batch = pseudo_collate([self._sample(source) for source in sources])
        return [sample.cpu() for sample in self.model.test_step(batch)]

    def _sample(self, source: Image) -> dict:
        image = read(source)
        path = str(source) if isinstance(source, (str, Path)) else ''
        small = resize(image, tuple(self.data.get('input_size', (224, 224))))
        small = run_pipeline(self.pipeline, dict(image=small), self.meta['classes'])['image']
        info = dict(sample_id=Path(path).stem if path else 'image', image_path=path, original_shape=image.shape[:2])
        return dict(inputs=dict(image=torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)))),
                    data_samples=ClassSample(metainfo=info))

    def sources(self, path: str | Path) -> Iterator[tuple[str, Image]]:
        """Name and file of an image or of each image of a folder."""
        for file in find_files(path, IMAGES, 'an image or a folder of images'):
            yield file.stem, file

    def save(self, form: str, folder: Path, name: str, source: Image, sample: ClassSample) -> Path:
        """Write the class and the score of each class as `<name>.json`; arguments as of `Predictor.save`."""
        check_choice('--save-as', form, self.saves)
        classes, path = self.meta['classes'], folder / f'{name}.json'
        record = dict(image=Path(sample.image_path).name, label=int(sample.pred_label),
                      name=classes[int(sample.pred_label)],
                      scores={key: round(float(score), 6) for key, score in zip(classes, sample.pred_scores)})
        with atomic_path(path, DataError) as part:
            part.write_text(json.dumps(record, indent=1) + '\n')
        return path

    def draw(self, source: Image, sample: ClassSample | None = None, truth: Any = None, title: str = '') -> np.ndarray:
        """Picture of an image with the score of each class; arguments as of `Predictor.draw`."""
        scores = None if sample is None else sample.pred_scores.numpy()
        return draw_scores(read(source), self.meta['classes'], self.meta['palette'], scores, truth, title)

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """Picture of what a net sees, and of what its teacher does."""
        known, views = sample['data_samples'], sample['inputs']
        image = np.concatenate([views[key].permute(1, 2, 0).numpy() for key in ('image', 'second') if key in views], 1)
        truth = int(known.label) if 'label' in known else None
        return draw_scores(image, self.meta['classes'], self.meta['palette'], None, truth, title)

    def view(self, view: str, source: Image, sample: ClassSample | None, truth: Any, name: str) -> np.ndarray:
        """The plain picture, or where the nets look.

        Raises:
            ConfigError: `cam` without a net.
        """
        if view == 'plain':
            return self.draw(source, sample, truth, name)
        if self.model is None:
            raise ConfigError('--view cam: no net came, expected one that looks. Give a config and a checkpoint.')
        maps, title = self.cams(source), f'{name}: {self.meta["classes"][int(sample.pred_label)]}'
        return draw_cams(self._sample(source)['inputs']['image'].permute(1, 2, 0).numpy(), maps, title)

    def cams(self, source: Image) -> dict[str, np.ndarray]:
        """`student`, and maybe `teacher` -> (h, w) map of 0..1, for the class that the student predicts."""
        batch = self.model.data_preprocessor(pseudo_collate([self._sample(source)]), False)
        images = batch['inputs']['images']
        with torch.no_grad():
            chosen = self.model.compute(images)['logits'].argmax(1)
        nets = dict(student=self.model) | (dict(teacher=self.teacher) if self.teacher is not None else {})
        return {name: grad_cam(net, images, chosen)[0].cpu().numpy() for name, net in nets.items()}


def teacher_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Weights of the mean teacher in a training checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    weights, start = weights_of(load_checkpoint(path), str(path)), 'teachers.mean.model.'
    found = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    if not found:
        raise CheckpointError(f'{path}: no weights that begin with {start}, expected a training checkpoint of a '
                              'distillation with a mean teacher. Give its epoch_N.pth.')
    return found


def read(source: Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a source.

    Raises:
        DataError: an image that cannot be read, or an array of another kind.
    """
    if not isinstance(source, np.ndarray):
        return read_image(source, upright=True)
    if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
        raise DataError(f'image: an array of {source.dtype} of shape {source.shape}, expected (H, W, 3) uint8, red '
                        'first. Convert it.')
    return source
