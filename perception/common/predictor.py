"""What turns sources, such as a scan, an image or a key frame, into samples with predictions and into pictures."""
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import nn

from perception.common.visual.recording import Recording
from perception.common.visual.video import find_files, frame_rate, show_image
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError


@dataclass
class Found:
    """What is known of a source.

    Attributes:
        name: no other source of the same folder has it, however files are called; results are named by it.
        source: what the predictor is called with.
        sample: with predictions, None without a model.
        truth: None without labels.
        error: why the source or its labels could not be read, None where they were.
    """

    name: str
    source: Any
    sample: BaseDataElement | None = None
    truth: Any = None
    error: DataError | None = None


class Predictor:
    """Base of the rooms' predictors; a config names its own by `predictor = dict(type=...)`.

    A room writes `predict`, `draw` and `save`, and the rest where its sources are no files or have labels, several
    views or something to be seen in a viewer. An object may keep what one source tells about the next, such as tracks,
    or the last frames of a running video. Further arguments of `__init__` are options of prediction, such as how a file
    is to be read: they can stand in the config (`predictor = dict(type=..., columns='x,y,z,i,ring')`) and on the
    command line (`--columns`).

    Args:
        model: in evaluation mode, or None, which draws sources and labels without predictions.
        data: config of the data set that the model is tested on, its `type` a class.
    """

    noun = 'source'  # what a source is called, such as 'scan'
    needs_net = False  # whether it asks its net for more than predictions, so that no stand-in will do
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

    def rate(self, path: str | Path) -> float:
        """Frames per second of a film of what `sources` finds: a video's own, else the data set's `rate`, else 10."""
        return frame_rate(path, self.meta.get('rate') or 10.0)

    def begin(self, path: str | Path, view: str) -> None:
        """Called before the pictures of a file or a folder are drawn, for views that need to know the whole.

        Raises:
            DataError: it does not allow that view.
        """

    def results(self, path: str | Path, labels: str | Path | None = None, batch: int = 1) -> Iterator[Found]:
        """Predict everything in a file or a folder; what cannot be read does not end it.

        Args:
            path: see `sources`.
            labels: file or folder of the truth.
            batch: how many sources are predicted at once.

        Yields:
            each source in turn with its prediction and truth, or with its error.

        Raises:
            ConfigError: labels that this predictor does not read, or a batch that is too large.
            DataError: nothing there that can be read.
        """
        sources, distinct = iter(self.sources(path)), Names()
        while some := list(itertools.islice(sources, batch)):
            for (name, source), sample in zip(some, self._samples([source for _, source in some])):
                found = Found(distinct(name, source), source)
                if isinstance(sample, DataError):
                    found.error = sample
                else:
                    found.sample = sample
                    try:
                        found.truth = None if labels is None else self.truth(labels, name, source)
                    except DataError as error:
                        found.error = error
                yield found

    def _samples(self, sources: Sequence[Any]) -> list[BaseDataElement | DataError | None]:
        """Sample of each source, None without a model, or why there is none; where one is bad each goes alone."""
        if self.model is None:
            return [None] * len(sources)
        try:
            return list(self.predict(sources))
        except DataError as error:
            return [error] if len(sources) == 1 else [self._samples([source])[0] for source in sources]
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError(f'--batch: the memory of the GPU is not enough for {len(sources)} at once, expected what '
                              'fits. Give a smaller number, or --device cpu.') from error

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
        self.begin(path, view)
        for found in self.results(path, labels):
            if found.error is not None:
                raise found.error
            picture = self.view(view, found.source, found.sample, found.truth, found.name)
            yield found.name, picture
            show = show and self.shown(picture, found)

    def shown(self, picture: np.ndarray, found: Found) -> bool:
        """Open a window with a picture (H, W, 3); where there is no display that is said, and False is returned."""
        there = self.show(picture, found.source, found.sample, found.truth, found.name)
        if not there:
            print_log('--show: no window can be opened here, expected a display. Look at the pictures that are '
                      'written.', 'current', logging.WARNING)
        return there

    def log(self, recording: Recording, found: Found) -> None:
        """Put a source into a recording for a viewer, at its time; by default its picture."""
        recording.image('picture', self.draw(found.source, found.sample, found.truth, found.name))

    def view(self, view: str, source: Any, sample: BaseDataElement | None, truth: Any, name: str) -> np.ndarray:
        """One picture (H, W, 3) of the kind `view`; `draw` where there is but the plain one."""
        return self.draw(source, sample, truth, name)

    def show(self, picture: np.ndarray, source: Any, sample: BaseDataElement | None, truth: Any, name: str) -> bool:
        """Open a window with a picture (H, W, 3); False where there is no display."""
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


class Names:
    """Makes the names of sources distinct, also where a file system does not tell upper from lower case."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def __call__(self, name: str, source: Any) -> str:
        """The name itself, with the ending of the file or a number added where it is taken."""
        ending = f'_{Path(source).suffix[1:]}' if isinstance(source, (str, Path)) and Path(source).suffix else ''
        candidates: Iterable[str] = itertools.chain(
            dict.fromkeys((name, f'{name}{ending}')), (f'{name}{ending}_{i}' for i in itertools.count(2)))
        free = next(one for one in candidates if one.casefold() not in self.taken)
        self.taken.add(free.casefold())
        return free
