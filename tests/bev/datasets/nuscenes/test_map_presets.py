"""Labels of LSS's, CVT's and BEVFusion's protocols, beside the steps of their papers done with the kit's own boxes."""
import argparse
from dataclasses import replace

import cv2
import numpy as np
import pytest

from perception.apis.benchmarks.bev import map_labels as map_labels_benchmark
from perception.bev.datasets.nuscenes.map_presets import (
    CVT_VEHICLES,
    PRESETS,
    flat_pose,
    map_labels,
    preset_of,
    vehicle_labels,
    world_corners,
)
from perception.common.nuscenes.index import Boxes
from perception.common.nuscenes.map_writer import MapWriter
from perception.common.nuscenes.maps import read_map
from perception.common.scene.street import draw_street
from perception.utils.errors import ConfigError, DataError

KIT = pytest.importorskip('nuscenes.map_expansion.map_api', reason='nuscenes-devkit is not installed')
from nuscenes.utils.data_classes import Box  # noqa: E402
from pyquaternion import Quaternion  # noqa: E402

PLACE = 'singapore-queenstown'
NAMES = np.array(['human.pedestrian.adult', 'vehicle.car', 'vehicle.bus.bendy', 'vehicle.emergency.ambulance',
                  'vehicle.bicycle', 'human.pedestrian.construction_worker', 'vehicle.construction',
                  'movable_object.barrier'])


def pose_of(yaw, place, roll=0.0, pitch=0.0):
    pose = np.eye(4)
    pose[:3, :3] = (Quaternion(axis=[0, 0, 1], angle=yaw) * Quaternion(axis=[0, 1, 0], angle=pitch) * Quaternion(
        axis=[1, 0, 0], angle=roll)).rotation_matrix
    pose[:3, 3] = place
    return pose


MOUNT = pose_of(-np.pi / 2, (.94, 0, 1.84), .004, .024)      # of the LiDAR on the car
EGO = pose_of(2.1, (260.3, 214.8, 0), .01, -.012)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root, writer = tmp_path_factory.mktemp('maps'), MapWriter(PLACE)
    street = draw_street(np.random.default_rng(4), 'boulevard', 200.0, 1 / 120)
    writer.add_street(street, pose_of(.6, (150, 100, 0)), 'street', islands=True)
    writer.save(root)
    return root


@pytest.fixture(scope='module')
def cars():
    """Annotations in the world, as the kit has them, and the same as the index has them."""
    rng, count, lidar = np.random.default_rng(3), 60, EGO @ MOUNT
    places = EGO[:3, 3] + np.concatenate([rng.uniform(-55, 55, (count, 2)), rng.uniform(.2, 1.5, (count, 1))], 1)
    sizes, yaws = rng.uniform([1, 2, 1], [3, 12, 4], (count, 3)), rng.uniform(-np.pi, np.pi, count)
    categories, visibility = rng.integers(len(NAMES), size=count), rng.integers(0, 5, count)
    world = [Box(p.tolist(), s.tolist(), Quaternion(axis=[0, 0, 1], angle=y)) for p, s, y in zip(places, sizes, yaws)]
    back = np.linalg.inv(lidar)
    headings = np.stack([np.cos(yaws), np.sin(yaws), 0 * yaws], -1) @ back[:3, :3].T
    boxes = np.concatenate([places @ back[:3, :3].T + back[:3, 3], sizes[:, [1, 0, 2]], np.arctan2(
        headings[:, 1], headings[:, 0])[:, None], np.zeros((count, 2))], 1)
    none = np.zeros(count, int)
    return world, Boxes(boxes, categories, none, visibility, *[none] * 5)


def outlines(world, pose):
    """Bottom corners (K, 3, 4) in a frame."""
    back, found = np.linalg.inv(pose), []
    for box in world:
        corners = box.bottom_corners()
        found.append(back[:3, :3] @ corners + back[:3, 3:])
    return np.array(found)


def test_level_boxes_come_back_from_a_leaning_lidar(cars):
    world, boxes = cars
    got = world_corners(boxes.boxes, EGO @ MOUNT)
    want = np.array([box.bottom_corners().T for box in world])
    for mine, theirs in zip(got, want):      # in another order
        gap = np.linalg.norm(mine[:, None] - theirs, axis=2)
        assert gap.min(1).max() < 1e-9
        assert sorted(gap.argmin(1)) == [0, 1, 2, 3]


