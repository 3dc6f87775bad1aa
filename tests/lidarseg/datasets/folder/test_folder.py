"""A folder of scans and labels as a data set: files, splits, classes, score, pictures, training."""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

import perception.apis.test
import perception.apis.train
from perception.apis.config import load_config
from perception.apis.inference import load, visualize
from perception.common.visual.points import vulkan_problem
from perception.lidarseg.datasets.folder.metric import PointFolderMetric
from perception.lidarseg.datasets.folder.mini import write_point_folder_mini
from perception.lidarseg.datasets.folder.reader import PointFolder, class_map, distinct_colors
from perception.lidarseg.mixing import LaserMix
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.models.spvnas import SPVNAS
from perception.lidarseg.predictor import LidarPredictor
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.lidarseg.transforms import RandomRotate, RandomScale, RandomThin
from perception.lidarseg.voting import TTASegmentor
from perception.registry import MODELS
from perception.utils.errors import ConfigError, DataError

CLASSES = ('ground', 'car', 'person')
MAP = {1: 'ground', 2: 'ground', 10: 'car', 30: 'person'}
DATA = dict(points='*/scans/*.npy', labels='*/labels/*.npy', classes=CLASSES, label_map=MAP, ignore=[0])
ALL = dict(split='test', splits=dict(test='*'))
POINTS = np.random.default_rng(0).uniform((-40, -30, -2, 0), (40, 30, 2, 1), (200, 4)).astype(np.float32)
RAW = np.random.default_rng(1).choice([0, 1, 2, 10, 30], 200)
EXPECTED = np.select([RAW == 0, RAW < 3, RAW == 10], [255, 0, 1], 2)


@pytest.fixture
def root(tmp_path):
    """Two drives of five scans as arrays; names with `_`, time stamps and files of a Mac among them."""
    for drive in ('mon_day', 'friday'):
        for name in ('scans', 'labels'):
            (tmp_path / 'data' / drive / name).mkdir(parents=True)
        for scan in ('1', '2_old', '1532402927647951', '10', 'ä b'):
            np.save(tmp_path / f'data/{drive}/scans/{scan}.npy', POINTS)
            np.save(tmp_path / f'data/{drive}/labels/{scan}.npy', RAW.astype(np.int32))
        for name in ('scans', 'labels'):
            (tmp_path / f'data/{drive}/{name}/._1.npy').write_bytes(b'Mac OS X')
    return tmp_path / 'data'


def sample_of(data, index=0):
    item = data[index]
    return item['inputs']['points'].numpy(), item['data_samples']


def test_scans_and_labels_are_paired_by_the_stars(root):
    data = PointFolder(root, **ALL, **DATA)
    assert data.ids == [f'{drive}/{scan}' for drive in ('friday', 'mon_day')
                        for scan in ('1', '2_old', '10', '1532402927647951', 'ä b')]
    points, sample = sample_of(data, 6)
    assert (points == POINTS).all() and (sample.labels.numpy() == EXPECTED).all()
    assert (sample.sample_id, sample.points_path) == ('mon_day/2_old', str(root / 'mon_day/scans/2_old.npy'))
    assert data.metainfo['classes'] == CLASSES and len(set(data.metainfo['palette'])) == 3
    assert PointFolder.describe(DATA) == {key: data.metainfo[key] for key in ('classes', 'palette')}


@pytest.mark.parametrize('net', [
    dict(type=MinkUNet, width=.125, in_channels=6, data_preprocessor=dict(type=CubeVoxelizer, voxel_size=2.)),
    dict(type=SPVNAS, ratio=.125, in_channels=6, data_preprocessor=dict(type=CubeVoxelizer, voxel_size=2.)),
    dict(type=Cylinder3D, base_channels=2, compression=2, point_widths=(4, 8, 8), point_channels=8, in_channels=11,
         refine='mirror', data_preprocessor=dict(type=CylinderVoxelizer, grid_shape=(24, 18, 8)))],
    ids=['minkunet', 'spvnas', 'cylinder3d'])
