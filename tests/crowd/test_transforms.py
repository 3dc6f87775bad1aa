"""Augmentation of scans with people: what moves together, what is pasted where, and what it depends on."""
import numpy as np
import pytest
import torch

from perception.common.boxes import points_in_boxes, project_points
from perception.common.structures import PER_BOX
from perception.crowd.datasets.stcrowd.reader import STCrowd
from perception.crowd.transforms import MoveScene, SamplePeople, WithinBounds
from perception.utils.errors import ConfigError


def people(*places, **changes):
    """A sample of people 1.7 m high at x, y, each with 30 points, on a flat ground."""
    rng, count = np.random.default_rng(len(places)), len(places)
    boxes = np.array([[x, y, -.8, .6, .6, 1.7, 0, 1, 0] for x, y in places], np.float32).reshape(-1, 9)
    on = boxes[:, None, :3] + rng.uniform(-.28, .28, (count, 30, 3)) * (1, 1, 2.5)
    ground = rng.uniform((-20, -20, -1.66), (34, 20, -1.6), (2000, 3))
    points = np.c_[np.concatenate([ground, on.reshape(-1, 3)]), rng.random(2000 + 30 * count)].astype(np.float32)
    numbers = np.arange(count)
    sample = dict(points=points, boxes=boxes, labels=0 * numbers, ignore=np.zeros(count, bool), occlusion=numbers % 3,
                  track_ids=numbers, num_points=30 + 0 * numbers, density=np.zeros(count, np.float32), joint=numbers,
                  sample_id='a', lidar_to_image=np.eye(4), rng=np.random.default_rng(0))
    return dict(sample, **changes)


def pasted(scene, other, **arguments):
    return SamplePeople(**arguments)(dict(scene, draw=lambda: other, epoch=arguments.pop('epoch', 0)))


# --- moving ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('seed', range(6))
def test_points_boxes_and_pixels_move_together(seed):
    scene = people((6, -2), (9, 3), (20, 5), lidar_to_image=np.array(
        [[678.8, -677.9, -32.2, -7.6], [343.9, 7.2, -699.1, -126], [.999, .009, -.042, -.073], [0, 0, 0, 1]]))
    moved = MoveScene()(dict(scene, rng=np.random.default_rng(seed)))
    rows, counts = points_in_boxes(scene['points'], scene['boxes'] * np.float32([1, 1, 1, 1.02, 1.02, 1.02, 1, 1, 1]))
    again, after = points_in_boxes(moved['points'], moved['boxes'] * np.float32([1, 1, 1, 1.02, 1.02, 1.02, 1, 1, 1]))
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_array_equal(counts, after)
    pixels, depth = project_points(scene['boxes'][:, :3].astype(float), scene['lidar_to_image'])
    np.testing.assert_allclose(project_points(moved['boxes'][:, :3].astype(float), moved['lidar_to_image'])[0], pixels,
                               atol=.01)
    np.testing.assert_array_equal(moved['points'][:, 3], scene['points'][:, 3])
    speed = np.hypot(*moved['boxes'][:, 7:].T) / (moved['boxes'][:, 5] / scene['boxes'][:, 5])
    np.testing.assert_allclose(speed, 1, rtol=1e-5)  # scaled with the lengths
    assert moved['points'].dtype == moved['boxes'].dtype == np.float32
    ahead = moved['boxes'][:, 7:] / np.hypot(*moved['boxes'][:, 7:].T)[:, None]
    yaw = moved['boxes'][:, 6]
    np.testing.assert_allclose(ahead, np.stack([np.cos(yaw), np.sin(yaw)], 1), atol=1e-5)  # they walk ahead


def test_the_moves_are_as_large_as_they_should_be():
    scene, rng = people((10, 0)), np.random.default_rng(0)
    moved = [MoveScene()(dict(scene, rng=rng))['boxes'][0] for _ in range(600)]
    factor, mirrored = np.array([m[5] / 1.7 for m in moved]), np.array([m[6] for m in moved])
    assert .95 <= factor.min() < .952 and 1.048 < factor.max() <= 1.05
    assert -.3925 <= mirrored.min() < -.38 and .38 < mirrored.max() <= .3925
    place = np.array([m[:3] / f for m, f in zip(moved, factor)])
    assert .17 < (place[:, 2] + .8).std() < .23 and all(m[0] > 7 for m in moved)  # x is never mirrored
    still = MoveScene(max_radians=0, low=1, high=1, std=0, flip=0)(scene)
    np.testing.assert_array_equal(still['points'], scene['points'])
    mirror = MoveScene(max_radians=0, low=1, high=1, std=0, flip=1)(people((10, 3)))
    assert mirror['boxes'][0, :2].tolist() == [10, -3] and scene['boxes'][0, 0] == 10


