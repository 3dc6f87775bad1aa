"""The cost of DHA's head, and the comparison of the parts of a method."""
import argparse
from types import SimpleNamespace

import pytest

from perception.apis.benchmarks import arms, crowd_head
from perception.apis.listing import benchmarks
from perception.utils.errors import ConfigError, DataError

DHA = 'configs/crowd/dha_pillar_stcrowd.py'


def arguments(name: str, **values) -> argparse.Namespace:
    """What the command line gives without options, and some that are given."""
    options = benchmarks()[name].options
    defaults = {option.lstrip('-').replace('-', '_'): settings.get('default', settings.get('action') and False)
                for option, settings in options.items()}
    return argparse.Namespace(**defaults | values)


# --- the head ---
def test_a_table_of_three_forms(monkeypatch):
    monkeypatch.setattr(crowd_head, 'process_memory', lambda *args: 100 + 10 * args[-1])
    rows = crowd_head.run(arguments('crowd_head', rounds=1, mini=True))
    peaks, dense, plain = rows
    assert peaks['parameters'] == dense['parameters'] > plain['parameters']
    assert dense['gmac'] > plain['gmac'] > peaks['gmac'] > 0
    assert [row['memory_mib'] for row in rows] == [10] * 3
    assert all(row['ratio'] == peaks['ms'] / row['ms'] > 0 for row in rows)


def test_heads_that_cannot_be_compared(monkeypatch):
    with pytest.raises(ConfigError, match='rounds=0'):
        crowd_head.run(arguments('crowd_head', rounds=0))
    plain = 'configs/crowd/centerpoint_pillar_stcrowd.py'
    with pytest.raises(ConfigError, match='head of CenterHead'):
        crowd_head.run(arguments('crowd_head', rounds=1, mini=True, plain=plain))
    with pytest.raises(ConfigError, match='other features'):
        crowd_head.run(arguments('crowd_head', rounds=1, mini=True, plain='configs/crowd/dha_pillar_stcrowd.py'))
    head = crowd_head.build_head('configs/crowd/dha_pillar_stcrowd.py', True, False)
    right = type(head).rows_at
    monkeypatch.setattr(type(head), 'rows_at', lambda self, found, *rest: right(self, found, *rest) * (
        1.1 if 'features' in found else 1))
    with pytest.raises(DataError, match='differ by'):
        crowd_head.check_forms(head, crowd_head.make_features(head))


# --- the parts ---
@pytest.fixture
def trained(monkeypatch):
    """Trainings that are not run: arm by arm a score that grows with the number of the arm."""
    state = SimpleNamespace(jobs=[])

    def train_all(runs, side_by_side, compare, after_each):
        state.jobs = list(runs)
        after_each()

    def read_run(job):
        arms = list(dict.fromkeys(one.arm for one in state.jobs))
        score = .5 + .1 * arms.index(job.arm) + .01 * job.seed
        return dict(metric='STCrowd/mAP', scores=[score], last=score, best=score, losses=dict(loss=1.0),
                    results={'STCrowd/AP_0.25': score - .2})

    monkeypatch.setattr(arms, 'train_all', train_all)
    monkeypatch.setattr('perception.apis.benchmarks.distillation_report.read_run', read_run)
    monkeypatch.setattr(arms, 'measure_costs', lambda arms: dict(machine='two threads', mini=[
        dict(config=arm, parameters=10, gmac=1.0, cpu_ms=2.0) for arm in arms]))
    return state


def test_gains_are_over_the_first_arm(trained, tmp_path):
    report = arms.run(arguments('arms', config=DHA, arms='centerpoint_s8,dha', seeds=2, jobs=1, work_dir=tmp_path))
    assert [(job.arm, job.seed) for job in trained.jobs] == [('centerpoint_s8', 0), ('dha', 0), ('centerpoint_s8', 1),
                                                             ('dha', 1)]
    assert {'model.head.stride=4', 'randomness.seed=0', 'train_cfg.max_epochs=7'} <= set(trained.jobs[0].options)
    rows, = report['tables'].values()
    assert rows['dha']['scores']['STCrowd/mAP']['gain'] == pytest.approx([.1, .1])
    assert rows['centerpoint_s8']['scores']['STCrowd/mAP']['gain'] == [] and not rows['centerpoint_s8']['verdict']
    text = (tmp_path / 'report.md').read_text()
    assert 'Gains are over centerpoint_s8' in text and 'student' not in text
    assert '* dha changes centerpoint_s8 of the same seed by: STCrowd/mAP +0.100' in text


def test_gains_are_not_over_a_teacher_of_one_seed(trained, tmp_path, monkeypatch):
    config = 'configs/stylekd/stylegan2_digits.py'
    report = arms.run(arguments('arms', config=config, arms='teacher,fresh', seeds=1, jobs=1, work_dir=tmp_path))
    assert report['reference'] == 'fresh'
    measured = []
    monkeypatch.setattr(arms, 'measure_costs', lambda words: measured.append(words) or dict(machine='', mini=[
        dict(config=arm, parameters=10, gmac=1.0, cpu_ms=2.0) for arm in words]))
    arms.run(arguments('arms', config=config, arms='fresh,mapping', seeds=1, jobs=1, work_dir=tmp_path))
    assert [list(words) for words in measured] == [['fresh', 'mapping']]  # what is not known yet
    assert measured[0]['mapping'][0] == config and 'model.decay=0.98' in measured[0]['mapping']  # the evidence's


def test_all_arms_are_configs_that_differ(trained, tmp_path):
    arms.run(arguments('arms', config=DHA, seeds=1, jobs=1, work_dir=tmp_path))
    assert [job.arm for job in trained.jobs] == ['centerpoint_s8', 'centerpoint_s4', 'hierarchy', 'mixture', 'density',
                                                 'attention', 'dha']
    assert len({(job.config, *job.options) for job in trained.jobs}) == 7


@pytest.mark.parametrize(('values', 'named'), [
    (dict(seeds=0), 'seeds=0'), (dict(arms='dha,plain'), "'plain'"), (dict(arms=','), 'names none'),
    (dict(config='configs/lanes/enet_culane.py'), 'names no arms')])
def test_what_cannot_be_compared_is_said(values, named, tmp_path):
    with pytest.raises(ConfigError, match=named):
        arms.run(arguments('arms', **{'config': DHA, 'work_dir': tmp_path, **values}))
