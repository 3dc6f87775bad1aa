"""Waymo: reader, score, submission, simulated data, bad input."""
import json
import pickle
import random
import shutil
import sys
import time
import types
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from perception.lidarseg.datasets.base import official_confusion
from perception.lidarseg.datasets.waymo import mini as module
from perception.lidarseg.datasets.waymo import proto as waymo_proto
from perception.lidarseg.datasets.waymo import reader as waymo
from perception.lidarseg.datasets.waymo import submission as submission_waymo
from perception.lidarseg.datasets.waymo.metric import WaymoMetric, scores
from perception.lidarseg.datasets.waymo.mini import TYPES, draw_sheet, write_waymo_mini
from perception.lidarseg.datasets.waymo.reader import CLASSES, PALETTE, Waymo, count_classes, read_array, read_masks
from perception.lidarseg.datasets.waymo.submission import WaymoSubmission, frame_problems, range_images
from perception.lidarseg.models.points import label_points
from perception.lidarseg.predictor import LidarPredictor
from perception.lidarseg.transforms import RandomFlip, RandomThin
from perception.utils.errors import ConfigError, DataError

SHAPES = ((3, 8), (4, 5), (4, 5), (4, 5), (4, 5))  # of the range images of five LiDARs


def write_frame(folder: Path, seed: int = 0, labelled: bool = True) -> None:
    """A small frame, with the labels of TOP alone, as preprocess_waymo.py writes it."""
    rng = np.random.default_rng(seed)
    masks = [[rng.random(shape) < share for shape in SHAPES] for share in (.8, .2)]
    counts = [[int(mask.sum()) for mask in returns] for returns in masks]
    total = sum(map(sum, counts))
    folder.mkdir(parents=True)
    np.save(folder / 'coord.npy', rng.uniform(-30, 30, (total, 3)).astype(np.float32))
    np.save(folder / 'strength.npy', np.tanh(rng.exponential(.3, (total, 1))).astype(np.float32))
    np.save(folder / 'pose.npy', np.eye(4, dtype=np.float32))
    np.save(folder / 'mask.npy', np.array(masks, dtype=object), allow_pickle=True)
    if labelled:
        types_ = [rng.integers(0, 23, n) if k == 0 else np.zeros(n, int) for row in counts for k, n in enumerate(row)]
        np.save(folder / 'segment.npy', np.concatenate(types_).astype(np.int32) - 1)


