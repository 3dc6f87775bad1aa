"""STCrowd's reader: samples, conventions of the official files, damaged and missing ones."""
import copy
import json
import logging
import random
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from perception.apis.benchmarks.fuzz import Fuzzer, Reader, check_item, report
from perception.common.structures import PER_BOX
from perception.crowd.datasets.stcrowd import annotations, reader
from perception.crowd.datasets.stcrowd.annotations import given_by_centre, read_annotations
from perception.crowd.datasets.stcrowd.reader import (
    CAMERA,
    SPLITS,
    STCrowd,
    measure_intensity_scale,
    read_camera,
    read_split,
)
from perception.crowd.transforms import WithinBounds
from perception.utils.errors import ConfigError, DataError


def first(folder, split='train', index=1):
    """Frame 0 of sequence 1, unless another is asked for; sequence 2 stands first in the split."""
    return STCrowd(folder, split)[index]['data_samples']


# --- samples ---------------------------------------------------------------------------------------------------------
def test_a_sample(folder):
    item = STCrowd(folder, 'train')[1]
    points, sample = item['inputs']['points'], item['data_samples']
    raw = np.fromfile(sample.points_path, '<f4').reshape(-1, 4)
    np.testing.assert_array_equal(points[:, :3], raw[:, :3])
    np.testing.assert_allclose(points[:, 3], np.tanh(raw[:, 3] / 255), rtol=1e-6)
    assert points.dtype == torch.float32 and points[:, 3].max() <= np.tanh(1)
    assert (sample.sample_id, sample.sequence, sample.frame) == ('01_0000', '01', 0)
    assert sample.points_path.startswith(str(folder / 'pcd/1/1617249430.4'))
    assert sample.image_path == str(folder / 'left/1/0_1617249430.98000.jpg')  # another stamp than the scan's
    assert abs(sample.timestamp - 1617249430.4) < 1e-5
    assert sample.boxes.dtype == torch.float32 and sample.boxes.shape == (4, 9)
    assert sample.boxes[0, :7].tolist() == pytest.approx([6.1, -1.2, -.8, .7, .6, 1.7, 1.57])
    assert sample.labels.tolist() == [0] * 4 and sample.occlusion.tolist() == [0, 2, 0, 0]
    assert sample.num_points.tolist() == [40] * 4 and sample.track_ids.tolist() == [0, 1, 2, 3]
    assert sample.ignore.tolist() == [False, False, True, False]  # 1.1 m high
    assert sample.density.tolist() == [1, 1, 0, 0]
    assert all(sample.get(key).dtype == torch.int64 for key in ('labels', 'occlusion', 'track_ids', 'num_points'))
    batch = pseudo_collate([item, STCrowd(folder, 'train')[3]])
    assert [len(s.boxes) for s in batch['data_samples']] == [4, 0]


def test_frames_follow_the_split_and_ids_the_official_token(folder):
    dataset = STCrowd(folder, 'train')
    assert [dataset[i]['data_samples'].sample_id for i in range(4)] == ['02_0000', '01_0000', '01_0001', '01_0002']
    assert [s['data_samples'].sample_id for s in (STCrowd(folder, 'val', [33, '1'])[i] for i in (0, 2))] == \
        ['33_0000', '01_0000']
    assert dataset.metainfo['classes'] == ('pedestrian',) == STCrowd.describe({})['classes']


@pytest.mark.parametrize('sequences', [[1, 1], [1, '01'], ['2', 1, 2]])
def test_a_sequence_that_is_named_twice_is_refused(folder, sequences):
    with pytest.raises(ConfigError, match=f'sequence {sequences[0]} twice'):
        STCrowd(folder, 'val', sequences)


def test_velocity_is_metres_a_second_since_the_frame_before(folder):
    now = first(folder, index=2)
    assert now.boxes[0, 7:].tolist() == pytest.approx([.5, 0], abs=1e-6)  # 0.2 m in 0.4 s, away from the sensor
    assert now.boxes[1, 7:].isnan().all() and first(folder).boxes[:, 7:].isnan().all()
    assert now.track_ids.tolist() == [0, 4]


