"""Predictions on disk as they arrive, so that a test which was cut off goes on where it stopped.

    <folder>/run.json             what made them: hashes of checkpoints, nets, settings and data
    <folder>/<sample_id>.npy      (N,) uint8 class numbers, 255 = none; np.load reads it

A file has its name only when it is whole, so whatever bears a name counts, whoever wrote it: a run of one process may
be continued by two. Files of another run are never mixed in: the stamp `run.json` must be the same.
"""
import contextlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.common.formats.arrays import read_npy
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError
from perception.utils.outputs import inside

STAMP = 'run.json'


class SavedPredictions(nn.Module):
    """Wraps a model: samples whose predictions are on disk are read, the others are predicted and written.

    What follows, such as metrics, submissions and pictures, sees no difference. A room whose models predict something
    else than class numbers derives its own with another `field`, `read` and `write`.

    Args:
        model: has a `test_step`.
        folder: of the predictions; made if absent.
        stamp: everything that the predictions depend on, as JSON knows it.
        replace: where predictions of another run lie in the folder, remove them instead of refusing.

    Raises:
        DataError: the folder holds predictions of another run or something else, or cannot be written.
    """

    field = 'pred_labels'  # of the samples, which is kept

    def __init__(self, model: nn.Module, folder: str | Path, stamp: Mapping, replace: bool = False) -> None:
        super().__init__()
        self.model, self.folder = model, Path(folder).expanduser()
        if is_main_process():
            prepare_folder(self.folder, stamp, replace)
        barrier()

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """Predict a batch as it comes from the data loader.

        Args:
            data: `inputs`, lists with an entry for each sample, and `data_samples`, each with a `sample_id`.

        Returns:
            the samples with the predictions in `field`.
        """
        samples, absent = data['data_samples'], []
        for i, sample in enumerate(samples):
            prediction = self.read(self.path(sample.sample_id))
            if prediction is None:
                absent.append(i)
            else:
                sample.set_data({self.field: prediction})
        if absent:
            inputs = {key: [values[i] for i in absent] for key, values in data['inputs'].items()}
            part = dict(data, inputs=inputs, data_samples=[samples[i] for i in absent])
            for i, sample in zip(absent, self.model.test_step(part)):
                self.write(self.path(sample.sample_id), sample.get(self.field))
                samples[i] = sample
        return samples

    def read(self, path: Path) -> Any:
        """A prediction from its file, None where there is no whole one."""
        return read_prediction(path)

    def write(self, path: Path, prediction: Any) -> None:
        """Write a prediction, wholly or not at all.

        Raises:
            DataError: the file cannot be written, such as on a full disk.
        """
        write_prediction(path, prediction)

    def path(self, sample_id: str) -> Path:
        """File of a sample's predictions."""
        return inside(self.folder, f'{sample_id}.npy')

    def remove(self) -> None:
        """Delete the folder, once all that was to be made from it is there; by the first process."""
        barrier()
        if is_main_process():
            shutil.rmtree(self.folder, ignore_errors=True)


def prepare_folder(folder: Path, stamp: Mapping, replace: bool) -> None:
    """Make the folder, or make sure that its predictions are those of this run; see SavedPredictions."""
    stamp = json.loads(json.dumps(stamp))
    there = sorted(folder.rglob('*.npy')) if folder.is_dir() else []
    found = read_stamp(folder / STAMP)
    if there and found != stamp:
        differs = _difference(found, stamp)
        if not replace:
            raise DataError(f'{folder}: {len(there):,} predictions of another run ({differs}), expected those of this '
                            'one. Give another folder, or delete this one.')
        print_log(f'{folder}: {len(there):,} predictions of another run ({differs}) are removed.', 'current',
                  logging.WARNING)
        shutil.rmtree(folder, ignore_errors=True)
        there = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f'{folder}: {error.strerror} where predictions are to be kept, expected a folder that can be '
                        'written. Choose another one.') from error
    for part in folder.rglob('.*.part'):  # half a file of a run that was killed
        part.unlink(missing_ok=True)
    if found != stamp:
        with atomic_path(folder / STAMP, DataError) as part:
            part.write_text(json.dumps(stamp, indent=1) + '\n')
    done = f'{len(there):,} samples are there already, the others follow' if there else 'one file for each sample'
    print_log(f'Predictions are kept in {folder}: {done}. If this run is cut off, the same command continues it.',
              'current')


def read_stamp(path: Path) -> dict | None:
    """What a folder's predictions were made from, None where nothing tells."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _difference(found: dict | None, stamp: dict) -> str:
    """Names of the parts in which two stamps differ."""
    if found is None:
        return f'without a readable {STAMP}'
    keys = [key for key in dict.fromkeys((*found, *stamp)) if found.get(key) != stamp.get(key)]
    return f'another {", another ".join(keys)}'


def read_prediction(path: Path) -> Tensor | None:
    """Labels (N,) int64 in a file, None where there is no whole one."""
    if not path.is_file():
        return None
    try:
        labels = read_npy(path)
    except DataError:
        labels = None
    if labels is None or labels.ndim != 1 or labels.dtype != np.uint8:
        print_log(f'{path} cannot be read; it is predicted again.', 'current', logging.WARNING)
        return None
    return torch.from_numpy(labels.astype(np.int64))


def write_prediction(path: Path, labels: Tensor) -> None:
    """Write labels (N,), wholly or not at all.

    Raises:
        DataError: the file cannot be written, such as on a full disk.
    """
    with contextlib.suppress(OSError):  # atomic_path says why the folder is not there
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, DataError) as part, open(part, 'wb') as file:
        np.save(file, labels.cpu().numpy().astype(np.uint8))
