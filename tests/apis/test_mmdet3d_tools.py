"""mmdetection3d's own tools, which come inside its wheel, run a config of ours as it is; they need mmcv's operators."""
import json
from pathlib import Path

import pytest

from perception.utils.checkpoint import load_checkpoint

pytest.importorskip('mmcv._ext', reason='mmcv has no operators, which mmdetection3d\'s tools import; '
                                        '`make setup OPS=1` builds them')
import mmdet3d  # noqa: E402
import torch  # noqa: E402

TOOLS = Path(mmdet3d.__file__).parent / '.mim/tools'
CONFIG = 'configs/lidarseg/minkunet_half_kitti.py'
OPTIONS = [  # the published config, but for its size
    'model.width=0.125', 'model.data_preprocessor.voxel_size=0.8', 'train_cfg.max_epochs=2',
    'train_dataloader.batch_size=1', 'train_dataloader.dataset.sequences=[0]',
    *(f'{split}_dataloader.{key}' for split in ('train', 'val') for key in ('num_workers=0',
                                                                            'persistent_workers=False')),
    'test_dataloader.num_workers=0']


@pytest.fixture(scope='module')
def train(run, root, mini_kitti, tmp_path_factory):
    """Train with one of the tools; returns the work dir and the environment that finds the data."""
    environment = dict(PERCEPTION_DATA=str(mini_kitti.parent))

    def train_with(tools):
        folder = tmp_path_factory.mktemp('trained')
        done = run(tools / 'train.py', CONFIG, '--work-dir', folder, '--cfg-options', *OPTIONS, cwd=root, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder
    return train_with, environment


@pytest.fixture(scope='module')
def trained(train, root):
    """Work dirs of the same training by our tool and by mmdetection3d's."""
    return train[0](root / 'tools'), train[0](TOOLS)


def test_both_train_to_the_same_weights(trained):
    for name in ('epoch_1.pth', 'epoch_2.pth', 'model.pth'):
        ours, theirs = (load_checkpoint(folder / name) for folder in trained)
        ours, theirs = (weights.get('state_dict', weights) for weights in (ours, theirs))
        assert len(ours) > 50 and list(ours) == list(theirs)
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    start, end = (load_checkpoint(trained[0] / f'epoch_{epoch}.pth')['state_dict'] for epoch in (1, 2))
    assert any(not torch.equal(start[key], end[key]) for key in start)


def test_both_test_to_the_same_scores(trained, train, run, root, tmp_path):
    scores = []
    for tools in (root / 'tools', TOOLS):
        extra = ('--work-dir', tmp_path / 'theirs') if tools == TOOLS else ()
        options = OPTIONS if tools == TOOLS else [*OPTIONS, f'work_dir={tmp_path / "ours"}']
        done = run(tools / 'test.py', CONFIG, trained[1] / 'model.pth', *extra, '--cfg-options', *options, cwd=root,
                   **train[1])
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ('ours', 'theirs'):
        [path] = (tmp_path / name).rglob('[0-9]*.json')
        scores.append({key: value for key, value in json.loads(path.read_text()).items() if 'time' not in key})
    assert scores[0] == scores[1]
    assert any('miou' in key.lower() for key in scores[0])
