"""The comparison where lanes are many: what counts as a lane change, scores of groups, trainings that are resumed."""
import argparse
import json

import numpy as np
import pytest
import torch

from perception.apis.benchmarks.lanes import many_lanes
from perception.apis.benchmarks.trainings import Job
from perception.apis.config import load_config, parse_options
from perception.apis.listing import add_options
from perception.registry import MODELS
from perception.utils.errors import ConfigError

ROWS = list(range(160, 720, 10))


def arguments(*words):
    parser = add_options(argparse.ArgumentParser(), many_lanes.OPTIONS)
    return parser.parse_args([str(word) for word in words])


def lane(bottom, top=640.0, highest=260):
    """A straight lane from (bottom, 710) to (top, highest)."""
    v = np.arange(710, highest - 1, -10.0)
    return np.stack([bottom + (top - bottom) * (710 - v) / (710 - highest), v], axis=1)


def image(lanes, preds, found, change=False, slots=None, accuracy=.5):
    return dict(lanes=lanes, preds=preds, change=change, slots=min(lanes, 6) if slots is None else slots,
                ious=[.8] * found + [.2], accuracy=accuracy, fp=.25, fn=.75)


@pytest.mark.parametrize('bottoms, crossed', [((100, 1180), False), ((640, 1500), True), ((400, 1400), True),
                                              ((200, 1100), False), ((), False)])
def test_a_lane_near_the_middle_of_the_lower_edge_is_crossed(bottoms, crossed):
    assert many_lanes.crosses_lane([lane(bottom) for bottom in bottoms]) is crossed


def test_a_lane_that_leaves_the_image_at_its_side_is_not_crossed():
    beside = lane(-2000)
    assert not many_lanes.crosses_lane([beside[beside[:, 0] >= 0], lane(640)[:1], np.zeros((0, 2))])


def test_true_lanes_answered_as_they_are():
    lanes = [lane(bottom) for bottom in (-900, -100, 500, 1100, 1700, 2300, 2900)]
    lanes = [points[(points[:, 0] >= 0) & (points[:, 0] < 1280)] for points in lanes]
    result = many_lanes.compare_lanes(lanes, lanes, ROWS)
    assert (result['lanes'], result['preds'], result['slots'], result['change']) == (7, 7, 6, True)
    assert result['ious'] == [1.0] * 7
    assert (result['accuracy'], result['fp'], result['fn']) == (1.5, 0.0, 0.0)  # six of four, as lane.py counts
    result = many_lanes.compare_lanes(lanes, lanes[:3], ROWS)
    assert sum(iou > .5 for iou in result['ious']) == 3
    assert many_lanes.compare_lanes(lanes, [], ROWS)['ious'] == []


