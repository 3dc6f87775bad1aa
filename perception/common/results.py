"""Predictions of a results file in place of a net, so that a test scores, draws or converts what anybody predicted."""
import logging
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from perception.utils.errors import DataError


class StoredResults(nn.Module):
    """Stands where a test has its model: gives each sample what a file says of it. A data set writes `read`.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or is no valid one.
    """

    lacks: tuple[type, ...] = ()  # metrics of what such a file does not hold; a test leaves them out

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path).expanduser()
        self.results = self.read(self.path)

    def read(self, path: Path) -> dict[str, dict[str, Any]]:
        """sample_id -> fields of the sample, such as `pred_boxes`, of all that the file holds."""
        raise NotImplementedError(f'{type(self).__name__} has no read; write one.')

    def check(self, num_samples: int) -> None:
        """Say what the file holds, with a warning where that is more than the samples that are to be tested."""
        more = len(self.results) - num_samples
        print_log(f'{self.path}: predictions of {len(self.results):,} samples'
                  + (f', {num_samples:,} of which are tested here; the others are not looked at.' if more > 0 else '.'),
                  'current', logging.WARNING if more > 0 else logging.INFO)

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
            if sample.sample_id not in self.results:
                raise DataError(f'{self.path}: no results of {sample.sample_id}, expected some of each sample of the '
                                'tested split, an empty list where nothing was found. Predict the whole split, or '
                                'test the one that the file belongs to.')
            sample.set_data(self.results[sample.sample_id])
        return data['data_samples']
