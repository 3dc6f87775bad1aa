"""nuScenes-lidarseg: classes, files and tables, against the development kit and goldens."""
import json
import shutil

import numpy as np
import pytest
import torch

from perception.common.nuscenes.reader import read_index
from perception.common.nuscenes.tables import CATEGORIES
from perception.lidarseg.datasets.nuscenes import reader as nuscenes
from perception.lidarseg.datasets.nuscenes.reader import (
    CHALLENGE,
    CLASSES,
    PALETTE,
    NuScenesLidarSeg,
    learning_map,
    read_point_labels,
    read_sweep,
    to_train_ids,
)
from perception.lidarseg.predictor import LidarPredictor
from perception.utils.errors import ConfigError, DataError

KIT = pytest.importorskip('nuscenes.eval.lidarseg.utils', reason='nuscenes-devkit is not installed')


@pytest.fixture
def copy(mini_nuscenes, tmp_path):
    """A copy of the tiny set that a test may damage; images are left out."""
    root = tmp_path / 'nuscenes'
    shutil.copytree(mini_nuscenes, root, ignore=shutil.ignore_patterns('CAM_*'))
    return root


def edit(root, name, change, version='v1.0-mini'):
    path = root / version / f'{name}.json'
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


# --- classes ---------------------------------------------------------------------------------------------------------
def test_classes_colours_and_categories_are_those_of_the_development_kit():
    mapper = KIT.LidarsegClassMapper.__new__(KIT.LidarsegClassMapper)
    mapper.ignore_class = mapper.get_ignore_class()
    order = mapper.get_coarse2idx()
    assert ('ignore', *CLASSES) == tuple(sorted(order, key=order.get))
    assert [mapper.get_coarse2color()[name] for name in CLASSES] == list(PALETTE)
    fine = mapper.get_fine2coarse()
    assert {name: CHALLENGE.get(name, 'ignore') for name in CATEGORIES} == fine and set(CHALLENGE) <= set(CATEGORIES)


def test_the_order_of_categories_is_the_official_index(shared):
    golden = json.loads((shared / 'goldens/lidarseg/nuscenes_lidarseg_eval_A.json').read_text())
    table = learning_map(dict(enumerate(CATEGORIES)), 'category.json')
    for fine, coarse in golden['fine_idx_to_coarse_idx'].items():
        assert table[int(fine)] == (255 if coarse == 0 else coarse - 1)


def test_labels_are_mapped_by_name_whatever_the_index():
    names = list(CATEGORIES)[::-1]
    table = learning_map(dict(enumerate(names)), 'category.json')
    ids = np.array([names.index('vehicle.car'), names.index('vehicle.ego')], np.uint8)
    assert to_train_ids(ids, table, 'x').tolist() == [CLASSES.index('car'), 255]


def test_unknown_categories_and_labels_are_refused():
    with pytest.raises(DataError, match=r"category.json: unknown category 'vehicle.tram', expected .*vehicle.t"):
        learning_map({0: 'vehicle.tram'}, 'category.json')
    with pytest.raises(DataError, match='index 300 of noise, expected 0 to 253'):
        learning_map({300: 'noise'}, 'category.json')
    table = learning_map({17: 'vehicle.car'}, 'category.json')
    with pytest.raises(DataError, match='a.bin: unknown label 16 at 2 points'):
        to_train_ids(np.array([16, 17, 16], np.uint8), table, 'a.bin')


# --- files -----------------------------------------------------------------------------------------------------------
def test_samples_are_the_files(mini_nuscenes):
    data = NuScenesLidarSeg(mini_nuscenes, 'mini_val')
    assert len(data) == 4
    assert data.official_size == 81
    assert data.metainfo['classes'] == CLASSES
    index = read_index(mini_nuscenes, 'v1.0-mini')
    for i in range(len(data)):
        sample = data[3, i]
        frame = data.frames[i]
        points = np.fromfile(mini_nuscenes / frame.points, '<f4').reshape(-1, 5)
        labels = np.fromfile(mini_nuscenes / frame.labels, np.uint8)
        assert torch.equal(sample['inputs']['points'], torch.from_numpy(points[:, :4]))
        names = [CHALLENGE.get(index.categories[fine]) for fine in labels.tolist()]
        expected = [255 if name is None else CLASSES.index(name) for name in names]
        assert sample['data_samples'].labels.tolist() == expected
        assert sample['data_samples'].sample_id == frame.token
    assert 'labels' not in NuScenesLidarSeg(mini_nuscenes, 'test')[0]['data_samples']


