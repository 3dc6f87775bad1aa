"""Submissions of nuScenes-lidarseg, against the development kit's own validator."""
import json
import zipfile

import numpy as np
import pytest
import torch

from perception.lidarseg.datasets.nuscenes.reader import NuScenesLidarSeg
from perception.lidarseg.datasets.nuscenes.submission import NuScenesLidarSegSubmission, validate_submission
from perception.utils.errors import ConfigError, DataError

pytest.importorskip('nuscenes.eval.lidarseg.utils', reason='nuscenes-devkit is not installed')


def submit(root, out, split, leave_out=(), **more):
    data = NuScenesLidarSeg(root, split)
    writer = NuScenesLidarSegSubmission(out, **more)
    writer.dataset_meta = data.metainfo
    rng = np.random.default_rng(0)
    for i, frame in enumerate(data.frames):
        if i not in leave_out:
            count = len(data[i]['inputs']['points'])
            writer.process(None, [dict(sample_id=frame.token, num_points=count,
                                       pred_labels=torch.from_numpy(rng.integers(0, 16, count)))])
    writer.compute_metrics(writer.results)
    return data


def official_check(root, version, results, split, monkeypatch):
    from nuscenes import NuScenes
    from nuscenes.eval.lidarseg import utils, validate_submission
    kit = NuScenes(version, str(root), verbose=False)
    if split == 'test':     # the official test split has 150 scenes, the mini set one of them
        here = {'test': [scene['name'] for scene in kit.scene]}
        monkeypatch.setattr(utils, 'create_splits_scenes', lambda verbose=False: here)
    validate_submission.validate_submission(kit, str(results), split)


@pytest.mark.parametrize(('version', 'split'), [('v1.0-mini', 'mini_val'), ('v1.0-test', 'test')])
def test_the_development_kit_accepts_the_folder(mini_nuscenes, tmp_path, monkeypatch, version, split):
    data = submit(mini_nuscenes, tmp_path, split, use_external=True)
    assert validate_submission(tmp_path / 'results', mini_nuscenes, split) == []
    official_check(mini_nuscenes, version, tmp_path / 'results', split, monkeypatch)
    with zipfile.ZipFile(tmp_path / 'submission.zip') as archive:
        archive.extractall(tmp_path / 'unpacked')
        names = set(archive.namelist())
    assert names == {'lidarseg/', f'lidarseg/{split}/', f'{split}/', f'{split}/submission.json',
                     *(f'lidarseg/{split}/{frame.token}_lidarseg.bin' for frame in data.frames)}
    official_check(mini_nuscenes, version, tmp_path / 'unpacked', split, monkeypatch)
    meta = json.loads((tmp_path / f'unpacked/{split}/submission.json').read_text())
    assert meta == {'meta': {'use_camera': False, 'use_lidar': True, 'use_radar': False, 'use_map': False,
                             'use_external': True}}


def _labels(results, data):
    return results / f'lidarseg/mini_val/{data.frames[0].token}_lidarseg.bin'


def _shorter(results, data):
    path = _labels(results, data)
    path.write_bytes(path.read_bytes()[:-1])


def _class(value):
    def change(results, data):
        path = _labels(results, data)
        path.write_bytes(bytes([value]) + path.read_bytes()[1:])
    return change


def _meta(change):
    def edit(results, data):
        path = results / 'mini_val/submission.json'
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content['meta']) or content))
    return edit


@pytest.mark.parametrize(('damage', 'problem'), [
    (lambda results, data: _labels(results, data).unlink(), 'cannot be read'),
    (_shorter, '4,799 labels for 4,800 points'),
    (_class(0), 'holds class 0 at 1 points, expected 1..16'),
    (_class(17), 'holds class 17'),
    (lambda results, data: (results / 'mini_val/submission.json').unlink(), 'submission.json cannot be read'),
    (_meta(lambda meta: meta.pop('use_map') and None), 'expected exactly use_camera'),
    (_meta(lambda meta: meta.update(use_gps=False)), 'use_gps'),
    (_meta(lambda meta: meta.update(use_map=0)), 'use_map is 0, expected true or false'),
    (_meta(lambda meta: [1]), 'holds no JSON object with the key meta'),
])
def test_what_the_development_kit_refuses_is_found(mini_nuscenes, tmp_path, monkeypatch, damage, problem):
    data = submit(mini_nuscenes, tmp_path, 'mini_val')
    damage(tmp_path / 'results', data)
    with pytest.raises((AssertionError, TypeError)):
        official_check(mini_nuscenes, 'v1.0-mini', tmp_path / 'results', 'mini_val', monkeypatch)
    (found,) = validate_submission(tmp_path / 'results', mini_nuscenes, 'mini_val')
    assert problem in found


def test_an_incomplete_run_leaves_no_zip(mini_nuscenes, tmp_path):
    submit(mini_nuscenes, tmp_path, 'mini_val')
    assert (tmp_path / 'submission.zip').is_file()
    with pytest.raises(DataError, match='was not predicted in this run .*no zip was written'):
        submit(mini_nuscenes, tmp_path, 'mini_val', leave_out=(1,))
    assert not (tmp_path / 'submission.zip').exists()
    with pytest.raises(DataError, match='no such folder, expected the results'):
        validate_submission(tmp_path / 'gone', mini_nuscenes, 'mini_val')


def test_bad_predictions_are_refused(mini_nuscenes, tmp_path):
    writer = NuScenesLidarSegSubmission(tmp_path)
    with pytest.raises(ConfigError, match='data_root=None, split=None'):
        writer.process(None, [dict(sample_id='a', pred_labels=torch.zeros(3))])
    writer.dataset_meta = dict(data_root=str(mini_nuscenes), split='mini_val')
    with pytest.raises(DataError, match='a has no pred_labels'):
        writer.process(None, [dict(sample_id='a')])
    with pytest.raises(DataError, match='3 predictions for 4 points of a'):
        writer.process(None, [dict(sample_id='a', num_points=4, pred_labels=torch.zeros(3))])
    with pytest.raises(DataError, match='a: predicted class 16, expected train ids 0..15'):
        writer.process(None, [dict(sample_id='a', pred_labels=torch.full((3,), 16))])


def test_files_of_no_key_frame_are_told(mini_nuscenes, tmp_path, monkeypatch):
    from perception.lidarseg.datasets.nuscenes import submission as submission_nuscenes
    said = []
    monkeypatch.setattr(submission_nuscenes, 'print_log', lambda text, *rest: said.append(text))
    submit(mini_nuscenes, tmp_path, 'mini_val')
    (tmp_path / 'results/lidarseg/mini_val/other_lidarseg.bin').write_bytes(b'')
    assert validate_submission(tmp_path / 'results', mini_nuscenes, 'mini_val') == []
    assert 'files that belong to no key frame of the split, such as other_lidarseg.bin' in said[-1]