def frame_folder(root: Path, split: str, context: str = '12_3_4', timestamp: int = 1000) -> Path:
    return root / split / f'segment-{context}_with_camera_labels' / str(timestamp)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two frames for training, one for validation, two for test."""
    root = tmp_path / 'waymo'
    write_frame(frame_folder(root, 'training', timestamp=2000), 1)
    write_frame(frame_folder(root, 'training', timestamp=1000), 2)
    (frame_folder(root, 'training') / 'mask.npy').unlink()  # the public script writes none there
    write_frame(frame_folder(root, 'validation'), 3)
    for i in range(2):
        write_frame(frame_folder(root, 'testing', f'9_{i}'), 4 + i, labelled=False)
    return root


@pytest.fixture(scope='module')
def mini(tmp_path_factory) -> Path:
    """One frame in training and validation, two for test."""
    return write_waymo_mini(tmp_path_factory.mktemp('mini') / 'waymo', train_segments=1, train_frames=1,
                            val_segments=1, val_frames=1, test_frames=2, columns=330)


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


# --- score -----------------------------------------------------------------------------------------------------------
def slow_scores(pred: list, true: list) -> tuple[list[float], float]:
    """The official loops, in float32: a prediction outside the classes on a valid point is a miss."""
    ious = []
    for c in range(22):
        hit = sum(p == t == c for p, t in zip(pred, true))
        union = sum(t != 255 and (p == c or t == c) for p, t in zip(pred, true))
        ious.append(np.float32(1) if union == 0 else np.float32(hit) / np.float32(union))
    mean = np.float32(0)
    for iou in ious:
        mean = np.float32(mean + iou)
    return [float(iou) for iou in ious], float(mean / np.float32(22))


def test_the_score_is_the_official_one():
    rng = np.random.default_rng(0)
    ids = np.array([*range(20), 255])  # two classes occur nowhere: they count as 1
    pred, true = rng.choice(ids, (2, 900))
    metric = WaymoMetric()
    for part in (slice(0, 400), slice(400, 900)):
        metric.process(None, [dict(pred_labels=torch.from_numpy(pred[part]), labels=torch.from_numpy(true[part]),
                                   first_len=300)])
    result = metric.evaluate(2)
    iou, miou = slow_scores(pred.tolist(), true.tolist())
    assert [result[f'iou_{name}'] for name in CLASSES] == iou and result['miou'] == miou
    assert iou[20:] == [1.0, 1.0]
    first = np.r_[0:300, 400:700]
    iou, miou = slow_scores(pred[first].tolist(), true[first].tolist())
    assert [result[f'first_iou_{name}'] for name in CLASSES] == iou and result['first_miou'] == miou
    assert next(iter(result)) == 'miou'  # the best weights are those of both returns
    assert result['accuracy'] == pytest.approx((pred == true)[true != 255].mean())


def test_hand_made_cases_of_the_official_test():
    def pair(pred, true):  # car = 0, pedestrian = 6, others absent
        result = scores(official_confusion(np.array(pred), np.array(true), 22))
        return result['iou_car'], result['iou_pedestrian'], result['miou_present']
    assert pair([0, 0, 0, 6], [0, 0, 0, 6]) == (1, 1, 1)
    assert pair([0, 6, 0, 6], [0, 0, 0, 6]) == pytest.approx((2 / 3, .5, .5833), abs=1e-4)
    assert pair([0, 0, 0, 6], [0, 0, 0, 255]) == (1, 1, 1)  # the truth is undefined: nothing counts
    assert pair([0, 0, 0, 255], [0, 0, 0, 6])[:2] == (1, 0)
    assert scores(np.zeros((23, 23), int))['miou'] == 1.0 and scores(np.zeros((23, 23), int))['miou_present'] == 0.0


def test_frames_without_counts_of_returns_are_scored_together():
    metric = WaymoMetric()
    metric.process(None, [dict(pred_labels=torch.tensor([1]), labels=torch.tensor([1]))])
    assert not any(key.startswith('first_') for key in metric.evaluate(1))
    with pytest.raises(DataError, match='WaymoMetric: a scan has no labels, expected'):
        metric.process(None, [dict(pred_labels=torch.tensor([1]))])
    with pytest.raises(DataError, match='2 predictions for 1 labels of x'):
        metric.process(None, [dict(sample_id='x', pred_labels=torch.tensor([1, 2]), labels=torch.tensor([1]))])


# --- submission ------------------------------------------------------------------------------------------------------
def predictions(dataset: Waymo) -> list[dict]:
    rng = np.random.default_rng(0)
    items = [dataset[i] for i in range(len(dataset))]
    return [dict(item['data_samples'].to_dict(), pred_labels=torch.from_numpy(
        rng.integers(0, 22, len(item['inputs']['points'])))) for item in items]


def submit(folder: Path, out: Path, samples: list[dict] | None = None, **arguments) -> list[dict]:
    dataset = Waymo(folder, 'test')
    writer = WaymoSubmission(out, **arguments)
    writer.dataset_meta = dataset.metainfo
    samples = predictions(dataset) if samples is None else samples
    writer.process(None, samples)
    assert writer.evaluate(len(dataset)) == {}
    return samples


def test_range_images_hold_the_top_lidar_of_both_returns(folder):
    frame = frame_folder(folder, 'testing', '9_0')
    masks = read_masks(frame)
    count = sum(mask.sum() for returns in masks for mask in returns)
    images = range_images(np.arange(count) % 22, masks, 'x')
    offset = sum(mask.sum() for mask in masks[0])
    for image, mask, start in zip(images, (masks[0][0], masks[1][0]), (0, offset)):
        assert image.shape == (*SHAPES[0], 2) and image.dtype == np.int32 and not image[..., 0].any()
        points = iter(range(start, start + mask.sum()))
        for row, column in np.ndindex(*SHAPES[0]):  # row by row
            expected = next(points) % 22 + 1 if mask[row, column] else 0
            assert image[row, column, 1] == expected
    with pytest.raises(DataError, match=f'{count - 1} predictions for {count} points of x'):
        range_images(np.zeros(count - 1, int), masks, 'x')
    with pytest.raises(DataError, match=r'x: predicted class 22, expected train ids 0\.\.21'):
        range_images(np.full(count, 22), masks, 'x')


def test_without_the_package_checked_frames_are_left(folder, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(submission_waymo, 'print_log', lambda text, *_: lines.append(text))
    monkeypatch.setattr(waymo_proto, 'PACKAGE', 'a_package_that_is_not_there')
    submit(folder, tmp_path / 'out', account_name='a@b.c', authors=['A'])
    names = sorted(path.name for path in (tmp_path / 'out').rglob('*.*'))
    assert names == ['9_0_1000.npz', '9_1_1000.npz', 'about.json']
    assert json.loads((tmp_path / 'out/about.json').read_text())['account_name'] == 'a@b.c'
    assert 'waymo-open-dataset is not installed' in lines[-1] and 'waymo/proto.py' in lines[-1]
    with pytest.raises(SystemExit):
        waymo_proto.main([str(tmp_path / 'out')])


def test_incomplete_or_wrong_frames_are_refused(folder, tmp_path):
    out = tmp_path / 'out'
    samples = predictions(Waymo(folder, 'test'))
    with pytest.raises(DataError, match=r'out: frame 9_1_1000 is missing \(1 problem'):
        submit(folder, out, samples[:1])
    submit(folder, out, samples)
    names = [sample['sample_id'] for sample in samples]
    assert frame_problems(out, names, folder) == []
    assert frame_problems(out, [*names, 'x_1'], folder) == ['frame x_1 is not in the test split']
    first, second = waymo_proto.read_frame(out / 'frames/9_0_1000.npz')
    for image, text in ((np.where(first > 0, 23, first), 'no type'), (first[:-1], 'other pixels'),
                        (np.zeros_like(first), 'other pixels')):
        np.savez(out / 'frames/9_0_1000.npz', ri_return1=image, ri_return2=second)
        assert len(problems := frame_problems(out, names, folder)) == 1 and text in problems[0]
    with pytest.raises(DataError, match='has no pred_labels'):
        WaymoSubmission(out).process(None, [dict(sample_id='x')])
    with pytest.raises(ConfigError, match="split='train'"):
        WaymoSubmission(out, split='train')
    with pytest.raises(ConfigError, match='no data_root'):
        WaymoSubmission(out).compute_metrics(['x'])


def official_messages() -> dict[str, types.ModuleType]:
    """Modules as the package has them, with its messages' field numbers (dataset, segmentation_*.proto)."""
    descriptor_pb2 = pytest.importorskip('google.protobuf.descriptor_pb2')
    from google.protobuf import descriptor_pool, message_factory
    kinds = dict(int32=5, int64=3, string=9, bytes=12)
    file = descriptor_pb2.FileDescriptorProto(name='waymo_test.proto', package='w', syntax='proto2')

    def add(name, /, **fields):
        message = file.message_type.add(name=name)
        for field, (number, kind, *options) in fields.items():
            entry = message.field.add(name=field, number=number, label=3 if 'repeated' in options else 1)
            if kind in kinds:
                entry.type = kinds[kind]
                entry.options.packed = 'packed' in options
            else:
                entry.type, entry.type_name = (14 if kind.startswith('E') else 11), f'.w.{kind}'
    for name, values in (('ELaser', ('UNKNOWN', 'TOP')), ('ESensor', ('INVALID', 'LIDAR_ALL'))):
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    add('MatrixShape', dims=(1, 'int32', 'repeated'))
    add('MatrixInt32', data=(1, 'int32', 'repeated', 'packed'), shape=(2, 'MatrixShape'))
    add('RangeImage', segmentation_label_compressed=(6, 'bytes'))
    add('Laser', name=(1, 'ELaser'), ri_return1=(2, 'RangeImage'), ri_return2=(3, 'RangeImage'))
    add('SegmentationFrame', segmentation_labels=(1, 'Laser', 'repeated'), context_name=(2, 'string'),
        frame_timestamp_micros=(3, 'int64'))
    add('SegmentationFrameList', frames=(1, 'SegmentationFrame', 'repeated'))
    add('SemanticSegmentationSubmission', account_name=(1, 'string'), unique_method_name=(2, 'string'),
        authors=(3, 'string', 'repeated'), affiliation=(4, 'string'), description=(5, 'string'),
        method_link=(6, 'string'), sensor_type=(7, 'ESensor'), number_past_frames_exclude_current=(8, 'int32'),
        number_future_frames_exclude_current=(9, 'int32'), inference_results=(10, 'SegmentationFrameList'))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f'w.{name}'))
            for name in ('MatrixInt32', 'Laser', 'SegmentationFrame', 'SemanticSegmentationSubmission')}
    made['SemanticSegmentationSubmission'].LIDAR_ALL = 1
    modules = {'dataset_pb2': types.SimpleNamespace(LaserName=types.SimpleNamespace(TOP=1), **made),
               'protos.segmentation_metrics_pb2': types.SimpleNamespace(**made),
               'protos.segmentation_submission_pb2': types.SimpleNamespace(**made)}
    packages = {'waymo_open_dataset': types.ModuleType('waymo_open_dataset'),
                'waymo_open_dataset.protos': types.ModuleType('waymo_open_dataset.protos')}
    return {**packages, **{f'waymo_open_dataset.{name}': module for name, module in modules.items()}}


