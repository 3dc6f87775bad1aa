"""Loading, predicting and drawing as a user does it, with a predictor that the config names."""
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from perception.apis.config import load_config
from perception.apis.inference import above, dataset_type, flag_options, load, parse_members, visualize
from perception.common.predictor import Predictor
from perception.common.visual.video import frame_rate, read_frames
from perception.registry import MODELS
from perception.utils.errors import CheckpointError, ConfigError, DataError, MissingDependency

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


@pytest.mark.parametrize('rate', [None, 2.0])
def test_a_film_is_as_fast_as_its_source_was_taken(toy, toy_config, folder, tmp_path, monkeypatch, rate):
    monkeypatch.setitem(toy.ToyDataset.METAINFO, 'rate', rate)
    film = next(visualize(toy_config, folder, tmp_path / 'out.mp4'))
    assert frame_rate(film) == (rate or 10)
    predictor = load(toy_config)
    assert predictor.rate(next(visualize(toy_config, folder, tmp_path / 'quick.mp4', fps=25))) == 25  # of a video


def test_a_film_does_not_replace_its_own_source(toy_config, folder, tmp_path):
    film = next(visualize(toy_config, folder, tmp_path / 'out.mp4', fps=4))
    before = film.read_bytes()
    with pytest.raises(DataError, match=r'out.mp4: the source itself, expected another file'):
        next(visualize(toy_config, film, film))
    assert film.read_bytes() == before


