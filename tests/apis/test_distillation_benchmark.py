"""The evidence command with trainings that take no time, and its reading of a real, tiny training."""
import argparse
import csv
import json
import subprocess
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.utils import manager

from perception.apis.benchmarks import distillation, trainings
from perception.apis.benchmarks.distillation_report import Comparison, judge, table
from perception.apis.benchmarks.trainings import Job
from perception.apis.config import parse_options
from perception.apis.listing import add_options
from perception.apis.train import train
from perception.utils.errors import ConfigError, TrainingError

CYLINDER = ('configs/lidarseg/cylinder3d_half_kitti.py', 'configs/pvd/cylinder3d_kitti.py')
MINK = 'configs/lidarseg/minkunet_half_kitti.py'
ENET = 'configs/lanes/enet_culane.py'
ROW = dict(input='10 points', preprocess_ms=1., onnx_ms=None, gpu_ms=None)
TEACHER = dict(ROW, config='teacher', parameters=400, gmac=4., cpu_ms=400.)
STUDENT = dict(ROW, config='student', parameters=100, gmac=1., cpu_ms=200., against='teacher', parameters_saved=.75,
               gmac_saved=.75, cpu_speedup=2.)


def parse(*words):
    parser = add_options(argparse.ArgumentParser(), distillation.OPTIONS)
    return parser.parse_args([str(word) for word in words])


