"""Predictions of files in place of a net, so that a test scores, draws or converts what anybody predicted."""
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from perception.utils.errors import DataError
from perception.utils.paths import walk


class StoredResults(nn.Module):
    """Stands where a test has its model: gives each sample what a file says of it. A data set writes `read`.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or is no valid one.
    """

    lacks: tuple[type, ...] = ()  # metrics of what such a file does not hold; a test leaves them out
    data: Mapping[str, Any] = {}  # options of the data set that spare what nobody looks at, such as images

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path).expanduser()
        self.results = self.read(self.path)

    def read(self, path: Path) -> Mapping[str, Any]:
        """sample_id -> fields of the sample, such as `pred_boxes`, of all that the file holds; see `fields`."""
        raise NotImplementedError(f'{type(self).__name__} has no read; write one.')

    def name(self, sample_id: str) -> str:
        """What `read` calls a sample."""
        return sample_id

    def fields(self, stored: Any, sample: Any) -> dict[str, Any]:
        """Fields of a sample, of what `read` has of it."""
        return stored

    def check(self, num_samples: int) -> None:
        """Say what the file holds, with a warning where that is more than the samples that are to be tested.

        Raises:
            DataError: it is less.
        """
        more = len(self.results) - num_samples
        if more < 0:
            raise DataError(f'{self.path}: predictions of {len(self.results):,} samples, expected some of each of the '
                            f'{num_samples:,} of the tested split, empty where nothing was found. Predict the whole '
                            'split, or test the one that they belong to.')
        print_log(f'{self.path}: predictions of {len(self.results):,} samples'
                  + (f', {num_samples:,} of which are tested here; the others are not looked at.' if more else '.'),
                  'current', logging.WARNING if more else logging.INFO)

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """Hand out predictions.

        Args:
            data: with `data_samples`, each with a `sample_id`.

        Returns:
            the samples with their predictions.

        Raises:
            DataError: the file has none of a sample, not even an empty list.
        """
        for sample in data['data_samples']:
            name = self.name(sample.sample_id)
            if name not in self.results:
                raise DataError(f'{self.path}: no results of {name} (the first there are of '
                                f'{next(iter(self.results), "none")}), expected some of each sample of the tested '
                                'split, empty where nothing was found. Predict the whole split, or test the one that '
                                'they belong to.')
            sample.set_data(self.fields(self.results[name], sample))
        return data['data_samples']


class StoredFiles(StoredResults):
    """The same of a folder with a file for each sample, read when it is its turn. A data set writes `fields`.

    A file is called by the last `parts` of its sample's id, in any folder below the one that is named, or by the whole.

    Args:
        path: the folder.

    Raises:
        DataError: no file there that ends so, or two of one name.
    """

    suffix = '.png'
    parts = 0  # of an id; 0 are all

    def read(self, path: Path) -> dict[str, Path]:
        """Name of a sample -> its file."""
        files: dict[str, Path] = {}
        for file in walk(path, self.suffix):
            name = self.name(file.relative_to(path).as_posix()[:-len(self.suffix)])
            if name in files:
                raise DataError(f'{path}: {files[name]} and {file} are both of {name}, expected one file of a sample. '
                                'Name the folder of one of them.')
            files[name] = file
        if not files:
            came = 'no such folder' if not path.exists() else 'a file' if path.is_file() else 'no such file in it'
            raise DataError(f'{path}: {came}, expected a folder with a file for each sample that ends in '
                            f'{self.suffix}. Check the path; unpack what is packed.')
        return files

    def name(self, sample_id: str) -> str:
        """The end of an id that its file is called by."""
        return '/'.join(sample_id.split('/')[-self.parts:])