def test_where_a_frame_is_missing_no_velocity_is_known(folder, make):
    """The names of the scans tell it, unless they are whole numbers."""
    for stamps, known in (((5., 5.4, 6.2, 6.6), [0, 1, 0, 1]), ((5., 5.1, 5.2, 5.3), [0, 1, 1, 1]),
                          ((5, 6, 7, 8), [0, 1, 1, 1])):
        make.write_sequence(folder, 7, [make.frame_of(7, k, [make.person(1, (5. + k, 0, -.8))], [], stamp)
                                        for k, stamp in enumerate(stamps)])
        samples = [item['data_samples'] for item in STCrowd(folder, sequences=[7])]
        assert [int(sample.boxes[0, 7:].isfinite().all()) for sample in samples] == known


@pytest.mark.parametrize(('step', 'said'), [(.4, 0), (.5, 0), (.1, 1), (1., 1), (1, 0)])
def test_scans_of_another_rate_are_said(folder, make, monkeypatch, step, said):
    texts = []
    monkeypatch.setattr(reader, 'print_log', lambda text, *_: texts.append(text))
    make.write_sequence(folder, 7, [make.frame_of(7, k, [make.person(1, (5., 0, -.8))], [], 5 + k * step)
                                    for k in range(4)])
    STCrowd(folder, sequences=[7])
    assert [f'are {step:.3g} s apart' in text for text in texts].count(True) == said


def test_a_track_with_a_gap_has_no_velocity(folder, make):
    people = [[make.person(1, (8. + k, 0., 0.))] if k != 1 else [] for k in range(4)]
    make.write_sequence(folder, 2, [make.frame_of(2, k, people[k], []) for k in range(4)])
    boxes = STCrowd(folder, 'train', [2]).annotations[0].boxes
    assert np.isnan(boxes[:2, 7:]).all() and boxes[2, 7] == pytest.approx(2.5)
    assert STCrowd(folder, 'train', [2]).annotations[0].track_ids.tolist() == [0, 0, 0]


@pytest.mark.parametrize(('place', 'pixel'), [  # LiDAR [m] -> u, v, depth; the unit test of the specification
    ((10, 0, 0), (683.67, 334.07, 9.92)), ((10, 2, -.5), (546.49, 369.33, 9.96)),
    ((5, -3, -1), (1104.21, 459.97, 4.94)), ((20, 5, 0), (510.18, 340.22, 19.95)),
    ((10, 8, 0), (135.94, 337.47, 9.99))])
@pytest.mark.parametrize('own', [True, False], ids=['its camera.json', 'the official one'])
def test_points_project_to_their_pixel(folder, place, pixel, own):
    if not own:
        (folder / 'camera.json').unlink()
    u, v, depth, one = first(folder).lidar_to_image @ [*place, 1]
    assert (u / depth, v / depth, depth) == pytest.approx(pixel, abs=.006) and one == 1


def test_people_are_paired_by_number_of_either_type(folder):
    sample = first(folder)
    assert sample.joint.tolist() == [2, 1, -1, -1] and sample.image_boxes.shape == (3, 4)  # row 0 has no 3D box
    centre = sample.lidar_to_image @ [*sample.boxes[0, :3].tolist(), 1]
    low, high = sample.image_boxes[2, :2].numpy(), sample.image_boxes[2, 2:].numpy()
    assert (low < centre[:2] / centre[2]).all() and (centre[:2] / centre[2] < high).all()


@pytest.mark.parametrize(('factor', 'scale', 'said'), [(1, 255, 0), (1 / 255, 255, 1), (1 / 255, 1, 0), (256, 255, 1),
                                                       (0, 255, 1)])
def test_reflections_of_another_scale_are_said(folder, monkeypatch, factor, scale, said):
    texts, path = [], next((folder / 'pcd/2').glob('*.bin'))
    monkeypatch.setattr(reader, 'print_log', lambda text, *_: texts.append(text))
    (np.fromfile(path, '<f4').reshape(-1, 4) * np.float32([1, 1, 1, factor])).tofile(path)
    STCrowd(folder, sequences=[2], intensity_scale=scale)
    assert sum(f'{path}: reflections that intensity_scale={scale}' in text for text in texts) == said


