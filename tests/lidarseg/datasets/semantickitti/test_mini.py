import json
import shutil

import numpy as np
import pytest

from perception.common.formats import stamped
from perception.lidarseg.datasets.semantickitti import mini as mini
from perception.lidarseg.datasets.semantickitti.mini import draw_sheet, write_semantickitti_mini
from perception.lidarseg.datasets.semantickitti.reader import CLASSES, IGNORE, to_train_ids
from perception.utils.errors import DataError

SMALL = dict(train_scans=(1,), val_scans=(1,), columns=64, interval=.2, workers=1)
LABELLED = ('00', '08')


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def scans(root, sequence):
    for path in sorted((root / 'sequences' / sequence / 'velodyne').glob('*.bin')):
        label = path.parents[1] / 'labels' / f'{path.stem}.label'
        yield np.fromfile(path, '<f4').reshape(-1, 4), np.fromfile(label, '<u4') if label.is_file() else None


def test_the_layout_is_the_official_one(mini_kitti):
    folders = sorted(path.name for path in (mini_kitti / 'sequences').iterdir())
    assert folders == ['00', '08', *(str(n) for n in range(11, 22))]
    for name in folders:
        folder = mini_kitti / 'sequences' / name
        frames = sorted(path.name for path in (folder / 'velodyne').iterdir())
        assert frames == [f'{i:06d}.bin' for i in range({'00': 3, '08': 2}.get(name, 1))]
        assert (folder / 'labels').exists() == (name in LABELLED)
        rows = np.loadtxt(folder / 'poses.txt', ndmin=2)
        assert rows.shape == (len(frames), 12)
        assert np.allclose(rows[0], np.eye(4)[:3].ravel(), atol=1e-12)
        assert np.loadtxt(folder / 'times.txt', ndmin=1).tolist() == pytest.approx([.8 * i for i in range(len(frames))])


def test_scans_and_labels_are_whole(mini_kitti):
    for name in LABELLED:
        for points, labels in scans(mini_kitti, name):
            assert len(points) == len(labels) > 5000
            assert np.isfinite(points).all()
            assert np.linalg.norm(points[:, :3], axis=1).max() < 81              # the sensor moves within a turn
            to_train_ids(labels, name)                        # refuses ids that are not official
            semantic, instance = labels & 0xFFFF, labels >> 16
            things = (semantic >= 10) & (semantic <= 32) | (semantic >= 252)
            assert (instance[things] > 0).all()
            assert (instance[~things] == 0).all()
            for one in np.unique(instance[things]):
                assert len(np.unique(semantic[instance == one])) == 1


@pytest.mark.parametrize('name', LABELLED)
def test_all_classes_occur(mini_kitti, name):
    total = sum(np.bincount(to_train_ids(labels, name), minlength=256) for _, labels in scans(mini_kitti, name))
    missing = [CLASSES[i] for i in range(19) if total[i] == 0]
    assert not missing
    assert total[IGNORE] < .1 * total.sum()


def test_moving_and_parked_cars_have_their_own_ids(mini_kitti):
    found = np.unique(np.concatenate([labels & 0xFFFF for name in LABELLED for _, labels in scans(mini_kitti, name)]))
    assert {10, 252, 253, 254, 255} <= set(found.tolist())


def test_instances_persist_over_a_sequence(mini_kitti):
    first, second, _ = (dict(zip(labels >> 16, labels & 0xFFFF)) for _, labels in scans(mini_kitti, '00'))
    both = set(first) & set(second) - {0}
    assert len(both) > 10
    assert all(first[one] == second[one] for one in both)


def test_calibration_and_poses_belong_together(mini_kitti):
    folder = mini_kitti / 'sequences' / '00'
    calib = {key: np.array(values.split(), float).reshape(3, 4)
             for key, values in (line.split(':') for line in (folder / 'calib.txt').read_text().splitlines())}
    assert list(calib) == ['P0', 'P1', 'P2', 'P3', 'Tr']
    assert calib['P2'][0, 0] == pytest.approx(718.856)
    tr = np.vstack([calib['Tr'], [0, 0, 0, 1]])
    assert np.allclose(tr[:3, :3] @ tr[:3, :3].T, np.eye(3))
    for row in np.loadtxt(folder / 'poses.txt')[1:]:
        camera = np.vstack([row.reshape(3, 4), [0, 0, 0, 1]])
        lidar = np.linalg.inv(tr) @ camera @ tr
        assert lidar[0, 3] > 4                                # forward is the LiDAR's x, the camera's z
        assert camera[2, 3] == pytest.approx(lidar[0, 3], abs=1.5)
        assert abs(lidar[2, 3]) < 2


def test_the_stamp_says_what_the_data_are(mini_kitti):
    stamp = json.loads((mini_kitti / 'mini.json').read_text())
    assert stamp['simulated'] is True
    assert stamp['seed'] == 0
    assert stamp['files'] == len(files(mini_kitti)) - 1


