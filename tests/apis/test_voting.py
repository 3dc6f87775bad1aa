"""Several models that vote, predictions that are kept, and tests that go on where they were cut off."""
import json
import signal
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import perception.apis.test
from perception.apis.inference import load
from perception.common.saving import STAMP
from perception.common.visual.points import vulkan_problem
from perception.lidarseg.voting import EnsembleSegmentor, TTASegmentor
from perception.utils.errors import CheckpointError, ConfigError, DataError

HERE = Path(__file__).parent
needs_vulkan = pytest.mark.skipif(vulkan_problem() is not None, reason=f'{vulkan_problem()} here')


@pytest.fixture(scope='module')
def tiny(tmp_path_factory, mini_kitti):
    """The folder with configs and weights of tiny nets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        import tiny_lidarseg
        return tiny_lidarseg.write_configs(tmp_path_factory.mktemp('tiny'), mini_kitti)


@pytest.fixture
def evaluate(tiny, tmp_path):
    """Test the cylinder net with some checkpoints and further arguments."""
    def call(checkpoints=('cylinder_0.pth',), config='cylinder.py', options=None, **arguments):
        options = dict(dict(work_dir=str(tmp_path / 'work')), **(options or {}))
        return perception.apis.test.test(tiny / config, [tiny / name for name in checkpoints], options=options,
                                         **arguments)
    return call


def stored(folder):
    return {path.stem: np.load(path) for path in sorted(Path(folder).glob('*.npy'))}


# --- voting ----------------------------------------------------------------------------------------------------------
def test_an_ensemble_labels_alike_from_python_and_from_the_tool(tiny, evaluate, mini_kitti, tmp_path):
    members = dict(checkpoint=[tiny / 'cylinder_0.pth', tiny / 'cylinder_1.pth'],
                   ensemble=[(tiny / 'cubes.py', tiny / 'cubes_1.pth')])
    predictor = load(tiny / 'cylinder.py', **members, device='cpu')
    assert isinstance(predictor.model, EnsembleSegmentor) and len(predictor.model.models) == 3
    assert not predictor.model.training and len(predictor.meta['classes']) == 19
    evaluate(('cylinder_0.pth', 'cylinder_1.pth'), ensemble=members['ensemble'], save=str(tmp_path / 'all'))
    evaluate(save=str(tmp_path / 'one'))
    files = sorted((mini_kitti / 'sequences/08/velodyne').glob('*.bin'))
    assert len(stored(tmp_path / 'all')) == len(files) == 2
    for file in files:
        ours = predictor(file).pred_labels.numpy()
        assert (stored(tmp_path / 'all')[f'08_{file.stem}'] == ours).all()
        assert (stored(tmp_path / 'one')[f'08_{file.stem}'] != ours).any()


def test_one_checkpoint_is_the_net_itself(tiny):
    for checkpoint in (tiny / 'cubes_0.pth', [tiny / 'cubes_0.pth']):
        assert type(load(tiny / 'cubes.py', checkpoint, device='cpu').model).__name__ == 'MinkUNet'


def test_members_hold_their_own_weights_and_views(tiny):
    model = load(tiny / 'cylinder.py', [tiny / 'cylinder_0.pth', tiny / 'cylinder_1.pth'], device='cpu',
                 tta='flip4').model
    assert all(isinstance(member, TTASegmentor) and member.chunk == 4 for member in model.models)
    for member, seed in zip(model.models, (0, 1)):
        weights = torch.load(tiny / f'cylinder_{seed}.pth')
        assert all(torch.equal(value, weights[name]) for name, value in member.model.state_dict().items())


def test_augmented_views_and_distances_in_one_run(evaluate, tmp_path):
    plain = evaluate()
    result = evaluate(('cylinder_0.pth', 'cylinder_1.pth'), tta='flip4', metrics=['distance'],
                      save=str(tmp_path / 's'), options={'more_metrics.distance.edges': [0, 15, 50]})
    assert {name for name in result if name.startswith('distance/miou_')} >= {
        'distance/miou_0-15m', 'distance/miou_15-50m'}
    assert result['miou'] != plain['miou']
    again = evaluate(('cylinder_0.pth', 'cylinder_1.pth'), tta='flip4', save=str(tmp_path / 's'))
    assert again == {name: value for name, value in result.items() if not name.startswith('distance')}


@needs_vulkan
def test_an_ensemble_draws_scans_and_charts(evaluate, tmp_path):
    evaluate(('cylinder_0.pth', 'cylinder_1.pth'), draw=str(tmp_path / 'pictures'))
    charts = ('iou', 'confusion', 'error_map')
    names = {path.name for path in (tmp_path / 'pictures').iterdir() if not path.name.startswith('.')}
    assert names == {'08_000000.png', *(f'{chart}{suffix}' for chart in charts for suffix in ('.png', '.svg'))}
    assert all(cv2.imread(str(tmp_path / 'pictures' / name)) is not None for name in names if name.endswith('.png'))


def test_the_tool_takes_several_checkpoints(run, root, tiny, tmp_path):
    done = run(root / 'tools/test.py', tiny / 'cylinder.py', tiny / 'cylinder_0.pth', tiny / 'cylinder_1.pth',
               '--ensemble', f'{tiny / "cubes.py"}:{tiny / "cubes_0.pth"}', '--metrics', 'distance', '--save',
               tmp_path / 's', '--cfg-options', f'work_dir={tmp_path}', cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '40-50m' in done.stdout + done.stderr and len(stored(tmp_path / 's')) == 2


# --- bad input -------------------------------------------------------------------------------------------------------
def test_members_that_do_not_fit_are_one_sentence(tiny, evaluate, tmp_path):
    with pytest.raises(CheckpointError, match=r'cubes_0\.pth: .* missing .* unexpected .*Cylinder3D'):
        evaluate(('cylinder_0.pth', 'cubes_0.pth'))
    with pytest.raises(CheckpointError, match=r'cylinder_0\.pth: .*MinkUNet'):
        evaluate(ensemble=[(tiny / 'cubes.py', tiny / 'cylinder_0.pth')])
    with pytest.raises(ConfigError, match=r'coarse\.py: 16 classes of NuScenesLidarSeg, expected the 19 of Semantic'):
        evaluate(ensemble=[(tiny / 'coarse.py', tiny / 'coarse_0.pth')])
    with pytest.raises(CheckpointError, match=r'none\.pth: no such file'):
        evaluate(('cylinder_0.pth', 'none.pth'))
    with pytest.raises(ConfigError, match='no checkpoint came, expected at least one'):
        evaluate(())
    with pytest.raises(ConfigError, match="mode='flip'"):
        evaluate(tta='flip')


def test_what_a_config_does_not_name_is_said(toy, toy_config, tmp_path):
    for arguments, key, more in ((dict(save='s'), 'saved_model', 'tools/visualize.py .* --save DIR'),
                                 (dict(metrics=['distance']), 'more_metrics', '')):
        with pytest.raises(ConfigError, match=f'toy_config.py: .* expected the config to define {key}.*{more}'):
            perception.apis.test.test(toy_config, 'x.pth', options=dict(work_dir=str(tmp_path)), **arguments)


def test_further_metrics_need_labels_and_a_name(evaluate, tmp_path):
    with pytest.raises(ConfigError, match='--metrics: distance came with --submit'):
        evaluate(metrics=['distance'], submit=str(tmp_path))
    with pytest.raises(ConfigError, match="--metrics='distances', expected one of distance"):
        evaluate(metrics=['distances'])
    with pytest.raises(ConfigError, match='expected at least two ascending numbers'):
        evaluate(metrics=['distance'], options={'more_metrics.distance.edges': [10, 5]})


@pytest.mark.parametrize('argument', ['save', 'submit', 'draw'])
def test_a_folder_that_cannot_be_made_is_one_sentence(evaluate, tmp_path, argument):
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match=r'file.*expected a folder'):
        evaluate(**{argument: str(tmp_path / 'file')})


# --- predictions that are kept ---------------------------------------------------------------------------------------
@pytest.mark.parametrize('change, part', [
    (dict(checkpoints=('cylinder_1.pth',)), 'another checkpoint'),
    (dict(checkpoints=('cylinder_0.pth', 'cylinder_1.pth')), 'another checkpoint'),
    (dict(tta='flip4'), 'another augmentation'), (dict(amp=True), 'another precision')])
def test_predictions_of_another_run_are_never_mixed_in(evaluate, tmp_path, change, part):
    evaluate(save=str(tmp_path / 's'))
    before = stored(tmp_path / 's')
    with pytest.raises(DataError, match=rf'2 predictions of another run \({part}'):
        evaluate(**change, save=str(tmp_path / 's'))
    assert all((value == before[name]).all() for name, value in stored(tmp_path / 's').items())


def test_kept_predictions_are_scored_without_the_net(evaluate, tmp_path, monkeypatch):
    first = evaluate(save=str(tmp_path / 's'))
    from perception.lidarseg.models.cylinder3d import Cylinder3D
    monkeypatch.setattr(Cylinder3D, 'forward', lambda *args, **kwargs: pytest.fail('the net ran'))
    assert evaluate(save=str(tmp_path / 's')) == first
    assert first == {name: value for name, value in first.items() if not name.startswith('distance')}


# --- tests that are cut off ------------------------------------------------------------------------------------------
def content(folder):
    """All prediction files and what is in the zip."""
    with zipfile.ZipFile(folder / 'submission.zip') as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*.label')}, packed


CUTS = {  # how a run of so many processes ends, and how many continue it
    'killed in a file': (1, ['half', 0, 4], 2), 'interrupted': (1, ['ctrl_c', 0, 3], 1),
    'full disk': (1, ['full', 0, 5], 1), 'one of two killed': (2, ['kill', 1, 2], 2),
    'before the zip': (1, ['zip', 0, 1], 1)}
CODES = dict(kill=-signal.SIGKILL, half=-signal.SIGKILL, zip=-signal.SIGKILL, ctrl_c=130, full=2)


@pytest.fixture(scope='module')
def runs(run, tiny, tmp_path_factory):
    """What happened in each scenario, by its name: a whole run, then pairs of a cut run and the next one."""
    folder = tmp_path_factory.mktemp('runs')

    def scenario(name, world, end, **kept):
        arguments = dict(config=str(tiny / 'cylinder.py'), checkpoint=str(tiny / 'cylinder_0.pth'),
                         options=dict(work_dir=str(folder / 'work')), **kept)
        return dict(world=world, end=end, arguments=arguments)

    names, scenarios = ['whole', 'scored'], [scenario('whole', 1, None, submit=str(folder / 'whole')),
                                             scenario('scored', 1, None)]
    for name, (world, end, after) in CUTS.items():
        for part, count, point in ((name, world, end), (f'{name}, continued', after, None)):
            names.append(part)
            scenarios.append(scenario(part, count, point, submit=str(folder / name)))
    for part, count, point in (('saved', 2, ['kill', 0, 0]), ('saved, continued', 2, None)):
        names.append(part)
        scenarios.append(scenario(part, count, point, save=str(folder / 'saved')))
    done = run(HERE / 'killed_tests.py', json.dumps(scenarios), timeout=900, CUDA_VISIBLE_DEVICES='')
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, dict(zip(names, json.loads(done.stdout)))


@pytest.mark.parametrize('name', CUTS)
def test_a_submission_that_was_cut_off_ends_like_a_whole_one(runs, name):
    folder, happened = runs
    world, (kind, rank, count), after = CUTS[name]
    cut, rest = happened[name], happened[f'{name}, continued']
    assert cut['ends'][rank] == CODES[kind], cut['log']
    assert rest['ends'] == [0] * after, rest['log']
    assert content(folder / name) == content(folder / 'whole')
    assert not (folder / name / '.unfinished').exists() and not list((folder / name).rglob('.*part'))
    scans = happened['whole']['written']
    assert len(scans) == 11 and set(rest['written']) < set(scans)
    if world == 1 or kind == 'zip':  # what was written is not repeated
        assert len(rest['written']) == (0 if kind == 'zip' else 11 - count)


def test_a_score_of_two_processes_continues_too(runs):
    folder, happened = runs
    cut, rest = happened['saved'], happened['saved, continued']
    assert cut['ends'][0] == -signal.SIGKILL and rest['ends'] == [0, 0], rest['log']
    assert rest['results'] == happened['scored']['results'] * 2
    assert set(rest['written']) in ({'08_000000'}, {'08_000000', '08_000001'})  # the other one may have come so far
    assert sorted(p.name for p in (folder / 'saved').iterdir()) == ['08_000000.npy', '08_000001.npy', STAMP]


def test_it_is_said_where_predictions_are_kept(runs):
    assert 'the same command continues it' in runs[1]['killed in a file']['log']
    assert '4 samples are there already' in runs[1]['killed in a file, continued']['log']
    assert 'DataError: ' in runs[1]['full disk']['log'] and 'Free some space' in runs[1]['full disk']['log']


def test_a_submission_of_another_checkpoint_starts_anew(evaluate, tmp_path, monkeypatch):
    from perception.common import saving as saving
    write, count = saving.write_prediction, []

    def cut(path, labels):
        if len(count) == 3:
            raise KeyboardInterrupt('Ctrl-C')
        count.append(path)
        write(path, labels)

    monkeypatch.setattr(saving, 'write_prediction', cut)
    with pytest.raises(KeyboardInterrupt):
        evaluate(submit=str(tmp_path / 's'))
    assert len(stored(tmp_path / 's/.unfinished')) == 3
    again = []
    monkeypatch.setattr(saving, 'write_prediction', lambda *args: again.append(args[0].stem) or write(*args))
    evaluate(('cylinder_1.pth',), submit=str(tmp_path / 's'))
    assert len(again) == len(set(again)) == 11 and (tmp_path / 's/submission.zip').is_file()