def test_a_net_sees_the_features_of_a_data_set_too(root, net):
    wide = np.column_stack([POINTS, np.arange(200) % 4, RAW == 10]).astype(np.float32)
    for scan in root.glob('*/scans/[!.]*.npy'):
        np.save(scan, wide)
    steps = [dict(type=LaserMix), dict(type=RandomRotate), dict(type=RandomScale, z=True), dict(type=RandomThin)]
    config = dict(DATA, columns='x,y,z,i,ring,is_car', features=dict(ring='1/4', is_car=1))
    data = PointFolder(root, pipeline=steps, **config)
    assert data.read(0)['points'][:, 4:].tolist() == (wide[:, 4:] * [.25, 1]).tolist()
    torch.manual_seed(0)
    model = MODELS.build(dict(net, num_classes=3))
    losses = model(**model.data_preprocessor(pseudo_collate([data[0], data[1]]), True), mode='loss')
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    predictor = LidarPredictor(TTASegmentor(model.eval()), dict(config, type=PointFolder))
    scan = next(root.glob('*/scans/10.npy'))
    first = predictor(scan).pred_labels
    assert len(first) == 200 and predictor.points(scan).shape == (200, 6)
    few = MODELS.build(dict(net, num_classes=3, in_channels=net['in_channels'] - 1)).eval()
    with pytest.raises(DataError, match=rf'expected {net["in_channels"] - 1}\. Set model\.in_channels='):
        LidarPredictor(few, dict(config, type=PointFolder))(scan)


def test_splits_are_named_or_each_fifth_scan(root):
    ids = {split: PointFolder(root, split=split, **DATA).ids for split in ('train', 'val', 'test')}
    assert len(ids['val']) == 2 and len(ids['train']) == 8 and not set(ids['train']) & set(ids['val'])
    assert ids['test'] == ids['val']  # never what was learnt
    (root / 'val.txt').write_text('\ufefffriday/1\r\nfriday/10\r\n\r\n')
    for splits, count in ((dict(train=['mon_day'], val=['friday']), 5), (dict(train='mon_day/*', val='val.txt'), 2),
                          (dict(train='mon_day', val=['friday/1', 'friday/2*']), 2)):
        assert len(PointFolder(root, split='val', splits=splits, **DATA)) == count
        assert len(PointFolder(root, split='train', splits=splits, **DATA)) == 5
    for splits, error, word in (
            (dict(train=['mon_day'], val=['*']), ConfigError,
             r'mon_day/1 \(5 files\) stands in the splits train and val'),
            (dict(train=['monday'], val=['friday']), DataError, 'no file monday of the split train'),
            (dict(train=[], val=['friday']), DataError, 'the split train names no file'),
            (dict(val=['friday']), ConfigError, "split='train'"),
            (dict(train='list.txt'), DataError, r'list\.txt: no such file, expected the files of train')):
        with pytest.raises(error, match=word):
            PointFolder(root, split='train', splits=splits, **DATA)


@pytest.mark.parametrize('kind', ['label', 'txt', 'npy column', 'field', 'float'])
def test_labels_of_every_kind_are_read(root, kind):
    shutil.rmtree(root / 'mon_day')
    options = dict(DATA, labels=f'*/labels/*.{kind}')
    for file in sorted((root / 'friday/labels').glob('[!.]*.npy')):
        if kind == 'label':
            (RAW | 7 << 16).astype('<u4').tofile(file.with_suffix('.label'))
        elif kind == 'txt':
            file.with_suffix('.txt').write_bytes(('\ufeff' + '\r\n'.join(map(str, RAW)) + '\r\n').encode())
        elif kind == 'field':
            named = np.zeros(200, [(name, 'f4') for name in ('x', 'y', 'z', 'i')] + [('class', 'u2')])
            for k, name in enumerate(('x', 'y', 'z', 'i')):
                named[name] = POINTS[:, k]
            named['class'] = RAW
            np.save(root / 'friday/scans' / file.name, named)
            options['labels'] = 'class'
        else:
            np.save(file, RAW[:, None] if 'column' in kind else RAW.astype(np.float32))
            options['labels'] = DATA['labels']
    data = PointFolder(root, split='val', splits=dict(val='*'), **options)
    assert len(data) == 5 and (sample_of(data)[1].labels.numpy() == EXPECTED).all()
    path = root / f'friday/{"scans" if kind == "field" else "labels"}/1.npy'
    path = path.with_suffix({'label': '.label', 'txt': '.txt'}.get(kind, '.npy'))
    assert (PointFolder.scan_labels(path, 200, options) == EXPECTED).all()
    assert path.suffix == PointFolder.label_suffix(options)