def test_same_seed_same_bytes_and_a_complete_set_is_kept(mini_kitti, tiny_arguments, tmp_path):
    before, given = files(mini_kitti), dict(tiny_arguments['semantickitti'], workers=2)
    root = shutil.copytree(mini_kitti, tmp_path / 'a')
    written = (root / 'mini.json').stat().st_mtime_ns
    assert write_semantickitti_mini(root, **given) == root
    assert (root / 'mini.json').stat().st_mtime_ns == written
    (root / 'sequences/08/velodyne/000000.bin').unlink()      # no longer complete, so it is written again
    write_semantickitti_mini(root, **given)                   # the same bytes for any number of processes
    assert (root / 'mini.json').stat().st_mtime_ns != written and files(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_validation_sequences_are_08_and_22_and_up_each_with_a_street_of_its_own(tmp_path, monkeypatch):
    jobs, stamps = [], []
    monkeypatch.setattr(mini, 'write_streets', lambda write, streets, *args: jobs.extend(streets))
    monkeypatch.setattr(mini, 'write_stamped', lambda root, stamp, write, *_: stamps.append(stamp) or write(root))
    write_semantickitti_mini(tmp_path)
    write_semantickitti_mini(tmp_path, val_scans=(8,))
    assert [(job[2], job[3]) for job in jobs[:15]] == [([n], 10) for n in (0, 1, 2, 3, 4, 5, 6, 7, 9, 10)] + [
        ([n], 8) for n in (8, 22, 23, 24, 25)]
    assert len({job[1] for job in jobs[:16]}) == 16 and jobs[15][2] == list(range(11, 22))
    assert [stamp['val_scans'] for stamp in stamps] == [[8] * 5, 8]  # sets of sequence 08 alone stay


def test_it_says_that_the_data_are_simulated(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(stamped, 'print_log', lambda text, logger=None: said.append(text))
    monkeypatch.setattr(mini, '_write_all', lambda root, *args: (root / 'x').touch())
    write_semantickitti_mini(tmp_path / 'a', **SMALL)
    assert len(said) == 1
    assert 'SIMULATED' in said[0]


def test_relative_roots_follow_perception_data(tmp_path, monkeypatch):
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path))
    monkeypatch.setattr(mini, '_write_all', lambda root, *args: (root / 'x').touch())
    assert write_semantickitti_mini('data/mini/semantickitti', **SMALL) == tmp_path / 'mini' / 'semantickitti'


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_an_interrupted_writer_leaves_nothing_and_keeps_the_old_set(tmp_path, monkeypatch, error):
    monkeypatch.setattr(mini, '_write_all', lambda root, *args: (root / 'x').touch())
    root = write_semantickitti_mini(tmp_path / 'a', **SMALL)

    def fail(part, *args):
        (part / 'half').write_text('half')
        raise error
    monkeypatch.setattr(mini, '_write_all', fail)
    with pytest.raises(DataError if isinstance(error, OSError) else KeyboardInterrupt):
        write_semantickitti_mini(root, force=True, **SMALL)
    assert sorted(files(tmp_path)) == ['a/mini.json', 'a/x']


def test_a_folder_with_something_else_is_not_touched(tmp_path):
    (tmp_path / 'sequences').mkdir()
    (tmp_path / 'sequences' / 'real.bin').write_text('years of work')
    with pytest.raises(DataError, match='without mini.json'):
        write_semantickitti_mini(tmp_path, force=True, **SMALL)
    assert (tmp_path / 'sequences' / 'real.bin').read_text() == 'years of work'


@pytest.mark.parametrize('bad', [dict(seed=-1), dict(train_scans=()), dict(train_scans=(0,)), dict(val_scans=(101,)),
                                 dict(val_scans=8), dict(val_scans=()), dict(val_scans=(1,) * 11), dict(workers=-1),
                                 dict(train_scans=(1,) * 11), dict(columns=3), dict(interval=0.0),
                                 dict(val_scans=(50,), interval=4.0)])
def test_arguments_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(DataError, match='expected'):
        write_semantickitti_mini(tmp_path / 'a', **dict(SMALL, **bad))
    assert not list(tmp_path.iterdir())


def test_the_sheet_shows_the_labelled_sequences(mini_kitti, tmp_path):
    import cv2
    pytest.importorskip('open3d')
    for name in LABELLED:
        shutil.copytree(mini_kitti / 'sequences' / name, tmp_path / 'data' / 'sequences' / name)
    image = cv2.imread(str(draw_sheet(tmp_path / 'data', tmp_path / 'sheet.png')))
    assert image.shape[0] > 700
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 12
    with pytest.raises(DataError, match='no labelled first scan'):
        draw_sheet(tmp_path / 'nowhere', tmp_path / 'sheet.png')
