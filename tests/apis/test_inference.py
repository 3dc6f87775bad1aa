"""Loading, predicting and drawing as a user does it, with a predictor that the config names."""
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from perception.apis.config import load_config
from perception.apis.inference import above, dataset_type, load, parse_members, visualize
from perception.common.predictor import Predictor
from perception.common.visual.video import frame_rate, read_frames
from perception.registry import MODELS
from perception.utils.errors import CheckpointError, ConfigError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


@pytest.fixture
def weights(toy, toy_config, tmp_path):
    """Weights of the toy net, of full and of mini width, and of a second full one."""
    files = {}
    for name, mini, seed in (('full', False, 0), ('mini', True, 0), ('other', False, 3)):
        torch.manual_seed(seed)
        files[name] = tmp_path / f'{name}.pth'
        torch.save(MODELS.build(load_config(toy_config, mini).model).state_dict(), files[name])
    return files


@pytest.fixture
def folder(tmp_path):
    """Three feature vectors and their labels."""
    rng = np.random.default_rng(0)
    (tmp_path / 'data').mkdir()
    for i in range(3):
        (tmp_path / 'data' / f'{i}.txt').write_text(' '.join(map(str, 3 * rng.normal(size=6))))
        (tmp_path / 'data' / f'{i}.label').write_text(str(i))
    return tmp_path / 'data'


@pytest.mark.parametrize('device', DEVICES)
def test_a_predictor_holds_the_model_and_describes_its_data(toy, toy_config, weights, folder, device):
    predictor = load(toy_config, weights['full'], device=device)
    assert isinstance(predictor, toy.ToyPredictor) and not predictor.model.training
    assert next(predictor.model.parameters()).device.type == device
    assert predictor.meta['classes'] == ('a', 'b', 'c') and predictor.data['size'] == 11
    assert predictor(folder / '0.txt').pred in (0, 1, 2)


def test_mini_builds_the_mini_net(toy_config, weights):
    assert load(toy_config, weights['mini'], mini=True).model.head.in_features == 8
    with pytest.raises(CheckpointError, match='mis-shaped'):
        load(toy_config, weights['full'], mini=True)
    assert load(toy_config, weights['mini'], options={'model.width': 8}).model.head.in_features == 8


def test_several_checkpoints_vote(toy, toy_config, weights):
    model = load(toy_config, [weights['full'], weights['other']], tta='mirror', device='cpu').model
    assert isinstance(model, toy.ToyVote) and all(isinstance(member, toy.ToyTTA) for member in model.models)
    for member, name in zip(model.models, ('full', 'other')):
        ours = torch.load(weights[name])
        assert all(torch.equal(value, ours[key]) for key, value in member.model.state_dict().items())


def test_refuses_what_it_cannot_load(toy_config, weights, tmp_path):
    with pytest.raises(ConfigError, match='no such file'):
        load(tmp_path / 'none.py', weights['full'])
    with pytest.raises(CheckpointError, match='no such file'):
        load(toy_config, tmp_path / 'none.pth')
    for key, arguments in (('predictor', {}), ('ensemble_model', dict(checkpoint=[weights['full']] * 2)),
                           ('tta_model', dict(checkpoint=weights['full'], tta='mirror'))):
        with pytest.raises(ConfigError, match=f'toy_config.py: .* expected the config to define {key}'):
            load(toy_config, **arguments, options={key: None})


def test_a_data_set_without_classes_and_one_named_by_a_string(toy_config, toy, monkeypatch):
    monkeypatch.delattr(toy.ToyDataset, 'METAINFO')
    assert load(toy_config).meta == {}
    cfg = load_config(toy_config)
    cfg.test_dataloader.dataset.type = 'SemanticKITTI'
    assert dataset_type(cfg).__name__ == 'SemanticKITTI'


def test_a_folder_with_and_without_predictions_and_labels(toy_config, weights, folder, tmp_path):
    for name, arguments in (('plain', {}), ('pred', dict(checkpoint=weights['full'])), ('truth', dict(labels=folder)),
                            ('both', dict(checkpoint=weights['full'], labels=folder))):
        paths = list(visualize(toy_config, folder, tmp_path / name, **arguments))
        assert paths == [tmp_path / name / f'{i}.png' for i in range(3)]
        images = np.array([cv2.imread(str(path)) for path in paths])
        assert images.shape == (3, 40, 60, 3)
        assert images[:, 0, 0, 0].all() == ('checkpoint' in arguments)
        assert images[:, 0, 30, 0].tolist() == ([50, 100, 150] if 'labels' in arguments else [0, 0, 0])


