"""Several scans at a time: geometry, samples, labels of the scan itself, predictions, submissions, bad input."""
import random
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from scipy.spatial import cKDTree

from perception.common.formats.kitti import (
    read_calib,
    read_labels,
    read_points,
    read_poses,
    write_calib,
    write_points,
    write_poses,
)
from perception.common.structures import PointSegSample
from perception.lidarseg.datasets.semantickitti import reader as kitti
from perception.lidarseg.datasets.semantickitti.metric import SemanticKITTIMetric
from perception.lidarseg.datasets.semantickitti.mini import write_multiscan_mini, write_semantickitti_mini
from perception.lidarseg.datasets.semantickitti.reader import (
    MULTI_CLASSES,
    MULTI_PALETTE,
    SemanticKITTIMultiScan,
    lidar_poses,
    move_points,
    past_points,
)
from perception.lidarseg.datasets.semantickitti.submission import SemanticKITTISubmission, validate_submission
from perception.lidarseg.draw import DrawScans
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.points import label_points
from perception.lidarseg.predictor import LidarPredictor
from perception.lidarseg.preprocessor import CylinderVoxelizer
from perception.lidarseg.transforms import KeepLabels, RandomFlip, RandomThin, WithinRange
from perception.lidarseg.voting import TTASegmentor
from perception.utils.errors import ConfigError, DataError


@pytest.fixture(scope='module')
def mini(tmp_path_factory) -> Path:
    """Sequences 00 (4 scans), 08 (4) and 11 to 21 (3 each), 0.1 s apart."""
    root = tmp_path_factory.mktemp('mini') / 'semantickitti_multiscan'
    return write_multiscan_mini(root, train_scans=(4,), val_scans=(4,), columns=400, workers=1)


@pytest.fixture
def folder(mini, tmp_path) -> Path:
    """A copy of sequences 00 and 08 to damage."""
    for name in ('00', '08'):
        shutil.copytree(mini / 'sequences' / name, tmp_path / 'data' / 'sequences' / name)
    return tmp_path / 'data'


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    lines = []
    monkeypatch.setattr(kitti, 'print_log', lambda text, *_: lines.append(text))
    return lines


def slow_fused(folder: Path, frame: int, past: int) -> np.ndarray:
    """A scan and those before it, point by point, by inverting the pose of the scan."""
    rows = [np.array([*map(float, line.split())]).reshape(3, 4)
            for line in (folder / 'poses.txt').read_text().splitlines()]
    last = np.array([[0, 0, 0, 1.0]])
    calib = {line.split(':')[0]: line.split(':')[1] for line in (folder / 'calib.txt').read_text().splitlines()}
    tr = np.concatenate([np.array([*map(float, calib['Tr'].split())]).reshape(3, 4), last])
    poses = [np.linalg.inv(tr) @ np.concatenate([row, last]) @ tr for row in rows]
    parts = []
    for other in range(frame, frame - past - 1, -1):
        points = np.fromfile(folder / 'velodyne' / f'{other:06d}.bin', np.float32).reshape(-1, 4)
        if other != frame:
            move = np.linalg.inv(poses[frame]) @ poses[other]
            points = np.array([[*(move @ [x, y, z, 1.0])[:3], i] for x, y, z, i in points.astype(np.float64)])
        parts.append(points)
    return np.concatenate(parts)


