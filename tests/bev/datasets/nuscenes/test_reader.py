"""Key frames as nuscenes-devkit has them, in each frame; files that are broken or missing."""
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nuscenes import NuScenes
from nuscenes.utils.geometry_utils import view_points
from PIL import Image

from perception.bev.datasets.nuscenes import reader
from perception.bev.datasets.nuscenes.reader import CLASSES, DETECTION, NuScenesRig, flattened
from perception.bev.transforms import BEVAug, DropCameras, GridMask, ImageAug, SweepDepth
from perception.common.boxes import corners, points_in_boxes
from perception.common.nuscenes.index import CAMERAS
from perception.utils.errors import ConfigError, DataError

SIZE = (64, 176)


@pytest.fixture(scope='module')
def devkit(hard_nuscenes):
    return NuScenes('v1.0-mini', str(hard_nuscenes), verbose=False)


def homogeneous(matrix, points):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.mark.parametrize('frame', ['lidar', 'ego', 'flat_ego'])
def test_boxes_and_cameras_are_those_of_the_development_kit(hard_nuscenes, devkit, frame):
    dataset = NuScenesRig(hard_nuscenes, 'mini_val', bev_frame=frame, reduce=8, min_points=0)
    sample = dataset.read(1)
    record = devkit.get('sample', sample['sample_id'])
    kept = [token for token in record['anns']
            if devkit.get('sample_annotation', token)['category_name'] in DETECTION]
    assert [CLASSES[label] for label in sample['labels']] == [
        DETECTION[devkit.get('sample_annotation', token)['category_name']] for token in kept]
    to_world = sample['meta']['frame_to_world']
    world = [devkit.get_box(token) for token in kept]
    np.testing.assert_allclose(homogeneous(to_world, sample['boxes'][:, :3]), [box.center for box in world], atol=1e-9)
    np.testing.assert_allclose(sample['boxes'][:, 3:6], [box.wlh[[1, 0, 2]] for box in world])
    if frame == 'flat_ego':
        np.testing.assert_allclose(to_world[2], [0, 0, 1, to_world[2, 3]])
    for k, camera in enumerate(CAMERAS):
        path, boxes, intrinsic = devkit.get_sample_data(record['data'][camera], selected_anntokens=kept[:5],
                                                        box_vis_level=0)
        assert sample['meta']['image_paths'][k] == path
        np.testing.assert_allclose(sample['cam_to_img'][k], intrinsic)
        mine = homogeneous(sample['frame_to_cam'][k], sample['boxes'][:5, :3])
        for box in boxes:
            row = kept.index(box.token)
            np.testing.assert_allclose(mine[row], box.center, atol=1e-6)
    assert dataset.metainfo['bev_frame'] == frame


def test_corners_project_onto_the_same_pixels(hard_nuscenes, devkit):
    """Of upright boxes in the car's frame, whose corners no tilt changes."""
    dataset = NuScenesRig(hard_nuscenes, 'mini_val', bev_frame='flat_ego', reduce=8)
    sample = dataset.read(0)
    record, compared = devkit.get('sample', sample['sample_id']), 0
    for k, camera in enumerate(CAMERAS):
        _, boxes, intrinsic = devkit.get_sample_data(record['data'][camera])
        for box in boxes:
            mine = corners(sample['boxes'][:, :7])
            places = homogeneous(sample['frame_to_cam'][k], mine)
            gap = np.abs(places.mean(1) - box.center).max(1)
            if gap.min() < 1e-6 and box.corners()[2].min() > 1:
                pixels = sample['cam_to_img'][k] @ places[gap.argmin()].T
                theirs = view_points(box.corners(), intrinsic, normalize=True)[:2]
                np.testing.assert_allclose(pixels[:2] / pixels[2:], theirs, atol=1e-4)
                compared += 1
    assert compared > 10


