"""Waymo's submissions: range images of frames, the protobuf, what is refused."""
import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.lidarseg.datasets.waymo import proto as waymo_proto
from perception.lidarseg.datasets.waymo import submission as submission_waymo
from perception.lidarseg.datasets.waymo.reader import Waymo, read_masks
from perception.lidarseg.datasets.waymo.submission import WaymoSubmission, frame_problems, range_images
from perception.utils.errors import ConfigError, DataError

SHAPE = (3, 8)  # of TOP's range images


def frame_folder(root: Path, split: str, context: str = '12_3_4', timestamp: int = 1000) -> Path:
    return root / split / f'segment-{context}_with_camera_labels' / str(timestamp)


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
        assert image.shape == (*SHAPE, 2) and image.dtype == np.int32 and not image[..., 0].any()
        points = iter(range(start, start + mask.sum()))
        for row, column in np.ndindex(*SHAPE):  # row by row
            expected = next(points) % 22 + 1 if mask[row, column] else 0
            assert image[row, column, 1] == expected
    with pytest.raises(DataError, match=f'{count - 1} predictions for {count} points of x'):
        range_images(np.zeros(count - 1, int), masks, 'x')
    with pytest.raises(DataError, match=r'x: predicted class 22, expected train ids 0\.\.21'):
        range_images(np.full(count, 22), masks, 'x')


def test_simulated_frames_are_submitted_like_real_ones(mini, tmp_path):
    samples = submit(mini, tmp_path / 'out')
    assert frame_problems(tmp_path / 'out', [sample['sample_id'] for sample in samples], mini) == []


def test_without_the_package_checked_frames_are_left(folder, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(submission_waymo, 'print_log', lambda text, *_: lines.append(text))
    monkeypatch.setitem(sys.modules, 'waymo_open_dataset', None)
    submit(folder, tmp_path / 'out', account_name='a@b.c', authors=['A'])
    names = sorted(path.name for path in (tmp_path / 'out').rglob('*.*'))
    assert names == ['9_0_1000.npz', '9_1_1000.npz', 'about.json']
    assert json.loads((tmp_path / 'out/about.json').read_text())['account_name'] == 'a@b.c'
    assert 'unique_method_name is empty' in lines[-2]
    assert 'waymo-open-dataset is not installed' in lines[-1] and 'waymo/proto.py' in lines[-1]
    with pytest.raises(SystemExit):
        waymo_proto.main([str(tmp_path / 'out')])


def test_incomplete_or_wrong_frames_are_refused(folder, tmp_path):
    out = tmp_path / 'out'
    samples = predictions(Waymo(folder, 'test'))
    with pytest.raises(DataError, match=r'out: frame 9_1_1000 is missing \(1 problem'):
        submit(folder, out, samples[:1])
    submit(folder, out, samples)
    assert (out / 'about.json').is_file()
    with pytest.raises(DataError, match='frame 9_1_1000 is missing'):
        submit(folder, out, samples[:1])
    assert not (out / 'about.json').exists()
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


def test_a_folder_of_an_earlier_version_names_no_frames(tmp_path, monkeypatch, capsys):
    (tmp_path / 'about.json').write_text('{}')
    monkeypatch.setattr(waymo_proto, 'available', lambda: True)
    with pytest.raises(SystemExit):
        waymo_proto.main([str(tmp_path)])
    assert 'came without a list of frames' in capsys.readouterr().err


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
            assert list(matrix.shape.dims) == [*SHAPE, 2]
            values = np.array(matrix.data).reshape(*SHAPE, 2)
            np.testing.assert_array_equal(values[..., 1][returns[0]], pred[start:start + returns[0].sum()] + 1)
            assert not values[..., 0].any() and not values[..., 1][~returns[0]].any()
            start += sum(mask.sum() for mask in returns)
    before = (out / 'submission.bin').read_bytes()
    (out / 'submission.bin').unlink()
    (out / 'frames/8_7_1000.npz').write_bytes((out / 'frames/9_0_1000.npz').read_bytes())  # of an earlier run
    waymo_proto.main([str(out)])  # the same from the frames alone, as in an environment of the package's own
    assert (out / 'submission.bin').read_bytes() == before