def test_splits_are_the_official_scenes(mini_nuscenes):
    from nuscenes.utils.splits import create_splits_scenes
    for split in ('mini_train', 'mini_val', 'test'):
        frames = NuScenesLidarSeg(mini_nuscenes, split).frames
        assert {frame.scene for frame in frames} <= set(create_splits_scenes()[split])
        assert len({frame.token for frame in frames}) == len(frames)


def test_augmentation_depends_on_seed_epoch_and_index_alone(mini_nuscenes):
    from perception.lidarseg.transforms import RandomRotate
    make = dict(data_root=mini_nuscenes, split='mini_val', pipeline=[dict(type=RandomRotate)])
    first, again = (NuScenesLidarSeg(**make)[1, 2]['inputs']['points'] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, NuScenesLidarSeg(**make)[2, 2]['inputs']['points'])


def test_augmentation_may_draw_a_second_key_frame(mini_nuscenes):
    seen = []

    def look(sample):
        other = sample['draw']()
        seen.append(other['sample_id'])
        assert len(other['points']) == len(other['labels'])
        return sample
    data = NuScenesLidarSeg(mini_nuscenes, 'mini_val', pipeline=[look])
    for epoch in range(8):
        _ = data[epoch, 0]
    assert set(seen) <= {frame.token for frame in data.frames}
    assert len(set(seen)) > 1


def test_a_real_key_frame_is_read(shared):
    path = next((shared / 'real/nuscenes_frame').glob('*.pcd.bin'))
    points = read_sweep(path)
    assert points.shape == (34688, 5)
    assert points[:, 4].tolist() == np.tile(np.arange(32), 1084).tolist()
    assert np.array_equal(LidarPredictor(None, dict(type=NuScenesLidarSeg)).points(path), points[:, :4])


@pytest.mark.parametrize(('cut', 'match'), [(7, 'expected a multiple of 20'), (20, 'labels for')])
def test_a_truncated_sweep_is_refused(copy, cut, match):
    data = NuScenesLidarSeg(copy, 'mini_val')
    path = copy / data.frames[0].points
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=match):
        data[0]


def test_bad_points_and_labels_name_file_and_place(copy):
    data = NuScenesLidarSeg(copy, 'mini_val')
    points = read_sweep(copy / data.frames[0].points).copy()
    points[5, 1] = np.nan
    points.tofile(copy / data.frames[0].points)
    with pytest.raises(DataError, match=r'pcd.bin: .* in row 5 \(1 such rows\), expected finite'):
        data[0]
    labels = copy / data.frames[1].labels
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-1])
    with pytest.raises(DataError, match='4,799 labels for 4,800 points'):
        data[1]
    labels.write_bytes(b'\xc8' + whole[1:])
    with pytest.raises(DataError, match='unknown label 200 at 1 points'):
        data[1]
    labels.unlink()
    with pytest.raises(DataError, match='No such file'):
        read_point_labels(labels, 4800)
    labels.write_bytes(whole)
    (copy / data.frames[2].points).write_bytes(b'')
    (copy / data.frames[2].labels).write_bytes(b'')
    assert len(data[2]['inputs']['points']) == 0
    with pytest.raises(DataError, match='0 points in a training key frame'):
        NuScenesLidarSeg(copy, 'mini_val', training=True)[2]