def test_scores_of_a_group():
    scores = many_lanes.group_scores([image(4, 5, 3), image(6, 3, 2, accuracy=1.0)])
    assert scores['precision'] == pytest.approx(5 / 8)
    assert scores['recall'] == pytest.approx(5 / 10)
    assert scores['f1'] == pytest.approx(2 * 5 / 18)
    assert (scores['accuracy'], scores['fp'], scores['fn']) == (.75, .25, .75)
    assert many_lanes.group_scores([image(4, 0, 0)])['f1'] == 0


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Trainings that take no time; `trained` lists them, `broken` are those that fail."""
    state = argparse.Namespace(trained=[], broken=set(), commands=[], written=0,
                               words=['--work-dir', tmp_path / 'evidence', '--seeds', 2])

    def train(jobs, side_by_side, after_each):
        for job in jobs:
            state.commands.append(' '.join(job.command))
            if job.work_dir.name in state.broken:
                raise RuntimeError(f'{job.work_dir.name} failed')
            state.trained.append(job.work_dir.name)
            after_each()

    def answers(job):
        found = 3 + job.seed if job.arm == 'agnostic' else 2
        return [image(4, 4, found), image(7, 6, found, change=True)]

    def write(cfg):
        state.written += 1

    monkeypatch.setattr(many_lanes, 'train_jobs', train)
    monkeypatch.setattr(many_lanes, 'read_run', lambda job: {} if job.work_dir.name in state.trained else None)
    monkeypatch.setattr(many_lanes, 'evaluate', answers)
    monkeypatch.setattr(many_lanes, 'write_mini_data', write)
    state.folder = tmp_path / 'evidence'
    return state


def test_trains_both_nets_of_each_seed_on_the_same_data(bench):
    report = many_lanes.run(arguments(*bench.words, '--agnostic-options', 'model.seg_weight=2'))
    assert ['seg_weight=2' in command for command in bench.commands] == [False, True] * 2
    assert bench.trained == ['slots_0', 'agnostic_0', 'slots_1', 'agnostic_1']
    assert bench.written == 1
    for command in bench.commands:
        assert 'mini_data.streets=many_lanes' in command
        assert 'train_dataloader.dataset.data_root=data/mini/tusimple_many_lanes' in command
    assert json.loads((bench.folder / 'report.json').read_text()) == report
    assert report['groups']['lane changes'] == dict(images=1, lanes=7, slots=6)
    assert report['groups']['5 lanes'] == dict(images=0, lanes=0, slots=0)
    text = (bench.folder / 'report.md').read_text()
    assert 'simulated mini data: 4 of 4 runs finished' in text
    assert '| 6 lanes and more | 1 | 7 | 6 (86 %) |' in text
    assert '| up to 4 lanes | six slots | 2 | 0.500 ± 0.000 |' in text
    assert '| up to 4 lanes | agnostic | 2 | 0.875 ± 0.177 |' in text
    assert '| 5 lanes | agnostic | 0 |  |' in text


def test_continues_where_it_was_cut_off(bench):
    bench.broken.add('slots_1')
    with pytest.raises(RuntimeError, match='slots_1 failed'):
        many_lanes.run(arguments(*bench.words))
    assert '2 of 4 runs finished' in (bench.folder / 'report.md').read_text()
    bench.broken.clear()
    assert many_lanes.run(arguments(*bench.words))['finished'] == 4
    assert bench.trained == ['slots_0', 'agnostic_0', 'slots_1', 'agnostic_1']
    assert many_lanes.run(arguments('--work-dir', bench.folder, '--report-only'))['planned'] == 6
    with pytest.raises(ConfigError, match='holds runs with cfg_options='):
        many_lanes.run(arguments(*bench.words, '--cfg-options', 'train_cfg.max_epochs=3'))


@pytest.mark.parametrize('words', [('--seeds', 0), ('--jobs', 0)])
def test_bad_arguments(words, tmp_path):
    with pytest.raises(ConfigError, match=f'{words[0][2:]}=0, expected a number above 0'):
        many_lanes.run(arguments('--work-dir', tmp_path, *words))


@pytest.mark.parametrize('arm', many_lanes.CONFIGS)
def test_the_options_fit_both_configs_and_a_net_is_evaluated(arm, mini_tusimple, tmp_path):
    job = Job(arm, 0, many_lanes.CONFIGS[arm], tmp_path, [
        *many_lanes.DATA, f'test_dataloader.dataset.data_root={mini_tusimple}'])
    cfg = load_config(job.config, mini=True, options=parse_options(job.options))
    assert cfg.mini_data.streets == 'many_lanes'
    torch.save(MODELS.build(cfg.model).state_dict(), tmp_path / 'model.pth')
    images = many_lanes.evaluate(job)
    assert [one['lanes'] > 0 for one in images] == [True] * 2
    assert set(many_lanes.group_scores(images)) == set(many_lanes.COLUMNS)
    (tmp_path / 'test_lanes.json').write_text('[]')
    assert many_lanes.evaluate(job) == []                               # kept, until there are other weights
    torch.save(MODELS.build(cfg.model).state_dict(), tmp_path / 'model.pth')
    assert len(many_lanes.evaluate(job)) == 2