def test_what_is_left_out_or_taken_for_granted_is_said(folder, monkeypatch):
    texts = []
    monkeypatch.setattr(reader, 'print_log', lambda text, *_: texts.append(text))
    for bounds, camera, said in (((0, -35, -4, 35, 35, 2), True, 0), ((0, -35, -4, 15, 35, 2), True, 1),
                                 ((0, -35, -4, 35, 35, 2), False, 1)):
        if not camera:
            (folder / 'camera.json').unlink()
        texts.clear()
        STCrowd(folder, sequences=[1], pipeline=[WithinBounds(bounds)])
        assert sum('1 of 5 people stand beyond x 0 to 15, y -35 to 35 m' in text or 'camera.json: no such file' in text
                   for text in texts) == said


@pytest.mark.parametrize('by_centre', [True, False])
def test_how_2d_boxes_are_given_is_told_by_the_data(tmp_path, caplog, monkeypatch, by_centre, make):
    said = []
    monkeypatch.setattr(reader, 'print_log', lambda text, *_: said.append(text))
    folder = make.write_stcrowd(tmp_path / 'other', by_centre)
    sample, both = first(folder), first(make.write_stcrowd(tmp_path / 'centre'))
    torch.testing.assert_close(sample.image_boxes, both.image_boxes, rtol=0, atol=1e-3)
    assert f'given by their {"centre" if by_centre else "upper left corner"}' in said[0]
    assert '2 sequences (official: 31), 4 frames, 7 people, 1 of them lower than 1.2 m' in said[0]


def test_without_corners_2d_boxes_are_given_by_their_centre():
    boxes = np.array([[100., 100, 20, 40]] * 300)
    assert given_by_centre(boxes, np.full((300, 4), np.nan))[0]
    hulls = np.tile([100., 100, 120, 140], (300, 1))
    hulls[::2] = np.nan
    assert given_by_centre(boxes, hulls)[0] is False and given_by_centre(boxes, hulls)[2] == 1


def test_test_frames_are_the_scans(folder):
    dataset = STCrowd(folder, 'test')
    item = dataset[1]
    assert len(dataset) == 2 and item['data_samples'].sample_id == '32_0001'
    assert 'boxes' not in item['data_samples'] and item['data_samples'].image_path == ''
    assert item['data_samples'].lidar_to_image.shape == (4, 4)


def test_scans_without_annotations_are_in_order_of_time(folder):
    for name in ('1617249430.9', '1617249430.10', '999.5'):
        (folder / f'pcd/32/{name}.bin').write_bytes(bytes(16))
    times = [item['data_samples'].timestamp for item in map(STCrowd(folder, 'test').__getitem__, range(5))]
    assert times == sorted(times) and times[:2] == [999.5, 1617249430.1]


def test_official_splits_part_the_sequences(folder):
    assert sorted(sum(SPLITS.values(), ())) == list(range(1, 85))
    assert [len(SPLITS[s]) for s in ('train', 'val', 'test')] == [31, 26, 27]
    assert read_split(folder, 'train') == ['2', '1']
    (folder / 'split.json').unlink()
    assert read_split(folder, 'val')[:3] == ['33', '35', '39']


def test_the_height_below_which_people_are_ignored_can_be_chosen(folder, make):
    assert STCrowd(folder, 'train', min_height=1.0)[1]['data_samples'].ignore.tolist() == [False] * 4
    make.write_sequence(folder, 2, [make.frame_of(2, 0, [make.person(1, (8., 0., 0.), 1.2)], [])])
    assert not first(folder, index=0).ignore.any()  # 1.2 m itself is high enough


def test_the_intensity_scale_that_fits_is_measured(folder):
    dataset = STCrowd(folder, 'train')
    values = np.concatenate([np.fromfile(dataset.path(i), '<f4')[3::4] for i in range(4)])
    assert measure_intensity_scale(dataset) == pytest.approx(np.percentile(values, 95))
    assert STCrowd(folder, 'train', intensity_scale=10.)[0]['inputs']['points'][:, 3].mean() > .8