def test_the_motion_between_lidar_and_camera(hard_nuscenes):
    with_motion, without = (NuScenesRig(hard_nuscenes, 'mini_val', motion=motion, reduce=8).read(0)
                            for motion in (True, False))
    gap = np.abs(with_motion['frame_to_cam'] - without['frame_to_cam'])[:, :3, 3].max(1)
    order = dict(zip(CAMERAS, gap))
    assert order['CAM_FRONT_LEFT'] > 10 * order['CAM_BACK_LEFT'] > 0, 'images are 43 and 0.5 ms before the sweep'


def test_inputs_and_truth(hard_nuscenes):
    steps = [ImageAug(SIZE, (.9, 1.1), degrees=5, flip=.5), GridMask(), SweepDepth(16), BEVAug()]
    dataset = NuScenesRig(hard_nuscenes, 'mini_train', points=True, reduce=8, pipeline=steps)
    sample = dataset[3, 0]
    inputs, truth = sample['inputs'], sample['data_samples']
    assert inputs['images'].shape == (6, 3, *SIZE) and inputs['images'].dtype == torch.uint8
    shapes = dict(cam_to_img=(6, 3, 3), frame_to_cam=(6, 4, 4), image_aug=(6, 3, 3), bev_aug=(4, 4))
    assert {key: tuple(inputs[key].shape) for key in shapes} == shapes
    assert all(inputs[key].dtype == torch.float32 for key in shapes)
    assert truth.depth.shape == (6, 4, 11) and (truth.depth > 0).any() and 'annotations' not in truth
    assert truth.boxes.dtype == torch.float32 and len(truth.boxes) == len(truth.attributes) == len(truth.visibility)
    assert truth.image_shape == SIZE and truth.scene.startswith('scene-') and truth.location == 'singapore-onenorth'
    again = dataset[3, 0]
    assert all(torch.equal(inputs[key], again['inputs'][key]) for key in inputs)
    assert not torch.equal(inputs['images'], dataset[4, 0]['inputs']['images'])


def test_points_lie_in_their_boxes_in_each_frame(mini_rig):
    truth = NuScenesRig(mini_rig, 'mini_val', reduce=8).read(0)['num_points']
    for frame in ('lidar', 'ego'):
        sample = NuScenesRig(mini_rig, 'mini_val', points=True, reduce=8, bev_frame=frame).read(0)
        _, counts = points_in_boxes(sample['points'].astype(float), sample['boxes'])
        assert np.abs(counts - truth).sum() < .1 * truth.sum()


def test_few_points_are_left_out_but_scored(hard_nuscenes):
    some, every = (NuScenesRig(hard_nuscenes, 'mini_val', min_points=n, reduce=8).read(0) for n in (1, 0))
    assert len(some['boxes']) < len(every['boxes']) == len(every['annotations'].boxes)
    assert len(some['annotations'].boxes) == len(every['annotations'].boxes)


def test_classes_are_balanced(hard_nuscenes):
    dataset = NuScenesRig(hard_nuscenes, 'mini_val', reduce=8)
    present = np.zeros((1000, 10), bool)
    rng = np.random.default_rng(0)
    present[:, 0] = True
    present[rng.choice(1000, 20, replace=False), 6] = True
    present[rng.choice(1000, 200, replace=False), 5] = True
    dataset.present = lambda: present
    order = dataset.balanced()
    assert len(order) == 3 * int(.1 * 1220) == len(order.tolist())
    assert present[order, 6].sum() > 100 and present.sum(0)[6] == 20
    np.testing.assert_array_equal(order, dataset.balanced())


