"""Six tasks of boxes with Scale-NMS and the traps of the published head; maps on any grid by three protocols."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement

from perception.bev.geometry import BEVGrid
from perception.bev.models.map_head import MapHead, focal
from perception.common.nets.center_head import CenterHead
from perception.utils.errors import ConfigError, DataError

TASKS = (('car',), ('truck', 'construction_vehicle'), ('bus', 'trailer'), ('barrier',), ('motorcycle', 'bicycle'),
         ('pedestrian', 'traffic_cone'))
CLASSES = ('car', 'truck', 'bus', 'trailer', 'construction_vehicle', 'pedestrian', 'motorcycle', 'bicycle',
           'traffic_cone', 'barrier')
FACTORS = dict(truck=.7, construction_vehicle=.7, bus=.4, trailer=.55, barrier=1.1, pedestrian=4.5, traffic_cone=9.)
PLACE = dict(point_cloud_range=(-8, -8, -10, 8, 8, 10), voxel_size=(.8, .8), stride=1)  # 20 x 20 cells
GRID = BEVGrid(x=(-8, 8, .8), y=(-8, 8, .8))


def box_head(**options):
    torch.manual_seed(0)
    return CenterHead(4, TASKS, classes=CLASSES, shared_channels=4, head_channels=4, **PLACE, **options)


def ideal(head, boxes, labels, scores):
    """Maps whose peaks are exactly these boxes."""
    sample = BaseDataElement(boxes=torch.tensor(boxes), labels=torch.tensor(labels))
    maps = []
    for target, count in zip(head.targets([sample]), head.counts):
        rows = torch.zeros(1, 10, head.grid.shape[0] * head.grid.shape[1])
        heat = torch.full((1, count, *head.grid.shape), -9.)
        for slot in target.mask[0].nonzero().squeeze(1):
            cell = target.cells[0, slot]
            rows[0, :, cell] = target.boxes[0, slot]
            plane = target.heatmap[0].flatten(1)[:, cell] == 1
            heat[0].view(count, -1)[plane, cell] = scores.pop(0)
        parts = rows.view(1, 10, *head.grid.shape).split(list(head.branches.values()), dim=1)
        maps.append(dict(zip(head.branches, parts), heatmap=heat))
    return maps


def person(x, y=.4):
    return [x, y, -1., .7, .7, 1.7, 0., 0., 0.]


def test_classes_go_to_six_tasks_and_come_back():
    head = box_head(nms=None)
    boxes = [person(-7.5 + .8 * k, .4 * k) for k in range(10)]
    found, scores, labels = head.predict(ideal(head, boxes, list(range(10)), [3.] * 10))[0]
    kept = scores > .9
    assert kept.sum() == 10 and sorted(labels[kept].tolist()) == list(range(10))
    order = labels[kept].argsort()
    torch.testing.assert_close(found[kept][order], torch.tensor(boxes), rtol=0, atol=1e-4)


@pytest.mark.parametrize(('name', 'gap', 'factors', 'left'), [
    ('pedestrian', 1.6, None, 2),  # two that do not overlap
    ('pedestrian', 1.6, FACTORS, 1),  # but do when 4.5 times as large: a duplicate
    ('car', 1.6, FACTORS, 2)])
def test_scale_nms(name, gap, factors, left):
    """0.7 m wide boxes 1.6 m apart: 3.15 m wide ones overlap by (3.15 - 1.6) / (3.15 + 1.6) = 0.33."""
    head = box_head(nms='rotated', nms_threshold=(.2, .2, .2, .2, .2, .3), nms_factors=factors)
    label = CLASSES.index(name)
    found, scores, _ = head.predict(ideal(head, [person(.4), person(.4 + gap)], [label] * 2, [3., 2.]))[0]
    sure = scores > .5
    assert int(sure.sum()) == left
    assert found[sure][0, 3:6].tolist() == pytest.approx([.7, .7, 1.7], abs=1e-5)  # its own size again


def test_each_task_has_its_own_suppression():
    """A barrier's circle of 1 m, that of mmdet3d as well, which compares squares: 1 is its own square, 4 is 2 m."""
    head = box_head(nms=('rotated',) * 3 + ('circle', None, 'rotated'), nms_threshold=(.2, .2, .2, 1.7, .2, .5))
    for name, left in dict(barrier=1, bicycle=2, car=2).items():
        label = CLASSES.index(name)
        scores = head.predict(ideal(head, [person(.4), person(2.)], [label] * 2, [3., 2.]))[0][1]
        assert int((scores > .5).sum()) == left, name
    squared = box_head(nms='circle', nms_threshold=1.5)  # 1.6 m apart: within 2.25 if squares were compared
    scores = squared.predict(ideal(squared, [person(.4), person(2.)], [0, 0], [3., 2.]))[0][1]
    assert int((scores > .5).sum()) == 2


