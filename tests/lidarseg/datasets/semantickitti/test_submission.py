"""Submissions: written as predictions arrive, zipped with directory entries, accepted and refused as officially."""
import errno
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.common import submission as common_submission
from perception.common.formats.kitti import read_labels, write_points
from perception.lidarseg.datasets.semantickitti import submission as module
from perception.lidarseg.datasets.semantickitti.reader import SPLITS, SemanticKITTI, scan_paths
from perception.lidarseg.datasets.semantickitti.submission import (
    SemanticKITTISubmission,
    validate_submission,
    write_zip,
)
from perception.utils.errors import ConfigError, DataError

ZIPS = ['good.zip', 'good_stored.zip', 'no_dir_entries.zip', 'wrong_top_folder.zip', 'wrong_predictions_name.zip',
        'missing_scan.zip', 'missing_sequence_dir.zip', 'uint16_labels.zip', 'uint64_labels.zip', 'one_label_short.zip',
        'one_label_long.zip', 'extra_files.zip', 'train_ids.zip', 'float_labels.zip', 'good.tar', 'not_a_zip.zip']


@pytest.fixture
def data_root(tmp_path) -> Path:
    """The test split with one small scan a sequence, two in the first."""
    root = tmp_path / 'data'
    for sequence, frame in [(s, 0) for s in SPLITS['test']] + [(11, 1)]:
        path = scan_paths(root, f'{sequence:02d}_{frame:06d}')[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_points(path, np.zeros((sequence - 11 + frame, 4)))  # the first scan has no point
    return root


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """The lines that are logged."""
    lines = []
    for where in (module, common_submission):
        monkeypatch.setattr(where, 'print_log', lambda text, *_: lines.append(text))
    return lines


def predictions(data_root: Path) -> list[dict]:
    """A sample for each scan of the test split, as a model leaves it."""
    samples = []
    for item in SemanticKITTI(data_root, 'test'):
        sample = item['data_samples']
        sample.pred_labels = (torch.arange(sample.num_points) * 7 + len(samples)) % 19
        samples.append(sample.to_dict())
    return samples


def submit(out_dir: Path, data_root: Path, samples: list[dict], **options) -> SemanticKITTISubmission:
    writer = SemanticKITTISubmission(out_dir, data_root, **options)
    for sample in samples:
        writer.process(None, [sample])
    writer.evaluate(len(samples))
    return writer


def written(out_dir: Path) -> list[str]:
    return sorted(path.name for path in out_dir.rglob('*') if path.is_file())


# --- the official validator's verdicts -------------------------------------------------------------------------------
@pytest.mark.parametrize('name', ZIPS)
def test_verdict_equals_that_of_the_official_validator(shared, name):
    folder = shared / 'goldens/lidarseg/semantickitti_eval_A'
    verdicts = json.loads((folder.parent / 'semantickitti_eval_A.json').read_text())['zips']
    assert set(verdicts) == set(ZIPS)
    problems = validate_submission(folder / 'zips' / name, folder / 'test_dataset')
    assert (not problems) == verdicts[name]['accepted'], problems


@pytest.mark.parametrize('name', ZIPS)
def test_the_first_problem_is_the_one_that_the_official_validator_names(shared, name):
    folder = shared / 'goldens/lidarseg/semantickitti_eval_A'
    said = json.loads((folder.parent / 'semantickitti_eval_A.json').read_text())['zips'][name]['stdout']
    error = re.search(r'Error: (.*?)\x1b', said)
    if error is None:
        return  # accepted, or no zip at all, at which it stops without a word
    problem, = validate_submission(folder / 'zips' / name, folder / 'test_dataset')[:1]
    entry = re.search(r'"(sequences.*?)["\']', error[1])
    assert f'{entry[1]} '.replace('sequences ', 'sequences/ ') in problem if entry else '.zip' in problem
    counts = re.search(r'should have (\d+) labels, but found (\d+)', error[1])
    if counts:
        wanted, found = map(int, counts.groups())
        assert f'expected {4 * wanted} for {wanted} points' in problem and f'has {4 * found} bytes' in problem


@pytest.mark.parametrize('name, problem', [
    ('no_dir_entries.zip', 'directory entry sequences/ is missing'),
    ('missing_scan.zip', 'sequences/11/predictions/000001.label is missing'),
    ('uint16_labels.zip', 'sequences/11/predictions/000000.label has 16 bytes, expected 32 for 8 points'),
    ('good.tar', 'the name good.tar does not end with .zip'),
    ('not_a_zip.zip', 'not_a_zip.zip is no readable zip file')])
def test_problems_are_named(shared, name, problem):
    folder = shared / 'goldens/lidarseg/semantickitti_eval_A'
    assert problem in validate_submission(folder / 'zips' / name, folder / 'test_dataset')[0]


@pytest.mark.parametrize('name, warning', [
    ('extra_files.zip', 'files that the server does not read'), ('train_ids.zip', 'They look like train ids'),
    ('float_labels.zip', 'every label is 0'), ('good.zip', None)])
def test_what_the_official_validator_overlooks_is_a_warning(shared, logged, name, warning):
    folder = shared / 'goldens/lidarseg/semantickitti_eval_A'
    assert validate_submission(folder / 'zips' / name, folder / 'test_dataset') == []
    assert (len(logged) == 1 and warning in logged[0]) if warning else not logged


# --- writing ---------------------------------------------------------------------------------------------------------
def test_a_submission_is_written_and_accepted(tmp_path, data_root, logged):
    samples = predictions(data_root)
    submit(tmp_path / 'out', data_root, samples)
    assert validate_submission(tmp_path / 'out/submission.zip', data_root) == []
    with zipfile.ZipFile(tmp_path / 'out/submission.zip') as archive:
        names = archive.namelist()
        labels = np.frombuffer(archive.read('sequences/20/predictions/000000.label'), '<u4')
    assert names[:3] == ['sequences/', 'sequences/11/', 'sequences/11/predictions/']
    assert len(names) == 1 + 2 * 11 + 12
    raw = (10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)
    assert labels.tolist() == [raw[(7 * i + 10) % 19] for i in range(9)]
    assert (tmp_path / 'out/sequences/11/predictions/000000.label').stat().st_size == 0
    assert '12 scans' in logged[-1]


def test_label_files_appear_as_predictions_arrive(tmp_path, data_root):
    writer, samples = SemanticKITTISubmission(tmp_path / 'out', data_root), predictions(data_root)
    for count, sample in enumerate(samples, 1):
        writer.process(None, [sample])
        assert len(written(tmp_path / 'out')) == count
    assert 'submission.zip' not in written(tmp_path / 'out')


def test_the_data_set_tells_where_it_is(tmp_path, data_root):
    writer = SemanticKITTISubmission(tmp_path / 'out')
    for sample in predictions(data_root):
        writer.process(None, [sample])
    with pytest.raises(ConfigError, match='no data_root'):
        writer.compute_metrics(writer.results)
    writer.dataset_meta = SemanticKITTI(data_root, 'test').metainfo
    assert writer.evaluate(12) == {}
    assert 'submission.zip' in written(tmp_path / 'out')


def test_two_processes_write_one_submission(tmp_path, data_root):
    samples = predictions(data_root)
    parts = [SemanticKITTISubmission(tmp_path / 'out', data_root) for _ in range(2)]
    for i, sample in enumerate([*samples, samples[0]]):  # repeated to fill the last round
        parts[i % 2].process(None, [sample])
    parts[0].compute_metrics(parts[0].results + parts[1].results)
    assert validate_submission(tmp_path / 'out/submission.zip', data_root) == []


def test_leftovers_of_other_runs_are_not_submitted(tmp_path, data_root):
    stale = tmp_path / 'out/sequences/11/predictions/000099.label'
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b'1234')
    submit(tmp_path / 'out', data_root, predictions(data_root))
    with zipfile.ZipFile(tmp_path / 'out/submission.zip') as archive:
        assert not [name for name in archive.namelist() if '000099' in name]