def test_augmentation_depends_on_seed_epoch_and_index(folder):
    def item(seed, key):
        def step(sample):
            return dict(sample, points=sample['points'] + sample['rng'].normal())
        return STCrowd(folder, 'train', pipeline=[step], seed=seed)[key]['inputs']['points']
    assert torch.equal(item(0, (3, 1)), item(0, (3, 1)))
    assert not torch.equal(item(0, (3, 1)), item(1, (3, 1))) and not torch.equal(item(0, (3, 1)), item(0, (4, 1)))


# --- odd, but right --------------------------------------------------------------------------------------------------
def edit_item(**changes):
    """Changes an item of the first frame; None takes a field away."""
    def edit(record):
        item = record['frames'][0]['items'][1]
        item.update(changes)
        for key in [key for key, value in item.items() if value is None]:
            del item[key]
    return edit


@pytest.mark.parametrize('changes', [
    dict(rotation=dict(x=0, y=0, z=1.57)), dict(id=8, number='8'), dict(id='8', number=8.0), dict(occlusion='2'),
    dict(pointCount='40'), dict(pointCount=40.0), dict(category=None), dict(isValid=None, group='?')])
def test_what_the_files_hold_in_either_way_is_read_alike(folder, change, changes):
    expected = first(folder)
    change('anno/1.json', edit_item(**changes))
    sample = first(folder)
    for key in PER_BOX:
        torch.testing.assert_close(sample.get(key), expected.get(key), equal_nan=True, rtol=0, atol=0)


def test_absent_lists_are_empty(folder, change):
    def edit(record):
        first, second, third = record['frames']
        first['images'], second['items'] = None, None
        del third['items'], third['images'], record['total_number'], record['scene_class'], record['group_id']
        second['images'] = second['images'][1:]  # the right one alone, whose class says left
    change('anno/1.json', edit)
    dataset = STCrowd(folder, 'train')
    samples = [dataset[i]['data_samples'] for i in (1, 2, 3)]
    assert [len(s.boxes) for s in samples] == [4, 0, 0] and [s.image_path for s in samples] == [''] * 3
    assert samples[0].joint.tolist() == [-1] * 4 and samples[0].image_boxes.shape == (0, 4)


def test_the_stand_in_for_nobody_is_left_out(folder, change, make):
    fake = make.person(0, (.1, .1, .1), .001, boundingbox=dict(x=.001, y=.001, z=.001))
    change('anno/1.json', lambda record: record['frames'][2]['items'].append(fake))
    assert len(first(folder, index=3).boxes) == 0


def test_frames_beyond_the_total_number_do_not_count_as_officially(folder, change):
    change('anno/1.json', lambda record: record.update(total_number=2))
    assert len(STCrowd(folder, 'train')) == 3


def test_an_id_twice_in_a_frame_is_two_people(folder, change, monkeypatch):
    said = []
    monkeypatch.setattr(annotations, 'print_log', lambda text, *args: said.append((text, *args)))
    change('anno/1.json', edit_item(id='p7'))
    sample = first(folder)
    assert sample.track_ids.tolist() == [0, 1, 2, 3] and len(sample.boxes) == 4
    assert 'frame 0, item 1: id \'p7\' again' in said[0][0] and said[0][2] == logging.WARNING
    assert first(folder, index=2).boxes[0, 7] == pytest.approx(.5)  # of the first of both


def test_paths_may_have_folders_before(folder, change):
    def edit(record):
        frame = record['frames'][0]
        frame['frame_name'] = '/data/x/' + frame['frame_name']
        frame['images'][0]['image_name'] = 'D:\\STCrowd\\' + frame['images'][0]['image_name'].replace('/', '\\')
    expected = first(folder)
    change('anno/1.json', edit)
    assert (first(folder).points_path, first(folder).image_path) == (expected.points_path, expected.image_path)