def test_with_the_package_the_protobuf_is_written(folder, tmp_path, monkeypatch):
    modules = official_messages()
    for name, found in modules.items():
        monkeypatch.setitem(sys.modules, name, found)
    lines = []
    monkeypatch.setattr(submission_waymo, 'print_log', lambda text, *_: lines.append(text))
    out = tmp_path / 'out'
    samples = submit(folder, out, unique_method_name='pvd', authors=['A', 'B'])
    assert 'account_name is empty' in lines[-1]
    messages = modules['waymo_open_dataset.dataset_pb2']
    found = messages.SemanticSegmentationSubmission.FromString((out / 'submission.bin').read_bytes())
    assert (found.unique_method_name, list(found.authors), found.sensor_type) == ('pvd', ['A', 'B'], 1)
    assert found.HasField('number_past_frames_exclude_current') and found.number_past_frames_exclude_current == 0
    assert [(frame.context_name, frame.frame_timestamp_micros) for frame in found.inference_results.frames] == [
        ('9_0', 1000), ('9_1', 1000)]
    for frame, sample in zip(found.inference_results.frames, samples):
        laser = frame.segmentation_labels[0]
        masks, pred, start = read_masks(Path(sample['points_path'])), sample['pred_labels'].numpy(), 0
        assert len(frame.segmentation_labels) == 1 and laser.name == 1
        for returns, image in zip(masks, (laser.ri_return1, laser.ri_return2)):
            matrix = messages.MatrixInt32.FromString(zlib.decompress(image.segmentation_label_compressed))
            assert list(matrix.shape.dims) == [*SHAPES[0], 2]
            values = np.array(matrix.data).reshape(*SHAPES[0], 2)
            np.testing.assert_array_equal(values[..., 1][returns[0]], pred[start:start + returns[0].sum()] + 1)
            assert not values[..., 0].any() and not values[..., 1][~returns[0]].any()
            start += sum(mask.sum() for mask in returns)
    before = (out / 'submission.bin').read_bytes()
    (out / 'submission.bin').unlink()
    waymo_proto.main([str(out)])  # the same from the frames alone, as in an environment of the package's own
    assert (out / 'submission.bin').read_bytes() == before