# --- tables ----------------------------------------------------------------------------------------------------------
def test_what_is_not_there_is_named(copy, tmp_path):
    with pytest.raises(ConfigError, match="split='trian', expected .*Did you mean train"):
        NuScenesLidarSeg(copy, 'trian')
    with pytest.raises(DataError, match=r'no folder v1.0-..., expected nuScenes in its official layout .*--mini'):
        NuScenesLidarSeg(tmp_path / 'nowhere', 'train')
    with pytest.raises(DataError, match=r'v1.0-trainval: no such folder \(found: v1.0-mini, v1.0-test\)'):
        NuScenesLidarSeg(copy, 'train')
    (copy / 'v1.0-mini/ego_pose.json').unlink()
    with pytest.raises(DataError, match=r'ego_pose.json: no such file \(1 of 13 tables missing\)'):
        NuScenesLidarSeg(copy, 'mini_val')


def _drop_index(rows):
    for row in rows:
        del row['index']


def _tram(rows):
    rows[17]['name'] = 'vehicle.tram'


def _twice(rows):
    rows[3]['index'] = 4


def _cycle(rows):
    rows[-1]['next'] = rows[-2]['token']


@pytest.mark.parametrize(('table', 'change', 'match'), [
    ('sample_data', lambda rows: rows[1].update(calibrated_sensor_token='gone'),
     "names calibrated_sensor_token 'gone', which is not in calibrated_sensor.json"),
    ('scene', lambda rows: rows[0].update(first_sample_token='gone'), "first_sample_token 'gone'"),
    ('instance', lambda rows: rows.pop(), 'names instance_token'),
    ('category', _drop_index, 'expected a whole number, as in the category.json that comes with nuScenes-lidarseg'),
    ('category', _tram, "category.json: unknown category 'vehicle.tram'"),
    ('category', lambda rows: rows[2].update(index=2.0), "'human.pedestrian.adult' has the index 2.0"),
    ('category', _twice, 'index 4 stands for'),
    ('sample', _cycle, 'comes again in its chain'),
    ('sample', lambda rows: rows.clear(), 'which is not in sample.json'),
    ('lidarseg', lambda rows: rows.pop(), 'label files for'),
    ('lidarseg', lambda rows: rows[-1].update(sample_data_token=rows[0]['sample_data_token']), 'no labels for'),
    ('sample_data', lambda rows: [r.update(is_key_frame=False) for r in rows], 'no key frame of LIDAR_TOP'),
    ('scene', lambda rows: [r.update(name='scene-9') for r in rows], 'no key frame of the split mini_val'),
    ('map', lambda rows: rows[0].update(filename='maps/gone.png'), 'expected the mask that map.json names'),
    ('lidarseg', lambda rows: rows[0].update(filename='lidarseg/../../x.bin'), 'a path below the data root'),
])
def test_damaged_tables_are_told_in_one_sentence(copy, table, change, match):
    edit(copy, table, change)
    with pytest.raises(DataError, match=match) as caught:
        NuScenesLidarSeg(copy, 'mini_val')
    assert '\n' not in str(caught.value)


def test_a_table_that_is_no_json_is_named(copy):
    path = copy / 'v1.0-mini/sensor.json'
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match='sensor.json: not readable .*expected a JSON table'):
        NuScenesLidarSeg(copy, 'mini_val')
    shutil.rmtree(copy / 'lidarseg/v1.0-mini')
    with pytest.raises(DataError, match='expected the label files that lidarseg.json names'):
        NuScenesLidarSeg(copy, 'mini_val')


def test_fuzz_whatever_is_damaged_is_read_right_or_refused(copy):
    """Bytes of labels, sweeps and tables at random: a sample of the right shape, or a DataError."""
    rng = np.random.default_rng(0)
    frame = NuScenesLidarSeg(copy, 'mini_val').frames[0]
    tables = sorted((copy / 'v1.0-mini').glob('*.json'))
    outcomes = {'read': 0, 'refused': 0}
    for trial in range(60):
        path = [copy / frame.labels, copy / frame.points, tables[trial % len(tables)]][trial % 3]
        whole = path.read_bytes()
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(data)))
            if rng.random() < .4:
                data[at] = int(rng.integers(32)) if trial % 3 == 0 else data[at] ^ 1
            elif rng.random() < .3:
                del data[at:at + int(rng.integers(1, 50))]
            elif rng.random() < .5:
                data[at:at] = rng.bytes(int(rng.integers(1, 9)))
            else:
                data[at] = int(rng.integers(256))
        path.write_bytes(bytes(data))
        try:
            sample = NuScenesLidarSeg(copy, 'mini_val')[0]
        except DataError as error:
            assert '\n' not in str(error)[:-1]
            outcomes['refused'] += 1
        else:
            labels = sample['data_samples'].labels
            assert len(labels) == len(sample['inputs']['points'])
            assert ((labels < 16) | (labels == 255)).all()
            outcomes['read'] += 1
        path.write_bytes(whole)
    assert min(outcomes.values()) > 2, outcomes