def arguments(*words):
    return parse(*words, '--jobs', '1')  # one after the other, in a known order


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Trainings that only write what a real one leaves; `calls` lists them, `fail` names those that are cut off."""
    state = SimpleNamespace(calls=[], threads=[], fail=set(), epochs=2, rule='greater', evidence={},
                            teachers=dict(full=dict(trained_by='configs/lidarseg/cylinder3d_kitti.py')), untaught=(),
                            scores=dict(teacher=0.5, student=0.3, pvd=0.4))

    def fake_run(command, cwd, env):
        if command[1].endswith('test.py'):
            state.calls.append(f'test {command[3].split("/")[-2]}')
            return SimpleNamespace(returncode=0)
        job = next(job for job in state.jobs if job.command == command)
        state.calls.append(job.work_dir.name)
        state.threads.append(int(env['OMP_NUM_THREADS']))
        if job.work_dir.name in state.fail:
            return SimpleNamespace(returncode=1)
        job.work_dir.mkdir(parents=True, exist_ok=True)
        last = state.scores.get(job.arm, 0.35) + 0.01 * job.seed * (1 + (job.arm == 'pvd'))
        hub = dict(runtime_info=dict(step_validated=2), log_scalars={
            'val/miou': [torch.tensor([0.9, last]), torch.ones(2)],
            'val/iou_car': [torch.tensor([0.1, 0.2]), torch.ones(2)],
            'val/cross_entropy': [torch.tensor([2., 1 - last]), torch.ones(2)],
            'train/loss_pvd_output_point': [torch.tensor([9., 9., 1., 2.]), torch.ones(4)]})
        torch.save(dict(meta=dict(epoch=2, iter=4), message_hub=hub), job.work_dir / 'epoch_2.pth')
        torch.save({}, job.work_dir / 'model.pth')
        return SimpleNamespace(returncode=0)

    def fake_config(path, mini=False, options=None):
        assert mini
        folder = path.split('/')[1]
        net = dict(type='enet' if 'enet' in path else 'net', width=(options or {}).get('model.width', 1))
        model = net if folder in ('lidarseg', 'lanes') else dict(
            student=net, teachers={} if folder in state.untaught else state.teachers)
        return ConfigDict(train_cfg=dict(max_epochs=state.epochs), model=model, evidence=state.evidence.get(path, {}),
                          default_hooks=dict(export=dict(metric=None, rule=state.rule)),
                          train_dataloader=dict(dataset=dict(seed=0)))

    def remember(*args):
        state.jobs = make_jobs(*args)
        return state.jobs

    make_jobs = distillation.make_jobs
    monkeypatch.setattr(distillation, 'make_jobs', remember)
    for module in (distillation, trainings):
        monkeypatch.setattr(module, 'load_config', fake_config)
    monkeypatch.setattr(distillation, 'measure_efficiency', lambda nets: dict(
        machine='2 threads', mini=[dict(STUDENT, config=arm) for arm in nets] + [TEACHER, STUDENT]))
    monkeypatch.setattr(subprocess, 'run', fake_run)
    state.folder = tmp_path / 'evidence'
    state.words = [*CYLINDER, '--work-dir', state.folder]
    return state


def test_trains_students_side_by_side_after_the_teacher(bench, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 4)
    with manager._lock:  # held by this thread for good after a logger could not be made
        report = distillation.run(parse(*bench.words, '--seeds', '2', '--jobs', '2'))
    assert report['finished'] == 5
    assert bench.calls[0] == 'teacher'
    assert bench.threads == [4, 2, 2, 2, 2]


def test_trains_teacher_then_both_students_of_each_seed(bench):
    report = distillation.run(arguments(*bench.words, '--seeds', '2', '--cfg-options', 'a.b=3'))
    assert bench.calls == ['teacher', 'student_0', 'pvd_0', 'student_1', 'pvd_1']
    for job in bench.jobs:
        text = ' '.join(job.command)
        assert f'{job.config} --mini --resume --work-dir {bench.folder}/{job.work_dir.name} ' in text
        assert f'--cfg-options randomness.seed={job.seed} train_dataloader.dataset.seed={job.seed} a.b=3' in text
        assert (f'model.teachers.full.checkpoint={bench.folder}/teacher/model.pth' in text) == (job.arm == 'pvd')
    assert [job.config for job in bench.jobs[:3]] == ['configs/lidarseg/cylinder3d_kitti.py', *CYLINDER]
    assert json.loads((bench.folder / 'report.json').read_text()) == report
    text = (bench.folder / 'report.md').read_text()
    assert '# cylinder3d_half_kitti on simulated mini data: 5 of 5 runs finished' in text
    assert '## All data and labels for teacher and students' in text
    assert '| student alone | 2 | 0.3050 ± 0.0071 |  | -0.5950 ± 0.0071 |  |' in text
    assert '| pvd | 2 | 0.4100 ± 0.0141 | +0.1050 ± 0.0071 | -0.4900 ± 0.0141 | helps miou |' in text
    assert '| pvd_1 | 1 | 0.9000 0.4200 |' in text
    assert '| loss_pvd_output_point | 1.5000 | 1.5000 ± 0.0000 | 1.5000 ± 0.0000 |' in text
    assert '| 75.0 % fewer | 75.0 % fewer | 2.00x as fast |' in text and text.endswith('\n2 threads\n')


def test_nothing_trained_yet_is_a_report_too(bench):
    report = distillation.run(arguments(*bench.words, '--seeds', '1', '--report-only'))
    assert (report['finished'], report['planned']) == (0, 3) and not bench.calls
    assert '0 of 3 runs finished' in (bench.folder / 'report.md').read_text()


def test_the_folder_has_the_students_name(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(distillation, 'from_root', lambda path: tmp_path / path)
    distillation.run(arguments(*CYLINDER, '--seeds', '1'))
    assert (tmp_path / 'work_dirs/evidence/cylinder3d_half_kitti/report.md').is_file()


def test_evidence_comes_from_the_configs_and_later_overrides_win(bench):
    student, method = CYLINDER
    bench.evidence = {student: dict(options=['x=1']), method: dict(options=['x=1', 'y=2']),
                      'configs/lidarseg/cylinder3d_kitti.py': dict(options=['x=9'])}
    distillation.run(arguments(*bench.words, '--seeds', '1', '--cfg-options', 'y=3', '--variant', 'odd', 'y=4'))
    assert [[word for word in job.options if word[1] == '='] for job in bench.jobs] == [
        ['x=9', 'y=3'], ['x=1', 'y=3'], ['x=1', 'y=2', 'y=3'], ['x=1', 'y=2', 'y=3', 'y=4']]


def test_a_variant_is_one_more_arm_beside_runs_that_are_there(bench):
    words = [*bench.words, '--seeds', '1']
    distillation.run(arguments(*words))
    distillation.run(arguments(*words, '--variant', 'strong', 'model.losses.pvd.weight=20'))
    assert bench.calls == ['teacher', 'student_0', 'pvd_0', 'strong_0']
    job = bench.jobs[-1]
    assert job.config == 'configs/pvd/cylinder3d_kitti.py'
    assert 'model.losses.pvd.weight=20' in job.command
    assert not any('weight' in word for other in bench.jobs[:-1] for word in other.command)
    assert '| strong | 1 | 0.3500 | +0.0500 | -0.5500 |  |' in (bench.folder / 'report.md').read_text()
    with pytest.raises(ConfigError, match='holds runs with strong='):
        distillation.run(arguments(*words, '--variant', 'strong', 'model.losses.pvd.weight=2'))
    settings = bench.folder / 'settings.json'
    settings.write_text(json.dumps({**json.loads(settings.read_text()), 'configs/pvd/cylinder3d_kitti.py': ['lr=1']}))
    with pytest.raises(ConfigError, match='lr=1'):  # the config's evidence changed since
        distillation.run(arguments(*words))


def test_an_arm_with_another_net_has_costs_of_its_own(bench, monkeypatch):
    measured = []

    def measure(nets):
        measured.append(nets)
        return dict(machine='', mini=[dict(STUDENT, config=arm, parameters=100 + len(words))
                                      for arm, words in nets.items()])

    monkeypatch.setattr(distillation, 'measure_efficiency', measure)
    words = [*bench.words, '--seeds', '1']
    distillation.run(arguments(*words))
    more = ['--arm', 'wide', CYLINDER[1], 'model.width=2', '--variant', 'strong', 'a=1']
    distillation.run(arguments(*words, *more))
    distillation.run(arguments(*words, *more))  # all are known
    assert [list(nets) for nets in measured] == [['teacher', 'student'], ['teacher', 'student', 'wide']]
    assert measured[1]['wide'] == [CYLINDER[1], 'model.width=2']
    text = ' '.join((bench.folder / 'report.md').read_text().split())
    for row in ('| student alone | 0.300 | 101 |', '| wide | 0.350 | 102 |', '| student with strong | 0.350 | 101 |'):
        assert row in text


def test_continues_where_it_was_cut_off(bench):
    words = [*bench.words, '--seeds', '1']
    bench.fail.add('student_0')
    with pytest.raises(TrainingError, match='student_0: the training ended with code 1'):
        distillation.run(arguments(*words))
    assert '1 of 3 runs finished' in (bench.folder / 'report.md').read_text()
    bench.fail.clear()
    report = distillation.run(arguments(*words))
    assert bench.calls == ['teacher', 'student_0', 'student_0', 'pvd_0']
    assert report['finished'] == 3
    distillation.run(arguments(*words))
    assert len(bench.calls) == 4
    report = distillation.run(arguments(*bench.words, '--seeds', '2', '--report-only'))
    assert len(bench.calls) == 4
    assert (report['finished'], report['planned']) == (3, 5)


@pytest.mark.parametrize('damage', ['epochs', 'validation', 'export'])
def test_an_unfinished_run_is_not_counted(bench, damage):
    distillation.run(arguments(*bench.words, '--seeds', '1'))
    job = bench.jobs[1]
    assert trainings.read_run(job)['last'] == pytest.approx(0.3)
    if damage == 'epochs':
        bench.epochs = 3
    elif damage == 'export':
        (job.work_dir / 'model.pth').unlink()
    else:
        checkpoint = torch.load(job.work_dir / 'epoch_2.pth')
        checkpoint['message_hub']['runtime_info']['step_validated'] = 1
        torch.save(checkpoint, job.work_dir / 'epoch_2.pth')
    assert trainings.read_run(job) is None


def test_runs_in_the_background(bench, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, 'Popen',
                        lambda command, **options: started.append((command, options)) or SimpleNamespace(pid=7))
    monkeypatch.setattr('sys.argv', ['tools/benchmark.py', 'distillation', *CYLINDER, '--background', '--seeds', '1'])
    assert distillation.run(arguments(*bench.words, '--background')) == dict(pid=7)
    command, options = started[0]
    assert command[1:] == ['tools/benchmark.py', 'distillation', *CYLINDER, '--seeds', '1']
    assert options['start_new_session']
    assert (bench.folder / 'log.txt').is_file()
    assert bench.calls == []


def test_lanes_without_a_teacher(bench):
    bench.scores.update(sad=0.45, agnostic=0.2)
    bench.untaught = ('sad',)
    distillation.run(arguments(ENET, 'configs/sad/enet_culane.py', '--seeds', '1', '--work-dir', bench.folder,
                               '--arm', 'agnostic', 'configs/lanes/erfnet_culane.py', 'a.b=1'))
    assert bench.calls == ['student_0', 'sad_0', 'agnostic_0']
    assert [job.config for job in bench.jobs] == [ENET, 'configs/sad/enet_culane.py', 'configs/lanes/erfnet_culane.py']
    assert 'a.b=1' in bench.jobs[2].command and 'a.b=1' not in bench.jobs[1].command
    text = (bench.folder / 'report.md').read_text()
    assert '| sad | 1 | 0.4500 | +0.1500 | -0.4500 |  |' in text
    assert '\n| teacher | 1 |' not in text


def test_several_methods_with_one_teacher(bench):
    bench.untaught, bench.rule = ('sad',), 'less'
    bench.teachers = dict(full=dict(trained_by='configs/lanes/pspnet_culane.py'))
    methods = ['configs/sad/enet_culane.py', 'configs/intra_kd/enet_culane.py']
    assert distillation.find_arms(ENET, methods) == dict(
        teacher=['configs/lanes/pspnet_culane.py'], student=[ENET], sad=methods[:1], intra_kd=methods[1:])
    distillation.run(arguments(ENET, *methods, '--seeds', '1', '--work-dir', bench.folder))
    assert bench.calls == ['teacher', 'student_0', 'sad_0', 'intra_kd_0']
    for job in bench.jobs:
        assert any(f'{bench.folder}/teacher/model.pth' in word for word in job.command) == (job.arm == 'intra_kd')
    assert trainings.read_run(bench.jobs[1])['best'] == pytest.approx(0.3)  # less is better
    bench.untaught, bench.teachers = (), dict(full={})
    with pytest.raises(ConfigError, match='expected one config. Compare these methods apart'):
        distillation.find_arms(ENET, methods)


def test_all_methods_of_a_student(bench):
    bench.scores.update(kd=0.45, pvd=0.5)
    words = ['--seeds', '2', '--work-dir', bench.folder]
    distillation.run(arguments(MINK, 'configs/kd/minkunet_kitti.py', 'configs/pvd/minkunet_kitti.py', *words))
    assert bench.calls == ['teacher', 'student_0', 'kd_0', 'pvd_0', 'student_1', 'kd_1', 'pvd_1']
    with open(bench.folder / 'report.csv', newline='') as file:
        rows = {row['arm']: row for row in csv.DictReader(file)}
    assert list(rows) == ['teacher', 'student', 'kd', 'pvd']
    kd = {key: float(value) for key, value in rows['kd'].items()
          if key not in ('table', 'arm', 'verdict')}
    assert kd['runs'] == 2
    assert (kd['miou_last_mean'], kd['miou_gain_mean']) == pytest.approx((0.455, 0.15))
    assert kd['miou_last_spread'] == pytest.approx(0.01 / 2 ** .5, abs=1e-6)
    assert kd['miou_gain_spread'] == pytest.approx(0, abs=1e-9)
    assert rows['teacher']['miou_last_spread'] == rows['teacher']['miou_gain_mean'] == ''
    assert rows['kd']['verdict'] == 'helps miou'
    assert '| kd | 2 | 0.4550 ± 0.0071 |' in (bench.folder / 'report.md').read_text()
    distillation.run(arguments(MINK, 'configs/ka/minkunet_kitti.py', *words))  # one more, alone, beside what is there
    assert bench.calls[7:] == ['ka_0', 'ka_1']


def test_settings_share_equal_trainings_and_compare_with_their_teacher(bench):
    few = ['labels=0.001']
    net = dict(scores=dict(cross_entropy='less'), teacher_predictions=['val_evaluator.1.against'], settings=dict(
        few=dict(title='few', teacher=few, students=few), semi=dict(title='few for students', students=few)))
    bench.evidence = dict.fromkeys((*CYLINDER, 'configs/lidarseg/cylinder3d_kitti.py'), net)
    bench.words += ['--seeds', '2', '--setting']
    report = distillation.run(arguments(*bench.words, 'equal', 'few', 'semi'))
    runs = {job.work_dir.relative_to(bench.folder).as_posix(): job for job in bench.jobs}
    assert list(runs) == ['teacher', 'student_0', 'pvd_0', 'student_1', 'pvd_1', 'few/teacher', 'few/student_0',
                          'few/pvd_0', 'few/student_1', 'few/pvd_1', 'semi/student_0', 'semi/pvd_0', 'semi/student_1',
                          'semi/pvd_1']
    for name, of in (('pvd_0', 'teacher'), ('few/pvd_0', 'few/teacher'), ('semi/pvd_0', 'teacher')):
        assert f'model.teachers.full.checkpoint={bench.folder / of}/model.pth' in runs[name].options
        assert f'val_evaluator.1.against={bench.folder / of}/predictions' in runs[name].options
        assert ('labels=0.001' in runs[name].options) == ('/' in name)
    assert bench.calls[:4] == ['teacher', 'teacher', 'test teacher', 'test teacher']
    assert report['planned'] == report['finished'] == 15  # the teacher counts in two settings
    tables = report['tables']
    assert list(tables) == ['all data and labels for teacher and students', 'few', 'few for students']
    assert tables['few']['pvd']['scores']['cross_entropy']['gain'] == pytest.approx([-.1, -.11])
    assert tables['few']['pvd']['verdict'] == 'helps miou, cross_entropy'
    assert '| 0.4100 ± 0.0141 | +0.1050 ± 0.0071 | -0.4900 ± 0.0141 | 0.5900 ± 0.0141 | -0.1050 ± 0.0071 |' in (
        bench.folder / 'report.md').read_text()
    calls = len(bench.calls)
    distillation.run(arguments(*bench.words, 'equal', 'few', 'semi'))
    assert len(bench.calls) == calls
    with pytest.raises(ConfigError, match="'fwe'.*few"):
        distillation.run(arguments(*bench.words, 'fwe'))


@pytest.mark.parametrize('order', [['equal', 'semi'], ['semi', 'equal'], ['semi', 'few']])
def test_a_teacher_that_an_earlier_command_trained_is_shared(bench, order):
    few = ['labels=0.001']
    bench.evidence = {CYLINDER[0]: dict(settings=dict(few=dict(teacher=few, students=few), semi=dict(students=few)))}
    bench.words += ['--seeds', '1', '--setting']
    first, second = (folder.replace('equal', '.') for folder in order)
    distillation.run(arguments(*bench.words, order[0]))
    if order[1] != 'few':
        distillation.run(arguments(*bench.words, order[1]))
        distillation.run(arguments(*bench.words, *order[::-1]))
        assert bench.calls == ['teacher', 'student_0', 'pvd_0', 'student_0', 'pvd_0']
        assert {job.work_dir for job in bench.jobs if job.arm == 'teacher'} == {bench.folder / first / 'teacher'}
        assert not (bench.folder / second / 'teacher').exists()
    else:
        distillation.run(arguments(*bench.words, order[1]))
        assert bench.calls.count('teacher') == 2  # with fewer labels it is another one
    own = bench.folder / second / 'teacher'
    own.mkdir(exist_ok=True)  # of a version that trained it twice
    distillation.run(arguments(*bench.words, order[1], '--report-only'))
    assert bench.jobs[0].work_dir == own


def test_leaves_out_one_place_after_the_other(bench, tmp_path):
    words = [*bench.words, '--seeds', '2', '--data', tmp_path]
    report = distillation.run(arguments(*words, '--sequences', '00', '02', 'town', '--leave-out', '02', 'town'))
    jobs = {job.work_dir.relative_to(bench.folder).as_posix(): job for job in bench.jobs}
    assert list(jobs)[:3] == ['without_02/teacher', 'without_02/student_0', 'without_02/pvd_0']
    for job in (jobs['without_02/teacher'], jobs['without_02/pvd_1']):
        assert f'val_dataloader.dataset.data_root={tmp_path}' in job.options
        assert "train_dataloader.dataset.sequences=[0,'town']" in job.options
        assert 'val_dataloader.dataset.sequences=[2]' in job.options
        assert 'test_dataloader.dataset.sequences=[2]' in job.options
    assert "val_dataloader.dataset.sequences=['town']" in jobs['without_town/teacher'].options
    every = report['tables']['all data and labels for teacher and students; scored on each of 02 town']
    assert every['pvd']['runs'] == 4 and every['teacher']['runs'] == 2 and len(report['tables']) == 3
    assert every['pvd']['scores']['miou']['gain'] == pytest.approx([.1, .11, .1, .11])
    assert every['pvd']['scores']['miou']['tested'] == pytest.approx([.105, .105])  # seeds of a place are not apart
    assert report['tested_over']['all data and labels for teacher and students; scored on each of 02 town'] == 'place'
    text = (bench.folder / 'report.md').read_text()
    assert 'Tested over places, n = 2. The seeds of a place are averaged first' in text
    assert text.count('Tested over seeds, n = 2. miou decides; any other score is tested alone') == 2
    assert f'# cylinder3d_half_kitti on {tmp_path}: 10 of 10' in (bench.folder / 'report.md').read_text()
    with pytest.raises(ConfigError, match='holds runs with setting equal='):  # of other data in the same folder
        distillation.run(arguments(*bench.words))
        distillation.run(arguments(*words))
    for odd in (['--leave-out', '02'], ['--sequences', '02'], ['--sequences', '00', '02', '--leave-out', '03'],
                ['--sequences', '02', '--leave-out', '02']):
        with pytest.raises(ConfigError, match='--leave-out'):
            distillation.run(arguments(*words, *odd))


def test_seeds_of_a_place_are_not_independent():
    runs = [dict(arm=arm, setting=place, seed=seed, metric='miou', scores=[score], last=score, results={})
            for place, gain in (('a', .1), ('b', .1), ('c', -.02)) for seed in range(4)
            for arm, score in (('student', .5 + .01 * seed), ('pvd', .5 + gain + .011 * seed))]
    about = Comparison('', '', {}, None, {})
    row = table(runs, ['a', 'b', 'c'], 'miou', about)['pvd']
    assert len(row['scores']['miou']['gain']) == 12 and row['verdict'] == 'no difference seen'
    assert judge(dict(miou=row['scores']['miou']['gain']), dict(miou='greater')) == 'helps miou'  # as if they were
    assert row['scores']['miou']['tested'] == pytest.approx([.1015, .1015, -.0185])
    assert not table(runs[:8], ['a', 'b', 'c'], 'miou', about)['pvd']['verdict']  # one place has no spread
    assert table(runs[:8], ['a'], 'miou', about)['pvd']['verdict'] == 'helps miou'


def test_a_gain_counts_by_a_paired_t_test():
    rules = dict(miou='greater', cross_entropy='less')
    assert judge(dict(miou=[.02, .03, .02], cross_entropy=[.02, .01, .02]), rules) == 'helps miou; harms cross_entropy'
    assert judge(dict(miou=[.01, -.03, .02], cross_entropy=[.1, -.2, .1]), rules) == 'no difference seen'
    assert judge(dict(miou=[.01], cross_entropy=[]), rules) == ''
    nothing = float('nan')  # a score of nothing is no seed: two pairs ask for 12.7 standard errors
    assert judge(dict(miou=[.1, .15, .12], cross_entropy=[]), rules) == 'helps miou'
    assert judge(dict(miou=[.1, .15, nothing], cross_entropy=[]), rules) == 'no difference seen'
    assert judge(dict(miou=[.1, nothing], cross_entropy=[]), rules) == ''
    assert trainings.to_text([float('inf'), 1., nothing]) == 'inf'  # which has no spread
    ttest = pytest.importorskip('scipy.stats').ttest_1samp  # the reference
    for sigma in (.02, .5, 1., 1.2, 4.):
        for count in (2, 3, 4, 6):
            gains = [1 + sigma * (-1) ** k * (1 + k) / count for k in range(count)]
            assert (judge(dict(miou=gains), rules) == 'helps miou') == bool(ttest(gains, 0).pvalue <= .05)


def test_configs_that_do_not_belong_together(bench):
    for student, method, words in ((CYLINDER[1], CYLINDER[1], 'config of a method'),
                                   (CYLINDER[0], 'configs/pvd/enet.py', 'no such file'),
                                   (CYLINDER[0], 'configs/sad/enet_culane.py', 'another net than'),
                                   ('configs/lidarseg/cylinder3d_hlaf_kitti.py', CYLINDER[1], 'no such file')):
        with pytest.raises(ConfigError, match=words):
            distillation.run(arguments(student, method, '--work-dir', bench.folder))
    with pytest.raises(ConfigError, match='there is an arm pvd already'):
        distillation.find_arms(CYLINDER[0], [CYLINDER[1], 'configs/pvd/spvnas_kitti.py'])


def test_bad_arguments(bench):
    for option, value in (('seeds', '0'), ('jobs', '-1')):
        with pytest.raises(ConfigError, match=f'{option}={value}, expected a number above 0'):
            distillation.run(parse(*bench.words, f'--{option}', value))
    for variant in (['student', 'a=1'], ['strong'], ['a/b', 'a=1']):
        with pytest.raises(ConfigError, match='expected a new word, a method and at least one KEY=VALUE'):
            distillation.run(arguments(*bench.words, '--variant', *variant))
    with pytest.raises(ConfigError, match='1 overrides of no method came'):
        distillation.run(arguments(CYLINDER[0], '--work-dir', bench.folder, '--variant', 'strong', 'a=1'))
    for arm in (['student', ENET], ['new'], ['a/b', ENET]):
        with pytest.raises(ConfigError, match='expected a new word and a config'):
            distillation.run(arguments(*bench.words, '--arm', *arm))
    distillation.run(arguments(*bench.words, '--seeds', '1'))
    with pytest.raises(ConfigError, match='holds runs with cfg_options='):
        distillation.run(arguments(*bench.words, '--seeds', '1', '--cfg-options', 'a.b=3'))


def test_the_configs_of_all_methods_belong_to_their_students(root):
    """On the real configs, a method of each room and one without a teacher."""
    assert distillation.find_arms(MINK, ['configs/kd/minkunet_kitti.py', 'configs/pvd/minkunet_kitti.py']) == dict(
        teacher=['configs/lidarseg/minkunet_kitti.py'], student=[MINK], kd=['configs/kd/minkunet_kitti.py'],
        pvd=['configs/pvd/minkunet_kitti.py'])
    wide = dict(student=[MINK], light=['configs/pvd/minkunet_kitti.py', 'model.losses.pvd.weight=1'],
                wide=['configs/pvd/minkunet_kitti.py', 'model.student.width=0.5'])
    assert list(distillation.different_nets(wide)) == ['student', 'wide']
    arms = distillation.find_arms(ENET, ['configs/sad/enet_culane.py', 'configs/intra_kd/enet_culane.py'])
    assert arms['teacher'] == ['configs/lanes/pspnet_culane.py'] and list(arms)[1:] == ['student', 'sad', 'intra_kd']


def test_costs_are_measured_at_both_scales(monkeypatch):
    seen = []

    def config_of(path, mini, options):
        seen.append((path, mini, options))
        return path

    monkeypatch.setattr(distillation, 'load_config', lambda path, mini, options: ConfigDict(
        model=dict(width=options.get('model.width', 1))))
    monkeypatch.setattr(distillation.cost, 'config_of', config_of)
    monkeypatch.setattr(distillation.cost, 'measure', lambda cfgs, rounds: [
        dict(TEACHER if name == 'teacher' else STUDENT, config=name) for name in cfgs])
    report = distillation.measure_efficiency(dict(teacher=['t.py', 'a=x'], student=['s.py', 'a=x'], other=['o.py'],
                                                  wide=['o.py', 'model.width=2']))
    assert seen[:2] == [('t.py', True, {'a': 'x'}), ('s.py', True, {'a': 'x'})]
    assert seen[3] == ('o.py', True, {'model.width': 2})
    assert [mini for _, mini, _ in seen] == [True] * 4 + [False] * 3
    assert [row['config'] for row in report['mini']] == ['teacher', 'student', 'other', 'wide']
    assert [row['config'] for row in report['full']] == ['teacher', 'student', 'other']  # the mini net alone is wide
    assert report['mini'][1]['cpu_speedup'] == 2 and 'against' not in report['mini'][0]
    assert 'threads' in report['machine']


def test_reads_a_real_training(run, toy_config, root, tmp_path):
    done = run(root / 'tools/train.py', toy_config, '--work-dir', tmp_path / 'run', '--cfg-options',
               'train_cfg.max_epochs=2')
    assert done.returncode == 0, done.stderr
    job = Job('student', 0, str(toy_config), tmp_path / 'run', ['train_cfg.max_epochs=2'])
    result = trainings.read_run(job)
    assert result['metric'] == 'toy/accuracy'
    assert result['last'] == result['scores'][1]
    assert len(result['scores']) == 2
    assert result['losses']['loss'] > 0
    assert result['results'] == {'toy/count': 11}
    job.options = ['train_cfg.max_epochs=3']
    assert trainings.read_run(job) is None


@pytest.mark.parametrize('unit', ['epoch', 'iter'])
def test_a_training_that_a_hook_ended_early_is_finished(toy_config, tmp_path, unit):
    stop = 'dict(type="EarlyStoppingHook",monitor="toy/accuracy",rule="greater",stopping_threshold=-1)'
    words = ['default_hooks.checkpoint.interval=5', f'custom_hooks=[{stop}]']
    if unit == 'epoch':
        words.append('train_cfg.val_begin=2')
    else:
        words += ['train_cfg=dict(type="IterBasedTrainLoop",max_iters=9,val_interval=2)', 'param_scheduler=None',
                  'default_hooks.checkpoint.by_epoch=False']
    train(toy_config, work_dir=str(tmp_path), options=parse_options(words))
    assert trainings.newest_checkpoint(tmp_path)[0].name == f'{unit}_2.pth'  # of which the interval says nothing
    job = Job('student', 0, str(toy_config), tmp_path, words, mini=False)
    assert len(trainings.read_run(job)['scores']) == 1
    checkpoint = torch.load(tmp_path / f'{unit}_2.pth')
    checkpoint['message_hub']['runtime_info']['step_stopped'] = 1  # it was trained on and cut off
    torch.save(checkpoint, tmp_path / f'{unit}_2.pth')
    assert trainings.read_run(job) is None


def test_a_training_without_a_last_validation_is_no_endless_one(bench):
    bench.epochs = 3  # and the trainings end after two
    with pytest.raises(TrainingError, match='teacher: the training ended, but not with a checkpoint of a validated'):
        distillation.run(arguments(*bench.words, '--seeds', '1'))


def test_a_mean_teacher_is_trained_with_its_student():
    arms = distillation.find_arms('configs/medical/densenet121_aptos.py', ['configs/crckd/densenet121_aptos.py'])
    assert arms == dict(student=['configs/medical/densenet121_aptos.py'], crckd=['configs/crckd/densenet121_aptos.py'])