# --- simulated data --------------------------------------------------------------------------------------------------
def test_simulated_data_are_read_like_real_ones(mini, tmp_path):
    val = Waymo(mini, 'val')
    item = val[0]
    points, sample = item['inputs']['points'].numpy(), item['data_samples']
    masks = read_masks(val.frames[0], len(points))
    assert [[mask.shape for mask in returns] for returns in masks] == [[(64, 330), *[(32, 120)] * 4]] * 2
    counts = np.array([[mask.sum() for mask in returns] for returns in masks])
    assert (counts[0] > 100).all() and .02 < counts[1, 0] / counts[0, 0] < .3 and sample.first_len == counts[0].sum()
    assert not (masks[1][0] & ~masks[0][0]).any()
    labels = sample.labels.numpy()
    top = np.zeros(len(points), bool)
    for start, count in ((0, counts[0, 0]), (counts[0].sum(), counts[1, 0])):
        top[start:start + count] = True
    assert (labels[~top] == 255).all() and (labels[top] != 255).mean() > .8
    road = points[labels == CLASSES.index('road')]
    assert np.abs(np.median(road[:, 2])) < .15  # z = 0 on the ground
    assert 0 <= points[:, 3].min() <= points[:, 3].max() < 1
    # pixels are directions: rows by elevation, columns clockwise from behind
    row, column = np.nonzero(masks[0][0])
    local = points[:counts[0, 0], :3] - [1.43, 0, 2.18]
    far = np.linalg.norm(local, axis=1) > 10
    azimuth = np.arctan2(local[:, 1], local[:, 0])
    expected = np.pi - 2 * np.pi * column / 330
    assert np.median(np.abs(np.angle(np.exp(1j * (azimuth - expected))))[far]) < .01
    elevation = np.arctan2(local[:, 2], np.linalg.norm(local[:, :2], axis=1))
    assert np.corrcoef(elevation[far], row[far])[0, 1] < -.95
    names = [line.replace(',', '_') for line in (mini / waymo.FRAME_LIST).read_text().split()]
    assert [waymo.frame_id(path) for path in Waymo(mini, 'test').frames] == sorted(names) and len(names) == 2
    assert json.loads((mini / 'mini.json').read_text())['simulated'] is True
    submit(mini, tmp_path / 'out')


