"""`tools/test.py CONFIG --predictions PATH`: files of anybody are scored as the official tools score them."""
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.apis.test import test as evaluate
from perception.lanes.datasets.apolloscape.reader import TRAIN_TO_ID, ApolloScapeLaneMark, read_marks, train_ids
from perception.lanes.datasets.bdd100k.reader import BDD100K
from perception.lanes.datasets.culane.submission import write_lanes
from perception.lanes.datasets.llamas.reader import SLOTS
from perception.lanes.datasets.tusimple.submission import TuSimpleResults
from perception.utils.errors import DataError


@pytest.fixture
def score(root, tmp_path):
    """Scores predictions by a config whose data lie in a folder."""
    def run(config, predictions, data_root, **options):
        return evaluate(root / f'configs/lanes/{config}.py', predictions=predictions, options={
            'work_dir': str(tmp_path / 'w'), 'test_dataloader.dataset.data_root': str(data_root),
            'test_dataloader.num_workers': 0, **options})
    return run


def copy(source: Path, target: Path) -> Path:
    """A folder that can be changed, of one that cannot."""
    for file in filter(Path.is_file, source.rglob('*')):
        (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / file.relative_to(source))
    return target


def black(paths, size: tuple[int, int]) -> None:
    """A black image for each of some files."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, np.zeros(size, np.uint8))[1].tobytes())


def test_tusimple(score, shared, tmp_path):
    golden, data = shared / 'goldens/tusimple_eval', tmp_path / 'tusimple'
    labels = [json.loads(line) for line in (golden / 'label.json').read_text().splitlines()]
    black([data / record['raw_file'] for record in labels], (720, 1280))
    shutil.copyfile(golden / 'label.json', data / 'test_label.json')
    result = score('enet_tusimple', golden / 'pred.json', data)
    expected = json.loads((golden / 'results.json').read_text())['overall_clrnet']
    assert [result[name] for name in ('accuracy', 'fp', 'fn', 'f1')] == pytest.approx(
        [expected[name] for name in ('Accuracy', 'FP', 'FN', 'F1_score')], abs=1e-12)
    lines = (golden / 'pred.json').read_text().splitlines()
    changed, last = tmp_path / 'pred.json', json.loads(lines[-1])
    for text, message in ((lines[:-1], 'predictions of 32 samples, expected some of each of the 33'),
                          ([*lines, lines[0]], 'pred.json:34: a second raw_file'),
                          ([*lines[:-1], lines[-1][:30]], 'pred.json:33: no valid JSON'),
                          ([*lines[:-1], json.dumps(last | dict(run_time='1'))], 'pred.json:33: run_time 1, expected')):
        changed.write_text('\n'.join(text))
        with pytest.raises(DataError, match=message):
            TuSimpleResults(changed).check(len(lines))
    changed.write_text('\n'.join([*lines[:-1], json.dumps(last | dict(lanes=[[1, 2]]))]))
    assert TuSimpleResults(tmp_path).results == TuSimpleResults(changed).results  # a folder that --submit wrote
    with pytest.raises(DataError, match=r'pred.json:33: lanes \[\[1, 2\]\], expected lists of .* numbers'):
        score('enet_tusimple', changed, data)


def test_culane(score, shared, tmp_path):
    golden, data = shared / 'goldens/culane_eval', copy(shared / 'goldens/culane_eval/anno', tmp_path / 'culane')
    copy(golden / 'list', data / 'list')
    names = (data / 'list/test.txt').read_text().split()
    black([data / name.lstrip('/') for name in names], (590, 1640))
    preds = copy(golden / 'pred', tmp_path / 'pred')
    with pytest.raises(DataError, match='predictions of 44 samples, expected some of each of the 45'):
        score('enet_culane', preds, data)
    for name in names:  # the tool takes an absent file for an empty one
        path = (preds / name.lstrip('/')).with_suffix('.lines.txt')
        path.parent.mkdir(exist_ok=True)
        path.touch()
    result = score('enet_culane', preds, data)
    expected = json.loads((golden / 'results.json').read_text())['cpp']['test']
    assert [f'{result[name]:.6g}' for name in ('precision', 'recall', 'f1_50', 'f1_75')] == [
        *(expected['iou_0.50'][name] for name in ('precision', 'recall', 'Fmeasure')), expected['iou_0.75']['Fmeasure']]


def test_llamas(score, shared, tmp_path):
    golden, data = shared / 'goldens/llamas_eval', tmp_path / 'llamas'
    copy(golden / 'labels', data / 'labels')
    labels = sorted((data / 'labels').rglob('*.json'))
    black([data / f'color_images/valid/{path.parent.name}/{path.stem}_color_rect.png' for path in labels], (717, 1276))
    expected = json.loads((golden / 'results.json').read_text())
    preds = copy(golden / 'lanes', tmp_path / 'preds')
    shutil.copyfile(golden / 'regression.json', preds / 'regression.json')
    result = score('enet_llamas', preds, data)
    assert [result[name] for name in ('f1', 'precision', 'recall')] == pytest.approx(
        [expected['culane_f1']['overall'][name] for name in ('F1', 'Precision', 'Recall')], abs=1e-12)
    assert result['distance'] == pytest.approx(expected['lane_regression']['mean'], abs=1e-9)
    assert score('enet_llamas', preds / 'regression.json', data) == {
        key: value for key, value in result.items() if key.startswith('distance')}
    with pytest.raises(DataError, match='nothing for segmentation of .*, expected it of each image where there is'):
        score('enet_llamas', golden, data)  # three of six have it
    for label in labels:
        if not (golden / 'seg' / label.parent.name / f'{label.name}_0.png').exists():
            label.unlink()
    areas = score('enet_llamas', golden / 'seg', data)
    assert areas.keys() == {'map', 'auc_background', *(f'auc_{slot}' for slot in SLOTS)} and areas['map'] > 0
    with pytest.raises(DataError, match='no predictions, expected a folder with'):
        score('enet_llamas', tmp_path / 'none', data)


def test_bdd100k(score, mini_bdd100k, tmp_path):
    data, masks = mini_bdd100k, mini_bdd100k / 'labels/lane/masks/val'
    result = score('erfnet_bdd100k_official', masks, data)
    assert {result['f1'], result['f5_category'], result['f1_style']} == {1.0}
    for sample in (s['data_samples'] for s in map(BDD100K(data, 'test').__getitem__, range(2))):
        lanes = sample.full_labels.numpy() * 255
        cv2.imwrite(str(tmp_path / f'{Path(sample.sample_id).name}.png'), lanes)
    assert score('enet_bdd100k', tmp_path, data) == dict(accuracy=1, iou=1)
    assert 0 < score('enet_bdd100k', masks, data)['iou'] < 1  # border lines and curbs
    with pytest.raises(DataError, match=r'most pixels are 0, .* expected an official mask with background 8 or 255\.'):
        score('erfnet_bdd100k_official', tmp_path, data)
    first = next(tmp_path.glob('*.png'))
    for image, message in ((np.arange(720 * 1280).reshape(720, 1280) % 7, 'or 0 and one other number'),
                           (lanes[:, 1:], '720 x 1279 pixels, expected the 720 x 1280 of')):
        cv2.imwrite(str(first), image.astype(np.uint8))
        with pytest.raises(DataError, match=message):
            score('enet_bdd100k', tmp_path, data)


def test_apolloscape(score, mini_apolloscape, tmp_path):
    _, image, label = ApolloScapeLaneMark(mini_apolloscape, 'val').samples[0]
    classes = train_ids(read_marks(label), label)
    path = tmp_path / 'road04' / f'{Path(image).stem}.png'
    path.parent.mkdir()
    cv2.imwrite(str(path), TRAIN_TO_ID[classes])
    result = score('enet_apolloscape', tmp_path, mini_apolloscape)
    assert result['miou'] == result['miou_void'] == 1 and 'iou_s_w_d' in result
    cv2.imwrite(str(path), classes)
    with pytest.raises(DataError, match=r'values \[1.*, expected the official ids'):
        score('enet_apolloscape', tmp_path, mini_apolloscape)


def test_images_of_ones_own(score, mini_set, tmp_path):
    data = mini_set('lane_folder')
    names = [path.relative_to(data) for path in data.glob('test/**/*.lines.txt')]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / name, tmp_path / name)
    options = {'test_dataloader.dataset.image_size': None}
    assert score('erfnet_folder', tmp_path, data, **options)['f1_75'] == 1
    write_lanes(tmp_path / names[0], [np.array([[0., 1], [0, 2]])])
    assert score('erfnet_folder', tmp_path, data, **options)['f1_75'] < 1