def test_dropped_rows_keep_a_place(root):
    points = POINTS.copy()
    points[[3, 9]] = np.nan
    np.save(root / 'friday/scans/1.npy', points)
    with pytest.raises(DataError, match=r'friday/scans/1\.npy: .*in row 3'):
        PointFolder(root, **ALL, **DATA)[0]
    found, sample = sample_of(PointFolder(root, invalid='drop', **ALL, **DATA))
    assert len(found) == 198 and (sample.labels.numpy() == EXPECTED).all() and sample.num_points == 200
    found, sample = sample_of(PointFolder(root, split='train', invalid='drop', **DATA))
    assert len(found) == len(sample.labels) == 198
    assert (sample.labels.numpy() == np.delete(EXPECTED, [3, 9])).all()


BAD = [  # options, error, words
    (dict(classes=()), ConfigError, r'classes=\(\), expected the names'),
    (dict(classes=('a', 'a')), ConfigError, 'each once'),
    (dict(classes='ground'), ConfigError, "classes='ground'"),
    (dict(palette=[(0, 0, 0)]), ConfigError, 'for each of 3 classes'),
    (dict(palette=[(0, 0, 300)] * 3), ConfigError, 'an RGB colour of 0 to 255'),
    (dict(label_map={1: 'grund'}), ConfigError, "1: 'grund', expected a class. Did you mean ground"),
    (dict(label_map={'car': 1}), ConfigError, "the id 'car', expected whole numbers"),
    (dict(label_map={1.5: 'car'}), ConfigError, 'the id 1.5, expected whole numbers'),
    (dict(ignore=['unknown']), ConfigError, r"ignore=\['unknown'\], expected whole numbers"),
    (dict(label_map={1: 3}), ConfigError, '1: 3, expected a class'),
    (dict(label_map={}), ConfigError, 'label_map={}'),
    (dict(ignore=[1]), ConfigError, '1 stands in label_map and in ignore'),
    (dict(labels='labels/*.npy'), ConfigError, '1 stars for .* with 2'),
    (dict(labels='*/labels/*.png'), ConfigError, r'end in \.npy, \.label, \.txt'),
    (dict(labels=None), ConfigError, 'labels=None for the split train'),
    (dict(points='../*.pcd'), ConfigError, 'a pattern below data_root'),
    (dict(points='*/scans/*.png'), ConfigError, r'end in \.bin'),
    (dict(points='*/*.pcd'), DataError, r'no file \*/\*\.pcd in it \(files that end in \.npy are there\)'),
    (dict(labels='*/gt/*.npy'), DataError, r'friday/gt/1\.npy: no such file \(8 of 8 scans have no labels\)'),
    (dict(split='vall'), ConfigError, 'Did you mean val'),
    (dict(label_map={1: 'ground', 2: 'ground', 10: 'car'}), DataError, r'unknown labels 30 at \d+ points.*label_map'),
    (dict(label_map={77: 'car'}, ignore=[0, 1, 2, 10, 30]), DataError, 'all points of all 8 scans are unlabelled'),
    (dict(invalid='skip'), ConfigError, 'invalid'), (dict(columns='x,y'), ConfigError, 'columns'),
    (dict(ignore=5.5), ConfigError, 'PointFolder: ignore=5.5, expected'), (dict(columns=5), ConfigError, 'columns'),
    (dict(points=5), ConfigError, 'points=5, expected text'), (dict(labels=5), ConfigError, 'labels=5'),
    (dict(splits={'train': 0.5}), ConfigError, r"splits=\{'train': 0.5\}"),
    (dict(colums='x'), ConfigError, 'mean columns')]