def test_a_scene_and_some_cameras(hard_nuscenes):
    dataset = NuScenesRig(hard_nuscenes, 'mini_val', scenes=['scene-0103'], reduce=8,
                          cameras=['CAM_BACK', 'CAM_FRONT'], pipeline=[ImageAug(SIZE), DropCameras(1)])
    sample = dataset[0]
    assert {frame.scene for frame in dataset.frames} == {'scene-0103'}
    assert sample['inputs']['images'].shape[0] == 1 and len(sample['data_samples'].cameras) == 1
    with pytest.raises(ConfigError, match='CAM_FRONT'):
        NuScenesRig(hard_nuscenes, 'mini_val', cameras=['CAM_FORNT'])
    with pytest.raises(ConfigError, match='scene-0916'):
        NuScenesRig(hard_nuscenes, 'mini_val', scenes=['scene-0917'])
    assert dataset.metainfo['num_samples'] == len(NuScenesRig(hard_nuscenes, 'mini_val')) > len(dataset)
    with pytest.raises(ConfigError, match='flat_ego'):
        NuScenesRig(hard_nuscenes, 'mini_val', bev_frame='flatego')
    with pytest.raises(ConfigError, match='each once'):
        NuScenesRig(hard_nuscenes, 'mini_val', cameras=['CAM_FRONT'] * 2)


def test_the_test_split_has_no_truth(mini_rig):
    sample = NuScenesRig(mini_rig, 'test', reduce=8, pipeline=[ImageAug(SIZE)])[0]['data_samples']
    assert 'boxes' not in sample and 'annotations' not in sample


def test_a_frame_without_boxes(mini_rig, change_tables, tmp_path):
    root = change_tables(tmp_path / 'n', mini_rig, sample_annotation=lambda rows: rows[:1],
                         instance=lambda rows: rows[:1])
    path = root / 'v1.0-mini/sample_annotation.json'
    row, = json.loads(path.read_text())
    path.write_text(json.dumps([dict(row, prev='', next='')]))
    dataset = NuScenesRig(root, 'mini_val', reduce=8, pipeline=[ImageAug(SIZE), BEVAug()])
    boxes = [dataset[i]['data_samples'].boxes for i in range(len(dataset))]
    assert sorted(map(len, boxes))[0] == 0 and all(b.shape[1] == 9 for b in boxes)


@pytest.fixture
def own_images(hard_nuscenes, tmp_path) -> Path:
    """The tiny set with the images of one camera as files that may be broken."""
    for path in hard_nuscenes.iterdir():
        if path.name != 'samples':
            (tmp_path / path.name).symlink_to(path.resolve())
    (tmp_path / 'samples').mkdir()
    for path in (hard_nuscenes / 'samples').iterdir():
        if path.name == 'CAM_BACK':
            shutil.copytree(path, tmp_path / 'samples' / path.name)
        else:
            (tmp_path / 'samples' / path.name).symlink_to(path.resolve())
    return tmp_path


def break_missing(path):
    path.unlink()


def break_half(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def break_empty(path):
    path.write_bytes(b'')


def break_size(path):
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), None, fx=.5, fy=.5))


@pytest.mark.parametrize(('harm', 'message'), [
    (break_missing, 'No such file'), (break_half, 'without its end'), (break_empty, 'no image'),
    (break_size, r'about \d+ x \d+ pixels, expected \d+ x \d+')])