def test_views_have_names(toy_config, folder, tmp_path):
    assert len(list(visualize(toy_config, folder, tmp_path / 'flipped', view='flipped'))) == 3
    with pytest.raises(ConfigError, match="--view='fliped', expected one of plain, flipped"):
        next(visualize(toy_config, folder, tmp_path / 'x', view='fliped'))


def test_an_earlier_checkpoint_stands_above(toy_config, weights, folder, tmp_path):
    path, *_ = visualize(toy_config, folder, tmp_path / 'x', weights['full'], against=weights['other'])
    image = cv2.imread(str(path))
    assert image.shape[0] > 2 * 40 and image.shape[1] == 60
    pictures = [load(toy_config, weights[name]).draw(None, load(toy_config, weights[name])(folder / '0.txt'))
                for name in ('other', 'full')]
    assert (image[..., ::-1] == above(*pictures)).all()
    with pytest.raises(ConfigError, match='no checkpoint came'):
        next(visualize(toy_config, folder, tmp_path / 'x', against=weights['other']))


def test_pictures_make_a_video(toy_config, folder, tmp_path):
    assert list(visualize(toy_config, folder, tmp_path / 'a/out.mp4', fps=4)) == [tmp_path / 'a/out.mp4']
    assert len(list(read_frames(tmp_path / 'a/out.mp4'))) == 3 and frame_rate(tmp_path / 'a/out.mp4') == 4


def test_show_without_a_display_still_writes_and_says_so_once(toy, toy_config, folder, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('perception.common.predictor.print_log', lambda text, *args: said.append(text))
    monkeypatch.setattr('perception.common.predictor.show_image', lambda *args: False)
    assert len(list(visualize(toy_config, folder, tmp_path, show=True))) == 3
    assert len(said) == 1 and '--show' in said[0]


def test_show_opens_a_window_for_each(toy_config, folder, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr('perception.common.predictor.show_image', lambda image, name: shown.append(name) or True)
    list(visualize(toy_config, folder, tmp_path, show=True))
    assert shown == ['0', '1', '2']


def test_what_a_predictor_does_not_write_is_said(toy):
    bare = Predictor(None, dict(type=toy.ToyDataset))
    for call in (lambda: bare(1), lambda: bare.draw(1)):
        with pytest.raises(NotImplementedError, match='Predictor has no'):
            call()
    with pytest.raises(ConfigError, match='--labels: x came for ToyDataset'):
        bare.truth('x', 'y', None)


@pytest.mark.parametrize('text', ['model.pth', ':model.pth', 'config.py:', 'configs/x.py model.pth'])
def test_a_member_is_a_config_and_a_checkpoint(text):
    assert parse_members(['a/b.py:c/d.pth', 'C:/b.py:d.pth']) == [('a/b.py', 'c/d.pth'), ('C:/b.py', 'd.pth')]
    with pytest.raises(ConfigError, match='--ensemble .*: no colon between two paths, expected CONFIG:CHECKPOINT'):
        parse_members([text])


# --- the tool ---
def run_tool(root, *arguments):
    paths = os.pathsep.join([str(root), str(root / 'tests/apis'), *filter(None, [os.environ.get('PYTHONPATH')])])
    return subprocess.run([sys.executable, root / 'tools' / 'visualize.py', *map(str, arguments)], capture_output=True,
                          text=True, cwd=root.parent, env=dict(os.environ, PYTHONPATH=paths))


def test_tool_draws_from_any_directory(root, toy_config, weights, folder, tmp_path):
    done = run_tool(root, toy_config, weights['mini'], folder / '0.txt', '--labels', folder, '--colors', 32,
                    '--out', tmp_path / 'out', '--cfg-options', 'model.width=8')
    assert (done.returncode, done.stdout.split()) == (0, [str(tmp_path / 'out' / '0.png')]), done.stderr


def test_tool_refuses_with_one_sentence(root, toy_config, tmp_path):
    done = run_tool(root, toy_config, tmp_path / 'none.txt', '--out', tmp_path)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('DataError: ') and done.stderr.count('\n') == 1
    assert run_tool(root, 'a', '--out', tmp_path).returncode == 2