@pytest.mark.parametrize(('options', 'error', 'words'), BAD)
def test_what_cannot_be_gets_one_sentence(root, options, error, words):
    with pytest.raises(error, match=words) as caught:
        PointFolder(root, **dict(DATA, **options))[0]
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('labels', 'words'), [
    (RAW[:7], '7 labels for 200 points'), (RAW + 0.5, 'expected whole numbers'), (RAW.reshape(20, 10), 'shape .20, 10'),
    (np.array(['car'] * 200), 'expected plain numbers'), (np.full(200, np.nan), 'expected whole numbers'),
    (b'\x00' * 9, r'no \.npy header'), (b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i4', 'shape': (", 'header')])
def test_labels_that_do_not_fit_name_the_file(root, labels, words):
    path = root / 'friday/labels/1.npy'
    path.write_bytes(labels) if isinstance(labels, bytes) else np.save(path, labels)
    with pytest.raises(DataError, match=rf'friday/labels/1\.npy: .*{words}'):
        PointFolder(root, **ALL, **DATA)[0]


def test_ids_of_files_come_back_from_train_ids():
    assert PointFolder.raw_ids(DATA)[[0, 1, 2, 255]].tolist() == [1, 10, 30, 0]
    plain = dict(classes=CLASSES)
    assert class_map(plain) == {0: 0, 1: 1, 2: 2} and PointFolder.raw_ids(plain)[[0, 2, 255]].tolist() == [0, 2, 255]
    assert len(set(distinct_colors(30))) == 30


def test_ids_may_be_the_texts_of_numbers_and_one_may_be_ignored_without_a_list():
    config = dict(classes=CLASSES, label_map={'1': 'ground', 2: 'car', '-3': 'person'}, ignore=-1)
    assert class_map(config) == {1: 0, 2: 1, -3: 2, -1: 255}
    assert PointFolder.raw_ids(config)[255] == 255  # -1 has no place in a label file, and 0 may be a class


def test_the_score_names_the_user_s_classes():
    metric = PointFolderMetric()
    with pytest.raises(ConfigError, match='names no classes'):
        metric.classes  # noqa: B018
    metric.dataset_meta = dict(classes=CLASSES)
    sample = dict(labels=torch.tensor([0, 0, 1, 255]), pred_labels=torch.tensor([0, 1, 1, 2]), sample_id='a')
    metric.process(None, [sample])
    result = metric.evaluate(1)
    assert result['iou_ground'] == result['iou_car'] == pytest.approx(0.5) and result['iou_person'] == 0
    assert result['miou_present'] == pytest.approx(0.5) and result['accuracy'] == pytest.approx(2 / 3)


# --- from nothing to a picture ---------------------------------------------------------------------------------------
CONFIG = '''
"""Ten scans, three classes."""
from mmengine.config import read_base

with read_base():
    from .minkunet_folder import *

mine = dict(data_root={root!r}, points='*/scans/*.npy', labels='*/labels/*.npy', classes=('ground', 'car', 'person'),
            label_map={{1: 'ground', 2: 'ground', 10: 'car', 30: 'person'}}, ignore=[0], invalid='drop',
            splits=dict(train=['mon_day'], val=['friday/1', 'friday/ä*']))
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(num_workers=0, persistent_workers=False)
    loader['dataset'].update(mine)
model.update(num_classes=3)
'''
SMALL = {'model.width': 0.125, 'model.data_preprocessor.voxel_size': 2.0, 'train_cfg.max_epochs': 1,
         'train_cfg.val_interval': 1, 'param_scheduler': []}


@pytest.mark.skipif(vulkan_problem() is not None, reason=f'{vulkan_problem()} here')
def test_a_config_alone_trains_scores_draws_and_saves(root, project, tmp_path):
    points = POINTS.copy()
    points[3] = np.nan
    np.save(root / 'friday/scans/1.npy', points)
    config = project / 'configs/lidarseg/yard.py'
    config.write_text(CONFIG.format(root=str(root)))
    options = dict(SMALL, work_dir=str(tmp_path / 'run'))
    perception.apis.train.train(config, options=options)
    weights = tmp_path / 'run/model.pth'
    scores = perception.apis.test.test(config, weights, options=options, draw=str(tmp_path / 'pictures'),
                                       save=str(tmp_path / 'saved'), metrics=['distance'])
    assert {'iou_ground', 'iou_car', 'iou_person', 'miou'} <= set(scores)
    assert {p.stem for p in (tmp_path / 'pictures/friday').glob('*.png')} == {'1', 'ä b'}
    saved = np.load(tmp_path / 'saved/friday/1.npy')
    assert len(saved) == 200 and saved[3] == 255 and (np.delete(saved, 3) < 3).all()

    pictures = list(visualize(config, root / 'friday/scans/2_old.npy', tmp_path / 'seen', weights,
                              root / 'friday/labels', options=options))
    assert [path.stem for path in pictures] == ['2_old']
    predictor = load(config, weights, 'cpu', options=options)
    file = root / 'friday/scans/1.npy'
    sample, other = predictor.predict([file, root / 'friday/scans/10.npy'])
    assert sample.pred_labels[3] == 255 and len(other.pred_labels) == 200
    paths = {form: predictor.save(form, tmp_path, '1', file, sample) for form in predictor.saves}
    raw = np.fromfile(paths['label'], '<u4')
    assert len(raw) == 200 and raw[3] == 0 and set(np.delete(raw, 3)) <= {1, 10, 30}
    assert (np.load(paths['npy']) == sample.pred_labels.numpy()).all()
    probs = np.load(paths['probabilities'])
    assert probs.shape == (200, 3) and probs[3].sum() == 0
    np.testing.assert_allclose(np.delete(probs, 3, 0).sum(1), 1, rtol=1e-5)
    assert (np.delete(probs, 3, 0).argmax(1) == np.delete(sample.pred_labels.numpy(), 3)).all()
    assert b'element vertex 199' in paths['ply'].read_bytes()


def test_the_config_of_the_readme_loads_as_it_stands(project):
    text = (Path(__file__).parents[4] / 'perception/lidarseg/README.md').read_text()
    config = project / 'configs/lidarseg/yard.py'
    config.write_text(re.search(r'`configs/lidarseg/yard.py`:\n\n```python\n(.*?)```', text, re.S)[1])
    cfg = load_config(config)
    assert cfg.param_scheduler[1]['end'] == cfg.train_cfg.max_epochs == 60
    assert PointFolder.reader(cfg.val_dataloader.dataset).scale == pytest.approx(1 / 255)


@pytest.fixture
def project(tmp_path, root):
    """The project's configs in a folder of their own, so that a test can add one."""
    from perception.utils.paths import PROJECT_ROOT
    shutil.copytree(PROJECT_ROOT / 'configs', tmp_path / 'project/configs')
    return tmp_path / 'project'


def test_the_mini_set_is_a_folder_as_people_have_it(mini_set, tmp_path):
    pytest.importorskip('pypcd4')
    folder = mini_set('point_folder')
    assert json.loads((folder / 'mini.json').read_text())['simulated']
    cfg = load_config('configs/lidarseg/minkunet_folder.py', mini=True, options={
        'train_dataloader.dataset.data_root': str(folder)})
    data = PointFolder(**{key: value for key, value in cfg.train_dataloader.dataset.items() if key != 'type'})
    assert data.ids == ['park/000000', 'street/000000']
    points, sample = sample_of(data)
    assert len(points) > 500 and {0, 1, 4} <= set(sample.labels.tolist())
    assert MODELS.build(cfg.model).num_classes == 6
    with pytest.raises(DataError, match='train_scans=0'):
        write_point_folder_mini(tmp_path / 'mini', train_scans=0)