def test_supervoxels_of_cubes_lie_in_the_bounds_of_nuscenes(mini_nuscenes):
    from perception.apis.config import load_config
    from perception.lidarseg.preprocessor import CubeVoxelizer
    from perception.ops.voxelize import cylinder_features
    bounds = load_config('configs/lidarseg/minkunet_nuscenes.py').model.data_preprocessor.cylinder_bounds
    cylinder = load_config('configs/lidarseg/cylinder3d_nuscenes.py').model.data_preprocessor
    assert [tuple(bound) for bound in bounds] == [tuple(cylinder.min_bound), tuple(cylinder.max_bound)]
    sample = NuScenesLidarSeg(mini_nuscenes, 'mini_val')[0]
    batch = dict(inputs=dict(points=[sample['inputs']['points']]), data_samples=[sample['data_samples']])
    inputs = CubeVoxelizer(.1, None, (480, 360, 32), bounds)(batch)['inputs']
    cells, _ = cylinder_features(inputs['voxel_feats'], (480, 360, 32), *bounds)
    assert torch.equal(inputs['supervoxel_coords'][:, 1:], cells)


def test_poses_are_those_of_the_tables_wherever_scans_of_a_scene_lie(mini_nuscenes, tmp_path):
    index = read_index(mini_nuscenes, 'v1.0-mini')
    frames = [frame for frame in index.frames if frame.scene == index.frames[0].scene]
    files = [mini_nuscenes / frame.points for frame in frames]
    expected = [index.ego_to_world(frame.row) @ index.lidar_to_ego(frame.row) for frame in frames]
    np.testing.assert_allclose(NuScenesLidarSeg.scan_poses(files, {}), expected)
    copied = [tmp_path / file.name for file in files]
    for file, copy in zip(files, copied):
        shutil.copy(file, copy)
    np.testing.assert_allclose(NuScenesLidarSeg.scan_poses(copied, dict(data_root=mini_nuscenes)), expected)
    shutil.copy(files[0], tmp_path / 'mine.pcd.bin')
    for others in (copied, [copied[0], tmp_path / 'mine.pcd.bin']):
        assert NuScenesLidarSeg.scan_poses(others, dict(data_root=tmp_path)) is None  # no tables there
    assert NuScenesLidarSeg.scan_poses([*files, tmp_path / 'mine.pcd.bin'], {}) is None


def test_scans_of_several_drives_have_no_poses_and_damaged_tables_are_told(copy, monkeypatch):
    index, said = read_index(copy, 'v1.0-mini'), []
    scene = [frame for frame in index.frames if frame.scene == index.frames[0].scene]
    other = next(frame for frame in index.frames if frame.scene != scene[0].scene)
    assert NuScenesLidarSeg.scan_poses([copy / frame.points for frame in (scene[0], scene[-1])], {}) is not None
    assert NuScenesLidarSeg.scan_poses([copy / frame.points for frame in (scene[0], other)], {}) is None
    (copy / 'v1.0-mini/ego_pose.json').write_text('[')
    monkeypatch.setattr(nuscenes, 'print_log', lambda text, *_: said.append(text))
    assert NuScenesLidarSeg.scan_poses([copy / scene[0].points], {}) is None
    assert 'Scans without poses' in said[0] and 'ego_pose.json' in said[0]