def test_nearly_all_classes_occur_in_simulated_data(mini):
    total = count_classes(Waymo(mini, 'train')) + count_classes(Waymo(mini, 'val'))
    missing = {CLASSES[k] for k in np.flatnonzero(total == 0)}
    assert missing <= {'lane-marker', 'other-ground', 'construction-cone', 'traffic-light', 'bus', 'truck'}
    assert TYPES.max() == 22 and (TYPES == 0).sum() < 15


def test_same_seed_same_bytes(mini, tmp_path):
    module._write_all(tmp_path, 0, dict(train=(1, 1)), replace(module.TOP, columns=330))
    again = {path.relative_to(tmp_path): path.read_bytes() for path in sorted(tmp_path.rglob('*.npy'))}
    assert len(again) == 5
    assert again == {path.relative_to(mini): path.read_bytes() for path in sorted(mini.glob('training/*/*/*.npy'))}


@pytest.mark.parametrize('bad', [dict(seed=-1), dict(columns=3), dict(val_frames=0), dict(train_segments=21)])
def test_arguments_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(DataError, match='write_waymo_mini: .*expected'):
        write_waymo_mini(tmp_path / 'a', **bad)
    assert not list(tmp_path.iterdir())


def test_the_sheet_shows_the_labelled_segments(mini, tmp_path):
    import cv2
    pytest.importorskip('open3d')
    assert cv2.imread(str(draw_sheet(mini, tmp_path / 'sheet.png'))).shape[0] > 700


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
    with pytest.raises(ConfigError, match="split: 'valid' came, expected one of train, val, test. Did you mean val"):
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
    expect(folder, 'dict instead of an array')
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
