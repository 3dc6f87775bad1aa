"""What all data sets share: augmentation that depends on (seed, epoch, index) alone, samples, and joining several."""
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from perception.registry import DATASETS, TRANSFORMS
from perception.utils.errors import ConfigError
from perception.utils.values import TypedArguments


class SeededDataset(TypedArguments, Dataset):
    """Base of the data sets. One fills `METAINFO` and writes `__len__`, `read` and `pack`.

    `dataset[i]` or `dataset[epoch, i]` gives `dict(inputs=dict(...), data_samples=...)`. The pipeline sees the arrays
    of `read` with `rng`, `draw`, `epoch` and `classes` beside them. `rng` depends on (seed, epoch, i) alone, so that
    augmentation is the same for any number of workers and after a resume. `draw()` reads another sample, its index
    taken from `rng`, for augmentation that mixes two. `epoch` is for augmentation that ends before the training does,
    `classes` are the names in `metainfo`, None where there are none.

    Args:
        pipeline: augmentations, callables or their configs, applied in turn.
        seed: of the augmentation.
    """

    METAINFO: dict[str, Any] = {}

    @classmethod
    def describe(cls, config: Mapping) -> dict[str, Any]:
        """What is known of a data set before it is built, such as `classes` and `palette`; `METAINFO` by default.

        Args:
            config: of the data set, for those whose classes are arguments.

        Raises:
            ConfigError: the config describes none.
        """
        return cls.METAINFO

    def __init__(self, pipeline: Sequence[dict | Callable] = (), seed: int = 0) -> None:
        self.seed, self.metainfo = seed, dict(self.METAINFO)
        self.pipeline = build_pipeline(pipeline)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, (tuple, list)) else (0, key)
        index = range(len(self))[index]  # -1 is the last one
        sample = self.begin(self.read(index), epoch, index)
        for step in self.pipeline:
            sample = step(sample)
        return self.pack(sample, index)

    def begin(self, arrays: dict, epoch: int, index: int) -> dict:
        """What the pipeline sees of a sample: the arrays of `read`, and what stands beside them."""
        rng = np.random.default_rng([self.seed, epoch, index])
        return dict(arrays, rng=rng, draw=lambda: self.read(int(rng.integers(len(self)))), epoch=epoch,
                    classes=self.metainfo.get('classes'))

    def __len__(self) -> int:
        raise NotImplementedError(f'{type(self).__name__} has no __len__; write one.')

    def read(self, index: int) -> dict:
        """A sample as it is in its files, as arrays, with `sample_id`."""
        raise NotImplementedError(f'{type(self).__name__} has no read; write one that gives a dict of arrays.')

    def pack(self, sample: dict, index: int) -> dict:
        """The tensors that the collate function takes, `dict(inputs=dict(...), data_samples=...)`.

        Args:
            sample: what `read` gave, after the pipeline.
            index: of the sample.
        """
        raise NotImplementedError(f'{type(self).__name__} has no pack; write one that gives inputs and data_samples.')


def build_pipeline(pipeline: Sequence[dict | Callable]) -> list[Callable]:
    """The steps of a pipeline, of callables or their configs."""
    return [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline]


def run_pipeline(pipeline: Sequence[Callable], arrays: dict, classes: Sequence[str] | None = None) -> dict:
    """What is predicted, after the pipeline that samples of its data set pass when the net is tested.

    Args:
        pipeline: steps, which see what `SeededDataset` shows them; `rng` is the same for each source.
        arrays: of the source.
        classes: of the data set.

    Raises:
        ConfigError: a step asks for another sample to mix in, and there is none.
    """
    def draw() -> dict:
        raise ConfigError('test_dataloader.dataset.pipeline: a step asks for another sample to mix in, expected steps '
                          'that do with the one that is predicted. Take it out of the pipeline of the test.')

    sample = dict(arrays, rng=np.random.default_rng(0), draw=draw, epoch=0, classes=classes)
    for step in pipeline:
        sample = step(sample)
    return sample


@DATASETS.register_module()
class ConcatDataset(TypedArguments, Dataset):
    """Several data sets in one training, such as real and simulated scans; a score is of one alone.

    Each sample is read, augmented and packed by its own data set, and what mixes two samples takes both from that. One
    named several times, each with another `seed`, counts several times in an epoch.

    Args:
        datasets: data sets or their configs, with the same classes in the same order; the first one describes all.

    Raises:
        ConfigError: none came, or they have different classes.
    """

    def __init__(self, datasets: Sequence[dict | Dataset]) -> None:
        self.datasets = [DATASETS.build(one) if isinstance(one, dict) else one for one in datasets]
        if not self.datasets:
            raise ConfigError('ConcatDataset: no datasets came, expected one or more. Name them.')
        classes = [(getattr(one, 'metainfo', None) or {}).get('classes') for one in self.datasets]
        for i, names in enumerate(classes):
            if list(names or ()) != list(classes[0] or ()):
                raise ConfigError(f'ConcatDataset: datasets.{i} has the classes {", ".join(names or ["(none)"])} and '
                                  f'datasets.0 {", ".join(classes[0] or ["(none)"])}, expected the same in the same '
                                  'order. Map the labels of one to those of the other, or train on one.')
        self.metainfo = dict(getattr(self.datasets[0], 'metainfo', None) or {})
        self.ends = np.cumsum([len(one) for one in self.datasets])

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, (tuple, list)) else (0, key)
        index = range(len(self))[index]
        i = int(np.searchsorted(self.ends, index, side='right'))
        return self.datasets[i][epoch, index - int(self.ends[i]) + len(self.datasets[i])]

    def __len__(self) -> int:
        return int(self.ends[-1])


def parts(data: Any, place: str = 'train_dataloader.dataset') -> Iterator[tuple[str, Any]]:
    """Place in a config and each of the data sets that a `ConcatDataset` joins, or itself where it is another one.

    Args:
        data: a data set or its config.
        place: it stands.
    """
    joined = data.get('datasets') if isinstance(data, Mapping) else getattr(data, 'datasets', None)
    if joined is None:
        yield place, data
    for i, one in enumerate(joined or ()):
        yield from parts(one, f'{place}.datasets.{i}')