# --- samples ---------------------------------------------------------------------------------------------------------
def test_the_scan_comes_first_then_the_two_before_it(mini):
    sequence = mini / 'sequences' / '00'
    points = SemanticKITTIMultiScan(mini, 'train', [0])[3]['inputs']['points']
    np.testing.assert_allclose(points, slow_fused(sequence, 3, 2), atol=2e-5)
    own = np.fromfile(sequence / 'velodyne' / '000003.bin', np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(points[:len(own)], own)


def test_the_first_scans_stay_alone(mini):
    dataset = SemanticKITTIMultiScan(mini, 'val')
    alone = [len(np.fromfile(mini / f'sequences/08/velodyne/{i:06d}.bin', np.float32)) // 4 for i in range(4)]
    lengths = [len(dataset[i]['inputs']['points']) for i in range(4)]
    assert lengths == [alone[0], alone[1], sum(alone[:3]), sum(alone[1:])]
    assert len(SemanticKITTIMultiScan(mini, 'val', past_scans=1)[1]['inputs']['points']) == sum(alone[:2])
    assert len(SemanticKITTIMultiScan(mini, 'val', past_scans=0)[3]['inputs']['points']) == alone[3]


def test_all_points_are_learned_from_and_those_of_the_scan_are_scored(mini):
    labels = [kitti.to_train_ids(np.fromfile(mini / f'sequences/00/labels/{i:06d}.label', np.uint32), 'x',
                                 table=kitti.learning_map(True)) for i in range(4)]
    train = SemanticKITTIMultiScan(mini, 'train', [0])[2]['data_samples']
    assert train.labels.tolist() == np.concatenate(labels[2::-1]).tolist()
    assert 'origin_len' not in train.metainfo
    val = SemanticKITTIMultiScan(mini, 'val', [0])[2]['data_samples']
    assert val.labels.tolist() == labels[2].tolist() and val.origin_len == len(labels[2])
    test = SemanticKITTIMultiScan(mini, 'test', [0])[2]['data_samples']
    assert 'labels' not in test and test.origin_len == len(labels[2])
    assert {kitti.MULTI_CLASSES[i] for i in np.unique(train.labels) if i < 25} >= {'moving-car', 'moving-person', 'car'}


def test_standing_things_lie_on_each_other_and_moving_ones_do_not(mini):
    item = SemanticKITTIMultiScan(mini, 'train', [0])[3]
    points, labels = item['inputs']['points'].numpy()[:, :3], item['data_samples'].labels.numpy()
    own = len(np.fromfile(mini / 'sequences/00/velodyne/000003.bin', np.float32)) // 4
    past = np.arange(len(points)) >= own
    wall = np.isin(labels, [kitti.MULTI_CLASSES.index(name) for name in ('building', 'road', 'sidewalk', 'car')])
    near = np.linalg.norm(points[:, :2], axis=1) < 15
    distance, _ = cKDTree(points[~past & near]).query(points[past & wall & near])
    assert np.median(distance) < .1
    before = np.concatenate([read_points(mini / f'sequences/00/velodyne/{i:06d}.bin') for i in (2, 1)])[:, :3]
    assert np.abs(points[past] - before).max() > .5  # they were moved


def test_augmentation_and_workers_are_those_of_single_scans(mini):
    pipeline = [dict(type=RandomThin, keep=.5), dict(type=RandomFlip)]
    first, again = (SemanticKITTIMultiScan(mini, 'train', [0], pipeline, seed=3)[2, 3] for _ in range(2))
    assert torch.equal(first['inputs']['points'], again['inputs']['points'])
    assert len(first['data_samples'].labels) == len(first['inputs']['points']) == len(first['data_samples'].kept)
    assert len(first['data_samples'].kept) == -(-first['data_samples'].num_points // 2)


def test_few_labels_and_a_range_are_those_of_single_scans(mini):
    steps = [dict(type=KeepLabels, share=.01), dict(type=WithinRange, radius=20.)]
    train = SemanticKITTIMultiScan(mini, 'train', [0], steps)[1, 3]
    labels = train['data_samples'].labels
    alone = [SemanticKITTIMultiScan(mini, 'train', [0], steps, past_scans=0)[0, k]['data_samples'].labels
             for k in (3, 2, 1)]
    known = [(part != 255).sum() for part in alone]
    assert (labels != 255).sum() - known[0] == pytest.approx(known[1] + known[2], abs=5)  # seen from another place
    assert torch.equal(labels[:len(alone[0])], alone[0]) and len(labels) == len(train['inputs']['points'])
    val = SemanticKITTIMultiScan(mini, 'val', [0], steps)[3]
    assert torch.equal(val['data_samples'].labels, alone[0])
    assert val['data_samples'].origin_len == len(alone[0]) < len(val['inputs']['points'])


def test_moving_classes_have_colours_of_their_own():
    assert len(MULTI_CLASSES) == len(MULTI_PALETTE) == 25
    assert len(set(MULTI_PALETTE[19:]) | set(MULTI_PALETTE[:19])) == len(set(MULTI_PALETTE[:19])) + 6


# --- from the batch to scores, submission and pictures ---------------------------------------------------------------
def test_a_batch_is_predicted_scored_submitted_and_drawn_for_the_scan_itself(mini, tmp_path):
    torch.manual_seed(0)
    net = Cylinder3D(CylinderVoxelizer((48, 36, 8)), num_classes=25, base_channels=2, compression=2, point_channels=4,
                     point_widths=(4, 4, 4), refine='mirror').eval()
    dataset = SemanticKITTIMultiScan(mini, 'val')
    data = pseudo_collate([dataset[0], dataset[2]])
    lengths = [len(sample.labels) for sample in data['data_samples']]
    inputs = net.data_preprocessor(data)['inputs']
    assert len(inputs['labels']) == len(inputs['points']) > sum(lengths)
    assert (inputs['labels'][-10:] == 255).all()  # past scans of a split that is scored
    samples = net.test_step(data)
    assert [len(sample.pred_labels) for sample in samples] == lengths
    metric = SemanticKITTIMetric(multi=True)
    metric.process(data, [sample.to_dict() for sample in samples])
    assert len([key for key in metric.evaluate(2) if key.startswith('iou_')]) == 25
    drawer = DrawScans(tmp_path, panel=(64, 48))
    drawer.dataset_meta = dataset.metainfo
    pytest.importorskip('open3d')
    drawer.process(data, [sample.to_dict() for sample in samples])
    assert sorted(path.name for path in tmp_path.glob('*.png')) == ['08_000000.png', '08_000002.png']


def test_votes_are_of_the_scan_itself(mini):
    torch.manual_seed(0)
    net = Cylinder3D(CylinderVoxelizer((48, 36, 8)), num_classes=25, base_channels=2, compression=2, point_channels=4,
                     point_widths=(4, 4, 4)).eval()
    data = pseudo_collate([SemanticKITTIMultiScan(mini, 'val')[2]])
    sample = TTASegmentor(net, 'flip4').test_step(data)[0]
    assert len(sample.pred_labels) == sample.origin_len == len(sample.labels)


def test_label_points_keeps_the_first_points():
    logits = torch.eye(3)[[0, 1, 2, 2, 1]]
    samples = [PointSegSample(metainfo=dict(origin_len=2)), PointSegSample()]
    label_points(logits, [3, 2], samples, keep_logits=True)
    assert [sample.pred_labels.tolist() for sample in samples] == [[0, 1], [2, 1]]
    assert samples[0].logits.shape == (2, 3)


def test_labels_of_another_length_are_still_refused(mini):
    item = SemanticKITTIMultiScan(mini, 'val')[2]
    item['data_samples'].labels = item['data_samples'].labels[:-1]
    with pytest.raises(DataError, match='labels for .* points, expected equal numbers'):
        CylinderVoxelizer((48, 36, 8))(pseudo_collate([item]))


def test_a_submission_passes_the_official_checks_with_the_servers_label_table(mini, tmp_path):
    dataset = SemanticKITTIMultiScan(mini, 'test')
    assert len(dataset) == 33
    writer = SemanticKITTISubmission(tmp_path, multi=True)
    writer.dataset_meta = dataset.metainfo
    rng = np.random.default_rng(0)
    expected = {}
    for i in range(len(dataset)):
        sample = dataset[i]['data_samples'].to_dict()
        labels = rng.integers(0, 25, sample.get('origin_len'))
        expected[sample['sample_id']] = labels
        writer.process(None, [dict(sample, pred_labels=torch.from_numpy(labels))])
    writer.evaluate(len(dataset))
    assert validate_submission(tmp_path / 'submission.zip', mini) == []
    server = {19: 252, 20: 253, 21: 254, 22: 255, 23: 259, 24: 258, 0: 10, 18: 81}
    with zipfile.ZipFile(tmp_path / 'submission.zip') as archive:
        raw = np.frombuffer(archive.read('sequences/21/predictions/000002.label'), np.uint32)
    for train_id, raw_id in server.items():
        assert (raw[expected['21_000002'] == train_id] == raw_id).all()
    with pytest.raises(DataError, match='predictions for .* points of 11_000002'):
        writer.process(None, [dict(dataset[2]['data_samples'].to_dict(), pred_labels=torch.zeros(3))])


class Echo(torch.nn.Module):
    """A model that remembers what it was given and predicts zeros."""

    def test_step(self, data):
        self.points = data['inputs']['points'][0]
        return label_points(torch.zeros(len(self.points), 25), [len(self.points)], data['data_samples'])


def test_predict_finds_the_scans_before_a_file(mini, logged):
    model = Echo()
    predict = LidarPredictor(model, dict(type=SemanticKITTIMultiScan, past_scans=2))
    path = mini / 'sequences/11/velodyne/000002.bin'
    sample = predict(path)
    expected = SemanticKITTIMultiScan(mini, 'test', [11])[2]
    assert torch.equal(model.points, expected['inputs']['points'])
    assert len(sample.pred_labels) == expected['data_samples'].origin_len == len(read_points(path))
    predict(mini / 'sequences/11/velodyne/000001.bin')  # a first scan of a sequence
    assert not logged


def test_scans_before_a_file_of_a_sensor_that_looks_elsewhere_lie_where_they_should(folder):
    sequence = folder / 'sequences/08'
    path = sequence / 'velodyne/000003.bin'
    plain, turned, drive = Echo(), Echo(), lidar_poses(sequence, 4)
    LidarPredictor(plain, dict(type=SemanticKITTIMultiScan))(path)
    mount = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # of a sensor that looks along -y
    calib = read_calib(sequence / 'calib.txt')
    write_calib(sequence / 'calib.txt', dict(calib, Tr=calib['Tr'] @ np.linalg.inv(mount)))
    for scan in (sequence / 'velodyne').iterdir():
        points = read_points(scan)
        points[:, :3] = points[:, :3] @ mount[:3, :3].T
        write_points(scan, points)
    predict = LidarPredictor(turned, dict(type=SemanticKITTIMultiScan), forward='-y')
    predict(path)
    torch.testing.assert_close(turned.points, plain.points, rtol=0, atol=1e-4)
    predict.begin(sequence / 'velodyne', 'follow')
    first, *_, last = predict._film.poses
    np.testing.assert_allclose(np.linalg.inv(first) @ last, drive[3], atol=1e-6)


def test_predict_takes_a_scan_alone_where_there_are_no_others_and_says_so(folder, logged):
    model = Echo()
    predict = LidarPredictor(model, dict(type=SemanticKITTIMultiScan))
    path = folder / 'sequences/08/velodyne/000003.bin'
    path.with_name('000001.bin').unlink()
    sample = predict(path)
    assert len(model.points) == len(sample.pred_labels) == len(read_points(path))
    assert len(logged) == 1 and 'trained on 3 scans at a time' in logged[0] and '000001.bin: no such file' in logged[0]
    predict(read_points(path))
    assert len(logged) == 2 and 'an array came' in logged[1]
    lonely = folder.parent / 'scan.bin'
    shutil.copy(path, lonely)
    predict(lonely)
    assert len(logged) == 3 and "named 'scan'" in logged[2]
    LidarPredictor(model, dict(type=kitti.SemanticKITTI))(path)
    assert len(logged) == 3


# --- bad input -------------------------------------------------------------------------------------------------------
def expect(folder: Path, text: str, split: str = 'val', **arguments) -> None:
    with pytest.raises(DataError, match=text) as caught:
        dataset = SemanticKITTIMultiScan(folder, split, **arguments)
        for i in range(len(dataset)):
            dataset[i]
    assert str(caught.value).count('\n') == 0


@pytest.mark.parametrize('name', ['calib.txt', 'poses.txt'])
def test_missing_files_are_named(folder, name):
    (folder / 'sequences/08' / name).unlink()
    expect(folder, f'08/{name}: no such file, expected it beside velodyne.*semantic-kitti.org')
    kitti.SemanticKITTI(folder, 'val')  # single scans need neither


def test_fewer_poses_than_scans_are_refused(folder):
    path = folder / 'sequences/08/poses.txt'
    path.write_text(''.join(path.read_text().splitlines(keepends=True)[:3]))
    expect(folder, r'08/poses\.txt: 3 poses for 4 scans, expected a line for each scan')
    path.write_text('')
    expect(folder, r'08/poses\.txt: 0 poses for 4 scans')


def test_matrices_that_are_no_motion_are_refused(folder):
    path = folder / 'sequences/08/poses.txt'
    poses, good = read_poses(path), path.read_text()
    for bad in (poses[2] * 1.01, np.diag([1, 1, -1, 1.0]), np.zeros((4, 4)), np.full((4, 4), 1e200)):
        write_poses(path, np.stack([poses[0], poses[1], bad, poses[3]]))
        expect(folder, r'08/poses\.txt: line 3 is no rigid motion \(rotation .*, shift .*\), expected a rotation')
    far = poses.copy()
    far[1, 0, 3] = 1e7
    write_poses(path, far)
    expect(folder, r'08/poses\.txt: line 2 is no rigid motion')
    path.write_text(good)
    calib = read_calib(folder / 'sequences/08/calib.txt')
    write_calib(folder / 'sequences/08/calib.txt', dict(calib, Tr=calib['Tr'] * 2))
    expect(folder, r'08/calib\.txt: Tr is no rigid motion')
    calib.pop('Tr')
    write_calib(folder / 'sequences/08/calib.txt', calib)
    expect(folder, r'08/calib\.txt: no matrix Tr among P0, P1, P2, P3, expected')


@pytest.mark.parametrize('name', ['calib.txt', 'poses.txt'])
@pytest.mark.parametrize('word, text', [('nan', 'expected finite numbers'), ('1e999', 'expected finite numbers'),
                                        ('x', 'expected 12 numbers'), ('', 'expected 12 numbers')])
def test_numbers_that_are_none_are_refused(folder, name, word, text):
    path = folder / 'sequences/08' / name
    lines = path.read_text().splitlines()
    lines[-1] = f'{lines[-1].rpartition(" ")[0]} {word}'
    path.write_text('\n'.join(lines))
    expect(folder, rf'08/{name}: line {len(lines)} .*{text}')


def test_a_missing_scan_before_another_is_named(folder):
    (folder / 'sequences/08/velodyne/000001.bin').unlink()
    expect(folder, r'000001\.bin: no such file, expected the 2 scans before 00000[23]\.bin')


def test_damage_in_a_past_scan_is_named(folder):
    path = folder / 'sequences/00/velodyne/000000.bin'
    points = read_points(path).copy()
    points[5, 1] = np.nan
    write_points(path, points)
    dataset = SemanticKITTIMultiScan(folder, 'train', [0])
    with pytest.raises(DataError, match=r'000000\.bin: .*in row 5'):
        dataset[2]
    (folder / 'sequences/00/labels/000001.label').write_bytes(b'1234')
    with pytest.raises(DataError, match=r'000001\.label: 1 labels for'):
        dataset[3]


def test_other_arguments_and_names_are_refused(folder):
    with pytest.raises(ConfigError, match='past_scans=-1, expected 0 or more'):
        SemanticKITTIMultiScan(folder, 'val', past_scans=-1)
    path = folder / 'sequences/08/velodyne/000003.bin'
    path.rename(path.with_name('last.bin'))
    label = folder / 'sequences/08/labels/000003.label'
    label.rename(label.with_name('last.label'))
    expect(folder, "a scan named 'last', expected six digits")


def test_any_damage_to_text_files_gives_points_or_a_sentence(folder):
    rng, refused, rounds, start = random.Random(0), 0, 0, time.perf_counter()
    words = ['nan', '-inf', '1e999', '1e300', '-1', '0', 'x', '', '\x00', '1e-320', 'Tr:', '\n', '0x1', '1_0', '٣']
    sequence = folder / 'sequences/08'
    for scan in sequence.glob('velodyne/*.bin'):
        write_points(scan, read_points(scan)[:50])
    for label in sequence.glob('labels/*.label'):
        read_labels(label)[:50].tofile(label)
    while time.perf_counter() < start + 1.5 or rounds < 100:
        rounds += 1
        path = sequence / rng.choice(['calib.txt', 'poses.txt'])
        good = path.read_text()
        tokens = good.split(' ')
        k = rng.randrange(len(tokens))
        kind = rng.randrange(4)
        if kind == 0:
            tokens[k] = rng.choice(words)
        elif kind == 1:
            del tokens[k:k + rng.randrange(1, 30)]
        elif kind == 2:
            tokens[k] = tokens[k][:rng.randrange(len(tokens[k]) + 1)]
        else:
            tokens.insert(k, tokens[rng.randrange(len(tokens))])
        path.write_text(' '.join(tokens))
        try:
            points = SemanticKITTIMultiScan(folder, 'val')[3]['inputs']['points']
            assert points.shape == (150, 4) and bool(torch.isfinite(points).all())
            moved = np.linalg.norm(np.diff(points[50:100, :3].numpy(), axis=0), axis=1)  # rigid: lengths stay
            still = np.linalg.norm(np.diff(read_points(sequence / 'velodyne/000002.bin')[:, :3], axis=0), axis=1)
            np.testing.assert_allclose(moved, still, rtol=2e-3, atol=.3)
        except DataError as error:
            assert str(sequence) in str(error) and '\n' not in str(error)
            refused += 1
        path.write_text(good)
    assert refused > rounds // 4


# --- geometry and mini data ------------------------------------------------------------------------------------------
def test_points_are_moved_in_double_precision_far_from_the_start():
    rng = np.random.default_rng(0)
    def pose(angle, *shift):
        matrix = np.eye(4)
        matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        matrix[:3, 3] = shift
        return matrix
    points = rng.uniform(-50, 50, (20, 4)).astype(np.float32)
    here, there = pose(1.0, 123456.7, -98765.4, 3), pose(1.1, 123457.8, -98764.3, 3.1)
    expected = (np.linalg.inv(there) @ here @ np.c_[points[:, :3].astype(float), np.ones(20)].T).T[:, :3]
    moved = move_points(points, here, there)
    np.testing.assert_allclose(moved[:, :3], expected, atol=1e-5)
    np.testing.assert_array_equal(moved[:, 3], points[:, 3])
    np.testing.assert_allclose(move_points(moved, there, here), points, atol=1e-4)


def test_poses_of_the_lidar_begin_at_its_first_scan(mini):
    poses = lidar_poses(mini / 'sequences/00', 4)
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-9)
    assert 0 < poses[3, 0, 3] < 6 and abs(poses[3, 2, 3]) < .5  # forward is x
    assert len(past_points(mini / 'sequences/00/velodyne/000003.bin', poses, 2)) == 2


def test_the_mini_set_is_dense_in_time_and_the_other_one_unchanged(mini, monkeypatch, tmp_path):
    for sequence in ('00', '08', '11'):
        np.testing.assert_allclose(np.diff(np.loadtxt(mini / f'sequences/{sequence}/times.txt')), .1)
    from perception.lidarseg.datasets.semantickitti import mini as module
    stamps = []
    monkeypatch.setattr(module, 'write_stamped', lambda root, stamp, *_: stamps.append(stamp) or root)
    write_semantickitti_mini(tmp_path)
    write_multiscan_mini(tmp_path)
    assert sorted(stamps[0]) == ['columns', 'dataset', 'interval', 'scene_version', 'seed', 'simulated', 'train_scans',
                                 'val_scans']  # as written before: sets that are there stay
    assert stamps[1]['test_scans'] == 3 and stamps[1]['interval'] == .1
    with pytest.raises(DataError, match='test_scans=0'):
        write_multiscan_mini(tmp_path, test_scans=0)
    with pytest.raises(DataError, match='165 scans every 2.0 s on a street'):
        write_semantickitti_mini(tmp_path, test_scans=15)
