"""Waymo's reader: samples, damaged and missing files."""
import io
import pickle
import random
import shutil
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from perception.lidarseg.datasets.waymo import reader as waymo
from perception.lidarseg.datasets.waymo.reader import CLASSES, PALETTE, Waymo, count_classes, read_array, read_masks
from perception.lidarseg.models.points import label_points
from perception.lidarseg.predictor import LidarPredictor
from perception.lidarseg.transforms import RandomFlip, RandomThin
from perception.utils.errors import ConfigError, DataError


def frame_folder(root: Path, split: str, context: str = '12_3_4', timestamp: int = 1000) -> Path:
    return root / split / f'segment-{context}_with_camera_labels' / str(timestamp)


def load_masks(folder: Path) -> np.ndarray:
    return np.load(folder / 'mask.npy', allow_pickle=True)


# --- samples ---------------------------------------------------------------------------------------------------------
def test_a_sample(folder):
    dataset = Waymo(folder, 'train')
    assert len(dataset) == 2 and dataset.frames[0] == frame_folder(folder, 'training')
    points, sample = dataset[0]['inputs']['points'], dataset[0]['data_samples']
    frame = frame_folder(folder, 'training')
    np.testing.assert_array_equal(points[:, :3], np.load(frame / 'coord.npy'))
    np.testing.assert_array_equal(points[:, 3:], np.load(frame / 'strength.npy'))
    segment = np.load(frame / 'segment.npy')
    assert sample.labels.tolist() == [255 if s < 0 else s for s in segment.tolist()]
    assert (sample.sample_id, sample.points_path) == ('12_3_4_1000', str(frame))
    assert points.dtype == torch.float32 and sample.labels.dtype == torch.int64


def test_first_returns_are_counted_where_they_are_asked_for(folder):
    masks = load_masks(frame_folder(folder, 'validation'))
    sample = Waymo(folder, 'val')[0]['data_samples']
    assert sample.first_len == sum(mask.sum() for mask in masks[0])
    test = Waymo(folder, 'test')[0]['data_samples']
    assert 'labels' not in test and test.first_len > 0
    assert 'first_len' not in Waymo(folder, 'train')[0]['data_samples'].metainfo


def test_poses_are_of_frames_of_one_segment_that_have_them(folder):
    frames = Waymo(folder, 'train').frames
    poses = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    poses[1, :3, 3] = -7000.25, 12000.5, 30
    for frame, pose in zip(frames, poses):
        np.save(frame / 'pose.npy', pose)
    found = Waymo.scan_poses([frames[0], frames[1] / 'coord.npy'], {})
    assert found.dtype == np.float64 and (found == poses).all()
    assert Waymo.scan_poses([*frames, frame_folder(folder, 'validation', '5_6_7')], {}) is None
    assert LidarPredictor(None, dict(type=Waymo)).meta['ahead'] == 1.43  # the TOP LiDAR, around which the car is drawn
    for pose in (np.eye(3), 2 * np.eye(4), np.full((4, 4), np.nan)):
        np.save(frames[1] / 'pose.npy', pose)
        with pytest.raises(DataError, match='pose.npy'):
            Waymo.scan_poses(frames, {})
    (frames[1] / 'pose.npy').unlink()
    assert Waymo.scan_poses(frames, {}) is None


def test_labels_of_frames_are_drawn_by_their_folders(folder):
    predictor, data = LidarPredictor(None, dict(type=Waymo)), Waymo(folder, 'train')
    for frame, item in zip(data.frames, data):
        for labels in (frame.parent, frame, frame / 'segment.npy'):
            assert predictor.truth(labels, frame.name, frame).tolist() == item['data_samples'].labels.tolist()
    other = folder / 'other.npy'  # beside a segment.npy that nobody asked for
    np.save(folder / 'segment.npy', np.zeros_like(np.load(data.frames[0] / 'segment.npy')))
    np.save(other, np.full_like(np.load(data.frames[0] / 'segment.npy'), 7))
    assert set(predictor.truth(other, '1000', data.frames[0]).tolist()) == {7}
    with pytest.raises(DataError, match=r'segment\.npy'):
        predictor.truth(frame_folder(folder, 'testing', '9_0').parent, '1000', data.frames[0])