def test_unknown_velocities_stay_unknown():
    scene = people((10, 0), (12, 0))
    scene['boxes'][0, 7:] = np.nan
    moved = MoveScene()(scene)['boxes']
    assert np.isnan(moved[0, 7:]).all() and np.isfinite(moved[1]).all() and np.isfinite(moved[0, :7]).all()


def test_bounds_drop_points_and_people_with_all_that_is_theirs():
    scene = people((10, 0), (-3, 0), (36, 0), (0, 30))
    inside = WithinBounds()(scene)
    assert inside['boxes'][:, :2].tolist() == [[10, 0], [0, 30]] and inside['track_ids'].tolist() == [0, 3]
    assert all(len(inside[key]) == 2 for key in PER_BOX)
    assert inside['points'][:, 0].min() >= 0 and len(scene['boxes']) == 4
    kept = WithinBounds(people=False)(scene)
    assert len(kept['boxes']) == 4 and len(kept['points']) == len(inside['points'])
    empty = WithinBounds((50, 50, 50, 60, 60, 60))(scene)
    assert empty['points'].shape == (0, 4) and empty['boxes'].shape == (0, 9)


# --- people of another frame -----------------------------------------------------------------------------------------
def test_people_are_put_where_they_stood_with_their_points():
    scene, other = people((6, -2)), people((9, 3), (9, 4), (15, -4), (12, 0))
    other['ignore'][3] = True
    result = pasted(scene, other)
    order = np.argsort(result['boxes'][1:, 1])
    assert result['boxes'][1:, :2][order].tolist() == [[15, -4], [9, 3], [9, 4]]  # not the one who sits
    assert result['track_ids'].tolist() == [0, -1, -1, -1] and result['joint'].tolist() == [0, -1, -1, -1]
    assert not result['ignore'].any() and all(len(result[key]) == 4 for key in PER_BOX)
    rows, counts = points_in_boxes(result['points'], result['boxes'])
    there, expected = points_in_boxes(other['points'], other['boxes'])
    np.testing.assert_array_equal(counts[1:], result['num_points'][1:])
    assert sorted(counts[1:]) == sorted(expected[:3])  # the ground of the scene made way
    assert sorted(result['density']) == [0, 0, 1, 1]
    assert len(scene['boxes']) == 1 and len(other['boxes']) == 4


def test_nobody_is_put_onto_people():
    scene = people((6, -2), (9, 3))
    scene['ignore'][1] = True
    scene['points'] = scene['points'][:2000]  # without points there: the boxes alone must do
    for seed in range(4):  # a place that is taken keeps nobody from the one beside it, in whatever order they come
        scene['rng'] = np.random.default_rng(seed)
        result = pasted(scene, people((6.5, -2), (9, 3.55), (6.7, -1.3), (9, 3.65)))
        np.testing.assert_allclose(sorted(result['boxes'][2:, :2].tolist()), [[6.7, -1.3], [9, 3.65]], rtol=1e-6)


def test_nobody_is_put_onto_walls():
    scene, rng = people((6, -2)), np.random.default_rng(0)
    wall = np.c_[np.full(500, 9.), rng.uniform(-5, 5, 500), rng.uniform(-1.6, 1.5, 500), rng.random(500)]
    stray = np.array([[15, 4, -.5, 0], [15.1, 4, -.6, 0]])
    scene['points'] = np.concatenate([scene['points'], wall, stray]).astype(np.float32)
    result = pasted(scene, people((9, 3), (9.2, 0), (15, 4), (12, 0)))
    assert sorted(result['boxes'][1:, 0]) == [12, 15]
    assert len(pasted(scene, people((15, 4)), stray=1)['boxes']) == 1


def test_people_of_one_frame_are_not_put_onto_each_other():
    result = pasted(people((6, -2)), people((9, 3), (9.3, 3), (15, 0)))
    assert len(result['boxes']) == 3