def test_broken_images_are_told(own_images, harm, message):
    dataset = NuScenesRig(own_images, 'mini_val', reduce=8)
    harm(Path(dataset.data_root / dataset.index.views(dataset.frames[0].row)['CAM_BACK'].image))
    with pytest.raises(DataError, match=message) as error:
        dataset[0]
    assert 'CAM_BACK' in str(error.value)


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'CMYK'])
def test_other_colours_are_read(own_images, mode):
    dataset = NuScenesRig(own_images, 'mini_val', reduce=8, cameras=['CAM_BACK'])
    path = Path(dataset.data_root / dataset.index.views(dataset.frames[0].row)['CAM_BACK'].image)
    with Image.open(path) as image:
        image.convert(mode).save(path, 'PNG' if mode == 'RGBA' else 'JPEG')
    view, sample = dataset.index.views(dataset.frames[0].row)['CAM_BACK'], dataset.read(0)
    assert sample['images'][0].shape == (-(-view.height // 8), -(-view.width // 8), 3)
    if mode == 'L':
        assert np.ptp(sample['images'][0], axis=-1).max() == 0


def test_a_missing_camera_is_told(mini_rig, change_tables, tmp_path):
    def without_back(rows):
        return [row for row in rows if '/CAM_BACK/' not in row['filename']]
    root = change_tables(tmp_path / 'n', mini_rig, sample_data=without_back)
    with pytest.raises(DataError, match='CAM_BACK, expected'):
        NuScenesRig(root, 'mini_val', reduce=8)[0]
    others = [camera for camera in CAMERAS if camera != 'CAM_BACK']
    assert len(NuScenesRig(root, 'mini_val', reduce=8, cameras=others).read(0)['images']) == 5


@pytest.mark.parametrize('folder', ['v1.0-mini', 'samples'])
def test_a_folder_of_the_data_set_in_its_place_is_told(mini_rig, folder):
    with pytest.raises(DataError, match=rf'{folder}: no folder v1.0-... in it but beside it.*Give {mini_rig}\.$'):
        NuScenesRig(mini_rig / folder, 'mini_val')


def test_archives_that_were_not_unpacked_are_told_at_the_start(own_images):
    dataset = NuScenesRig(own_images, 'mini_val', reduce=8)
    assert len({frame.scene for frame in dataset.frames}) == 2
    last = dataset.frames[-1]
    gone = dataset.index.views(last.row)['CAM_BACK'].image
    (own_images / gone).unlink()
    with pytest.raises(DataError, match=rf'1 of {len(dataset)} key frames .* lack files, such as {re.escape(gone)}.*'
                                        "incomplete='leave_out'"):
        NuScenesRig(own_images, 'mini_val', reduce=8)
    fewer = NuScenesRig(own_images, 'mini_val', reduce=8, incomplete='leave_out')
    assert fewer.frames == dataset.frames[:-1] and fewer.metainfo['num_samples'] == len(dataset)
    assert len(NuScenesRig(own_images, 'mini_val', incomplete='keep')) == len(dataset)
    seen = [camera for camera in CAMERAS if camera != 'CAM_BACK']  # what is not looked at may lack
    assert len(NuScenesRig(own_images, 'mini_val', cameras=seen)) == len(dataset)
    (own_images / 'samples/LIDAR_TOP').unlink()  # a link
    assert len(NuScenesRig(own_images, 'mini_val', cameras=seen)) == len(dataset)
    with pytest.raises(DataError, match='CAM_FRONT, .*LIDAR_TOP'):
        NuScenesRig(own_images, 'mini_val', cameras=seen, points=True)
    (own_images / 'samples/CAM_FRONT').unlink()
    with pytest.raises(DataError, match=r'expected those of .*\. Unpack the missing archives of [^,]*\.$'):
        NuScenesRig(own_images, 'mini_val', incomplete='leave_out')


def test_decoding_at_half_the_size_keeps_pixels_in_place(own_images):
    whole, half = (NuScenesRig(own_images, 'mini_val', reduce=reduce, cameras=['CAM_FRONT'], pipeline=[ImageAug(SIZE)])
                   for reduce in (1, 2))
    path = Path(whole.data_root / whole.index.views(whole.frames[0].row)['CAM_FRONT'].image)
    height, width = cv2.imread(str(path)).shape[:2]
    spots = np.random.default_rng(0).uniform(0, 255, (height // 8, width // 8))
    cv2.imwrite(str(path), cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255))
    one, other = (dataset[0]['inputs'] for dataset in (whole, half))
    assert torch.equal(one['image_aug'], other['image_aug'])
    one, other = (inputs['images'][0, 0].numpy().astype(float)[:, 8:-8] for inputs in (one, other))
    gaps = {shift: np.abs(one - np.roll(other, shift, 1)).mean() for shift in (-1, 0, 1)}
    assert min(gaps, key=gaps.get) == 0 and gaps[0] < .5 * min(gaps[-1], gaps[1]), gaps


def test_a_pose_turned_upright():
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array([.02, -.03, 1.2]))[0]
    pose[:3, 3] = 4, 5, 6
    flat = flattened(pose)
    np.testing.assert_allclose(flat[:, 3], pose[:, 3])
    np.testing.assert_allclose(flat[2, :3], [0, 0, 1])
    assert np.arctan2(flat[1, 0], flat[0, 0]) == pytest.approx(np.arctan2(pose[1, 0], pose[0, 0]))


@pytest.mark.parametrize(('preset', 'frame', 'num'), [
    ('bevfusion_map', 'lidar', 6), ('lss_vehicle', 'ego', 1), ('cvt_vehicle_s2', 'flat_ego', 1)])
@pytest.mark.parametrize('axis', ['x', 'y'])
def test_map_labels_are_moved_with_the_frame(mini_rig, preset, frame, num, axis):
    def labels(**flips):
        steps = [ImageAug(SIZE), BEVAug(0, 1, 1, 0, **flips)]
        return NuScenesRig(mini_rig, 'mini_val', bev_frame=frame, map_preset=preset, reduce=2, pipeline=steps,
                           map_grid=dict(x=(-25.6, 25.6, .2), y=(-19.2, 19.2, .2)))[0]['data_samples']
    still, mirrored = labels(flip_x=0, flip_y=0), labels(flip_x=axis == 'x', flip_y=axis == 'y')
    assert still.map_labels.shape == (num, 192, 256) and still.map_labels.any()
    back = mirrored.map_labels.flip(-1 if axis == 'x' else -2)
    gap = (back != still.map_labels).float().mean()
    assert gap < .02 and (mirrored.map_labels != still.map_labels).float().mean() > 3 * gap  # rounding of outlines
    assert ('map_mask' in still) == (preset == 'cvt_vehicle_s2')
    assert not still.map_labels.dtype.is_floating_point


def test_vehicles_of_the_map_are_where_boxes_are(mini_rig):
    steps = [ImageAug(SIZE), BEVAug(.3, .95, 1.05, 1)]
    sample = NuScenesRig(mini_rig, 'mini_val', bev_frame='ego', map_preset='lss_vehicle', reduce=2, pipeline=steps)[0]
    truth = sample['data_samples']
    cells = torch.floor((truth.boxes[:, :2] + 50) / .5).long()
    vehicle = (truth.labels < 5) & ((cells >= 2) & (cells < 198)).all(1)
    hit = truth.map_labels[0, cells[vehicle, 1], cells[vehicle, 0]]
    assert vehicle.sum() > 5 and hit.float().mean() > .95


def test_refuses_a_grid_without_a_map(mini_rig):
    with pytest.raises(ConfigError, match='map_preset=None'):
        NuScenesRig(mini_rig, 'mini_val', map_grid=dict(x=(0, 1, 1)))
    with pytest.raises(ConfigError, match='lss_map'):
        NuScenesRig(mini_rig, 'mini_val', map_preset='lss')


def test_maps_say_what_they_are_and_whether_they_lie_in_the_frame_of_their_protocol(mini_rig, monkeypatch):
    said = []
    monkeypatch.setattr(reader, 'print_log', lambda text, *_: said.append(text))
    options = dict(map_preset='lss_vehicle', map_grid=dict(x=(0, 8, 1), y=(-2, 2, 1)), reduce=2,
                   pipeline=[ImageAug(SIZE)])
    truth = NuScenesRig(mini_rig, 'mini_val', bev_frame='ego', **options)[0]['data_samples']
    assert (truth.map_bounds, truth.map_preset, truth.map_classes) == ((0, -2, 8, 2), 'lss_vehicle', ('vehicle',))
    assert not said
    NuScenesRig(mini_rig, 'mini_val', bev_frame='lidar', **options)
    assert len(said) == 1 and "the frame 'lidar', expected 'ego'" in said[0]


def test_no_scene_at_all_is_refused(mini_rig):
    for split in ('mini_train', 'mini_val'):
        with pytest.raises(ConfigError, match=r'scenes=\[\]'):
            NuScenesRig(mini_rig, split, scenes=[])
