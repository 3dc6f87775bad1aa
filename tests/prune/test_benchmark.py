"""The evidence: what is called a gain, what a report says, and one small run of it."""
import argparse
import json

import pytest

from perception.apis.benchmarks import prune
from perception.apis.config import parse_options
from perception.apis.listing import add_options, benchmarks
from perception.apis.train import train as train_one
from perception.utils.errors import ConfigError


def row(method, ratio, top1, ms, **more):
    return dict(dict(method=method, ratio=ratio, scores=dict(top1=dict(enumerate(top1))), ms=dict(CPU=ms), macs=[],
                     params=[]), **more)


def rows(peel):
    return [row('whole', 1.0, [0.95, 0.95], 10.0, macs=[1e7], params=[2e5]),
            row('peel', 0.5, peel, 9.9, macs=[5e6], params=[1e5]),
            row('uniform', 0.5, [0.90, 0.91], 5.0), row('shuffled', 0.5, [0.88, 0.89], 5.0)]


@pytest.mark.parametrize(('peel', 'rule', 'verdict'), [
    ([0.93, 0.94], 'greater', 'a gain'), ([0.93, 0.94], 'less', 'a loss'), ([0.91, 0.90], 'greater', 'no gain'),
    ([0.87, 0.88], 'greater', 'a loss'), ([0.89, 0.90], 'greater', 'no gain'), ([0.93], 'greater', 'one seed')])
def test_a_gain_betters_both_controls_of_the_same_seeds(peel, rule, verdict):
    assert verdict in prune.verdicts(rows(peel), dict(top1=rule))[0].rpartition(':')[2]


def test_the_gains_are_told():
    assert '+0.0300 ± 0.0000 over uniform, +0.0500 ± 0.0000 over shuffled' in prune.verdicts(
        rows([0.93, 0.94]), dict(top1='greater'))[0]
    assert not prune.verdicts(rows([0.93])[:3], dict(top1='greater'))  # without a control


def test_where_fewer_operations_are_not_less_time():
    assert [line.partition(':')[0] for line in prune.slower(rows([0.9]))] == ['CPU at 0.5']


def test_whether_seeds_agree_on_the_importance():
    assert prune.spread([]) == []
    assert '2 groups: 1.00 to 2.00' in prune.spread([[1.0, 2.0]])[0]
    assert 'seeds -1.00' in prune.spread([[1.0, 2.0], [2.0, 1.0]])[0]


def test_the_report_is_a_table():
    lines = prune.lines_of(dict(init='scratch', sparsity=1e-4, configs={
        'x.py': dict(rows=rows([0.93, 0.94]), rules=dict(top1='greater'), importance=[], machine='there')}))
    assert '0.0001 in the loss' in lines[0]
    assert '| peel | 0.5 | 2 | 5.00 | 0.100 | 0.9350 ± 0.0071 | 9.9 |' in lines
    assert '| whole | 1 | 2 | 10.00 | 0.200 | 0.9500 ± 0.0000 | 10.0 |' in lines
    assert not any('tested alone' in line for line in lines)
    two = prune.lines_of(dict(init='scratch', sparsity=None, configs={
        'x.py': dict(rows=rows([0.93, 0.94]) + [dict(row, ratio=0.25) for row in rows([0.93, 0.94])],
                     rules=dict(top1='greater'), importance=[], machine='')}))
    assert any('Each of these 2 is tested alone, with 95% confidence' in line for line in two)
    assert '* times: there.' in lines  # where they were measured, not where the report is written


def arguments(*words):
    return add_options(argparse.ArgumentParser(), benchmarks()['prune'].options).parse_args(words)


def test_a_run_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    pytest.importorskip('torch_pruning')
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path / 'data'))
    trained = []

    def train(jobs, side_by_side, after_each):
        for job in jobs:
            trained.append(job.work_dir.name)
            train_one(job.config, True, str(job.work_dir), True, options=parse_options(job.options))
            after_each()

    monkeypatch.setattr(prune, 'train_jobs', train)
    monkeypatch.setattr(prune.cost, 'measure', lambda cfgs, rounds, onnx: [
        dict(config=name, cpu_ms=2.0 if cfg.get('structure') else 3.0, onnx_ms=None, gpu_ms=None)
        for name, cfg in cfgs.items()])
    words = ('configs/peel/resnet18_imagenet.py', '--seeds', '1', '--ratios', '0.5', '--methods', 'peel,uniform',
             '--rounds', '1', '--sparsity', '1e-3', '--work-dir', str(tmp_path / 'runs'), '--cfg-options',
             'mini_data.count=60', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'model.width=0.125',
             'train_dataloader.batch_size=10')
    report = prune.run(arguments(*words))
    assert trained == ['whole_0', 'peel_0.5_0', 'uniform_0.5_0']
    found = report['configs']['configs/peel/resnet18_imagenet.py']
    whole, peel, uniform = found['rows']
    assert uniform['macs'][0] <= peel['macs'][0] <= 0.5 * whole['macs'][0] and len(found['importance'][0]) == 12
    assert (whole['ms'], peel['ms']) == (dict(CPU=3.0), dict(CPU=2.0))
    assert set(peel['scores']) == {'top1', 'cross_entropy'}
    assert 'sparsity' in next((tmp_path / 'runs').glob('*/whole_0/*/*.log')).read_text()
    assert json.loads((tmp_path / 'runs/report.json').read_text())['sparsity'] == 1e-3
    monkeypatch.setattr(prune, 'machine', lambda: 'another')
    again = prune.run(arguments(*words))
    assert len(trained) == 3 and 'threads' in again['configs'][words[0]]['machine']
    with pytest.raises(ConfigError, match='sparsity'):
        prune.run(arguments(*words, '--sparsity', '1'))
    settings = tmp_path / 'runs/resnet18_imagenet/settings.json'
    settings.write_text(settings.read_text().replace('train_cfg.max_epochs=5', 'train_cfg.max_epochs=2'))
    with pytest.raises(ConfigError, match='max_epochs=2'):  # the config changed since
        prune.run(arguments(*words))


@pytest.mark.parametrize('words', [('--methods', 'peal'), ('--ratios', '0.5,x'), ('--seeds', '0'), ('--jobs', '-1')])
def test_what_cannot_be_asked_is_refused(words, tmp_path):
    with pytest.raises(ConfigError, match=words[1].rpartition(',')[2]):
        prune.run(arguments('--work-dir', str(tmp_path), *words))


def test_configs_of_one_name_have_folders_of_their_own(tmp_path):
    words = argparse.Namespace(cfg_options=[], sparsity=None, init='scratch')
    prune.Task('configs/peel/resnet18_street.py', tmp_path / 'resnet18_street', ['peel'], [0.5], 1, words)
    settings = tmp_path / 'resnet18_street/settings.json'
    settings.write_text(settings.read_text().replace('configs/peel/', 'configs/lanes/'))  # as one of another room would
    with pytest.raises(ConfigError, match='holds runs with config=configs/lanes/resnet18_street.py'):
        prune.Task('configs/peel/resnet18_street.py', tmp_path / 'resnet18_street', ['peel'], [0.5], 1, words)
