"""Submissions to the SemanticKITTI server: label files as predictions arrive, then one checked zip; label files of
anybody as predictions."""
import logging
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from perception.common.formats.kitti import POINT_BYTES, read_labels
from perception.common.results import StoredFiles
from perception.common.submission import ZIP_DAMAGE, Submission, parents, zip_files
from perception.lidarseg.datasets.base import predictions_of
from perception.lidarseg.datasets.semantickitti import reader as kitti
from perception.registry import METRICS, MODELS
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import ConfigError, DataError

LABEL_BYTES = 4  # one uint32 a point
ZIP_NAME = 'submission.zip'


@METRICS.register_module()
class SemanticKITTISubmission(Submission):
    """Writes `sequences/SS/predictions/FFFFFF.label` for each predicted scan, and a valid zip at the end.

    The zip `submission.zip` appears only when it is complete and passes what the official validator checks.

    Args:
        out_dir: folder for `sequences` and the zip.
        data_root: folder of the data set, to know the number of points of each scan; the data set's own by default.
        multi: the 25 classes of the multi-scan task instead of 19.
        collect_device, prefix: as in mmengine.
    """

    unit = 'scans'
    takes_unlabelled = True  # 0 is a class of the server, which counts as wrong
    advice = 'Predict all of the test split; no zip was written, label files are kept.'
    upload = 'Upload it at the address given on www.semantic-kitti.org.'

    def __init__(self, out_dir: str | Path, data_root: str | Path | None = None, multi: bool = False,
                 collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(out_dir, collect_device, prefix)
        self.data_root, self.table = data_root, kitti.inverse_map(multi)

    def write(self, name: str, sample: Mapping) -> str:
        """Write the raw labels of a scan with `pred_labels` (N,) and, if known, `num_points` and `origin_len`.

        Raises:
            DataError: predictions are missing, too many or too few, or no train ids; the disk is full.
        """
        pred_labels = predictions_of(sample, 'SemanticKITTISubmission')
        path = self.out_dir / prediction_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, DataError) as part:
            part.write_bytes(kitti.to_raw_ids(pred_labels, name, self.table).astype('<u4').tobytes())
        return name

    def finish(self, results: list[str]) -> tuple[Path, list[str]]:
        """Zip what was written in this run; see `write_zip`.

        Raises:
            ConfigError: nothing tells where the data set is.
        """
        data_root = self.data_root or (self.dataset_meta or {}).get('data_root')
        if data_root is None:
            raise ConfigError('SemanticKITTISubmission: no data_root, expected the folder of the data set. Pass it.')
        return write_zip(self.out_dir, sorted(set(results)), data_root)


@MODELS.register_module()
class SemanticKITTIResults(StoredFiles):
    """The predictions of a folder of `sequences/SS/predictions/FFFFFF.label` with raw ids, of anybody.

    Args:
        path: the folder.
        multi: the 25 classes of the multi-scan task instead of 19.

    Raises:
        DataError: see StoredFiles; a damaged file. A number of labels that is not that of the points is said by the
            metric.
    """

    suffix = '.label'

    def __init__(self, path: str | Path, multi: bool = False) -> None:
        super().__init__(path)
        self.table = kitti.learning_map(multi)

    def name(self, sample_id: str) -> str:
        """`SS_FFFFFF` of a path too; files in other folders, such as the true labels, are of no scan."""
        sequence, folder, frame = ('', '', *sample_id.split('/'))[-3:]
        return f'{sequence}_{frame}' if folder == 'predictions' else sample_id

    def fields(self, stored: Path, sample: Any) -> dict[str, Any]:
        ids = kitti.to_train_ids(read_labels(stored), stored, strict=False, table=self.table)
        return dict(pred_labels=torch.from_numpy(ids.astype(np.int64)))


def prediction_name(sample_id: str) -> str:
    """Path of a scan's predictions inside a submission, such as `sequences/11/predictions/000000.label`."""
    sequence, _, frame = sample_id.partition('_')
    return f'sequences/{sequence}/predictions/{frame}.label'