def test_lss_vehicles_are_those_of_its_code(cars):
    world, boxes = cars
    want = np.zeros((200, 200), np.uint8)
    low, cell = np.array([-50 + .25, -50 + .25]), np.array([.5, .5])
    for corners, category in zip(outlines(world, EGO), boxes.categories):
        if NAMES[category].split('.')[0] == 'vehicle':
            pixels = np.round((corners[:2].T - low + cell / 2) / cell).astype(np.int32)
            cv2.fillPoly(want, [pixels[:, [1, 0]]], 1)
    got, counts = vehicle_labels(preset_of('lss_vehicle'), boxes, NAMES, EGO @ MOUNT, EGO)
    assert counts is None
    np.testing.assert_array_equal(got[0], want.T)      # its rows go with x
    assert want.sum() > 300


def test_cvt_vehicles_and_where_they_count_are_those_of_its_code(cars):
    world, boxes = cars
    view = np.array([[0, -2, 100], [-2, 0, 100], [0, 0, 1.0]])
    want, level = np.zeros((200, 200), np.uint8), np.full((200, 200), 255, np.uint8)
    for corners, category, visibility in zip(outlines(world, flat_pose(EGO)), boxes.categories, boxes.visibility):
        pixels = (view @ np.concatenate([corners[:2], np.ones((1, 4))]))[:2].round().astype(np.int32).T
        words = NAMES[category].split('.')
        if 'vehicle' in words:
            cv2.fillPoly(level, [pixels], int(visibility))
            if set(words) & set(CVT_VEHICLES):
                cv2.fillPoly(want, [pixels], 1)
    got, counts = vehicle_labels(preset_of('cvt_vehicle_s2'), boxes, NAMES, EGO @ MOUNT, flat_pose(EGO))
    np.testing.assert_array_equal(got[0], want[::-1, ::-1].T)      # its image has the front up
    np.testing.assert_array_equal(counts, (level >= 2)[::-1, ::-1].T)
    assert 0 < (~counts).sum() < 3000
    assert want.sum() < vehicle_labels(preset_of('lss_vehicle'), boxes, NAMES, EGO @ MOUNT, EGO)[0].sum()


def test_a_car_front_left_lies_front_left():
    boxes = np.array([[-8.0, 20, -1, 4, 2, 1.5, np.pi / 2, 0, 0]])      # in the LiDAR's frame, x right and y forward
    one = Boxes(boxes, np.array([1]), *[np.array([4])] * 7)
    mount = pose_of(-np.pi / 2, (0, 0, 1.84))
    for name, frame in (('lss_vehicle', EGO), ('cvt_vehicle_s2', flat_pose(EGO))):
        rows, columns = np.nonzero(vehicle_labels(preset_of(name), one, NAMES, EGO @ mount, frame)[0][0])
        assert columns.mean() * .5 - 50 == pytest.approx(20, abs=.6)      # x forward
        assert rows.mean() * .5 - 50 == pytest.approx(8, abs=.6)      # y left


def test_bevfusion_labels_are_the_kit_s_masks(root):
    preset, lidar = preset_of('bevfusion_map'), EGO @ MOUNT
    got = map_labels(preset, read_map(root, PLACE), lidar)
    ahead = lidar[:3, :3] @ [1, 0, 0]
    layers = ['drivable_area', 'ped_crossing', 'walkway', 'stop_line', 'carpark_area', 'road_divider', 'lane_divider']
    masks = KIT.NuScenesMap(str(root), PLACE).get_map_mask(
        (*lidar[:2, 3], 100.0, 100.0), np.arctan2(ahead[1], ahead[0]) / np.pi * 180, layers, (200, 200))
    np.testing.assert_array_equal(got, [*masks[:5], np.maximum(masks[5], masks[6])])
    assert got.shape == (len(preset.classes), 200, 200)
    assert (got.sum((1, 2)) > 0).all()


def test_cvt_road_is_that_of_its_code(root):
    view, back = np.array([[0, -2, 100], [-2, 0, 100], [0, 0, 1.0]]), np.linalg.inv(flat_pose(EGO))
    found, want = KIT.NuScenesMap(str(root), PLACE), np.zeros((200, 200), np.uint8)
    for layer in ('lane', 'road_segment'):
        mask = np.zeros((200, 200), np.uint8)
        for record in getattr(found, layer):
            places = np.array(found.extract_polygon(record['polygon_token']).exterior.coords)
            local = places @ back[:2, :2].T + back[:2, 3]
            pixels = np.concatenate([local, np.ones((len(local), 1))], 1) @ view.T
            cv2.fillPoly(mask, [pixels[:, :2].round().astype(np.int32)], 1)
        want |= mask
    got = map_labels(preset_of('cvt_road'), read_map(root, PLACE), flat_pose(EGO))
    np.testing.assert_array_equal(got[0], want[::-1, ::-1].T)
    assert .05 < want.mean() < .6