def test_results_go_to_the_home_that_a_tilde_names(toy_config, folder, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert next(visualize(toy_config, folder, '~/pictures')).parent == tmp_path / 'pictures'


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


# --- what fails, what is there already ---
def test_a_bad_file_does_not_end_a_folder_and_is_named_at_the_end(toy_config, weights, folder, tmp_path):
    (folder / '1.txt').write_text('none')
    for batch in (1, 2, 5):
        done = visualize(toy_config, folder, tmp_path / f'out{batch}', weights['full'], labels=folder, batch=batch)
        assert [next(done).name, next(done).name] == ['0.png', '2.png']
        with pytest.raises(DataError, match=r'data: 1 of 3 vectors could not .*\n  1: .*1\.txt: could not convert'):
            next(done)
    (folder / '2.label').unlink()
    with pytest.raises(DataError, match=r'2 of 3 vectors .*\n  1: .*\n  2: .*2\.label: no such file'):
        list(visualize(toy_config, folder, tmp_path / 'film.mp4', weights['full'], labels=folder))
    assert len(list(read_frames(tmp_path / 'film.mp4'))) == 1
    with pytest.raises(DataError, match=r'^[^\n]*1\.txt: could not convert[^\n]*$'):
        list(visualize(toy_config, folder / '1.txt', tmp_path / 'one', weights['full']))
    for path in folder.glob('*.txt'):
        path.write_text('none')
    with pytest.raises(DataError, match='3 of 3 vectors'):
        list(visualize(toy_config, folder, tmp_path / 'none.mp4', weights['full']))
    assert not (tmp_path / 'none.mp4').exists()


def test_equal_stems_get_names_of_their_own(toy_config, weights, folder, tmp_path):
    for name in ('0.dat', '0_dat.txt', '0_DAT.dat'):
        (folder / name).write_text((folder / '0.txt').read_text())
    paths = list(visualize(toy_config, folder, tmp_path / 'out', weights['full'], save=tmp_path / 'save'))
    names = [path.name for path in paths]
    assert len({name.lower() for name in names}) == 12 and {'0.png', '0.class', '0_txt.png'} <= set(names)
    assert all(path.is_file() for path in paths)


def test_nothing_of_other_origin_is_replaced(toy_config, weights, folder, tmp_path):
    (tmp_path / 'out').mkdir()
    for name in ('1.png', '1.class', 'film.mp4'):
        (tmp_path / 'out' / name).write_text('mine')
    for arguments in (dict(out=tmp_path / 'out'), dict(save=tmp_path / 'out'), dict(out=tmp_path / 'out/film.mp4')):
        with pytest.raises(DataError, match='that no command of this project wrote is there'):
            list(visualize(toy_config, folder, checkpoint=weights['full'], **arguments))
    assert all((tmp_path / 'out' / name).read_text() == 'mine' for name in ('1.png', '1.class', 'film.mp4'))
    for _ in range(2):  # what was made so may be made again
        list(visualize(toy_config, folder, tmp_path / 'new', weights['full'], save=tmp_path / 'new'))


def test_pictures_do_not_come_among_their_sources(toy, toy_config, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(toy.ToyPredictor, 'reads', ('.txt', '.png'))
    with pytest.raises(DataError, match='the folder of the images themselves'):
        list(visualize(toy_config, folder, folder))
    list(visualize(toy_config, folder / '0.txt', folder))  # of a single file they may lie beside it
    with pytest.raises(DataError, match='the source itself'):
        list(visualize(toy_config, folder / '0.png', folder))


# --- predictions as files ---
def test_predictions_are_saved_in_batches_with_and_without_pictures(toy_config, weights, folder, tmp_path, monkeypatch):
    kept = [load(toy_config, weights['full'])]
    monkeypatch.setattr('perception.apis.inference.load', lambda *_, **__: kept[0])
    paths = list(visualize(toy_config, folder, None, weights['full'], save=tmp_path / 'a', batch=2))
    assert [path.name for path in paths] == ['0.class', '1.class', '2.class'] and kept[0].batches == [2, 1]
    expected = [kept[0].meta['classes'][kept[0](folder / f'{i}.txt').pred] for i in range(3)]
    assert [path.read_text() for path in paths] == expected
    both = list(visualize(toy_config, folder, tmp_path / 'b', weights['full'], save=tmp_path / 'c',
                          save_as=['npy', 'class'], batch=8))
    assert [path.name for path in both[:3]] == ['0.png', '0.npy', '0.class'] and len(both) == 9
    film = list(visualize(toy_config, folder, tmp_path / 'd/x.mp4', weights['full'], save=tmp_path / 'd'))
    assert [path.name for path in film] == ['0.class', '1.class', '2.class', 'x.mp4']
    assert not list(tmp_path.glob('*/.*.part'))


def test_what_cannot_be_saved_is_refused(toy, toy_config, weights, folder, tmp_path, monkeypatch):
    def refused(message, *arguments, **options):
        with pytest.raises(ConfigError, match=message):
            next(visualize(toy_config, folder, *arguments, **options))

    refused('neither pictures nor files were asked for', None, weights['full'])
    refused('no checkpoint came', save=tmp_path)
    refused("--save-as='lable', expected one of class, npy", None, weights['full'], save=tmp_path, save_as=['lable'])
    refused('--save-as npy: no folder came', tmp_path, weights['full'], save_as=['npy'])
    refused('--batch: batch=0', tmp_path, weights['full'], batch=0)
    refused("--device gpu: not usable here .* expected one of auto, cpu", tmp_path, weights['full'], device='gpu')
    refused('--device cuda:77: not usable here', tmp_path, weights['full'], device='cuda:77')
    monkeypatch.setattr(toy.ToyPredictor, 'saves', ())
    refused('--save: ToyPredictor has no files for predictions', None, weights['full'], save=tmp_path)


def test_options_of_prediction_are_flags(toy_config, weights, folder, tmp_path):
    assert flag_options(toy_config, {'factor': '-1'}, ['out']) == {'predictor.factor': '-1'}
    for name, near in (('facter', 'factor'), ('lables', 'labels')):
        with pytest.raises(ConfigError, match=rf'--{name}: unknown, .*ToyPredictor \(--factor\)\. Did you mean {near}'):
            flag_options(toy_config, {name: '1'}, ['labels'])
    plain, negative = load(toy_config, weights['full']), load(toy_config, weights['full'],
                                                              options={'predictor.factor': -1})
    assert (negative.read(folder / '0.txt') == -plain.read(folder / '0.txt')).all()


def test_progress_is_told_now_and_then_and_at_the_end(toy_config, weights, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('perception.utils.progress.EVERY', 0.0)
    list(visualize(toy_config, folder, tmp_path, weights['full'], progress=True))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and lines[0].startswith('1 vector, ')
    assert re.fullmatch(r'3 vectors, [\d.e+]+ vectors/s', lines[-1])
    list(visualize(toy_config, folder, tmp_path, weights['full']))
    assert capsys.readouterr().err == ''


# --- a viewer ---
def test_a_recording_for_rerun_holds_each_source(toy_config, weights, folder, tmp_path):
    rerun = pytest.importorskip('rerun', reason='rerun-sdk is not installed', exc_type=ImportError)
    path, = visualize(toy_config, folder, tmp_path / 'a/x.rrd', weights['full'], viewer='rerun')
    schema = rerun.dataframe.load_recording(path).schema()
    assert {column.entity_path for column in schema.component_columns()} >= {'/picture', '/name'}
    with pytest.raises(DataError, match='no command of this project wrote'):
        path.write_text('mine')
        list(visualize(toy_config, folder, path, weights['full'], viewer='rerun'))


def test_without_rerun_a_sentence_comes(toy_config, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rerun', None)
    with pytest.raises(MissingDependency, match=r"--viewer rerun: .*pip install 'perception\[rerun\]'"):
        next(visualize(toy_config, folder, tmp_path / 'x.rrd', viewer='rerun'))
    for out, viewer, message in (('x.rrd', None, 'expected --viewer rerun'), ('x.mp4', 'rerun', r'ends in \.rrd'),
                                 ('x', 'rerum', 'Did you mean rerun')):
        with pytest.raises(ConfigError, match=message):
            next(visualize(toy_config, folder, tmp_path / out, viewer=viewer))


# --- the tool ---
def run_tool(root, *arguments):
    paths = os.pathsep.join([str(root), str(root / 'tests/apis'), *filter(None, [os.environ.get('PYTHONPATH')])])
    return subprocess.run([sys.executable, root / 'tools' / 'visualize.py', *map(str, arguments)], capture_output=True,
                          text=True, cwd=root.parent, env=dict(os.environ, PYTHONPATH=paths))


def test_tool_draws_from_any_directory(root, toy_config, weights, folder, tmp_path):
    (folder / '1.txt').write_text('none')
    done = run_tool(root, '--factor=-1', toy_config, weights['mini'], folder, '--labels', folder, '--colors', 32,
                    '--out', tmp_path / 'out', '--save', tmp_path / 'out', '--cfg-options', 'model.width=8')
    names = [str(tmp_path / 'out' / name) for name in ('0.png', '0.class', '2.png', '2.class')]
    assert (done.returncode, done.stdout.split()) == (2, names), done.stderr
    *_, sentence, bad = done.stderr.splitlines()
    assert sentence.startswith('DataError: ') and '1 of 3 vectors' in sentence and bad.startswith('  1: ')


def test_tool_refuses_with_one_sentence(root, toy_config, tmp_path):
    done = run_tool(root, toy_config, tmp_path / 'none.txt', '--out', tmp_path)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('DataError: ') and done.stderr.count('\n') == 1
    done = run_tool(root, toy_config, 'model.pth', 'scans/0.bin', 'scans/1.bin', '--out', tmp_path)
    assert done.returncode == 2 and 'scans/0.bin and scans/1.bin came' in done.stderr  # 0.bin is no checkpoint