def test_nobody_and_five_hundred_people(folder, make):
    crowd = [make.person(k, (1. + k % 25, k // 25 - 10., -.8)) for k in range(500)]
    make.write_sequence(folder, 2, [make.frame_of(2, 0, crowd, []), make.frame_of(2, 1, [], [])])
    dataset = STCrowd(folder, 'train', [2])
    sample, empty = dataset[0]['data_samples'], dataset[1]['data_samples']
    assert sample.boxes.shape == (500, 9) and sample.density.max() == 12 and sample.track_ids.max() == 499
    assert empty.boxes.shape == (0, 9) and empty.density.shape == empty.ignore.shape == (0,)


def test_people_outside_the_labelled_region_are_kept(folder, change):
    change('anno/1.json', edit_item(position=dict(x=-80., y=3, z=40)))
    assert first(folder).boxes[1, :3].tolist() == [-80, 3, 40]


def test_images_that_are_missing_do_not_matter_to_scans(folder):
    assert not (folder / 'left').exists() and first(folder).image_path


# --- damaged ---------------------------------------------------------------------------------------------------------
VALUES = (None, 'text', '', True, -1, .5, [], {}, [1, 2], float('nan'), float('inf'), 10 ** 400, -1e30, dict(x=1))


@pytest.mark.parametrize('field', ['id', 'position', 'boundingbox', 'rotation', 'occlusion', 'pointCount', 'category',
                                   'number'])
def test_other_values_are_read_or_refused_with_file_frame_and_item(folder, change, field):
    good, refused = (folder / 'anno/1.json').read_text(), 0
    plain = first(folder)
    for value in VALUES:
        (folder / 'anno/1.json').write_text(good)
        change('anno/1.json', edit_item(**{field: value}))
        try:
            sample = first(folder)
            assert sample.boxes[:, :7].isfinite().all() and len(sample.boxes) == 4
            np.testing.assert_array_equal(sample.boxes[0, :7], plain.boxes[0, :7])
        except DataError as error:
            assert f'{folder}/anno/1.json: frame 0, item 1: {field}' in str(error) and 'expected' in str(error)
            assert len(str(error)) < 400
            refused += 1
    assert refused >= len(VALUES) - 6


@pytest.mark.parametrize(('field', 'axis'), [('position', 'x'), ('position', 'z'), ('boundingbox', 'y')])
@pytest.mark.parametrize('value', [None, '1.7', True, float('nan'), float('inf'), -1e9, []])
def test_a_coordinate_that_is_none_is_refused(folder, change, field, axis, value):
    change('anno/1.json', lambda r: r['frames'][0]['items'][2][field].update({axis: value}))
    with pytest.raises(DataError, match=f'1.json: frame 0, item 2: {field} '):
        STCrowd(folder, 'train')


@pytest.mark.parametrize(('edit', 'message'), [
    (lambda r: r.pop('frames'), '1.json: frames is None, expected a list'),
    (lambda r: r.update(frames={}), r'frames is \{\}'), (lambda r: r.update(frames=[3]), 'total_number|frame 0: 3'),
    (lambda r: r.update(total_number=9), '3 frames, expected 9'),
    (lambda r: r.update(total_number='x'), "total_number 'x'"),
    (lambda r: r['frames'][1].pop('frame_name'), 'frame 1: frame_name None'),
    (lambda r: r['frames'][1].update(frame_name='pcd/../../etc/passwd'), 'frame 1: frame_name'),
    (lambda r: r['frames'][1].update(frame_name=7), 'frame 1: frame_name 7'),
    (lambda r: r['frames'][1].update(items='none'), "frame 1: items is 'none'"),
    (lambda r: r['frames'][1]['items'].insert(0, None), 'frame 1, item 0: None'),
    (lambda r: r['frames'][1].update(images={}), 'frame 1: images is'),
    (lambda r: r['frames'][1].update(images=[1]), 'frame 1, image 0: 1'),
    (lambda r: r['frames'][1]['images'][0].pop('image_name'), 'frame 1, image 0: image_name None'),
    (lambda r: r['frames'][1]['images'][0].update(items=5), 'frame 1, image 0: items is 5'),
    (lambda r: r['frames'][0]['images'][0]['items'][1].pop('dimension'), 'left image, item 1: dimension None'),
    (lambda r: r['frames'][0]['images'][0]['items'][1].update(points=[1] * 8), 'left image, item 1: points'),
    (lambda r: r['frames'][0]['images'][0]['items'][1]['points'].pop(), 'left image, item 1: points'),
    (lambda r: r['frames'][0]['images'][0]['items'][1]['points'][3].update(x=float('nan')), 'item 1: points')])
def test_damaged_annotations_are_refused(folder, change, edit, message):
    change('anno/1.json', edit)
    with pytest.raises(DataError, match=message) as error:
        STCrowd(folder, 'train')
    assert str(folder / 'anno/1.json') in str(error.value)


@pytest.mark.parametrize(('data', 'message'), [
    (b'', 'training scan'), (bytes(33), 'multiple of 16'), (np.float32([1, np.nan, 0, 0] * 4).tobytes(), 'finite'),
    (np.float32([1, 2, np.inf, 0]).tobytes(), 'finite'), (b'\x89PNG\r\n\x1a\n' + bytes(80), 'PNG'),
    (None, 'No such file')])
def test_damaged_scans_are_refused(folder, data, message):
    dataset = STCrowd(folder, 'train')
    path = folder / dataset[1]['data_samples'].points_path
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        dataset[1]
    assert str(path) in str(error.value)


def test_an_empty_scan_may_be_tested(folder):
    dataset = STCrowd(folder, 'val')
    (folder / dataset.path(0)).write_bytes(b'')
    assert dataset[0]['inputs']['points'].shape == (0, 4) and len(dataset[0]['data_samples'].boxes) == 2


def test_damaged_splits_and_cameras_are_refused(folder):
    for text, message in (
            ('{}', "'train' is None"), ('{"train": []}', 'expected a list'), ('{"train": [1, "1"]}', 'twice'),
            ('{"train": [1.5]}', '1.5'), ('{"train": ["../1"]}', r'\.\./1'), ('[', 'no valid JSON'),
            ('{"train": [1, 5]}', r'anno/5.json: no such file.*1 of 2')):
        (folder / 'split.json').write_text(text)
        with pytest.raises(DataError, match=message) as error:
            STCrowd(folder, 'train')
        assert str(folder) in str(error.value)
    camera = {key: np.array(value).tolist() for key, value in CAMERA.items()}
    for key, value in (('p', None), ('t', [1, 2]), ('r', [[float('nan')] * 4] * 4), ('t', 'x'), ('p', {}),
                       ('t', [['1', 2, 3, 10 ** 400]] * 4)):
        (folder / 'camera.json').write_text(json.dumps(dict(camera, **{key: value})))
        with pytest.raises(DataError, match=f'camera.json: {key} is no '):
            read_camera(folder / 'camera.json')


def test_what_is_missing_is_said_with_the_page_to_download_it_from(folder, tmp_path):
    for split in SPLITS:
        with pytest.raises(DataError, match='4dvlab.github.io/STCrowd.*PERCEPTION_DATA.*--mini'):
            STCrowd(tmp_path / 'nothing', split)
    shutil.rmtree(folder / 'pcd/2')
    with pytest.raises(DataError, match=r"pcd/2/.*no such file, and 1 of 4 frames .*4dvlab.*incomplete='leave_out'"):
        STCrowd(folder, 'train')
    fewer = STCrowd(folder, 'train', incomplete='leave_out')
    assert [fewer[i]['data_samples'].sample_id for i in range(len(fewer))] == ['01_0000', '01_0001', '01_0002']
    Path(fewer.path(2)).unlink()  # the last one: it is not come upon after an epoch, but at the start
    with pytest.raises(DataError, match='2 of 4 frames'):
        STCrowd(folder, 'train')
    shutil.rmtree(folder / 'pcd')
    with pytest.raises(DataError, match='4 of 4 frames .*STCrowd/index.html.$'):
        STCrowd(folder, 'train', incomplete='leave_out')


def test_images_that_are_not_there_are_told_at_the_start(folder):
    with pytest.raises(DataError, match=r'left/1/.*no such file, and 3 of 3 frames .*scans and images'):
        STCrowd(folder, sequences=[1], image_reduce=2)
    images = [Path(folder, name) for name in STCrowd(folder, sequences=[1]).annotations[0].images]
    images[0].parent.mkdir(parents=True)
    for path in images[1:]:
        cv2.imwrite(str(path), np.zeros((720, 1280, 3), np.uint8))
    fewer = STCrowd(folder, sequences=[1], image_reduce=2, incomplete='leave_out')
    assert [fewer[i]['data_samples'].frame for i in range(len(fewer))] == [1, 2]
    assert len(STCrowd(folder, sequences=[1])) == 3  # which no one looks at


def test_wrong_arguments_are_refused(folder):
    for arguments, message in ((dict(split='trian'), 'train'), (dict(sequences=[]), 'at least one'),
                               (dict(sequences=['a/b']), 'a/b'), (dict(intensity_scale=0), 'intensity_scale=0'),
                               (dict(min_height='x'), 'min_height')):
        with pytest.raises(ConfigError, match=message):
            STCrowd(folder, **{'split': 'train', **arguments})


def test_sequences_that_are_not_there_are_told_from_data_that_are_not(folder):
    for split, place in (('train', 'anno/85.json'), ('test', 'pcd/85')):
        with pytest.raises(DataError, match=rf'{place}: no such .* sequence 85 of the {split} split \(1 of 1'):
            STCrowd(folder, split, sequences=[85])
    with pytest.raises(DataError, match='official layout.*Download'):
        STCrowd(folder / 'anno', 'train', sequences=[1])


def test_a_training_split_without_people_is_refused(folder, change):
    for name in ('1', '2'):
        change(f'anno/{name}.json', lambda record: [frame.update(items=[]) for frame in record['frames']])
    with pytest.raises(DataError, match='no person of at least 1.2 m in 4 training'):
        STCrowd(folder, 'train')
    assert len(STCrowd(folder, 'val')) == 2


def test_training_people_who_are_all_out_of_bounds_are_refused(folder):
    pipeline = [dict(type=WithinBounds, bounds=(-30, -9, -4, 0, 9, 2))]
    with pytest.raises(DataError, match=r'none of 7 people within x -30 to 0, y -9 to 9 m, but at x 4 to 20'):
        STCrowd(folder, 'train', pipeline=pipeline)
    assert len(STCrowd(folder, 'val', pipeline=pipeline)) == 2
    assert len(STCrowd(folder, 'train', pipeline=[dict(type=WithinBounds, bounds=(0, -9, -4, 30, 9, 2))])) == 4


def test_damaged_files_are_read_or_refused(folder):
    readers = [Reader(split, lambda split=split: STCrowd(folder, split), check_item) for split in SPLITS]
    fuzzer = Fuzzer('stcrowd', folder, readers)
    outcomes = [fuzzer.step() for _ in range(20)]
    assert set(outcomes) <= {'read', 'refused'}, report(fuzzer.tallies, 0)
    assert outcomes.count('refused') > 5


def test_values_of_any_kind_anywhere_are_read_or_refused(folder):
    record, rng, refused = json.loads((folder / 'anno/1.json').read_text()), random.Random(0), 0
    path = folder / 'anno/1.json'
    for _ in range(300):
        bad = copy.deepcopy(record)
        node = bad
        while True:  # walks down to a random place
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < .2:
                break
            node = node[key]
        if rng.random() < .3:
            del node[key]
        else:
            node[key] = rng.choice(VALUES)
        path.write_text(json.dumps(bad))
        try:
            found = read_annotations(path)
            assert np.isfinite(found.boxes[:, :7]).all() and (found.boxes[:, 3:6] > 0).all()
            assert len(found.rows) == len(found.image_rows) == len(found.points) + 1
        except DataError as error:
            assert str(path) in str(error) and len(str(error)) < 500
            refused += 1
    assert 100 < refused < 300


def test_a_sequence_is_read_soon(tmp_path, make):
    people = [make.person(k, (5. + k, 0., 0.)) for k in range(20)]
    shown = [make.image_person(item) for item in people]
    path = tmp_path / '1.json'
    path.write_text(json.dumps(dict(frames=[make.frame_of(1, k, people, shown) for k in range(50)])))
    start = time.process_time()
    assert read_annotations(path).boxes.shape == (1000, 9)
    assert time.process_time() - start < .5  # 4,000 frames of the training split: below 10 s on a busy machine