def test_classes_are_the_official_ones_in_official_order():
    assert len(CLASSES) == len(set(CLASSES)) == len(PALETTE) == len(set(PALETTE)) == 22
    official = dict(car=1, truck=2, bus=3, pedestrian=7, pole=10, bicycle=12, building=14, curb=17, sidewalk=22)
    assert all(CLASSES.index(name) == number - 1 for name, number in official.items())
    assert sum(waymo.OFFICIAL_FRAMES.values()) == 32_649


def test_augmentation_is_that_of_the_room(folder):
    def item(seed=0):
        return Waymo(folder, 'train', [dict(type=RandomThin, keep=.5), dict(type=RandomFlip)], seed)[3, 1]
    first = item()
    assert torch.equal(first['inputs']['points'], item()['inputs']['points'])
    assert not torch.equal(first['inputs']['points'], item(1)['inputs']['points'])
    assert len(first['inputs']['points']) == len(first['data_samples'].labels)


def test_the_official_list_names_the_test_frames(folder):
    names = folder / waymo.FRAME_LIST
    names.write_text('9_1,1000\n')
    assert [waymo.frame_id(path) for path in Waymo(folder, 'test').frames] == ['9_1_1000']
    names.write_text('9_1,1000\n9_2,1000\n')
    with pytest.raises(DataError, match=r'testing: frame 9_2_1000 is missing \(1 of 2\), expected every frame'):
        Waymo(folder, 'test')
    for text, came in (('', 'nothing in it'), ('9_1 1000', "a line '9_1'"), ('9_1,10,0', "a line '9_1,10,0'")):
        names.write_text(text)
        with pytest.raises(DataError, match=f'{came}, expected lines CONTEXT,TIMESTAMP'):
            Waymo(folder, 'test')


def test_classes_are_counted(folder):
    total = count_classes(Waymo(folder, 'train'))
    segments = np.concatenate([np.load(path) for path in folder.glob('training/*/*/segment.npy')])
    assert total.tolist() == [(segments == k).sum() for k in range(22)]


def test_predict_reads_a_frame(folder):
    class Zeros(torch.nn.Module):
        def test_step(self, data):
            self.points = data['inputs']['points'][0]
            return label_points(torch.zeros(len(self.points), 22), [len(self.points)], data['data_samples'])

    frame, model = frame_folder(folder, 'validation'), Zeros()
    predict = LidarPredictor(model, dict(type=Waymo))
    for path in (frame, frame / 'coord.npy'):
        assert len(predict(path).pred_labels) == len(np.load(frame / 'coord.npy'))
        assert torch.equal(model.points, Waymo(folder, 'val')[0]['inputs']['points'])
        assert list(predict.sources(path)) == [('1000', frame)]
    assert [name for name, _ in predict.sources(frame_folder(folder, 'training').parent)] == ['1000', '2000']
    with pytest.raises(DataError, match=r'waymo: no coord\.npy'):
        next(predict.sources(folder))


# --- bad input -------------------------------------------------------------------------------------------------------
def expect(folder: Path, text: str, split: str = 'val') -> None:
    with pytest.raises(DataError, match=text) as caught:
        Waymo(folder, split)[0]
    assert '\n' not in str(caught.value)