def test_multi_scan_ids(tmp_path, data_root):
    samples = predictions(data_root)
    samples[-1]['pred_labels'][:] = 19
    submit(tmp_path / 'out', data_root, samples, multi=True)
    assert set(read_labels(tmp_path / 'out/sequences/21/predictions/000000.label').tolist()) == {252}


# --- bad input -------------------------------------------------------------------------------------------------------
def test_an_incomplete_submission_leaves_no_zip(tmp_path, data_root):
    submit(tmp_path / 'out', data_root, predictions(data_root))
    with pytest.raises(DataError, match=r'submission\.zip: directory entry sequences/21/ is missing \(2 problem'):
        submit(tmp_path / 'out', data_root, predictions(data_root)[:-1])
    assert 'submission.zip' not in written(tmp_path / 'out')  # not the old one either
    (tmp_path / 'out/sequences/12/predictions/000000.label').unlink()
    names = [sample['sample_id'] for sample in predictions(data_root)]
    path, problems = write_zip(tmp_path / 'out', names, data_root)
    assert problems == ['sequences/12/predictions/000000.label is missing'] and not path.exists()


def test_wrong_predictions_are_refused(tmp_path, data_root):
    writer = SemanticKITTISubmission(tmp_path / 'out', data_root)
    sample = predictions(data_root)[-1]
    with pytest.raises(DataError, match='21_000000 has no pred_labels'):
        writer.process(None, [dict(sample, pred_labels=None)])
    with pytest.raises(DataError, match='9 predictions for 10 points of 21_000000'):
        writer.process(None, [dict(sample, pred_labels=sample['pred_labels'][1:])])
    with pytest.raises(DataError, match='21_000000: predicted class 19, expected train ids'):
        writer.process(None, [dict(sample, pred_labels=sample['pred_labels'] * 0 + 19)])
    assert written(tmp_path / 'out') == []


