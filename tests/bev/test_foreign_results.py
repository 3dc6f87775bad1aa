"""`tools/test.py CONFIG --predictions FILE`: anybody's results are scored and drawn without a net."""
import json

import numpy as np
import pytest

from perception.apis.test import test as evaluate
from perception.bev.datasets.nuscenes.metric import Predictions
from perception.bev.datasets.nuscenes.reader import CLASSES, NuScenesRig
from perception.bev.datasets.nuscenes.submission import FLAGS, to_records
from perception.utils.errors import DataError


def test_results_of_anybody(root, mini_rig, tmp_path):
    dataset, results = NuScenesRig(mini_rig, 'mini_val'), {}
    for frame in dataset.frames:
        truth = dataset.truth(frame.row, np.eye(4))['annotations']
        some = truth.points > 0
        found = Predictions(np.nan_to_num(truth.boxes[some]), np.full(some.sum(), .5), truth.labels[some],
                            truth.attributes[some])
        results[frame.sample] = to_records(frame.sample, found)
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(dict(meta=dict.fromkeys(FLAGS, False), results=results)))
    options = {'work_dir': str(tmp_path / 'w'), 'test_dataloader.dataset.data_root': str(mini_rig),
               'test_dataloader.dataset.split': 'mini_val', 'test_dataloader.num_workers': 0, 'draw.max_samples': 1}
    config = root / 'configs/bev/bevdet_r50_nuscenes.py'
    scores = evaluate(config, predictions=path, options=options, draw=str(tmp_path / 'pictures'))
    there = [name for name in CLASSES if scores[f'NuScenes/AP_{name}'] > 0]
    assert 'car' in there and all(scores[f'NuScenes/AP_{name}'] == pytest.approx(1) for name in there)
    assert scores['NuScenes/ATE_car'] < 1e-9
    assert [path.stem in results for path in (tmp_path / 'pictures').glob('*.png')] == [True]
    both = root / 'configs/bev/bevdet_r50_multitask.py'  # a results file holds no maps
    tables = tmp_path / 'tables'  # and the score needs no images
    tables.mkdir()
    for name in ('v1.0-mini', 'maps'):
        (tables / name).symlink_to(mini_rig / name)
    bare = dict(options, draw=None, **{'test_dataloader.dataset.data_root': str(tables)})
    assert evaluate(both, predictions=path, options=bare) == scores
    depth = root / 'configs/bev/bevdepth_r50_nuscenes.py'
    assert evaluate(depth, predictions=path, options=bare) == scores
    results.popitem()
    path.write_text(json.dumps(dict(meta=dict.fromkeys(FLAGS, False), results=results)))
    with pytest.raises(DataError, match='expected some of each of the'):
        evaluate(config, predictions=path, options=options)
