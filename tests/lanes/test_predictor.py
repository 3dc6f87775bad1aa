"""Nets on images of any kind, and what happens with those that are none."""
import cv2
import numpy as np
import pytest
import torch

from perception.apis.config import load_config
from perception.lanes.datasets.culane.reader import CULane
from perception.lanes.predictor import fit, pictures, predict, read_truth, stage_maps
from perception.registry import MODELS
from perception.utils.errors import DataError

SIZE = CULane.IMAGE_SIZE


@pytest.fixture(scope='module')
def model():
    """A mini ENet with random weights, as `perception.apis.inference.load` gives it."""
    cfg = load_config('configs/lanes/enet_culane.py', mini=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MODELS.build(cfg.model).eval()
    net.dataset_meta, net.dataset_cfg = CULane.METAINFO, dict(cfg.test_dataloader.dataset, type=CULane)
    return net


@pytest.fixture(scope='module')
def noise():
    return np.random.default_rng(0).integers(0, 256, (118, 328, 3), np.uint8)


# --- which part of an image is seen ---
@pytest.mark.parametrize(('shape', 'box'), [(SIZE, (0, 0, 1640, 590)), ((295, 820), (0, 0, 820, 295)),
                                            ((720, 1280), (0, 260, 1280, 460)), ((100, 1000), (361, 0, 278, 100))])
def test_a_part_of_the_data_sets_shape_is_seen(shape, box):
    part, found = fit(np.zeros((*shape, 3), np.uint8), SIZE)
    assert part.shape[:2] == SIZE and found == box


@pytest.mark.parametrize('shape', [(1, 1), (590, 3), (2, 1640), (40, 40)])
def test_images_with_next_to_no_pixels_are_refused(model, shape):
    picture = np.zeros((*shape, 3), np.uint8)
    with pytest.raises(DataError, match=rf'street: {shape[1]} x {shape[0]} pixels, of which .* at least 16 a side'):
        predict(model, picture, 'street')
    with pytest.raises(DataError, match='street: .* at least 16 a side'):
        stage_maps(model, picture, 'street')


# --- kinds of image files ---
@pytest.mark.parametrize('kind', ['colour', 'grey', 'alpha', '16 bits', 'grey 16 bits'])
def test_every_kind_of_image_is_drawn(model, noise, kind, tmp_path):
    image = dict(colour=noise, grey=noise[..., 0], alpha=np.dstack([noise, noise[..., :1]]))
    image |= {'16 bits': noise.astype(np.uint16) * 257, 'grey 16 bits': noise[..., 0].astype(np.uint16) * 257}
    cv2.imwrite(str(tmp_path / 'x.png'), image[kind])
    (name, picture), = pictures(tmp_path / 'x.png', model)
    assert name == 'x' and picture.dtype == np.uint8 and picture.shape[1] == 960


def test_a_damaged_image_of_a_folder_is_named(model, noise, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.jpg'), noise)
    (tmp_path / 'b.jpg').write_bytes((tmp_path / 'a.jpg').read_bytes()[:500])
    drawn = pictures(tmp_path, model)
    assert next(drawn)[0] == 'a'
    with pytest.raises(DataError, match=r'b\.jpg: 500 bytes of an image without its end'):
        next(drawn)


# --- attention ---
def test_attention_covers_what_the_net_sees(model, noise):
    maps = stage_maps(model, noise)
    assert list(maps) == ['stage1', 'stage2', 'stage3', 'stage4']
    for strength in maps.values():
        assert strength.shape == noise.shape[:2] and strength.min() >= 0 and 0 < strength.max() <= 1


def test_attention_of_two_nets_is_one_picture(model, noise, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), noise)
    (_, picture), = pictures(tmp_path / 'x.png', attention=dict(before=model, after=model))
    assert picture.shape[1] == 5 * 420 + 4 * 4  # the image and four stages


# --- truth ---
def test_labels_that_are_not_there_are_no_empty_labels(tmp_path):
    (tmp_path / 'a.lines.txt').write_text('1 2 3 4\n')
    assert len(read_truth(tmp_path, 'a')['lanes']) == len(read_truth(tmp_path / 'a.lines.txt', 'b')['lanes']) == 1
    with pytest.raises(DataError, match=r'b\.lines\.txt: no such file, expected the lanes of b'):
        read_truth(tmp_path, 'b')
    with pytest.raises(DataError, match=r'none\.txt: no such file, expected the lanes of a'):
        read_truth(tmp_path / 'none.txt', 'a')


@pytest.mark.parametrize('text', ['', '\n\n', '100 60\n', '100 60 90\n', '-500 80 -600 60 -700 40 -800 30\n',
                                  '1e30 1 1e30 90\n'])
def test_odd_lanes_are_drawn(model, noise, text, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), noise)
    (tmp_path / 'x.lines.txt').write_text(text)
    (_, picture), = pictures(tmp_path / 'x.png', None, tmp_path)
    assert picture.shape[1] == 960
