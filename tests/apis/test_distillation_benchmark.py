"""The evidence command with trainings that take no time, and its reading of a real, tiny training."""
import argparse
import csv
import json
import subprocess
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from perception.apis.benchmarks.measure import count_model_macs
from torch import nn

from perception.apis.benchmarks import distillation
from perception.apis.benchmarks.distillation import Job, find_configs
from perception.ops.sparse.modules import SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.errors import ConfigError

EFFICIENCY = dict(mini=dict(teacher=dict(parameters=400, macs=4e9, latency=0.4), machine='2 threads', points=10,
                            student=dict(parameters=100, macs=1e9, latency=0.2), voxels=5, voxelisation=0.01))


def arguments(*words):
    parser = argparse.ArgumentParser()
    distillation.add_arguments(parser)
    return parser.parse_args(['--jobs', '1', *words])  # one after the other, in a known order


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Trainings that only write what a real one leaves; `calls` lists them, `fail` names those that are cut off."""
    state = SimpleNamespace(calls=[], threads=[], fail=set(), epochs=2, rule='greater',
                            taught=('configs/pvd', 'configs/intra_kd'),
                            teachers=dict(full=dict(trained_by='configs/lidarseg/cylinder3d_kitti.py')),
                            scores=dict(teacher=0.5, student=0.3, distilled=0.4))

    def fake_run(command, cwd, env):
        job = next(job for job in state.jobs if job.command == command)
        state.calls.append(job.work_dir.name)
        state.threads.append(int(env['OMP_NUM_THREADS']))
        if job.work_dir.name in state.fail:
            return SimpleNamespace(returncode=1)
        job.work_dir.mkdir(parents=True, exist_ok=True)
        last = state.scores.get(job.arm, 0.35) + 0.01 * job.seed * (1 + (job.arm == 'distilled'))
        hub = dict(runtime_info=dict(step_validated=2), log_scalars={
            'val/miou': [torch.tensor([0.9, last]), torch.ones(2)],
            'val/iou_car': [torch.tensor([0.1, 0.2]), torch.ones(2)],
            'train/loss_pvd_output_point': [torch.tensor([9., 9., 1., 2.]), torch.ones(4)]})
        torch.save(dict(meta=dict(epoch=2, iter=4), message_hub=hub), job.work_dir / 'epoch_2.pth')
        torch.save({}, job.work_dir / 'model.pth')
        return SimpleNamespace(returncode=0)

    def fake_config(path, mini=False, options=None):
        assert mini
        return SimpleNamespace(train_cfg=SimpleNamespace(max_epochs=state.epochs),
                               default_hooks=SimpleNamespace(export=dict(metric=None, rule=state.rule)),
                               model=dict(teachers=state.teachers) if path.startswith(state.taught) else {},
                               train_dataloader=SimpleNamespace(dataset=dict(seed=0)))

    def remember(*args):
        state.jobs = make_jobs(*args)
        return state.jobs

    make_jobs = distillation.make_jobs
    monkeypatch.setattr(distillation, 'make_jobs', remember)
    monkeypatch.setattr(distillation, 'load_config', fake_config)
    monkeypatch.setattr(distillation, 'measure_efficiency', lambda configs: EFFICIENCY)
    monkeypatch.setattr(subprocess, 'run', fake_run)
    state.folder = tmp_path / 'evidence'
    return state


def test_trains_students_side_by_side_after_the_teacher(bench, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 4)
    report = distillation.run(arguments('--seeds', '2', '--jobs', '2', '--work-dir', str(bench.folder)))
    assert report['finished'] == 5
    assert bench.calls[0] == 'teacher'
    assert bench.threads == [4, 2, 2, 2, 2]


def test_trains_teacher_then_both_students_of_each_seed(bench):
    report = distillation.run(arguments('--seeds', '2', '--work-dir', str(bench.folder), '--cfg-options', 'a.b=3'))
    assert bench.calls == ['teacher', 'student_0', 'distilled_0', 'student_1', 'distilled_1']
    for job in bench.jobs:
        text = ' '.join(job.command)
        assert f'{job.config} --mini --resume --work-dir {bench.folder}/{job.work_dir.name} ' in text
        assert f'--cfg-options randomness.seed={job.seed} train_dataloader.dataset.seed={job.seed} a.b=3' in text
        assert (f'model.teachers.full.checkpoint={bench.folder}/teacher/model.pth' in text) == (job.arm == 'distilled')
    student, distilled = bench.jobs[1], bench.jobs[2]
    assert (student.config, distilled.config) == ('configs/lidarseg/cylinder3d_half_kitti.py',
                                                  'configs/pvd/cylinder3d_kitti.py')
    assert json.loads((bench.folder / 'report.json').read_text()) == report
    text = (bench.folder / 'report.md').read_text()
    assert '| student alone | 2 | 0.3050 ± 0.0071 | 0.9000 ± 0.0000 |  |  |' in text
    assert ('| student distilled | 2 | 0.4100 ± 0.0141 | 0.9000 ± 0.0000 | +0.1050 ± 0.0071 | +0.0000 ± 0.0000 |'
            in text)
    assert '| loss_pvd_output_point | 1.5000 | 1.5000 ± 0.0000 | 1.5000 ± 0.0000 |' in text
    assert '| mini | student against teacher | 75.0 % fewer | 75.0 % fewer | 2.00x faster |' in text


def test_a_variant_is_one_more_arm_beside_runs_that_are_there(bench):
    words = ['--seeds', '1', '--work-dir', str(bench.folder)]
    distillation.run(arguments(*words))
    distillation.run(arguments(*words, '--variant', 'strong', 'model.losses.pvd.weight=20'))
    assert bench.calls == ['teacher', 'student_0', 'distilled_0', 'strong_0']
    job = bench.jobs[-1]
    assert job.config == 'configs/pvd/cylinder3d_kitti.py'
    assert 'model.losses.pvd.weight=20' in job.command
    assert not any('weight' in word for other in bench.jobs[:-1] for word in other.command)
    assert '| strong | 1 | 0.3500 | 0.9000 | +0.0500 | +0.0000 |' in (bench.folder / 'report.md').read_text()
    with pytest.raises(ConfigError, match='holds runs with strong='):
        distillation.run(arguments(*words, '--variant', 'strong', 'model.losses.pvd.weight=2'))


def test_continues_where_it_was_cut_off(bench):
    words = ['--seeds', '1', '--work-dir', str(bench.folder)]
    bench.fail.add('student_0')
    with pytest.raises(RuntimeError, match='student_0: the training ended with code 1'):
        distillation.run(arguments(*words))
    assert '1 of 3 runs finished' in (bench.folder / 'report.md').read_text()
    bench.fail.clear()
    report = distillation.run(arguments(*words))
    assert bench.calls == ['teacher', 'student_0', 'student_0', 'distilled_0']
    assert report['finished'] == 3
    distillation.run(arguments(*words))
    assert len(bench.calls) == 4
    report = distillation.run(arguments('--seeds', '2', '--work-dir', str(bench.folder), '--report-only'))
    assert len(bench.calls) == 4
    assert (report['finished'], report['planned']) == (3, 5)


@pytest.mark.parametrize('damage', ['epochs', 'validation', 'export'])
def test_an_unfinished_run_is_not_counted(bench, damage):
    distillation.run(arguments('--seeds', '1', '--work-dir', str(bench.folder)))
    job = bench.jobs[1]
    assert distillation.read_run(job)['last'] == pytest.approx(0.3)
    if damage == 'epochs':
        bench.epochs = 3
    elif damage == 'export':
        (job.work_dir / 'model.pth').unlink()
    else:
        checkpoint = torch.load(job.work_dir / 'epoch_2.pth')
        checkpoint['message_hub']['runtime_info']['step_validated'] = 1
        torch.save(checkpoint, job.work_dir / 'epoch_2.pth')
    assert distillation.read_run(job) is None


def test_runs_in_the_background(bench, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, 'Popen',
                        lambda command, **options: started.append((command, options)) or SimpleNamespace(pid=7))
    monkeypatch.setattr('sys.argv', ['tools/benchmark.py', 'distillation', '--background', '--seeds', '1'])
    assert distillation.run(arguments('--background', '--work-dir', str(bench.folder))) == dict(pid=7)
    command, options = started[0]
    assert command[1:] == ['tools/benchmark.py', 'distillation', '--seeds', '1']
    assert options['start_new_session']
    assert (bench.folder / 'log.txt').is_file()
    assert bench.calls == []


def test_lanes_without_a_teacher(bench):
    bench.scores.update(sad=0.45, agnostic=0.2)
    report = distillation.run(arguments('--task', 'lanes', '--seeds', '1', '--work-dir', str(bench.folder), '--arm',
                                        'agnostic', 'configs/lanes/erfnet_culane.py', 'a.b=1'))
    assert bench.calls == ['student_0', 'sad_0', 'agnostic_0']
    assert [job.config for job in bench.jobs] == ['configs/lanes/enet_culane.py', 'configs/sad/enet_culane.py',
                                                  'configs/lanes/erfnet_culane.py']
    assert 'a.b=1' in bench.jobs[2].command and 'a.b=1' not in bench.jobs[1].command
    assert report['method'] == 'enet_culane_sad'
    text = (bench.folder / 'report.md').read_text()
    assert '| sad | 1 | 0.4500 | 0.9000 | +0.1500 | +0.0000 |' in text
    assert '\n| teacher |' not in text


def test_several_methods_with_one_teacher(bench):
    bench.taught, bench.rule = ('configs/intra_kd',), 'less'
    bench.teachers = dict(full=dict(trained_by='configs/lanes/pspnet_culane.py'))
    configs = find_configs('lanes', ['sad', 'intra_kd'], 'enet_culane')
    assert list(configs) == ['teacher', 'student', 'sad', 'intra_kd']
    assert configs['intra_kd'] == 'configs/intra_kd/enet_culane.py'
    distillation.run(arguments('--task', 'lanes', '--method', 'sad', 'intra_kd', '--seeds', '1', '--work-dir',
                               str(bench.folder)))
    assert bench.calls == ['teacher', 'student_0', 'sad_0', 'intra_kd_0']
    for job in bench.jobs:
        assert any(f'{bench.folder}/teacher/model.pth' in word for word in job.command) == (job.arm == 'intra_kd')
    assert distillation.read_run(bench.jobs[1])['best'] == pytest.approx(0.3)  # less is better
    bench.taught = ('configs/intra_kd', 'configs/sad')
    bench.teachers = dict(full={})
    with pytest.raises(ConfigError, match='expected one config. Compare these methods apart'):
        find_configs('lanes', ['sad', 'intra_kd'], 'enet_culane')


def test_all_methods_of_a_backbone(bench):
    bench.taught = ('configs/kd', 'configs/cd', 'configs/ka', 'configs/pvd')
    bench.scores.update(kd=0.45, pvd=0.5)
    words = ['--backbone', 'minkunet', '--seeds', '2', '--work-dir', str(bench.folder)]
    report = distillation.run(arguments(*words, '--methods', 'none,kd,pvd'))
    assert bench.calls == ['teacher', 'student_0', 'kd_0', 'pvd_0', 'student_1', 'kd_1', 'pvd_1']
    assert [job.config for job in bench.jobs[1:4]] == ['configs/lidarseg/minkunet_half_kitti.py',
                                                       'configs/kd/minkunet_kitti.py', 'configs/pvd/minkunet_kitti.py']
    assert report['method'] == 'minkunet'
    with open(bench.folder / 'report.csv', newline='') as file:
        rows = {row['arm']: row for row in csv.DictReader(file)}
    assert list(rows) == ['teacher', 'student', 'kd', 'pvd']
    kd = {key: float(value) for key, value in rows['kd'].items() if key != 'arm'}
    assert kd['seeds'] == 2
    assert (kd['last_mean'], kd['gain_last_mean']) == pytest.approx((0.455, 0.15))
    assert kd['last_spread'] == pytest.approx(0.01 / 2 ** .5, abs=1e-6)
    assert kd['gain_last_spread'] == pytest.approx(0, abs=1e-9)
    assert rows['teacher']['last_spread'] == rows['teacher']['gain_last_mean'] == ''
    assert '| kd | 2 | 0.4550 ± 0.0071 |' in (bench.folder / 'report.md').read_text()
    assert 'distilled' not in (bench.folder / 'report.md').read_text()
    distillation.run(arguments(*words, '--methods', 'ka'))  # one more, alone, beside what is there
    assert bench.calls[7:] == ['ka_0', 'ka_1']


def test_all_trainings_of_cylinder3d_are_short_where_methods_are_compared(bench):
    bench.taught = ('configs/kd', 'configs/pvd')
    distillation.run(arguments('--backbone', 'cylinder3d', '--methods', 'none,kd,pvd', '--seeds', '1', '--work-dir',
                               str(bench.folder)))
    assert len(bench.jobs) == 4 and all('train_cfg.max_epochs=22' in job.command for job in bench.jobs)


def test_a_backbone_is_of_lidarseg_and_names_its_student(bench):
    for words in (['--task', 'lanes'], ['--student', 'minkunet_half_kitti']):
        with pytest.raises(ConfigError, match='Name either a backbone or a student'):
            distillation.run(arguments('--backbone', 'minkunet', *words))
    with pytest.raises(ConfigError, match='minknet_half_kitti.py: no such file'):
        distillation.run(arguments('--backbone', 'minknet'))


def test_earlier_reports_are_still_read(bench):
    bench.folder.mkdir()
    (bench.folder / 'settings.json').write_text(json.dumps(dict(
        teacher='configs/lidarseg/cylinder3d_kitti.py', student='configs/lidarseg/cylinder3d_half_kitti.py',
        distilled='configs/pvd/cylinder3d_kitti.py', cfg_options=[])))
    (bench.folder / 'efficiency.json').write_text(json.dumps(EFFICIENCY))
    distillation.run(arguments('--seeds', '1', '--work-dir', str(bench.folder)))
    assert 'preprocessing of one scan of 10 points in 5 voxels (10 ms)' in (bench.folder / 'report.md').read_text()


def test_bad_arguments(bench):
    with pytest.raises(ConfigError, match=r"'pdv' came, expected one of .*pvd.* Did you mean pvd"):
        distillation.run(arguments('--method', 'pdv'))
    with pytest.raises(ConfigError, match='--seeds: 0 came, expected at least 1'):
        distillation.run(arguments('--seeds', '0'))
    for variant in (['student', 'a=1'], ['strong'], ['a/b', 'a=1']):
        with pytest.raises(ConfigError, match='expected a new word and at least one KEY=VALUE'):
            distillation.run(arguments('--variant', *variant))
    for arm in (['student', 'configs/lanes/enet_culane.py'], ['new'], ['a/b', 'configs/lanes/enet_culane.py']):
        with pytest.raises(ConfigError, match='expected a new word and a config'):
            distillation.run(arguments('--arm', *arm))
    with pytest.raises(ConfigError, match='no such file'):
        distillation.run(arguments('--student', 'cylinder3d_hlaf_kitti'))
    distillation.run(arguments('--seeds', '1', '--work-dir', str(bench.folder)))
    with pytest.raises(ConfigError, match='holds runs with cfg_options='):
        distillation.run(arguments('--seeds', '1', '--work-dir', str(bench.folder), '--cfg-options', 'a.b=3'))


def test_reads_a_real_training(run, toy_config, root, tmp_path):
    done = run(root / 'tools/train.py', toy_config, '--work-dir', tmp_path / 'run', '--cfg-options',
               'train_cfg.max_epochs=2')
    assert done.returncode == 0, done.stderr
    job = Job('student', 0, str(toy_config), tmp_path / 'run', ['train_cfg.max_epochs=2'])
    result = distillation.read_run(job)
    assert result['metric'] == 'toy/accuracy'
    assert result['last'] == result['scores'][1]
    assert len(result['scores']) == 2
    assert result['losses']['loss'] > 0
    assert result['classes'] == {'toy/count': 11}
    job.options = ['train_cfg.max_epochs=3']
    assert distillation.read_run(job) is None


def test_efficiency_of_two_nets(monkeypatch):
    class Net(BaseModel):
        def __init__(self, width):
            super().__init__()
            self.linear = nn.Linear(4, width)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            assert not self.training
            assert not torch.is_grad_enabled()
            return self.linear(inputs.get('points', inputs.get('images')))

    class Data:
        def __init__(self, points=True):
            self.points = points

        def __getitem__(self, index):
            values = torch.randn(6, 4)
            inputs = dict(points=values, voxel_coords=values) if self.points else dict(images=values[None, None])
            return dict(inputs=inputs, data_samples=None)

    monkeypatch.setattr(BaseDataPreprocessor, 'forward', lambda self, data, training=False: dict(
        inputs={key: value[0] for key, value in data['inputs'].items()}, data_samples=None))

    def config(width, **data):
        return SimpleNamespace(model=dict(student=dict(type=Net, width=width)),
                               val_dataloader=SimpleNamespace(dataset=dict(type=Data, **data)))

    report = distillation.measure_pair({'big': config(8), 'small': config(2)}, 3)
    assert report['big']['parameters'] == 40
    assert (report['big']['macs'], report['small']['macs']) == (6 * 4 * 8, 6 * 4 * 2)
    assert report['small']['latency'] > 0
    assert report['preprocessing'] > 0
    assert distillation.describe_input(report).startswith('one scan of 6 points in 6 voxels (')
    report = distillation.measure_pair({'one': config(8, points=False)}, 1)
    assert distillation.describe_input(report).startswith('one image of 6 x 4 pixels (')


def test_macs_of_sparse_and_linear_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.conv = nn.Linear(4, 3), SubMConv3d(3, 5, (1, 1, 3))

        def forward(self, inputs, data_samples=None, mode='tensor'):
            coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 3]])
            return self.conv(SparseTensor(self.linear(inputs), coords, (2, 2, 4), 1)).feats

    net = Net()
    batch = dict(inputs=torch.randn(3, 4), data_samples=None)
    pairs = 3 + 2  # each voxel with itself, two neighbours with each other
    assert count_model_macs(net, batch) == 3 * 4 * 3 + pairs * 3 * 5
    assert not net.linear._forward_hooks
