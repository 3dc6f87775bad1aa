"""What turns sources, such as a scan, an image or a key frame, into samples with predictions and into pictures."""
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import nn

from perception.common.visual.video import find_files, show_image
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError


class Predictor:
    """Base of the rooms' predictors; a config names its own by `predictor = dict(type=...)`.

    A room writes `predict`, `draw` and `save`, and the rest where its sources are no files or have labels or several
    views. An object may keep what one source tells about the next, such as tracks, or the last frames of a running
    video. Further arguments of `__init__` are options of prediction, such as how a file is to be read: they can stand
    in the config (`predictor = dict(type=..., columns='x,y,z,i,ring')`) and on the command line (`--columns`).

    Args:
        model: in evaluation mode, or None, which draws sources and labels without predictions.
        data: config of the data set that the model is tested on, its `type` a class.
    """

    reads: tuple[str, ...] = ()  # endings of files that are sources; none where a source is no file
    views: tuple[str, ...] = ('plain',)  # pictures that there are of a source, for --view
    saves: tuple[str, ...] = ()  # kinds of files that predictions are saved as, for --save-as; the first is the default

    def __init__(self, model: nn.Module | None, data: dict) -> None:
        self.model, self.data = model, data

    @property
    def meta(self) -> dict:
        """How the data set describes itself, such as `classes` and `palette`."""
        kind = self.data['type']
        return kind.describe(self.data) if hasattr(kind, 'describe') else {}

    def __call__(self, source: Any) -> BaseDataElement:
        """The sample of a source with predictions, on the CPU; see `predict`."""
        return self.predict([source])[0]

    def predict(self, sources: Sequence[Any]) -> list[BaseDataElement]:
        """Samples of some sources with predictions, on the CPU, computed as one batch."""
        raise NotImplementedError(f'{type(self).__name__} has no predict; write one.')

    def save(self, form: str, folder: Path, name: str, source: Any, sample: BaseDataElement) -> Path:
        """Write the prediction of a source as a file.

        Args:
            form: one of `saves`.
            folder: for the file; it is there.
            name: of the source, without an ending.
            source: what the predictor was called with.
            sample: what it returned.

        Returns:
            the file.

        Raises:
            DataError: it cannot be written.
        """
        raise NotImplementedError(f'{type(self).__name__} names files in `saves` but has no save; write one.')

    def draw(self, source: Any, sample: BaseDataElement | None = None, truth: Any = None,
             title: str = '') -> np.ndarray:
        """Picture of a source, (H, W, 3) uint8 RGB.

        Args:
            source: what the predictor was called with.
            sample: what it returned, None without predictions.
            truth: what `truth` returned, None where it is not known.
            title: written on the picture.
        """
        raise NotImplementedError(f'{type(self).__name__} has no draw; write one that gives a picture.')

    def sources(self, path: str | Path) -> Iterator[tuple[str, Any]]:
        """Name and source of the file, or of each thing in a folder; by default files that end in `reads`.

        Raises:
            DataError: nothing there that can be read.
        """
        for file in find_files(path, self.reads, f'a file that ends in {", ".join(self.reads)}, or a folder of them'):
            yield file.stem, file

    def truth(self, labels: str | Path, name: str, source: Any) -> Any:
        """What is known of a source.

        Args:
            labels: the file or folder that --labels named.
            name, source: of `sources`.

        Raises:
            ConfigError: this predictor reads no labels.
        """
        raise ConfigError(f'--labels: {labels} came for {self.data["type"].__name__}, expected a data set whose labels '
                          'stand in one file for each source. Draw it with its labels by tools/test.py --draw.')

    def pictures(self, path: str | Path, labels: str | Path | None = None, view: str = 'plain',
                 show: bool = False) -> Iterator[tuple[str, np.ndarray]]:
        """Draw a source, or each source of a folder.

        Args:
            path: see `sources`.
            labels: file or folder of the truth.
            view: one of `views`.
            show: also open a window for each, where there is a display.

        Yields:
            name and picture, (H, W, 3) uint8 RGB, of each.

        Raises:
            ConfigError: a view that this predictor does not have.
            DataError: a source or its labels cannot be read.
        """
        check_choice('--view', view, self.views)
        for name, source in self.sources(path):
            truth = None if labels is None else self.truth(labels, name, source)
            sample = None if self.model is None else self(source)
            picture = self.view(view, source, sample, truth, name)
            yield name, picture
            if show and not self.show(picture, source, sample, truth, name):
                print_log('--show: no window can be opened here, expected a display. Look at the pictures that are '
                          'written.', 'current', logging.WARNING)
                show = False

    def view(self, view: str, source: Any, sample: BaseDataElement | None, truth: Any, name: str) -> np.ndarray:
        """One picture of the kind `view`; `draw` where there is but the plain one."""
        return self.draw(source, sample, truth, name)

    def show(self, picture: np.ndarray, source: Any, sample: BaseDataElement | None, truth: Any, name: str) -> bool:
        """Open a window; False where there is no display."""
        return show_image(picture, name)

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """Picture of what a net sees, (H, W, 3) uint8 RGB.

        Args:
            sample: of the data set, after augmentation: `dict(inputs=..., data_samples=...)`, its labels in the latter.
            title: written above it.

        Raises:
            ConfigError: this predictor draws none.
        """
        raise ConfigError(f'{type(self).__name__} has no draw_sample, expected one to look at samples. Write it.')
