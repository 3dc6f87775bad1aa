"""The benchmark of disturbed input tests once for each disturbance that a config names, and tables the scores."""
import argparse

import pytest

from perception.apis.benchmarks import robustness
from perception.apis.listing import add_options
from perception.utils.errors import ConfigError

CONFIG = 'configs/bev/bevdet_r50_nuscenes.py'


def arguments(*words):
    parser = add_options(argparse.ArgumentParser(), robustness.OPTIONS)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def asked(monkeypatch):
    """What the tests were asked for, in turn; each scores a tenth less."""
    found = []

    def test(config, checkpoint, mini, options):
        found.append(options)
        return {'NuScenes/NDS': .5 - .05 * (len(found) - 1), 'NuScenes/mAP': .25, 'NuScenes/mATE': 1}
    monkeypatch.setattr(robustness, 'test', test)
    return found


def test_a_table_of_all_disturbances(asked, tmp_path):
    results = robustness.run(arguments(CONFIG, 'model.pth', '--mini', '--out', tmp_path, '--scores', 2, '--cfg-options',
                                       'test_dataloader.batch_size=2'))
    assert list(results)[0] == 'undisturbed' and {'cameras_5', 'cameras_1', 'calibration'} <= set(results)
    assert asked[0] == {'test_dataloader.batch_size': 2}
    plain = [step['type'].__name__ for step in asked[1]['test_dataloader.dataset.pipeline']]
    assert plain == ['ImageAug', 'DropCameras'] and asked[1]['test_dataloader.batch_size'] == 2
    lines = (tmp_path / 'robustness.md').read_text().splitlines()
    assert lines[0] == '| input | NDS | mAP | of the first |' and len(lines) == 2 + len(results)
    assert lines[2] == '| undisturbed | 0.5000 | 0.2500 | 100 % |'
    assert lines[3] == '| cameras_5 | 0.4500 | 0.2500 | 90 % |'


def test_some_of_them(asked, tmp_path):
    results = robustness.run(arguments(CONFIG, 'model.pth', '--out', tmp_path, '--arms', 'calibration,cameras_3'))
    assert list(results) == ['undisturbed', 'calibration', 'cameras_3']
    with pytest.raises(ConfigError, match='calibration'):
        robustness.run(arguments(CONFIG, 'model.pth', '--arms', 'calbration'))
    with pytest.raises(ConfigError, match='scores=0'):
        robustness.run(arguments(CONFIG, 'model.pth', '--scores', 0))
    with pytest.raises(ConfigError, match='robustness'):
        robustness.run(arguments('configs/lanes/enet_culane.py', 'model.pth'))