def test_how_many_and_with_how_many_points():
    other = people(*[(8 + k, 5) for k in range(12)])
    other['points'] = other['points'][:2000 + 30 * 8 + 5]  # the ninth has five points, the rest none
    assert len(pasted(people((6, -2)), other)['boxes']) == 9
    assert len(pasted(people((6, -2)), other, count=3)['boxes']) == 4
    several = {tuple(pasted(people((6, -2), rng=np.random.default_rng(seed)), other, count=3)['boxes'][1:, 0])
               for seed in range(10)}
    assert len(several) > 5


@pytest.mark.parametrize(('epochs', 'fade', 'last'), [(40, .2, 32), (5, .2, 4), (10, 0, 10), (3, 1, 0), (2, .2, 2)])
def test_it_ends_before_the_training(epochs, fade, last):
    scene = people((6, -2))
    step, other = SamplePeople(epochs=epochs, fade=fade), people((12, 3))
    added = [len(step(dict(scene, draw=lambda: other, epoch=epoch))['boxes']) for epoch in range(epochs + 2)]
    assert added == [2] * last + [1] * (epochs + 2 - last)


def test_frames_without_people_take_and_give_none():
    nobody, scene = people(), people((6, -2))
    assert len(pasted(nobody, people((12, 3)))['boxes']) == 1
    assert pasted(scene, nobody)['boxes'].shape == (1, 9)
    bare = {key: scene[key] for key in ('points', 'rng', 'lidar_to_image')}
    for step in (SamplePeople(), MoveScene(), WithinBounds()):
        assert set(step(bare)) == set(bare)


@pytest.mark.parametrize(('kind', 'arguments'), [
    (WithinBounds, dict(bounds=(0, 0, 0, 1, 1))), (WithinBounds, dict(bounds=(0, 0, 0, 1, 1, 0))),
    (SamplePeople, dict(count=0)), (SamplePeople, dict(epochs=0)), (SamplePeople, dict(fade=1.5)),
    (SamplePeople, dict(stray=-1)), (MoveScene, dict(low=0)), (MoveScene, dict(low=1.1, high=1)),
    (MoveScene, dict(flip=2)), (MoveScene, dict(std=float('nan'))), (MoveScene, dict(max_radians=4))])
def test_wrong_arguments_are_refused(kind, arguments):
    with pytest.raises(ConfigError, match=f'{kind.__name__}: '):
        kind(**arguments)


# --- in a data set ---------------------------------------------------------------------------------------------------
PIPELINE = [dict(type=WithinBounds), dict(type=SamplePeople, epochs=5), dict(type=MoveScene), dict(type=WithinBounds)]


def test_a_sample_depends_on_seed_epoch_and_index_alone(folder):
    """So a resumed training, and one with other workers, sees the same bits."""
    def item(key, seed=0):
        found = STCrowd(folder, 'train', pipeline=PIPELINE, seed=seed)[key]
        return found['inputs']['points'], found['data_samples']
    whole = STCrowd(folder, 'train', pipeline=PIPELINE)
    for _ in range(2):  # in any order, as often as one likes
        for key in [(3, 2), (0, 0), (3, 1), (4, 1)]:
            points, sample = item(key)
            same = whole[key]
            assert torch.equal(points, same['inputs']['points'])
            assert all(torch.equal(sample.get(name).nan_to_num(9), same['data_samples'].get(name).nan_to_num(9))
                       for name in ('boxes', 'density', 'num_points', 'track_ids', 'occlusion'))
            assert np.array_equal(sample.lidar_to_image, same['data_samples'].lidar_to_image)
    assert not torch.equal(item((3, 1))[0], item((2, 1))[0]) and not torch.equal(item((3, 1))[0], item((3, 1), 1)[0])


def test_people_come_and_go_with_the_epochs(folder):
    dataset = STCrowd(folder, 'train', pipeline=PIPELINE[1:2])
    counts = np.array([[len(dataset[epoch, index]['data_samples'].boxes) for index in range(4)] for epoch in range(5)])
    assert counts[4].tolist() == [1, 4, 2, 0] and counts[:4].sum() > 4 * 7  # epoch 4 is the last fifth
    sample = dataset[0, 3]['data_samples']
    assert len(sample.boxes) == len(sample.labels) == len(sample.density) == len(sample.joint)