def test_all_presets_show_the_same_road(root):
    """Half a cell off at most, each in its own frame."""
    data = read_map(root, PLACE)
    lss = map_labels(preset_of('lss_map'), data, EGO)
    cvt = map_labels(preset_of('cvt_road'), data, flat_pose(EGO))
    fusion = map_labels(preset_of('bevfusion_map'), data, EGO)      # as if the LiDAR were the ego
    assert lss.shape == (2, 200, 200)
    for other in (cvt[0], fusion[0]):
        assert (lss[0] & other).sum() / (lss[0] | other).sum() > .85
    assert (cv2.dilate(fusion[5], np.ones((5, 5))) >= lss[1]).mean() > .995


@pytest.mark.parametrize('name', ['lss_map', 'cvt_road', 'bevfusion_map', 'lss_vehicle'])
def test_labels_follow_augmentation(root, cars, name):
    """A frame that is turned, flipped, scaled and moved sees the labels turned, flipped, scaled and moved."""
    preset, frame = preset_of(name), flat_pose(EGO)

    def labels(matrix):
        if preset.of_vehicles:
            return vehicle_labels(preset, cars[1], NAMES, EGO @ MOUNT, matrix)[0]
        return map_labels(preset, read_map(root, PLACE), matrix)
    plain, most = labels(frame), plain_share(labels(frame))
    for change, undo in ((np.diag([1.0, -1, 1, 1]), lambda m: m[:, ::-1]), (np.diag([-1.0, 1, 1, 1]), lambda m: m[
            :, :, ::-1]), (pose_of(np.pi / 2, (0, 0, 0)), lambda m: np.rot90(m, 1, (1, 2)))):
        got = undo(labels(frame @ np.linalg.inv(change)))
        assert agreement(got, plain) > most, change
    larger = labels(frame @ np.diag([.5, .5, .5, 1]))      # augmented by a factor of 2: the middle fills the grid
    assert agreement(larger[:, ::2, ::2], plain[:, 50:150, 50:150]) > most - .03


@pytest.mark.parametrize('name', ['lss_map', 'cvt_road', 'bevfusion_map', 'lss_vehicle'])
@pytest.mark.parametrize('change', [np.eye(4), np.diag([1.0, -1, 1, 1])])
def test_a_grid_beside_the_car_is_a_part_of_one_around_it(root, cars, name, change):
    whole, frame = preset_of(name), flat_pose(EGO) @ change
    part = replace(whole, x=(-10.0, 40.0, .5), y=(-30.0, 15.0, .5))
    around, beside = (vehicle_labels(preset, cars[1], NAMES, EGO @ MOUNT, frame)[0] if preset.of_vehicles else
                      map_labels(preset, read_map(root, PLACE), frame) for preset in (whole, part))
    assert beside.shape == (len(whole.classes), 90, 100) and beside[0].any()
    inner = beside[:, 1:-1, 1:-1], around[:, 40:130, 80:180][:, 1:-1, 1:-1]      # lines end at the border
    assert (inner[0] == inner[1]).mean() > .995


def agreement(first, second):
    return (cv2.dilate(first[0], np.ones((3, 3))) >= second[0]).mean() * (cv2.dilate(second[0], np.ones((3, 3))) >=
                                                                         first[0]).mean()


def plain_share(labels):
    """Nearly all, and more than a picture of nothing has in common."""
    assert labels[0].mean() > .01
    return .985


def test_wrong_presets_are_named(root, cars):
    with pytest.raises(ConfigError, match='lss_vehicel'):
        preset_of('lss_vehicel')
    with pytest.raises(DataError, match='lss_vehicle'):
        map_labels(preset_of('lss_vehicle'), read_map(root, PLACE), EGO)
    with pytest.raises(DataError, match='lss_map'):
        vehicle_labels(preset_of('lss_map'), cars[1], NAMES, EGO, EGO)
    empty = Boxes(np.zeros((0, 9)), *[np.zeros(0, int)] * 8)
    assert not vehicle_labels(preset_of('lss_vehicle'), empty, NAMES, EGO, EGO)[0].any()
    assert {preset.shape for preset in PRESETS.values()} == {(200, 200)}


def test_the_benchmark_compares_with_the_kit_and_times_both(root):
    args = argparse.Namespace(data_root=str(root), location=PLACE, patches=3, rounds=1)
    found = map_labels_benchmark.run(args)
    assert (found['patches'], found['differing']) == (3, 0) and found['own'] > 0 < found['kit']
    with pytest.raises(ConfigError, match='patches=0'):
        map_labels_benchmark.run(argparse.Namespace(**dict(vars(args), patches=0)))