def test_missing_folders_name_download_and_mini(folder, tmp_path):
    with pytest.raises(DataError, match=r'nowhere/training: no such folder, expected .*waymo.com/open.*--mini'):
        Waymo(tmp_path / 'nowhere', 'train')
    shutil.rmtree(frame_folder(folder, 'validation'))
    expect(folder, 'validation: no segment-CONTEXT_with_camera_labels/TIMESTAMP/coord.npy in it')
    with pytest.raises(ConfigError, match="split='valid', expected one of train, val, test. Did you mean val"):
        Waymo(folder, 'valid')
    frame = frame_folder(folder, 'training')
    frame.rename(frame.with_name('first'))
    expect(folder, 'first: a frame of this name, expected segment-CONTEXT', 'train')


@pytest.mark.parametrize('name', ['strength', 'segment', 'mask'])
def test_missing_arrays_are_named(folder, name):
    (frame_folder(folder, 'validation') / f'{name}.npy').unlink()
    expect(folder, rf'1000/{name}\.npy: no such file, expected it beside coord\.npy')


CASES = [  # array, what happens to it, message
    ('coord', lambda a: a[:, :2], r'coord\.npy: an array of shape \(\d+, 2\) and type float32, expected \(N, 3\)'),
    ('coord', lambda a: a.astype(int), r'coord\.npy: .*type int64, expected \(N, 3\) floats'),
    ('coord', lambda a: a[:-1], r'strength\.npy: an array of shape'),
    ('coord', lambda a: np.where(np.arange(a.size).reshape(a.shape) == 7, np.nan, a), r'in row 2 of coord\.npy'),
    ('coord', lambda a: a.astype(float) * 1e300, 'expected finite numbers'),
    ('strength', lambda a: a * 100, r'strength\.npy: .* is the largest value, expected tanh\(intensity\)'),
    ('strength', lambda a: a[:-1], r'strength\.npy: an array of shape'),
    ('strength', lambda a: np.full_like(a, np.inf), r'in row 0 of coord\.npy and strength\.npy \(\d+ such rows\)'),
    ('segment', lambda a: a[:-1], r'segment\.npy: an array of shape'),
    ('segment', lambda a: a.astype(float), r'segment\.npy: .*expected .* integers'),
    ('segment', lambda a: a + 1, r'segment\.npy: class 22 at \d+ points, expected -1\.\.21'),
    ('segment', lambda a: a - 5, r'segment\.npy: class -\d at'),
    ('mask', lambda a: a[:1], r'mask\.npy: an array of shape \(1, 5\) and type object, expected \(2, LiDARs\)'),
    ('mask', lambda a: a[0, 0], r'mask\.npy: an array of shape \(3, 8\) and type bool'),
    ('mask', lambda a: a[:, :2], r'mask\.npy: .* pixels for \d+ points, expected equal numbers'),
]


@pytest.mark.parametrize('name, change, text', CASES)
def test_arrays_of_another_form_are_refused(folder, name, change, text):
    path = frame_folder(folder, 'validation') / f'{name}.npy'
    np.save(path, change(np.load(path, allow_pickle=True)), allow_pickle=True)
    expect(folder, text)


def test_masks_of_equal_images_are_read_too(folder):
    frame = frame_folder(folder, 'validation')
    top = np.random.default_rng(0).random((2, 1, 4, 6)) < .5
    for array in (top, np.array(top.tolist(), dtype=object)):  # numpy makes one array of them
        np.save(frame / 'mask.npy', array, allow_pickle=True)
        np.testing.assert_array_equal(read_masks(frame), top)


@pytest.mark.parametrize('num_points', [0, 1])
def test_tiny_frames_are_tested_but_not_trained_on(folder, num_points):
    for split in ('training', 'validation'):
        frame = frame_folder(folder, split)
        for name in ('coord', 'strength', 'segment'):
            np.save(frame / f'{name}.npy', np.load(frame / f'{name}.npy')[:num_points])
        masks = np.zeros((2, 1, 2, 3), bool)
        masks[0, 0, 0, :num_points] = True
        np.save(frame / 'mask.npy', masks)
    assert Waymo(folder, 'val')[0]['inputs']['points'].shape == (num_points, 4)
    expect(folder, f'{num_points} points in a frame for training, expected at least 2', 'train')