def test_more_detections_than_cells_are_asked_for():
    """mmdet3d's top-k stops where the map has fewer cells than max_num."""
    head = CenterHead(4, [('car',)], (-8, -8, -10, 8, 8, 10), (1.6, 1.6), 1, shared_channels=4, head_channels=4,
                      max_detections=500, score_threshold=.01, nms=None)
    maps = head(torch.randn(2, 4, 10, 10))
    for boxes, scores, labels in head.predict(maps):
        assert len(boxes) == len(scores) == len(labels) <= 100 and len(boxes) > 0


def test_at_most_83_boxes_of_a_task_are_kept():
    head = box_head(nms='circle', nms_threshold=0., max_kept=83, score_threshold=0.)
    boxes, scores, labels = head.predict(head(torch.randn(1, 4, 20, 20)))[0]
    assert len(boxes) == 6 * 83 <= 500


def test_unknown_velocities_leave_no_trace():
    head = box_head()
    boxes = torch.tensor([person(.4), person(3., 3.)])
    boxes[0, 7:] = torch.nan
    losses = head.loss(head(torch.randn(1, 4, 20, 20)), [BaseDataElement(boxes=boxes, labels=torch.tensor([0, 5]))])
    sum(losses.values()).backward()
    assert len(losses) == 12 and all(value.isfinite() for value in losses.values())
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)
    unknown, known = (head.task_heads[task]['vel'][1].weight.grad.abs().sum() for task in (0, 5))
    assert unknown == 0 < known


@pytest.mark.parametrize(('options', 'message'), [
    (dict(nms=('circle', 'rotated')), '2 values of nms for 6 tasks'), (dict(nms='square'), 'square'),
    (dict(nms_factors=dict(cars=2)), 'nms_factors=.*cars'), (dict(nms_factors=dict(car=0)), 'above 0'),
    (dict(nms_factors=dict(car=float('inf'))), 'above 0'),
    (dict(post_range=(-9, -9, 5, 9, 9, 5)), 'post_range=.*expected least')])
def test_wrong_suppression(options, message):
    with pytest.raises(ConfigError, match=message):
        box_head(**options)


# --------------------------------------------------------------------------------------------------------------- maps

def map_head(**options):
    torch.manual_seed(0)
    return MapHead(**dict(in_channels=4, grid=GRID, classes=('road', 'crossing'), layers=1) | options)


def labelled(layers, mask=None, **more):
    return BaseDataElement(map_labels=layers.to(torch.uint8), **more, **({} if mask is None else dict(map_mask=mask)))


def test_features_are_sampled_at_the_centres_of_label_cells():
    """A plane in x and y keeps its values on a grid of another place, size and cell, but for what lies outside."""
    head = MapHead(2, GRID, ('road',), dict(x=(-4, 7, .5), y=(-6, 2, .25)), layers=0)
    features = GRID.centres().permute(2, 0, 1)[None]
    torch.nn.init.zeros_(head.last.bias)
    with torch.no_grad():
        for axis in (0, 1):
            head.last.weight.zero_()[0, axis] = 1
            torch.testing.assert_close(head(features)[0, 0], head.grid.centres()[..., axis], rtol=0, atol=1e-4)
        outside = MapHead(2, GRID, ('road',), dict(x=(-16, 16, 1), y=(-8, 8, 1)), layers=0)
        assert outside(features + 9)[0, 0].shape == (16, 32)
        assert torch.equal(outside(features + 9)[0, 0, :, 0], outside.last.bias.expand(16))
    assert map_head().places is None and map_head(label_grid=dict(x=GRID.x, y=GRID.y)).places is None


def test_bfloat16_does_not_move_the_cells():
    head, seen = MapHead(1, BEVGrid((-51.2, 51.2, .8), (-1.6, 1.6, .8)), ['road'], dict(
        x=(-48, 48, .2), y=(-1, 1, .2)), layers=0), []
    head.last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].float()))
    columns = torch.arange(128.).expand(1, 1, 4, -1)
    head(columns)
    with torch.autocast('cpu', torch.bfloat16):
        head(columns.bfloat16())
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=1e-3)  # columns of the features


