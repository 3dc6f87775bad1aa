"""Submissions to the nuScenes-lidarseg server: label files as predictions arrive, then one checked zip; label files of
anybody as predictions.

    <out_dir>/results/lidarseg/<split>/<token>_lidarseg.bin    one uint8 a point, official classes 1..16
    <out_dir>/results/<split>/submission.json                  which sensors and data were used
    <out_dir>/submission.zip                                   the contents of results
"""
from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from perception.common.nuscenes.index import KeyFrame
from perception.common.nuscenes.reader import read_split
from perception.common.results import StoredFiles
from perception.common.submission import Submission, zip_files
from perception.lidarseg.datasets.base import predictions_of
from perception.lidarseg.datasets.nuscenes.reader import CLASSES, POINT_BYTES, read_point_labels, to_official_ids
from perception.registry import METRICS, MODELS
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import ConfigError, DataError

ZIP_NAME = 'submission.zip'
USED = ('use_camera', 'use_lidar', 'use_radar', 'use_map', 'use_external')


@METRICS.register_module()
class NuScenesLidarSegSubmission(Submission):
    """Writes a label file for each predicted key frame, and a valid zip at the end.

    The zip appears only when it is complete and passes what the official validator checks.

    Args:
        out_dir: folder for `results` and the zip.
        data_root, split: of the data set; the data set's own by default.
        use_lidar, use_camera, use_radar, use_map, use_external: what the predictions were made from, as the server
            asks; maps and other data than nuScenes count, pre-trained weights too (`use_external`).
        collect_device, prefix: as in mmengine.
    """

    unit = 'key frames'
    advice = 'Predict every key frame of the split; no zip was written, label files are kept.'
    upload = 'Upload it at the address given on www.nuscenes.org/lidar-segmentation.'

    def __init__(self, out_dir: str | Path, data_root: str | Path | None = None, split: str | None = None,
                 use_lidar: bool = True, use_camera: bool = False, use_radar: bool = False, use_map: bool = False,
                 use_external: bool = False, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(out_dir, collect_device, prefix)
        self.data_root, self.split = data_root, split
        self.used = dict(use_camera=bool(use_camera), use_lidar=bool(use_lidar), use_radar=bool(use_radar),
                         use_map=bool(use_map), use_external=bool(use_external))

    def _place(self) -> tuple[Path, str]:
        """Root and split of the data set."""
        meta = self.dataset_meta or {}
        data_root, split = self.data_root or meta.get('data_root'), self.split or meta.get('split')
        if data_root is None or split is None:
            raise ConfigError(f'NuScenesLidarSegSubmission: data_root={data_root}, split={split}, expected the folder '
                              f'of the data set and a split such as test. Pass both.')
        return Path(data_root), split

    def write(self, name: str, sample: Mapping) -> str:
        """Write the official classes of a key frame with `pred_labels` (N,) and, if known, `num_points`.

        Raises:
            ConfigError: nothing tells where the data set is.
            DataError: predictions are missing, too many or too few, or none of the 16 classes; the disk is full.
        """
        _, split = self._place()
        pred_labels = predictions_of(sample, 'NuScenesLidarSegSubmission')
        path = self.out_dir / 'results' / prediction_name(split, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, DataError) as part:
            part.write_bytes(to_official_ids(pred_labels, name).tobytes())
        return name

    def finish(self, results: list[str]) -> tuple[Path, list[str]]:
        """Zip what was written in this run; see `write_zip`."""
        return write_zip(self.out_dir, sorted(set(results)), *self._place(), self.used)


@MODELS.register_module()
class NuScenesLidarSegResults(StoredFiles):
    """The predictions of a folder of `<token>_lidarseg.bin` with official ids 1..16, of anybody.

    Args:
        path: the folder, such as `results`.

    Raises:
        DataError: see StoredFiles; a damaged file. Ids and numbers of labels are checked by the metric.
    """

    suffix, parts = '_lidarseg.bin', 1

    def fields(self, stored: Path, sample: Any) -> dict[str, Any]:
        return dict(pred_labels=torch.from_numpy(read_point_labels(stored, None).astype(np.int64) - 1))


def prediction_name(split: str, token: str) -> str:
    """Path of a key frame's predictions inside the results, such as `lidarseg/test/<token>_lidarseg.bin`."""
    return f'lidarseg/{split}/{token}_lidarseg.bin'


def write_zip(out_dir: str | Path, tokens: Sequence[str], data_root: str | Path, split: str,
              used: dict[str, bool]) -> tuple[Path, list[str]]:
    """Complete the results and zip their contents.

    Args:
        out_dir: folder that holds `results/lidarseg/<split>/<token>_lidarseg.bin`; `submission.zip` is written there.
        tokens: the key frames to be submitted.
        data_root: folder of the data set.
        split: such as 'test'.
        used: for each of `USED` whether it was.

    Returns:
        path of the zip and, one sentence each, for what it would be refused: then no zip is left, not an older one
        either.

    Raises:
        DataError: the disk is full, or the data set is not there; no zip is left.
    """
    out_dir = Path(out_dir)
    results, path = out_dir / 'results', out_dir / ZIP_NAME
    path.unlink(missing_ok=True)
    meta = results / split / 'submission.json'
    meta.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(meta, DataError) as part:
        part.write_text(json.dumps(dict(meta=used), indent=1) + '\n')
    frames = {frame.token for frame in read_split(data_root, split)[1]}
    problems = [f'{token} was not predicted in this run' for token in sorted(frames - set(tokens))]
    problems += validate_submission(results, data_root, split)
    if not problems:
        names = [meta.relative_to(results).as_posix(), *(prediction_name(split, token) for token in tokens)]
        zip_files(path, results, names)
    return path, problems


def validate_submission(results: str | Path, data_root: str | Path, split: str) -> list[str]:
    """Find everything for which the official validator refuses a results folder.

    What it does not look at is found too and logged as a warning: label files that belong to no key frame.

    Args:
        results: the folder, as `submission.zip` holds it.
        data_root: folder of the data set.
        split: such as 'test'.

    Returns:
        one sentence for each problem; none when the submission is accepted.

    Raises:
        DataError: no such folder, or the data set is not there.
    """
    results = Path(results)
    if not results.is_dir():
        raise DataError(f'{results}: no such folder, expected the results of a submission. Unpack the zip first.')
    frames = read_split(data_root, split)[1]
    problems = [*_meta_problems(results / split / 'submission.json')]
    for frame in frames:
        problem = _label_problem(results / prediction_name(split, frame.token), Path(data_root) / frame.points)
        problems += [problem] if problem else []
    _warn_of_strangers(results / 'lidarseg' / split, frames)
    return problems


def _meta_problems(path: Path) -> list[str]:
    try:
        used = json.loads(path.read_bytes())['meta']
        keys = set(used)
    except OSError as error:
        return [f'{path} cannot be read ({error.strerror})']
    except (ValueError, KeyError, TypeError, RecursionError):
        return [f'{path} holds no JSON object with the key meta']
    if not isinstance(used, dict) or keys != set(USED):
        came = ', '.join(sorted(map(str, keys))) or 'none'
        return [f'{path} has the keys {came} under meta, expected exactly {", ".join(USED)}']
    return [f'{path}: {key} is {value!r}, expected true or false' for key, value in used.items()
            if not isinstance(value, bool)]


def _label_problem(path: Path, points: Path) -> str | None:
    try:
        labels = np.fromfile(path, np.uint8)
        num_points = points.stat().st_size // POINT_BYTES
    except OSError as error:
        return f'{path} cannot be read ({error.strerror})' if path.name in str(error) else \
            f'{points} cannot be read ({error.strerror})'
    if len(labels) != num_points:
        return f'{path} has {len(labels):,} labels for {num_points:,} points'
    wrong = (labels < 1) | (labels > len(CLASSES))
    if wrong.any():
        return f'{path} holds class {labels[wrong][0]} at {wrong.sum():,} points, expected 1..{len(CLASSES)}'
    return None


def _warn_of_strangers(folder: Path, frames: list[KeyFrame]) -> None:
    strangers = {path.name for path in folder.glob('*')} - {f'{frame.token}_lidarseg.bin' for frame in frames}
    if strangers:
        print_log(f'{folder}: {len(strangers):,} files that belong to no key frame of the split, such as '
                  f'{min(strangers)}; the server does not look at them.', 'current', logging.WARNING)