class Evil:
    def __reduce__(self):
        return Path.touch, (Path('/tmp/perception_evil'),)


def test_nothing_in_an_array_is_executed(folder):
    frame = frame_folder(folder, 'validation')
    masks = np.empty((2, 1), object)
    masks[:] = [[Evil()], [Evil()]]
    for name in ('mask', 'coord'):
        good = (frame / f'{name}.npy').read_bytes()
        np.save(frame / f'{name}.npy', masks, allow_pickle=True)
        expect(folder, rf'{name}\.npy: it cannot be read')
        (frame / f'{name}.npy').write_bytes(good)
    (frame / 'mask.npy').write_bytes(np.lib.format.magic(1, 0) + b'\x00')
    expect(folder, r'mask\.npy: it cannot be read')
    with open(frame / 'mask.npy', 'wb') as file:
        np.lib.format.write_array_header_1_0(file, dict(shape=(2,), fortran_order=False, descr='|O'))
        pickle.dump(dict(a=1), file)
    expect(folder, 'a pickle with EMPTY_DICT')
    assert not Path('/tmp/perception_evil').exists()


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_masks_are_read_without_loading_a_pickle(folder, protocol, monkeypatch):
    frame = frame_folder(folder, 'validation')
    masks = load_masks(frame)
    with open(frame / 'mask.npy', 'wb') as file:
        np.lib.format.write_array_header_1_0(file, dict(shape=masks.shape, fortran_order=False, descr='|O'))
        pickle.dump(masks, file, protocol)
    monkeypatch.setattr(pickle, 'load', None)
    if protocol in (2, 5):  # with calls for bytes and buffers; NumPy writes neither
        expect(folder, r'mask\.npy: it cannot be read')
    else:
        assert all((a == b).all() for ours, theirs in zip(read_masks(frame), masks) for a, b in zip(ours, theirs))


@pytest.mark.parametrize(('old', 'new'), [
    (b'b1', b'O8'), (b'b1', b'f8'), (b'b1', b'V9'), (b'O8', b'b1'),
    (b'K\x03K\x08\x86', b'K\xffK\xff\x86'), (b'ndarray', b'array_x'), (b'_reconstruct', b'_reconstrucT')])
def test_forged_masks_get_one_sentence(folder, old, new):
    path = frame_folder(folder, 'validation') / 'mask.npy'
    data = path.read_bytes()
    start = data.index(b'\n') + 1
    assert old in data[start:]
    path.write_bytes(data[:start] + data[start:].replace(old, new))
    expect(folder, r'mask\.npy: it cannot be read')


def header(shape, descr='|O'):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, dict(shape=shape, fortran_order=False, descr=descr))
    return file.getvalue()


def array_text(shape, kind, content):
    """What NumPy's pickle of an array says, of parts of one's own."""
    return (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01' + b''.join(
        b'J' + struct.pack('<i', n) for n in shape) + (b'\x85' if len(shape) == 1 else b'\x86')
        + b'cnumpy\ndtype\nX\x02\x00\x00\x00' + kind + b'K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xff'
        b'J\xff\xff\xff\xffK\x00tb\x89' + content + b'tb')


def doubled(depth):
    """An array of twice an array of twice ... a bool: 2 ** depth of them, if each is made."""
    text = array_text((2,), b'O8', b'](\x88\x88e') + b'q\x00'
    for k in range(depth):
        text += array_text((2,), b'O8', b'](h%ch%ce' % (k, k)) + b'q%c' % (k + 1)
    return text


MASK = array_text((3, 4), b'b1', b'C\x0c' + bytes(12))