def test_a_damaged_zip_is_a_problem(tmp_path, data_root):
    submit(tmp_path / 'out', data_root, predictions(data_root))
    path = tmp_path / 'out/submission.zip'
    damaged = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo('sequences/21/predictions/000000.label')
    start = info.header_offset + 30 + len(info.filename)
    damaged[start:start + info.compress_size] = bytes(info.compress_size)
    path.write_bytes(damaged)
    assert 'no readable zip file' in validate_submission(path, data_root)[0]
    path.write_bytes(damaged[:-30])
    assert 'no readable zip file' in validate_submission(path, data_root)[0]


def test_an_entry_without_a_name_is_one_that_the_server_does_not_read(tmp_path, data_root, logged):
    submit(tmp_path / 'out', data_root, predictions(data_root))
    path = tmp_path / 'out/submission.zip'
    logged.clear()
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr(zipfile.ZipInfo(''), b'')
    assert validate_submission(path, data_root) == []
    assert any('1 files that the server does not read' in message for message in logged)


def test_missing_zip_or_data_are_named(tmp_path, data_root):
    with pytest.raises(DataError, match=r'absent\.zip: no such file'):
        validate_submission(tmp_path / 'absent.zip', data_root)
    submit(tmp_path / 'out', data_root, predictions(data_root))
    with pytest.raises(DataError, match='no folder .*elsewhere/sequences'):
        validate_submission(tmp_path / 'out/submission.zip', tmp_path / 'elsewhere')


def test_a_full_disk_gives_a_sentence_and_leaves_nothing_half_written(tmp_path, data_root, monkeypatch):
    samples, replace = predictions(data_root), os.replace
    folder, full = tmp_path / 'out/sequences/21/predictions', []

    def replace_or_fail(source, target):
        if any(Path(target).match(name) for name in full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, 'replace', replace_or_fail)
    full.append('21/predictions/000000.label')
    with pytest.raises(DataError, match=r'000000\.label: writing failed \(No space left on device\).*Free some space'):
        submit(tmp_path / 'out', data_root, samples)
    assert list(folder.iterdir()) == []
    assert len(written(tmp_path / 'out')) == 11  # the scans before it are kept
    full.clear()
    submit(tmp_path / 'out', data_root, samples)
    full.append('submission.zip')
    with pytest.raises(DataError, match=r'submission\.zip: writing failed \(No space left on device\)'):
        submit(tmp_path / 'out', data_root, samples)
    assert [name for name in written(tmp_path / 'out') if not name.endswith('.label')] == []
