"""The SemanticKITTI reader on small folders in the official layout."""
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from perception.common.formats.kitti import join_labels, write_calib, write_labels, write_points, write_poses
from perception.common.samplers import EpochSampler
from perception.lidarseg.datasets.semantickitti import reader as kitti
from perception.lidarseg.datasets.semantickitti import submission
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTI
from perception.lidarseg.transforms import RandomFlip, RandomRotate, RandomScale, RandomTranslate
from perception.utils.errors import ConfigError, DataError

PIPELINE = [dict(type=RandomRotate), dict(type=RandomFlip), dict(type=RandomScale), dict(type=RandomTranslate)]


def write_scan(root: Path, sequence: int, frame: int, raw: list | np.ndarray | None, num_points: int | None = None):
    """Random points; labels with instance ids unless `raw` is None."""
    rng = np.random.default_rng([sequence, frame])
    num_points = len(raw) if num_points is None else num_points
    points_path, labels_path = kitti.scan_paths(root, f'{sequence:02d}_{frame:06d}')
    points_path.parent.mkdir(parents=True, exist_ok=True)
    write_points(points_path, rng.normal(size=(num_points, 4)))
    if raw is not None:
        labels_path.parent.mkdir(exist_ok=True)
        write_labels(labels_path, join_labels(raw, rng.integers(0, 65536, len(raw))))
    return points_path, labels_path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Sequences 0 (two scans), 8 (one) and 11 (one, without labels)."""
    rng = np.random.default_rng(0)
    for sequence, frame in ((0, 1), (0, 0), (8, 0)):
        write_scan(tmp_path, sequence, frame, rng.choice(list(kitti.RAW_CLASSES), 50))
    write_scan(tmp_path, 11, 0, None, 20)
    return tmp_path


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """The lines that the reader logs."""
    lines = []
    monkeypatch.setattr(kitti, 'print_log', lambda text, *_: lines.append(text))
    return lines


# --- class tables ----------------------------------------------------------------------------------------------------
def test_classes_are_the_official_ones_in_official_order():
    assert kitti.CLASSES[:3] == ('car', 'bicycle', 'motorcycle') and kitti.CLASSES[-1] == 'traffic-sign'
    assert len(kitti.CLASSES) == len(set(kitti.CLASSES)) == len(kitti.PALETTE) == 19
    assert len(kitti.MULTI_CLASSES) == len(set(kitti.MULTI_CLASSES)) == 25
    assert kitti.PALETTE[kitti.CLASSES.index('road')] == (255, 0, 255)
    assert kitti.PALETTE[kitti.CLASSES.index('car')] == (100, 150, 245)  # RGB; the official file holds BGR


@pytest.mark.parametrize('multi', [False, True])
def test_maps_invert_each_other(multi):
    forth, back = kitti.learning_map(multi), kitti.inverse_map(multi)
    ids = np.array([*range(25 if multi else 19), 255])
    np.testing.assert_array_equal(forth[back[ids]], ids)
    known = forth[list(kitti.RAW_CLASSES)]
    assert (forth == 254).sum() == 65536 - len(kitti.RAW_CLASSES) and not (known == 254).any()


def test_moving_objects_join_their_class_or_stand_apart():
    raw = np.array([252, 253, 254, 255, 256, 257, 258, 259, 60, 52, 99, 1], np.uint32)
    names = [kitti.CLASSES[i] for i in kitti.to_train_ids(raw, 'x')[:9]]
    assert names == ['car', 'bicyclist', 'person', 'motorcyclist', 'other-vehicle', 'other-vehicle', 'truck',
                     'other-vehicle', 'road']
    assert kitti.to_train_ids(raw, 'x')[9:].tolist() == [255] * 3
    assert kitti.to_train_ids(raw, 'x', table=kitti.learning_map(True))[:8].tolist() == [19, 20, 21, 22, 23, 23, 24, 23]


def test_raw_ids_of_predictions():
    assert kitti.to_raw_ids(np.array([0, 18, 255]), 'x').tolist() == [10, 81, 0]
    assert kitti.to_raw_ids(np.array([19]), 'x', kitti.inverse_map(True)).tolist() == [252]
    for wrong in (19, 254, -1, 256, 1000):
        with pytest.raises(DataError, match=rf'11_000000: predicted class {wrong}, expected train ids 0\.\.18 or 255'):
            kitti.to_raw_ids(np.array([0, wrong]), '11_000000')


# --- samples ---------------------------------------------------------------------------------------------------------
def test_a_sample(folder):
    dataset = SemanticKITTI(folder, 'train', sequences=[0])
    assert len(dataset) == 2
    item = dataset[0]
    points, sample = item['inputs']['points'], item['data_samples']
    points_path, labels_path = kitti.scan_paths(folder, '00_000000')
    assert points.dtype == torch.float32 and sample.labels.dtype == torch.int64
    np.testing.assert_array_equal(points, np.fromfile(points_path, np.float32).reshape(-1, 4))
    raw = np.fromfile(labels_path, np.uint32) & 0xFFFF
    official = [kitti.RAW_CLASSES[r].single for r in raw]
    assert sample.labels.tolist() == [c - 1 if c else 255 for c in official]
    assert (sample.sample_id, sample.points_path, sample.num_points) == ('00_000000', str(points_path), 50)
    assert dataset[1]['data_samples'].sample_id == '00_000001'
    assert dataset.metainfo['classes'] == kitti.CLASSES and dataset.metainfo['palette'] == kitti.PALETTE


def test_splits_name_the_official_sequences(folder):
    assert sum(kitti.OFFICIAL_SCANS[s] for s in kitti.SPLITS['train']) == 19130
    assert sum(kitti.OFFICIAL_SCANS[s] for s in kitti.SPLITS['val']) == 4071
    assert sum(kitti.OFFICIAL_SCANS[s] for s in kitti.SPLITS['test']) == 20351
    assert SemanticKITTI(folder, 'val').scans == ['08_000000']


def test_the_test_split_needs_no_labels(folder):
    item = SemanticKITTI(folder, 'test', sequences=[11])[0]
    assert 'labels' not in item['data_samples'] and len(item['inputs']['points']) == 20
    labelled = SemanticKITTI(folder, 'test', sequences=[8])[0]
    assert 'labels' not in labelled['data_samples']


def test_official_sizes_are_those_of_the_sequences(folder):
    assert SemanticKITTI(folder, 'val').official_size == 4071
    assert SemanticKITTI(folder, 'train', sequences=[0, 8]).official_size == 4541 + 4071


def test_data_root_follows_the_environment(folder, monkeypatch):
    (folder / 'deep').mkdir()
    (folder / 'sequences').rename(folder / 'deep' / 'sequences')
    monkeypatch.setenv('PERCEPTION_DATA', str(folder))
    assert len(SemanticKITTI('data/deep', 'val')) == 1


def test_augmentation_depends_on_seed_epoch_and_index_alone(folder):
    dataset = SemanticKITTI(folder, 'train', sequences=[0], pipeline=PIPELINE, seed=1)
    first = dataset[3, 1]['inputs']['points']
    _ = dataset[0], dataset[3, 0]
    again = SemanticKITTI(folder, 'train', sequences=[0], pipeline=PIPELINE, seed=1)
    assert torch.equal(again[3, 1]['inputs']['points'], first)
    assert torch.equal(again[1]['inputs']['points'], again[0, 1]['inputs']['points'])
    other = SemanticKITTI(folder, 'train', sequences=[0], pipeline=PIPELINE, seed=2)
    for points in (dataset[4, 1], other[3, 1]):
        assert not torch.equal(points['inputs']['points'], first)
    assert torch.equal(dataset[3, 1]['data_samples'].labels, dataset[7, 1]['data_samples'].labels)


def test_batches_are_the_same_for_any_number_of_workers(folder):
    def batches(workers):
        dataset = SemanticKITTI(folder, 'train', sequences=[0, 8], pipeline=PIPELINE)
        sampler = EpochSampler(dataset, seed=0)
        sampler.set_epoch(2)
        return list(DataLoader(dataset, 2, sampler=sampler, num_workers=workers, collate_fn=pseudo_collate))

    alone, together = batches(0), batches(2)
    assert [s.sample_id for b in alone for s in b['data_samples']] == [
        s.sample_id for b in together for s in b['data_samples']]
    for a, b in zip(alone, together):
        assert all(torch.equal(x, y) for x, y in zip(a['inputs']['points'], b['inputs']['points']))


def test_simulated_data_are_read_like_real_ones(mini_kitti):
    train, val = SemanticKITTI(mini_kitti, 'train', sequences=[0], pipeline=PIPELINE), SemanticKITTI(mini_kitti, 'val')
    test = SemanticKITTI(mini_kitti, 'test')
    assert (len(train), len(val), len(test)) == (3, 2, 11)
    for item in (train[0, 0], val[0]):
        labels = item['data_samples'].labels
        assert len(labels) == len(item['inputs']['points']) > 100
        assert set(labels.unique().tolist()) <= {*range(19), 255}


def test_the_real_scan_is_read(shared):
    dataset = SemanticKITTI(shared / 'real' / 'semantickitti', 'train', sequences=[8])
    labels = dataset[0]['data_samples'].labels
    assert len(labels) == 85962
    assert len(set(labels.tolist()) - {255}) == 13


# --- bad input -------------------------------------------------------------------------------------------------------
def test_missing_data_root_names_folder_download_and_mini(tmp_path):
    with pytest.raises(DataError, match='no folder .*nowhere/sequences.*semantic-kitti.org.*PERCEPTION_DATA.*--mini'):
        SemanticKITTI(tmp_path / 'nowhere', 'train')


def test_missing_sequences_are_named_with_those_that_are_there(folder):
    with pytest.raises(DataError, match=r'01/velodyne: no such folder, expected the scans of sequence 01 '
                                        r'\(found sequences: 00, 08, 11\)'):
        SemanticKITTI(folder, 'train')
    shutil.rmtree(folder / 'sequences/08/velodyne')
    (folder / 'sequences/08/velodyne').mkdir()
    with pytest.raises(DataError, match=r'08/velodyne: no \.bin file in it'):
        SemanticKITTI(folder, 'val')


def test_missing_labels_are_counted(folder):
    (folder / 'sequences/00/labels/000001.label').unlink()
    with pytest.raises(DataError, match=r'00/labels/000001\.label: no such file \(1 of 2 scans have no labels\)'):
        SemanticKITTI(folder, 'train', sequences=[0])
    shutil.rmtree(folder / 'sequences/08/labels')
    with pytest.raises(DataError, match='1 of 1 scans have no labels'):
        SemanticKITTI(folder, 'val')


def test_unknown_split_is_refused(folder):
    with pytest.raises(ConfigError, match="split='valid', expected one of train, val, test. Did you mean val"):
        SemanticKITTI(folder, 'valid')


@pytest.mark.parametrize('split', ['train', 'val'])
def test_damaged_scans_are_refused(tmp_path, split):
    def first():
        return SemanticKITTI(tmp_path, split, sequences=[0])[0]

    points_path, labels_path = write_scan(tmp_path, 0, 0, [10] * 5, num_points=6)
    with pytest.raises(DataError, match=r'000000\.label: 5 labels for 6 points, expected equal numbers'):
        first()
    points_path.write_bytes(points_path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r'000000\.bin: 93 bytes, expected a multiple of 16'):
        first()
    points = np.zeros((5, 4))
    points[2, 0] = np.nan
    write_points(points_path, points)
    with pytest.raises(DataError, match=r'000000\.bin: .*in row 2'):
        first()


@pytest.mark.parametrize('num_points', [0, 1])
def test_tiny_scans_are_tested_but_not_trained_on(tmp_path, num_points):
    write_scan(tmp_path, 0, 0, [10] * num_points)
    with pytest.raises(DataError, match=rf'000000\.bin: {num_points} points in a training scan, expected at least 2'):
        SemanticKITTI(tmp_path, 'train', sequences=[0])[0]
    for split in ('val', 'test'):
        item = SemanticKITTI(tmp_path, split, sequences=[0])[0]
        assert item['inputs']['points'].shape == (num_points, 4) and item['data_samples'].num_points == num_points


def test_unknown_raw_labels_stop_training_and_count_as_unlabelled_in_a_test(tmp_path, logged):
    write_scan(tmp_path, 0, 0, [10, 300, 40, 2])
    with pytest.raises(DataError, match=r'000000\.label: unknown raw label 2, 300 at 2 points, expected ids of'):
        SemanticKITTI(tmp_path, 'train', sequences=[0])[0]
    item = SemanticKITTI(tmp_path, 'val', sequences=[0])[0]
    assert item['data_samples'].labels.tolist() == [0, 255, 8, 255]
    assert 'unknown raw label 2, 300 at 2 points; counted as unlabelled' in logged[-1]
    write_scan(tmp_path, 0, 0, [10, 400])
    with pytest.raises(DataError, match='unknown raw label 400'):
        SemanticKITTI(tmp_path, 'val', sequences=[0])[0]


# --- names and labels as people have them ----------------------------------------------------------------------------
def test_scans_of_any_name_in_sequences_of_any_number_are_read(tmp_path):
    names = ('000000', '000000_old', '1532402927647951', 'left_front_2', 'ä b')
    for sequence in (8, 100):
        for name in names:
            write_scan(tmp_path, sequence, 0, [40, 10, 70], 3)
            folder = tmp_path / f'sequences/{sequence:02d}'
            for kind, ending in (('velodyne', 'bin'), ('labels', 'label')):
                if name != '000000':
                    (folder / kind / f'{name}.{ending}').write_bytes((folder / kind / f'000000.{ending}').read_bytes())
                (folder / kind / f'._{name}.{ending}').write_bytes(b'Mac OS X')
    data = SemanticKITTI(tmp_path, 'val', sequences=[8, '100'])
    assert data.scans == [f'{sequence}_{name}' for sequence in ('08', '100') for name in sorted(names)]
    for index in range(len(data)):
        item = data[index]
        assert item['inputs']['points'].shape == (3, 4) and item['data_samples'].labels.tolist() == [8, 0, 14]
    assert data.official_size is None  # not all of them are official
    assert submission.prediction_name('100_left_front_2') == 'sequences/100/predictions/left_front_2.label'
    (tmp_path / 'sequences/100/labels/000000_old.label').unlink()
    with pytest.raises(DataError, match=r'100/labels/000000_old\.label: no such file \(1 of 10 scans'):
        SemanticKITTI(tmp_path, 'val', sequences=[8, 100])
    for wrong in (-1, 8.5, '../08', 'a_b', None):
        with pytest.raises(ConfigError, match='sequences[:=]'):
            SemanticKITTI(tmp_path, 'val', sequences=[wrong])
    with pytest.raises(ConfigError, match='sequences: 100 twice'):  # its scans would count twice in the score
        SemanticKITTI(tmp_path, 'val', sequences=[100, 8, '100'])


def test_time_stamps_have_the_poses_of_their_order(tmp_path):
    folder = tmp_path / 'sequences/08'
    for name in ('1532402927647951', '1532402927747951', '1532402927847951'):
        write_scan(tmp_path, 8, 0, [40], 1)
        (folder / 'velodyne/000000.bin').rename(folder / f'velodyne/{name}.bin')
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = 0, 5, 10
    write_poses(folder / 'poses.txt', poses)
    write_calib(folder / 'calib.txt', dict(Tr=np.eye(4)))
    found = SemanticKITTI.scan_poses(sorted((folder / 'velodyne').iterdir())[1:], {})
    assert found[:, 0, 3].tolist() == [5, 10]
    data = kitti.SemanticKITTIMultiScan(tmp_path, 'test', sequences=[8])
    own = [sample['inputs']['points'] for sample in (data[k] for k in range(3))]
    assert [len(points) for points in own] == [1, 1, 3]  # with those of the two scans before
    assert torch.equal(own[2][2, 1:], own[0][0, 1:]) and own[2][2, 0] == pytest.approx(float(own[0][0, 0]) - 10)


@pytest.mark.parametrize('dtype', ['<f4', '>u4', '<i8', 'u1'])
def test_labels_of_another_type_are_refused_by_every_reader(tmp_path, dtype):
    write_scan(tmp_path, 0, 0, [40, 48, 70, 80], 4)
    path = tmp_path / 'sequences/00/labels/000000.label'
    np.array([40, 48, 70, 80], dtype).tofile(path)
    for read in (lambda: SemanticKITTI(tmp_path, 'train', sequences=[0])[0],
                 lambda: SemanticKITTI(tmp_path, 'val', sequences=[0])[0],
                 lambda: SemanticKITTI.scan_labels(path, 4, {})):
        with pytest.raises(DataError, match=r'000000\.label: .*bytes that look like'):
            read()


def test_a_training_set_without_a_labelled_point_is_refused(tmp_path):
    write_scan(tmp_path, 0, 0, [0, 1, 52, 99], 4)
    write_scan(tmp_path, 0, 1, [0, 0, 0, 0], 4)
    assert len(SemanticKITTI(tmp_path, 'val', sequences=[0])) == 2
    with pytest.raises(DataError, match='all points of all 2 scans are unlabelled'):
        SemanticKITTI(tmp_path, 'train', sequences=[0])
    write_scan(tmp_path, 0, 2, [0, 0, 0, 40], 4)
    assert len(SemanticKITTI(tmp_path, 'train', sequences=[0])) == 3


def test_the_calibration_of_the_image_archives_is_recognised(shared, tmp_path):
    folder = tmp_path / 'sequences/08'
    folder.mkdir(parents=True)
    shutil.copy(shared / 'real/semantickitti_original/calib_of_the_image_archives.txt', folder / 'calib.txt')
    write_poses(folder / 'poses.txt', np.eye(4)[None])
    with pytest.raises(DataError, match=r'no matrix Tr among P0, P1, P2, P3.*image archives.*data_odometry_calib\.zip'):
        kitti.lidar_poses(folder, 1)


def test_a_sequence_without_a_list_and_none_are_refused(folder):
    for lone in (0, '00'):
        with pytest.raises(ConfigError, match='sequences=.*expected a list'):
            SemanticKITTI(folder, 'train', sequences=lone)
    with pytest.raises(ConfigError, match='sequences: none came'):
        SemanticKITTI(folder, 'train', sequences=[])


@pytest.mark.parametrize('place', ['.', 'dataset', 'sequences'])
def test_the_folders_are_found_as_the_archives_unpack_them(tmp_path, place):
    root = tmp_path / 'kitti'
    write_scan(root / ('dataset' if place == 'dataset' else '.'), 8, 0, [40, 48], 2)
    named = root / 'sequences' if place == 'sequences' else root
    data = SemanticKITTI(named, 'val')
    assert len(data) == 1 and data[0]['data_samples'].labels.tolist() == [8, 10]
    assert Path(data.metainfo['data_root']) == (root / 'dataset' if place == 'dataset' else root)
    assert kitti.list_scans(named, [8]) == ['08_000000']