def write_zip(out_dir: str | Path, sample_ids: Sequence[str], data_root: str | Path) -> tuple[Path, list[str]]:
    """Zip prediction files, with the directory entries that the server demands.

    Args:
        out_dir: folder that holds `sequences/SS/predictions/FFFFFF.label`; `submission.zip` is written there.
        sample_ids: the scans to be submitted.
        data_root: folder of the data set.

    Returns:
        path of the zip and, one sentence each, for what it would be refused: then no zip is left, not an older one
        either.

    Raises:
        DataError: the disk is full, or the data set is not there; no zip is left.
    """
    out_dir = Path(out_dir)
    path = out_dir / ZIP_NAME
    path.unlink(missing_ok=True)
    names = [prediction_name(sample_id) for sample_id in sample_ids]
    sizes = {name: (out_dir / name).stat().st_size for name in names if (out_dir / name).is_file()}
    problems = layout_problems(parents(names), sizes, data_root)
    if not problems:
        zip_files(path, out_dir, names)
    return path, problems


def validate_submission(path: str | Path, data_root: str | Path, check_values: bool = True) -> list[str]:
    """Find everything for which the official validator refuses a submission.

    What it does not look at is found too and logged as a warning: files that nobody reads, labels that are no raw ids.

    Args:
        path: the zip.
        data_root: folder of the data set with the scans of the test split.
        check_values: read the labels too, which takes longer.

    Returns:
        one sentence for each problem; none when the submission is accepted.

    Raises:
        DataError: no such file, or the data set is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f'{path}: no such file, expected the zip of a submission. Check the path.')
    if path.suffix != '.zip':
        return [f'the name {path.name} does not end with .zip']
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry.file_size for entry in archive.infolist()}
            sizes = {name: size for name, size in entries.items() if not name.endswith('/')}  # a name may be empty
            problems = layout_problems([name for name in entries if name.endswith('/')], sizes, data_root)
            if not problems and check_values:
                _warn_of_values(archive, data_root)
    except ZIP_DAMAGE as error:
        return [f'{path.name} is no readable zip file ({error})']
    if not problems:
        extra = set(sizes) - {'description.txt'} - {prediction_name(scan) for scan in _test_scans(data_root)}
        if extra:
            _warn(f'{path}: {len(extra):,} files that the server does not read, such as {min(extra)}.')
    return problems


def layout_problems(folders: Collection[str], sizes: dict[str, int], data_root: str | Path) -> list[str]:
    """Compare the entries of a submission with the test split.

    Args:
        folders: directory entries, each with a slash at its end.
        sizes: file name -> bytes.
        data_root: folder of the data set.

    Returns:
        one sentence for each problem; missing scans are reported only where all directories are there.

    Raises:
        DataError: the test split is not there.
    """
    data_root = kitti.unpacked(data_root)
    scans, folders = _test_scans(data_root), set(folders)
    wanted = ['sequences/', *(f'sequences/{s}/{tail}' for s in kitti.SPLITS['test'] for tail in ('', 'predictions/'))]
    problems = [f'directory entry {folder} is missing' for folder in wanted if folder not in folders]
    if problems:
        return problems
    for scan in scans:
        name, points_path = prediction_name(scan), kitti.scan_paths(data_root, scan)[0]
        expected = points_path.stat().st_size // POINT_BYTES
        if name not in sizes:
            problems.append(f'{name} is missing')
        elif sizes[name] != LABEL_BYTES * expected:
            problems.append(f'{name} has {sizes[name]:,} bytes, expected {LABEL_BYTES * expected:,} for {expected:,} '
                            f'points')
    return problems


def _test_scans(data_root: str | Path) -> list[str]:
    return kitti.list_scans(data_root, kitti.SPLITS['test'])


def _warn_of_values(archive: zipfile.ZipFile, data_root: str | Path) -> None:
    """Log labels that are no raw ids: the server scores them as wrong without a word."""
    values: set[int] = set()
    for scan in _test_scans(data_root):
        values.update(np.unique(np.frombuffer(archive.read(prediction_name(scan)), '<u4') & 0xFFFF).tolist())
    unknown = values - set(kitti.RAW_CLASSES)
    if values == {0}:
        _warn(f'{archive.filename}: every label is 0 (unlabeled) in its lower 16 bits. Are they uint32, not float32?')
    if unknown:
        train_ids = max(values) <= len(kitti.MULTI_CLASSES)
        advice = 'They look like train ids: map them with to_raw_ids.' if train_ids else 'Are they uint32?'
        _warn(f'{archive.filename}: labels {sorted(unknown)[:8]} are no raw ids; the server will score them as wrong. '
              f'{advice}')


def _warn(text: str) -> None:
    print_log(text, 'current', logging.WARNING)
