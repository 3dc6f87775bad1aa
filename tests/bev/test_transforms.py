"""Every step keeps the geometry true: what is moved moves alike, in images, boxes, velocities, points and depths."""
import cv2
import numpy as np
import pytest

from perception.bev.transforms import (
    BEVAug,
    DropCameras,
    GridMask,
    ImageAug,
    MoveCameras,
    NearBoxes,
    SweepDepth,
    block_depths,
    image_matrices,
    image_matrix,
    move_rig,
    warp,
)
from perception.common.boxes import corners, points_in_boxes
from perception.utils.errors import ConfigError, DataError

CAMERA = np.array([[500.0, 0, 400], [0, 500, 225], [0, 0, 1]])  # of 800 x 450 pixels
TO_CAM = np.array([[1.0, 0, 0, 0], [0, 0, -1, 1.5], [0, 1, 0, 0], [0, 0, 0, 1]])  # looks along +y of the frame


def a_sample(seed=0, cameras=3, reduce=1):
    rng = np.random.default_rng(seed)
    image = np.zeros((450, 800, 3), np.uint8)
    turns = []
    for k in range(cameras):
        c, s = np.cos(2 * np.pi * k / cameras), np.sin(2 * np.pi * k / cameras)
        turns.append(TO_CAM @ np.array([[c, s, 0, 0], [-s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    boxes = np.concatenate([rng.uniform(-20, 20, (6, 2)), np.full((6, 1), .5), rng.uniform(1, 4, (6, 3)),
                            rng.uniform(-3, 3, (6, 3))], 1)
    points = np.concatenate([rng.uniform((-30, -30, -1), (30, 30, 3), (4000, 3)), rng.random((4000, 2))], 1)
    shrink = np.array([[1 / reduce, 0, (1 / reduce - 1) / 2], [0, 1 / reduce, (1 / reduce - 1) / 2], [0, 0, 1]])
    return dict(sample_id='x', rng=rng, images=[image[::reduce, ::reduce]] * cameras,
                cam_to_img=np.repeat(CAMERA[None], cameras, 0), frame_to_cam=np.stack(turns),
                image_aug=np.repeat(shrink[None], cameras, 0), bev_aug=np.eye(4), boxes=boxes,
                labels=np.arange(6), attributes=np.arange(6), visibility=np.full(6, 4), num_points=np.arange(6),
                track_ids=np.arange(6), points=points.astype(np.float32),
                meta=dict(cameras=[f'c{k}' for k in range(cameras)], image_paths=[f'{k}.jpg' for k in range(cameras)]))


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('reduce', [1, 2])
def test_a_dot_lies_where_the_matrix_says(seed, reduce):
    rng = np.random.default_rng(seed)
    dot = rng.uniform((150, 200), (650, 400))
    v, u = np.indices((450, 800))
    image = 255 * np.exp(-((u - dot[0]) ** 2 + (v - dot[1]) ** 2) / 200)
    image = np.repeat(image[..., None], 3, 2).astype(np.uint8)
    sample = a_sample(seed, 1, reduce)
    sample['images'] = [image if reduce == 1 else cv2.resize(image, (400, 225), interpolation=cv2.INTER_AREA)]
    moved = ImageAug((128, 352), (.9, 1.1), (0, .1), 20, .5)(sample)
    seen = moved['images'][0][..., 0].astype(float)
    where = moved['image_aug'][0] @ [*dot, 1]
    if (where[:2] > 15).all() and (where[:2] < (337, 113)).all():
        v, u = np.indices(seen.shape)
        found = np.array([(seen * u).sum(), (seen * v).sum()]) / seen.sum()
        np.testing.assert_allclose(found, where[:2], atol=.3)
    assert moved['images'][0].shape == (128, 352, 3)


def test_no_training_is_one_fixed_matrix():
    steps = ImageAug((256, 704))
    first, second = (steps(a_sample(seed))['image_aug'] for seed in (0, 1))
    np.testing.assert_array_equal(first, second)
    # 0.88 of 800 columns are 704, of 450 rows 396: 140 at the top are cut off
    np.testing.assert_allclose(first[0], [[.88, 0, -.06], [0, .88, -.06 - 140], [0, 0, 1]], atol=1e-12)


def test_a_second_one_takes_the_place_of_the_first():
    first = ImageAug((256, 704), (1.1, 1.2), degrees=5, flip=.5)(a_sample())
    np.testing.assert_allclose(ImageAug((128, 352))(first)['image_aug'], ImageAug((128, 352))(a_sample())['image_aug'])


def test_images_of_another_shape_are_covered():
    tall = image_matrix((800, 450), (256, 704))
    np.testing.assert_allclose(tall @ [-.5, 0, 1], [-.5, tall[1, 2], 1])
    assert (tall @ [449.5, 799.5, 1])[0] == pytest.approx(703.5)
    assert (tall @ [449.5, 799.5, 1])[1] == pytest.approx(255.5, abs=1)


def test_mirror_and_turn_in_the_middle():
    flipped = image_matrix((450, 800), (450, 800), mirrored=True)
    image = np.random.default_rng(0).integers(0, 255, (450, 800, 3)).astype(np.uint8)
    np.testing.assert_array_equal(warp(image, flipped, (450, 800)), image[:, ::-1])
    half = image_matrix((450, 800), (450, 800), degrees=180)
    assert np.abs(warp(image, half, (450, 800)).astype(int) - image[::-1, ::-1]).max() <= 1
    turned = image_matrix((450, 450), (450, 450), degrees=90)  # counter-clockwise: the right side goes up
    np.testing.assert_allclose(turned @ [449, 0, 1], [0, 0, 1], atol=1e-9)


@pytest.mark.parametrize('flips', [(), ('x',), ('y',), ('x', 'y')])
def test_boxes_and_points_move_alike(flips):
    sample = a_sample()
    moved = move_rig(sample, .3, 1.04, (1, -2, .1), flips)
    before, after = (points_in_boxes(s['points'].astype(np.float64), s['boxes']) for s in (sample, moved))
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1].sum() > 20


@pytest.mark.parametrize('flips', [(), ('x',), ('y',), ('x', 'y')])
def test_boxes_and_velocities_move_alike(flips):
    sample = a_sample()
    later = dict(sample, boxes=np.concatenate([sample['boxes'][:, :2] + .5 * sample['boxes'][:, 7:9],
                                               sample['boxes'][:, 2:]], 1))
    now, then = (move_rig(s, -.2, .97, (0, 1, 0), flips)['boxes'] for s in (sample, later))
    np.testing.assert_allclose((then[:, :2] - now[:, :2]) / .5, now[:, 7:9], atol=1e-9)


@pytest.mark.parametrize('flips', [(), ('x',), ('y',)])
def test_boxes_and_pixels_stay_together(flips):
    sample = a_sample()
    moved = move_rig(sample, .3, 1.04, (1, -2, .1), flips)
    old, new = (np.sort(np.concatenate([corners(s['boxes'][:, :7]) @ np.linalg.inv(s['bev_aug'])[:3, :3].T
                                        + np.linalg.inv(s['bev_aug'])[:3, 3]]), axis=1) for s in (sample, moved))
    np.testing.assert_allclose(old, new, atol=1e-9)  # brought back they are the same corners
    steps = [ImageAug((128, 352), (.9, 1.1), degrees=5, flip=.5), BEVAug(std=.5)]
    for step in steps:
        moved = step(moved)
    there = image_matrices(moved['cam_to_img'], moved['frame_to_cam'] @ np.linalg.inv(moved['bev_aug']),
                           moved['image_aug'])
    here = image_matrices(sample['cam_to_img'], sample['frame_to_cam'], moved['image_aug'])
    middle, first = moved['boxes'][:, :3], sample['boxes'][:, :3]
    np.testing.assert_allclose(there[:, :, :3] @ middle.T + there[..., 3:], here[:, :, :3] @ first.T + here[..., 3:],
                               atol=1e-6)


def test_points_and_depths_move_alike():
    sample = ImageAug((128, 352), (.9, 1.1), degrees=5, flip=.5)(a_sample())
    before = SweepDepth(16, keep_points=True)(sample)
    after = SweepDepth(16)(move_rig(before, .3, 1.04, (1, -2, .1), ('x',)))
    assert before['depth'].shape == (3, 8, 22) and (before['depth'] > 0).mean() > .3
    np.testing.assert_allclose(before['depth'], after['depth'], atol=1e-4)
    assert 'points' not in after and 'points' in before
    with pytest.raises(DataError, match='Put SweepDepth behind ImageAug'):
        ImageAug((128, 352))(before)


def test_depth_is_the_least_of_each_block_of_pixels():
    rng = np.random.default_rng(0)
    points = rng.uniform((-10, .05, -2), (10, 30, 5), (500, 3)).astype(np.float32)
    matrix = (CAMERA @ TO_CAM[:3])
    depths = block_depths(points, matrix, (450, 800), 16, 1, 25)
    expected = np.zeros((29, 50))
    for point in points.astype(float):
        u, v, w = matrix @ [*point, 1]
        if 1 < w < 25 and -.5 <= u / w < 799.5 and -.5 <= v / w < 449.5:
            row, column = int((v / w + .5) // 16), int((u / w + .5) // 16)
            expected[row, column] = min(expected[row, column] or np.inf, w)
    np.testing.assert_allclose(depths, expected, rtol=1e-4)
    assert (depths > 0).sum() > 100
    assert not block_depths(points[:0], matrix, (450, 800), 16, 1, 25).any()


@pytest.mark.parametrize('seed', range(3))
def test_depths_are_of_what_an_image_shows(seed):
    sample = dict(a_sample(seed), images=[np.full((450, 800, 3), 255, np.uint8)] * 3)
    small = ImageAug((128, 352), (.6, .8), degrees=20, flip=.5)(sample)
    assert (whole := SweepDepth(1)({k: v for k, v in small.items() if k != 'file_sizes'})['depth']).any()
    depth, shown = SweepDepth(1)(small)['depth'], np.stack(small['images']).max(-1)
    inner, outer = (np.stack([cv2.erode((image == value).astype(np.uint8), np.ones((3, 3))) for image in shown]) > 0
                    for value in (255, 0))  # but for pixels that the border crosses
    assert depth[inner].any() and not depth[outer].any() and whole[outer].any()
    np.testing.assert_array_equal(depth[inner], whole[inner])
    same = ImageAug((128, 352), flip=1.0)(sample)
    np.testing.assert_array_equal(*(SweepDepth(16)({k: v for k, v in same.items() if k != left_out})['depth']
                                    for left_out in ('file_sizes', '')))
    kept = DropCameras(keep=2)(small)
    assert len(SweepDepth(16)(kept)['depth']) == len(kept['file_sizes']) == 2


def test_maps_are_drawn_behind():
    with pytest.raises(DataError, match='map_labels already'):
        BEVAug()(dict(a_sample(), map_labels=np.zeros((1, 4, 4))))


def test_the_grid_hides_squares_in_all_images_alike():
    sample = dict(a_sample(), images=[np.full((90, 160, 3), 200, np.uint8)] * 3)
    images = GridMask(1.0)(sample)['images']
    hidden = (images[0] == (124, 116, 104)).all(-1)
    assert .1 < hidden.mean() < .5 and all((image == images[0]).all() for image in images)
    assert (sample['images'][0] == 200).all(), 'the sample itself stays'
    again = GridMask(1.0)(dict(sample, rng=np.random.default_rng(5)))['images'][0]
    np.testing.assert_array_equal(again, GridMask(1.0)(dict(sample, rng=np.random.default_rng(5)))['images'][0])
    assert GridMask(0.0)(sample)['images'][0] is sample['images'][0]


def test_cameras_are_dropped():
    sample = dict(a_sample(cameras=6), depth=np.arange(6.0))
    kept = DropCameras(5)(sample)
    names = kept['meta']['cameras']
    assert len(names) == 5 and names == sorted(names) and len(kept['images']) == 5
    np.testing.assert_array_equal(kept['depth'], [int(name[1]) for name in names])
    np.testing.assert_array_equal(kept['frame_to_cam'], sample['frame_to_cam'][kept['depth'].astype(int)])
    lost = DropCameras(names=['c2'])(sample)
    assert lost['meta']['cameras'] == ['c0', 'c1', 'c3', 'c4', 'c5'] and lost['frame_to_cam'].shape == (5, 4, 4)
    black = DropCameras(names=['c2'], black=True)(dict(sample, images=[np.ones((4, 4, 3), np.uint8)] * 6))
    assert [image.any() for image in black['images']] == [True, True, False, True, True, True]
    with pytest.raises(DataError, match='no camera is left'):
        DropCameras(names=[f'c{k}' for k in range(6)])(sample)
    with pytest.raises(ConfigError, match='keep=7 of 6'):
        DropCameras(7)(sample)
    for black in (False, True):  # a wrong name would drop nothing
        with pytest.raises(ConfigError, match="DropCameras: a camera='c7', expected one of c0, c1"):
            DropCameras(names=['c2', 'c7'], black=black)(sample)


def test_far_boxes_are_left_out():
    sample = a_sample()
    distance = np.hypot(*sample['boxes'][:, :2].T)
    near = NearBoxes(15)(sample)
    assert len(near['labels']) == (distance < 15).sum() == len(near['boxes']) == len(near['track_ids'])
    assert len(NearBoxes([100, 1e-9, 100, 100, 100, 100])(sample)['boxes']) == 5
    with pytest.raises(ConfigError, match='3 ranges for a box of class 5'):
        NearBoxes([100, 100, 100])(sample)


@pytest.mark.parametrize(('kind', 'arguments'), [
    (ImageAug, dict(size=(256,))), (ImageAug, dict(size=(256, 704), scale=(1.2, 1))),
    (ImageAug, dict(size=(256, 704), flip=2)), (GridMask, dict(ratio=1)), (DropCameras, {}),
    (SweepDepth, dict(near=5, far=4)), (BEVAug, dict(low=0)), (NearBoxes, dict(ranges=-1))])
def test_refuses_impossible_numbers(kind, arguments):
    with pytest.raises(ConfigError, match=kind.__name__):
        kind(**arguments)


def test_depths_need_points():
    sample = a_sample()
    del sample['points']
    with pytest.raises(ConfigError, match='points=True'):
        SweepDepth()(sample)


def test_cameras_that_are_not_where_they_are_said_to_be():
    sample = a_sample(3, 6)
    moved = MoveCameras(0.5, 0.05)(dict(sample))
    turns = moved['frame_to_cam'] @ np.linalg.inv(sample['frame_to_cam'])
    angles = np.degrees(np.arccos((np.trace(turns[:, :3, :3], axis1=1, axis2=2) - 1) / 2))
    np.testing.assert_allclose(angles, 0.5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(turns[:, :3, 3], axis=1), 0.05, atol=1e-9)
    assert len(np.unique(turns[:, 0, 3].round(6))) == 6, 'each in its own way'
    assert moved['images'] is sample['images'] and (moved['cam_to_img'] == sample['cam_to_img']).all()
    for wrong in (dict(), dict(degrees=-1), dict(metres=-.1)):
        with pytest.raises(ConfigError, match='MoveCameras'):
            MoveCameras(**wrong)
