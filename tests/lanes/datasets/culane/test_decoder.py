"""CULane's decoder against SCNN's rule, written out pixel by pixel."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from perception.apis.config import load_config
from perception.lanes.datasets.base import resize
from perception.lanes.datasets.culane.decoder import CULaneDecoder
from perception.lanes.datasets.culane.metric import compare_image, count
from perception.lanes.datasets.culane.reader import LABEL_WIDTH
from perception.lanes.mini import draw_polyline
from perception.registry import TASK_UTILS
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
CULANE = dict(original_shape=(590, 1640))


def slow_culane(slow_mean, image, shape, crop_top, exists):
    """SCNN's getLane: rows and columns counted from 1."""
    height, width = image.shape
    points = []
    for i in range(1, 19):
        row = int(np.floor(height - (i - 1) * 20 / (shape[0] - crop_top) * height + .5))
        if row < 1:
            continue
        values = [slow_mean(image, row - 1, column, 9, 'zeros') for column in range(width)]
        best = max(values)
        if best / 255 > .3:
            column = values.index(best) + 1
            points.append([int(np.floor(column * shape[1] / width + .5)) - 1, shape[0] - (i - 1) * 20 - 1])
    return points if exists and len(points) > 1 else None


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('crop_top', [0, 240])
def test_culane_equals_the_published_rule(device, crop_top, random_probs, slow_mean):
    probs, exist = random_probs(1, 4, 36, 50).repeat(2, 1, 1, 1), torch.tensor([[.9, .5, .6], [.2, .9, .9]])
    probs[1, 3] *= .25  # below the threshold
    metas = [dict(CULANE, crop_top=crop_top)] * 2
    lanes = CULaneDecoder()(probs.to(device), exist.to(device), metas)
    for i in range(2):
        expected = [slow_culane(slow_mean, probs[i, k + 1].double().numpy(), (590, 1640), crop_top, exist[i, k] > .5)
                    for k in range(3)]
        assert [lane.tolist() for lane in lanes[i]] == [lane for lane in expected if lane]
    assert len(lanes[0]) == 2 and len(lanes[1]) == 1
    assert all(lane.dtype == np.float64 for lane in lanes[0])


def test_culane_stripe():
    probs = torch.zeros(1, 5, 288, 800)
    probs[0, 2, :, 400:409] = 1
    lane, = CULaneDecoder()(probs, None, [CULANE])[0]
    assert lane[:, 1].tolist() == list(range(589, 248, -20)) and len(set(lane[:, 0])) == 1
    assert abs(lane[0, 0] - 404.5 * 1640 / 800) < 2.05


def test_lanes_of_other_cameras_are_followed_to_the_top():
    """CULane's lanes end at row 250 of 590; those of a camera that looks down would be cut at 42 % of its rows."""
    probs = torch.zeros(1, 5, 288, 512)
    probs[0, 2, :, 200:209] = 1
    decoder = TASK_UTILS.build(load_config('configs/lanes/erfnet_folder.py').model.decoder)
    lane, = decoder(probs, None, [dict(original_shape=(1080, 1920))])[0]
    assert lane[0, 1] == 1079 and 0 <= lane[-1, 1] < 40 and len(lane) == 30


def test_images_of_different_sizes_in_a_batch(random_probs):
    probs = random_probs(2, 3, 36, 50).repeat(3, 1, 1, 1)
    metas = [CULANE, dict(original_shape=(300, 400)), CULANE]
    together, alone = CULaneDecoder()(probs, None, metas), [CULaneDecoder()(probs[:1], None, [m])[0] for m in metas]
    for a, b in zip(together, alone):
        assert [lane.tolist() for lane in a] == [lane.tolist() for lane in b]


def test_bad_input():
    probs = torch.zeros(2, 5, 16, 32)
    with pytest.raises(DataError, match='for 1 images'):
        CULaneDecoder()(probs, None, [CULANE])
    with pytest.raises(DataError, match='expected one number a slot'):
        CULaneDecoder()(probs, torch.zeros(2, 6), [CULANE] * 2)
    with pytest.raises(DataError, match='no original_shape'):
        CULaneDecoder()(probs, None, [dict(sample_id='a')] * 2)
    empty = CULaneDecoder()(probs, None, [CULANE] * 2)
    assert all(not len(lane) for image in empty for lane in image) and len(empty) == 2


@pytest.mark.parametrize('arguments', [dict(kernel=8), dict(kernel=0), dict(padding='edge')])
def test_bad_arguments(arguments):
    with pytest.raises(ConfigError, match='expected an odd width'):
        CULaneDecoder(**arguments)


def decoded_labels(size, stride, decoder):
    """F1 of lanes whose labels are resized to a size, averaged to a map of a stride, enlarged again and decoded."""
    lanes, rows = [], np.arange(590, 280, -10.0)
    for bottom, top, bend in ((-250, 700, 1), (420, 760, 1.2), (1180, 840, 0.9), (1900, 900, 1)):
        u = top + (bottom - top) * ((rows - 280) / 310) ** bend
        lanes.append(np.stack([u, rows], 1)[(u > -100) & (u < 1740)])
    labels = np.zeros((590, 1640), np.uint8)
    for slot, lane in enumerate(lanes):
        draw_polyline(labels, lane, slot + 1, LABEL_WIDTH)
    small = resize(dict(image=labels, labels=labels), size)['labels']
    probs = F.one_hot(torch.from_numpy(small).long(), 5).permute(2, 0, 1)[None].float()
    if stride > 1:
        probs = F.interpolate(F.adaptive_avg_pool2d(probs, [-(-n // stride) for n in size]), size, mode='bilinear',
                              align_corners=True)
    return count([compare_image(lanes, decoder(probs, None, [CULANE])[0])]).f1


def test_a_map_can_represent_lanes_at_each_published_and_mini_scale():
    """What a perfect net would reach: 1; at an eighth of 80 x 240 pixels a lane is a third of a cell, and nothing."""
    assert decoded_labels((288, 800), 8, CULaneDecoder()) == 1
    teacher = load_config('configs/lanes/pspnet_culane.py', mini=True).model
    stride = 4 if teacher.fine_channels else 8
    assert decoded_labels(teacher.input_size, stride, CULaneDecoder(kernel=teacher.decoder.kernel)) == 1
    for name in ('erfnet', 'enet'):
        net = load_config(f'configs/lanes/{name}_culane.py', mini=True).model
        assert decoded_labels(net.input_size, 2, CULaneDecoder(kernel=net.decoder.kernel)) == 1
    assert decoded_labels((80, 240), 8, CULaneDecoder(kernel=3)) == 0