@pytest.mark.parametrize('data', [
    header((2, 1)) + b"(S'touch /tmp/perception_evil'\nios\nsystem\n.",
    header((2, 1)) + b"cos\nsystem\n(X\x1a\x00\x00\x00touch /tmp/perception_eviltR.",
    header((2, 1)) + b'\x80\x02(cos\nsystem\nNo.', header((2, 1)) + b'\x80\x02cnumpy\nndarray\nK\x05\x85\x81.',
    header((2, 1)) + b'\x80\x02\x82\x01.', header((2, 1)) + b'Pabc\n.', header((2, 1)) + b'\x80\x05\x97.',
    header((2, 1)) + b'\x80\x04\x8e' + struct.pack('<Q', 1 << 62) + b'.', header((2, 1)) + b'(' * 100_000 + b'.',
    header((2,)) + doubled(60) + b'.',
    header((2, 1)) + array_text((2 ** 31 - 1, 2 ** 31 - 1), b'b1', b'C\x01\x01') + b'.',
    header((10 ** 15,)) + array_text((2, 1), b'O8', b'](' + MASK + MASK + b'e') + b'.',
    header((2, 1000)) + array_text((2, 1000), b'O8', b'](' + MASK + b'q\x00' + b'h\x00' * 1999 + b'e') + b'.',
    header((2, 1), [('a', '<f8'), ('b', '|O')]) + bytes(32), header((10 ** 9, 10 ** 9), '|b1') + bytes(10),
    header((2, 10 ** 9), '|V0'), header((2, 1, 1, 1), '|b1') + b'\x07\x01', header((2, 1), '<U4') + bytes(32),
    b'\x93NUMPY\x01\x00' + struct.pack('<H', 90)
    + b"{'descr': __import__('os').system('touch /tmp/perception_evil')}".ljust(90),
    b'\x93NUMPY\x02\x00' + struct.pack('<I', 9000) + b'(' * 9000], ids=range(20))
def test_forged_masks_execute_nothing_and_take_no_memory(folder, data):
    (frame_folder(folder, 'validation') / 'mask.npy').write_bytes(data)
    tracemalloc.start()
    with pytest.raises(DataError, match=r'mask\.npy: ') as told:
        read_masks(frame_folder(folder, 'validation'))
    assert tracemalloc.get_traced_memory()[1] < 1 << 27 and '\n' not in str(told.value)
    tracemalloc.stop()
    assert not Path('/tmp/perception_evil').exists()


def test_any_damage_to_arrays_gives_a_frame_or_a_sentence(folder):
    rng, refused, rounds, start = random.Random(0), 0, 0, time.perf_counter()
    frame = frame_folder(folder, 'validation')
    files = sorted(frame.glob('*.npy'))
    assert len(files) == 5
    count = len(np.load(frame / 'coord.npy'))
    while time.perf_counter() < start + 2 or rounds < 200:
        rounds += 1
        path = rng.choice(files)
        good = path.read_bytes()
        i, j = sorted(rng.randrange(len(good) + 1) for _ in range(2))
        kind = rng.randrange(5)
        bad = bytearray(good)
        if kind == 0:
            bad = good[:i]
        elif kind == 1:
            bad = good[:i] + good[j:]
        elif kind == 2:
            bad = rng.choice(files).read_bytes()
        else:  # single bytes, half of the time in the header
            for _ in range(rng.randrange(1, 5)):
                bad[rng.randrange(min(len(bad), 128 if kind == 3 else len(bad)))] = rng.randrange(256)
        path.write_bytes(bytes(bad))
        try:
            item = Waymo(folder, 'val')[0]
            points, labels = item['inputs']['points'], item['data_samples'].labels
            assert points.shape == (len(labels), 4) and bool(torch.isfinite(points).all())
            assert bool(((labels >= 0) & (labels < 22) | (labels == 255)).all())
            assert 0 <= item['data_samples'].first_len <= len(points) == count
            pseudo_collate([item])
        except DataError as error:
            assert str(frame) in str(error)
            refused += 1
        path.write_bytes(good)
    assert refused > rounds // 4
    assert read_array(frame / 'pose.npy').shape == (4, 4)
