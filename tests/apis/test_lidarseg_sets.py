"""PVD on multi-scan SemanticKITTI and on Waymo: the student trains beside a teacher, is tested, drawn and submitted."""
import numpy as np
import pytest
import torch

import perception.apis.test
import perception.apis.train
from perception.apis.config import load_config
from perception.apis.inference import load
from perception.lidarseg.datasets.semantickitti.submission import validate_submission
from perception.lidarseg.datasets.waymo.submission import frame_problems
from perception.registry import MODELS

SIZES = {  # of the mini data
    'kitti_multiscan': dict(train_scans=[3], val_scans=[3], columns=130, workers=1),
    'waymo': dict(train_segments=1, train_frames=2, val_segments=1, val_frames=1, test_frames=1, columns=130,
                  workers=1)}


def options_of(name: str, folder, distilled: bool) -> dict:
    options = {f'mini_data.{key}': value for key, value in SIZES[name].items()}
    if name == 'kitti_multiscan':
        options['train_dataloader.dataset.sequences'] = [0]
    net = 'model.student' if distilled else 'model'
    return {**options, f'{net}.data_preprocessor.grid_shape': (48, 36, 8), 'train_cfg.max_epochs': 1,
            'train_cfg.val_interval': 1, 'param_scheduler': [], 'work_dir': str(folder)}


@pytest.mark.parametrize('name', SIZES)
def test_pvd_trains_and_its_student_is_tested_drawn_and_submitted(name, tmp_path, monkeypatch):
    pytest.importorskip('open3d')
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path / 'data'))
    teacher, half = f'configs/lidarseg/cylinder3d_{name}.py', f'configs/lidarseg/cylinder3d_half_{name}.py'
    torch.save(MODELS.build(load_config(teacher, mini=True).model).state_dict(), tmp_path / 'teacher.pth')
    options = {**options_of(name, tmp_path / 'run', True),
               'model.teachers.full.checkpoint': str(tmp_path / 'teacher.pth'),
               'model.losses.pvd.supervoxel_size': (12, 6, 2)}
    runner = perception.apis.train.train(f'configs/pvd/cylinder3d_{name}.py', mini=True, options=options)
    assert runner.iter == len(runner.train_dataloader) >= 2
    assert 'loss_pvd' in '\n'.join(path.read_text() for path in (tmp_path / 'run').rglob('*.log'))

    options, weights = options_of(name, tmp_path / 'tested', False), tmp_path / 'run/model.pth'
    scores = perception.apis.test.test(half, weights, mini=True, options=options, draw=str(tmp_path / 'pictures'),
                                       metrics=['distance'])
    assert 0 <= scores['miou'] <= 1 and np.isfinite(scores['miou_present'])
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) >= (3 if name == 'kitti_multiscan' else 1)
    perception.apis.test.test(half, weights, mini=True, options=options, submit=str(tmp_path / 'out'))
    data = tmp_path / 'data/mini' / dict(kitti_multiscan='semantickitti_multiscan').get(name, name)
    if name == 'kitti_multiscan':
        assert validate_submission(tmp_path / 'out/submission.zip', data) == []
        scan = data / 'sequences/11/velodyne/000002.bin'
    else:
        names = [path.stem for path in (tmp_path / 'out/frames').glob('*.npz')]
        assert len(names) == 1 and frame_problems(tmp_path / 'out', names, data) == []
        scan = next(data.glob('testing/*/*'))
        assert scores['first_miou'] <= 1
    predictor = load(half, weights, 'cpu', mini=True)
    sample = predictor(scan)
    assert len(sample.pred_labels) > 100 and int(sample.pred_labels.max()) < len(predictor.meta['classes'])