def test_focal_loss_of_each_layer_where_the_map_counts():
    head = map_head(gamma=2.)
    logits = torch.randn(2, 2, 20, 20, requires_grad=True)
    labels, mask = torch.rand(2, 2, 20, 20) > .7, torch.rand(2, 20, 20) > .3
    losses = head.loss(logits, [labelled(labels[0], mask[0]), labelled(labels[1], mask[1])])
    p = logits.detach().sigmoid().double().numpy()
    for layer, name in enumerate(('road', 'crossing')):
        errors = np.where(labels[:, layer], -(1 - p[:, layer]) ** 2 * np.log(p[:, layer]),
                          -p[:, layer] ** 2 * np.log(1 - p[:, layer]))
        assert float(losses[f'loss_{name}'].detach()) == pytest.approx(errors[mask.numpy()].mean(), rel=1e-5)
    sum(losses.values()).backward()
    assert bool((logits.grad[:, 0] != 0).eq(mask).all())
    with torch.no_grad():
        everywhere = head.loss(logits, [labelled(labels[0]), labelled(labels[1])])['loss_road']
        nowhere = head.loss(logits, [labelled(part, torch.zeros(20, 20, dtype=torch.bool)) for part in labels])
        torch.testing.assert_close(everywhere, focal(logits[:, 0], labels[:, 0].float()).mean())
    assert float(nowhere['loss_road']) == 0


def test_lss_weighs_vehicles():
    head = map_head(classes=('vehicle',), layers=0, loss='bce', pos_weight=2.13)
    logits, labels = torch.randn(1, 1, 20, 20), torch.rand(1, 20, 20) > .5
    expected = F.binary_cross_entropy_with_logits(logits[0], labels.float(), pos_weight=torch.tensor(2.13))
    torch.testing.assert_close(head.loss(logits, [labelled(labels)])['loss_vehicle'], expected)
    assert sum(p.numel() for p in head.parameters()) == 5  # one 1 x 1 convolution


def test_cvt_learns_centres_beside_vehicles():
    head = map_head(classes=('vehicle',), center_weight=.1, center_labels=(0, 1))
    boxes = torch.tensor([person(.4), person(-3.7, 2.1), person(5., 5.), person(7.9, -7.9), person(90.)])
    boxes[2, 0] = torch.nan
    sample = labelled(torch.zeros(1, 20, 20), boxes=boxes, labels=torch.tensor([0, 1, 0, 1, 0]))
    target = head.centers([sample, labelled(torch.zeros(1, 20, 20), boxes=boxes, labels=torch.full((5,), 5))])
    x, y = GRID.centres().unbind(-1)
    expected = torch.stack([(-((x - u) ** 2 + (y - v) ** 2) / .64).exp() for u, v in boxes[[0, 1, 3], :2]]).amax(0)
    torch.testing.assert_close(target[0, 0], expected, rtol=0, atol=math.exp(-9))
    assert target[0, 0, 10, 10] == pytest.approx(1, abs=1e-5) and target[1].sum() == 0
    logits = head(torch.randn(1, 4, 20, 20))
    losses = head.loss(logits, [sample])
    assert logits.shape[1] == 2 and {*losses} == {'loss_vehicle', 'loss_center'}
    assert head.predict(logits).shape == (1, 1, 20, 20)


@pytest.mark.parametrize(('sample', 'message'), [
    (BaseDataElement(), 'no map_labels'), (labelled(torch.zeros(1, 20, 20)), r'\(1, 20, 20\), expected \(2, 20, 20\)'),
    (labelled(torch.zeros(2, 20, 20), torch.ones(3, 3)), 'map_mask'),
    (labelled(torch.zeros(2, 20, 20), metainfo=dict(map_bounds=(-4, -4, 4, 4))), r'map_bounds \(-4, -4, 4, 4\)'),
    (labelled(torch.zeros(2, 20, 20), metainfo=dict(map_classes=('road', 'walkway'))), "'walkway'")])
def test_maps_of_another_preset_are_refused(sample, message):
    with pytest.raises(DataError, match=message):
        map_head().loss(torch.zeros(1, 2, 20, 20), [sample])


def test_layers_need_names():
    for classes in ((), ('road', 'road')):
        with pytest.raises(ConfigError, match='different names'):
            map_head(classes=classes)
    with pytest.raises(ConfigError, match='loss'):
        map_head(loss='dice')


def test_bfloat16_logits_are_judged_in_float32():
    head = map_head()
    losses = head.loss(torch.zeros(1, 2, 20, 20).bfloat16(), [labelled(torch.zeros(2, 20, 20))])
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert head.predict(torch.zeros(1, 2, 2, 2).bfloat16()).dtype == torch.float32
