"""Against recorded outputs of mmdet3d's CenterHead and a slow drawing written here; ignored places, odd boxes."""
import json

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from perception.common.nets import center_head
from perception.common.nets.center_head import (
    BevGrid,
    CenterHead,
    decode_boxes,
    draw_heatmaps,
    focal_loss,
    gather,
    gaussian_radius,
    peaks,
)
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
RANGE = (0, -8, -4, 16, 8, 2)  # of `small`: 20 x 20 cells of 0.8 m


def small(tasks=(('person',),), **options):
    torch.manual_seed(0)
    return CenterHead(4, tasks, RANGE, (.2, .2), 4, shared_channels=4, head_channels=4, **options)


def sample(boxes, labels=None, ignore=None, **more):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).view(len(boxes), -1 if len(boxes) else 9)
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else torch.as_tensor(labels)
    more |= {} if ignore is None else dict(ignore=torch.as_tensor(ignore))
    return BaseDataElement(boxes=boxes, labels=labels, **more)


def person(x, y, size=.6, z=-.8, yaw=.5, velocity=(.3, -.2)):
    return [x, y, z, size, size, 1.7, yaw, *velocity]


# ------------------------------------------------------------------------------------------------------------ goldens

@pytest.fixture(scope='module')
def golden(shared):
    def give(name):
        with np.load(shared / f'goldens/detection/centerhead_{name}_A.npz') as file:
            return dict(file)
    return give


def golden_head(arrays, **options):
    config = json.loads(str(arrays['config_json']))
    learn, coder = config['train_cfg'], config['bbox_coder']
    options = dict(max_objects=learn['max_objs'], max_detections=coder['max_num'], velocity='vel' in
                   config['common_heads'], shared_channels=config['share_conv_channel'],
                   post_range=coder['post_center_range'], max_kept=config['test_cfg']['post_max_size']) | options
    head = CenterHead(config['in_channels'], [task['class_names'] for task in config['tasks']],
                      learn['point_cloud_range'], learn['voxel_size'], learn['out_size_factor'], **options)
    weights = {key.split('/', 1)[1]: torch.from_numpy(value).float() for key, value in arrays.items()
               if key.startswith('state_dict/')}
    if weights:
        missing, unexpected = head.load_state_dict(weights, strict=False)
        assert not unexpected and all(key.endswith('num_batches_tracked') for key in missing)
    return head


def golden_samples(arrays, numbers):
    samples = []
    for i in numbers:
        boxes = torch.from_numpy(arrays[f'gt/{i}/boxes_bottom'].copy())
        boxes[:, 2] += boxes[:, 5] * .5
        samples.append(sample(boxes, torch.from_numpy(arrays[f'gt/{i}/labels'])))
    return samples


def test_targets_are_those_of_mmdet3d(golden):
    arrays = golden('targets')
    samples = golden_samples(arrays, range(6))
    for task, target in enumerate(golden_head(arrays).targets(samples)):
        wanted = {name: arrays[f'targets/task{task}/{name}'] for name in ('heatmap', 'anno_box', 'ind', 'mask')}
        np.testing.assert_allclose(target.heatmap, wanted['heatmap'], rtol=0, atol=1e-6)
        np.testing.assert_allclose(target.boxes, wanted['anno_box'], rtol=0, atol=1e-6)  # NaN in the same places
        assert np.array_equal(target.cells, wanted['ind']) and np.array_equal(target.mask, wanted['mask'])
        assert target.weight.shape == (6, 1, 40, 48) and bool((target.weight == 1).all())
    for task, target in enumerate(golden_head(arrays, log_sizes=False).targets(samples)):
        np.testing.assert_allclose(target.boxes, arrays[f'targets_norm_false/task{task}/anno_box'], rtol=0, atol=1e-6)


def test_radii_are_those_of_cornernet(golden):
    arrays = golden('gaussian')
    length, width = torch.from_numpy(arrays['radius_sizes']).unbind(1)
    for overlap, wanted in zip(arrays['radius_overlaps'], arrays['radius'].T):
        np.testing.assert_allclose(gaussian_radius(length, width, float(overlap)), wanted, rtol=1e-4)


def test_gaussians_are_those_of_mmdet3d_cell_by_cell(golden):
    arrays = golden('gaussian')
    one = torch.from_numpy(arrays['draw_center_x_y_radius'])
    maps = draw_heatmaps(one[:, :2], one[:, 2], (len(one), 20, 31), torch.arange(len(one)))
    np.testing.assert_allclose(maps, arrays['draw_maps'], rtol=0, atol=1e-6)
    many = torch.from_numpy(arrays['draw_many_center_x_y_radius'])
    np.testing.assert_allclose(draw_heatmaps(many[:, :2], many[:, 2], (20, 31)), arrays['draw_many_map'], rtol=0,
                               atol=1e-6)


@pytest.mark.parametrize('name', ['forward_vel', 'forward_novel'])
def test_maps_losses_and_boxes_are_those_of_mmdet3d(golden, name):
    arrays = golden(name)
    head = golden_head(arrays).eval()
    with torch.no_grad():
        maps = head(torch.from_numpy(arrays['input']).float())
        losses = head.loss(maps, golden_samples(arrays, (0, 1)))
        found = [head.decode(part, task) for task, part in enumerate(maps)]
    for task, part in enumerate(maps):
        for key, value in part.items():
            np.testing.assert_allclose(value, arrays[f'eval/task{task}/{key}'], rtol=0, atol=1e-4)
        for i in (0, 1):
            boxes, scores, labels = found[task][i]
            wanted = {key: arrays[f'decoded/task{task}/sample{i}/{key}'] for key in ('bboxes', 'scores', 'labels')}
            columns = wanted['bboxes'].shape[1]
            np.testing.assert_allclose(boxes[:, :columns], wanted['bboxes'], rtol=0, atol=1e-4)
            np.testing.assert_allclose(scores, wanted['scores'], rtol=0, atol=1e-5)
            assert np.array_equal(labels - task, wanted['labels'])
            assert boxes.shape[1] == 9 and bool(boxes[:, columns:].isnan().all())
    for key, value in losses.items():
        assert float(value) == pytest.approx(float(arrays[f'eval_loss_01/{key}']), rel=1e-5)


@pytest.mark.parametrize(('name', 'numbers'), [('forward_vel', '01'), ('forward_vel', '14'), ('forward_vel', '23'),
                                               ('forward_vel', '33'), ('forward_novel', '01')])
def test_training_is_that_of_mmdet3d(golden, name, numbers):
    """Losses and gradients with statistics of the batch; samples with unknown velocities, sample 3 without boxes."""
    arrays = golden(name)
    head = golden_head(arrays).train()
    features = torch.from_numpy(arrays['input']).float().requires_grad_()
    losses = head.loss(head(features), golden_samples(arrays, map(int, numbers)))
    sum(losses.values()).backward()
    part = {key.split('/', 1)[1]: value for key, value in arrays.items() if key.startswith(f'train_{numbers}/')}
    for key, value in losses.items():
        assert float(value.detach()) == pytest.approx(float(part[f'loss/{key}']), rel=1e-5)
    stride = 3 if 'grad_input_stride3' in part else 1
    grads = {'input': features.grad[:, :, ::stride, ::stride], 'shared_conv': head.shared_conv.conv.weight.grad}
    grads |= {f'task_heads.{i}.heatmap.1.bias': head.task_heads[i]['heatmap'][1].bias.grad for i in (0, 1)}
    for key, value in grads.items():
        wanted = part.get(f'grad_{key}', part.get(f'grad_{key}_stride3'))
        assert np.abs(value.numpy() - wanted).max() <= 1e-4 * np.abs(wanted).max(), key
    for key in (key for key in part if key.startswith('after/')):
        np.testing.assert_allclose(head.state_dict()[key.split('/', 1)[1]], part[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', ['forward_vel', 'forward_novel'])
@pytest.mark.parametrize(('kind', 'options'), [
    ('rotate', dict(nms='rotated', nms_threshold=.2)),
    ('circle', dict(nms='circle', nms_threshold=(2, .175 ** .5)))])  # recorded values are squares
def test_boxes_kept_are_those_of_mmdet3d(golden, name, kind, options):
    arrays = golden(name)
    head = golden_head(arrays, **options)
    maps = [{key: torch.from_numpy(arrays[f'eval/task{task}/{key}']) for key in (*head.branches, 'heatmap')}
            for task in (0, 1)]
    for i, (boxes, scores, labels) in enumerate(head.predict(maps)):
        wanted = {key: arrays[f'final_{kind}/sample{i}/{key}'] for key in ('boxes_bottom', 'scores', 'labels')}
        boxes[:, 2] -= boxes[:, 5] * .5
        np.testing.assert_allclose(boxes[:, :wanted['boxes_bottom'].shape[1]], wanted['boxes_bottom'], atol=1e-4)
        np.testing.assert_allclose(scores, wanted['scores'], atol=1e-6)
        assert np.array_equal(labels, wanted['labels'])


# ------------------------------------------------------------------------------------------------------------ drawing

def drawn_one_by_one(centers, radii, shape, planes):
    maps = np.zeros(shape)
    for (x, y), r, plane in zip(centers.tolist(), radii.tolist(), planes.tolist()):
        for v in range(max(y - r, 0), min(y + r, shape[1] - 1) + 1):
            for u in range(max(x - r, 0), min(x + r, shape[2] - 1) + 1):
                value = np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * ((2 * r + 1) / 6) ** 2))
                maps[plane, v, u] = max(maps[plane, v, u], value)
    return maps


def test_heatmaps_of_many_boxes_equal_those_drawn_one_by_one():
    generator = torch.Generator().manual_seed(3)
    centers = torch.stack([torch.randint(n, (60,), generator=generator) for n in (13, 9)], 1)
    radii, planes = torch.randint(7, (60,), generator=generator), torch.randint(6, (60,), generator=generator)
    maps = draw_heatmaps(centers, radii, (2, 3, 9, 13), planes)
    np.testing.assert_allclose(maps.view(6, 9, 13), drawn_one_by_one(centers, radii, (6, 9, 13), planes), atol=1e-6)
    assert bool((maps.view(6, 9, 13)[planes, centers[:, 1], centers[:, 0]] == 1).all())


def test_a_gaussian_larger_than_the_map_and_none_at_all():
    maps = draw_heatmaps(torch.tensor([[2, 1]]), torch.tensor([1_000_000]), (4, 5))
    assert maps.shape == (4, 5) and bool((maps > .999).all()) and maps[1, 2] == 1
    assert draw_heatmaps(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, dtype=torch.long), (4, 5)).sum() == 0


# ------------------------------------------------------------------------------------------------ targets and losses

def test_boxes_come_back_from_their_targets():
    head = small([('person',), ('car', 'truck')])
    boxes = torch.tensor([person(3.1, -2.3), [9.9, 4.1, .2, 4.4, 1.9, 1.6, -2.9, 8, 1], person(15.9, 7.9, yaw=3.1)])
    targets = head.targets([sample(boxes, [0, 2, 0]), sample(boxes[:1], [1])])
    assert [target.mask.sum(1).tolist() for target in targets] == [[2, 0], [1, 1]]
    assert [target.heatmap.eq(1).sum((2, 3)).tolist() for target in targets] == [[[2], [0]], [[0, 1], [1, 0]]]
    back = decode_boxes(targets[0].boxes[0, :2], targets[0].cells[0, :2], head.grid)
    torch.testing.assert_close(back, boxes[[0, 2]], rtol=0, atol=1e-5)


def test_a_perfect_map_gives_two_people_half_a_metre_apart():
    head = CenterHead(4, [('person',)], RANGE, (.1, .1), 2, peak_window=3, nms=None)
    boxes = torch.tensor([person(5.0, 1.0), person(5.45, 1.0, yaw=-1.2)])
    target = head.targets([sample(boxes)])[0]
    flat = torch.zeros(1, 10, 80 * 80)
    flat[0, :, target.cells[0, :2]] = target.boxes[0, :2].T
    parts = dict(zip(head.branches, flat.view(1, 10, 80, 80).split(list(head.branches.values()), dim=1)))
    found, scores, labels = head.predict([dict(parts, heatmap=target.heatmap.logit(1e-4))])[0]
    assert found.shape == (2, 9) and labels.tolist() == [0, 0] and bool((scores > .99).all())
    torch.testing.assert_close(found[found[:, 0].argsort()], boxes, rtol=0, atol=1e-4)


def test_boxes_of_seven_numbers_are_learned_with_and_without_velocity():
    boxes = torch.tensor([person(3.1, -2.3), person(9, 2)])
    for velocity in (True, False):
        head = small(velocity=velocity)
        maps = head(torch.randn(1, 4, 20, 20))
        losses = head.loss(maps, [sample(boxes[:, :7])])
        assert {*losses} == {'loss_heatmap', 'loss_bbox'} and all(bool(loss.isfinite()) for loss in losses.values())
        sum(losses.values()).backward()
        assert all(bool(p.grad.isfinite().all()) for p in head.parameters() if p.grad is not None)


def test_an_unknown_velocity_takes_nothing_from_other_errors():
    head, unknown = small(), torch.tensor([person(3.1, -2.3), person(9, 2)])
    known = unknown.clone()
    unknown[0, 7:] = torch.nan
    maps = head(torch.randn(1, 4, 20, 20, generator=torch.Generator().manual_seed(1)))
    row, col = (-2.3 + 8) // .8, 3.1 // .8
    error = (maps[0]['vel'][0, :, int(row), int(col)] - known[0, 7:]).abs().sum() * .2 * .25 / 2
    losses = [float(head.loss(maps, [sample(boxes)])['loss_bbox'].detach()) for boxes in (known, unknown)]
    assert losses[0] - losses[1] == pytest.approx(float(error.detach()), rel=1e-3)


def test_odd_boxes_are_left_out_and_no_box_gives_a_finite_loss():
    head = small()
    odd = torch.tensor([person(3, 1)] * 8 + [person(4, 2)])
    odd[0, 0], odd[1, 2], odd[2, 5], odd[3, 3], odd[4, 0] = torch.nan, torch.inf, 0, -1, 1e30
    odd[5, 6], odd[6, 1], odd[7, 4] = torch.nan, 8.1, torch.inf
    target = head.targets([sample(odd)])[0]
    assert target.mask.nonzero().tolist() == [[0, 8]] and target.heatmap.eq(1).sum() == 1
    for boxes in (odd[:8], odd[:0]):
        losses = head.loss(head(torch.randn(2, 4, 20, 20)), [sample(boxes)] * 2)
        assert float(losses['loss_bbox'].detach()) == 0 and bool(losses['loss_heatmap'].isfinite())


@pytest.mark.parametrize(('limit', 'learned'), [(None, 600), (500, 500)])
def test_many_people_and_a_limit(limit, learned):
    target = small(max_objects=limit).targets([sample(torch.tensor([person(3, 1)] * 600))])[0]
    assert int(target.mask.sum()) == learned


def test_tasks_in_another_order_than_the_labels():
    head = small([('bus',), ('person', 'car')], classes=('car', 'cone', 'person', 'bus'))
    boxes = torch.tensor([person(2, -6), person(6, -2), person(10, 2), person(14, 6)])
    targets = head.targets([sample(boxes, [0, 1, 2, 3])])
    assert [target.heatmap.eq(1).nonzero()[:, 1].tolist() for target in targets] == [[0], [0, 1]]
    heat = torch.cat([target.heatmap for target in targets], 1).logit(1e-4)
    maps = [dict(heatmap=part, **{name: torch.zeros(1, n, 20, 20) for name, n in head.branches.items()})
            for part in heat.split([1, 2], dim=1)]
    for task, wanted in enumerate(([3], [0, 2])):
        _, scores, labels = head.decode(maps[task], task)[0]
        assert sorted(labels[scores > .99].tolist()) == wanted
    assert head.targets([sample(boxes, [-1, 255, 1, 4])])[1].mask.sum() == 0


def test_heatmaps_are_not_judged_near_ignored_boxes_nor_beyond_a_radius():
    """A disc of 0.5 m around the ignored, at least their cells; a labelled person there counts, none beyond 12 m."""
    head = CenterHead(4, [('person',)], RANGE, (.1, .1), 2, ignore_radius=12)
    sitting, standing, far = person(5.0, 1.0), person(5.3, 1.0), person(15.0, 1.0)
    target = head.targets([sample(torch.tensor([sitting, standing, far]), ignore=[True, False, False]),
                           sample(torch.tensor([standing]))])[0]
    x, y = head.grid.centers().unbind(-1)
    wanted = (x ** 2 + y ** 2 <= 144).repeat(2, 1, 1)
    wanted[0] &= (x - 5) ** 2 + (y - 1) ** 2 > .25
    wanted[0, int(9 / .2), int(5.3 / .2)] = True
    assert torch.equal(target.weight[:, 0] == 1, wanted) and bool(target.weight.unique().tolist() == [0, 1])
    assert target.heatmap[0].eq(1).sum() == 2 and target.mask.sum(1).tolist() == [2, 1]
    coarse = small(ignore_disc=.1).targets([sample(torch.tensor([sitting]), ignore=[True])])[0]
    assert (coarse.weight == 0).nonzero().tolist() == [[0, 0, 11, 6]] and coarse.heatmap.sum() == 0


def test_cells_without_weight_get_no_gradient_and_count_no_peak():
    logits = torch.zeros(1, 1, 2, 3, requires_grad=True)
    target, weight = torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2, 3)
    target[..., 0, :2], weight[..., 0, 1], weight[..., 1, 2] = 1, 0, 0
    loss = focal_loss(logits, target, weight)
    assert float(loss.detach()) == pytest.approx(4 * .25 * np.log(2))
    loss.backward()
    assert bool(((logits.grad != 0) == (weight == 1)).all())


@pytest.mark.parametrize('device', DEVICES)
def test_losses_gradients_and_boxes_on_each_device(device):
    """Those of the CPU; samples may stay there."""
    samples = [sample(torch.tensor([person(3.1, -2.3), person(9, 2), person(4, 4)]), [0, 1, 0], [False, False, True]),
               sample(torch.zeros(0, 9))]
    head = small([('person',), ('car',)], ignore_radius=12, nms='rotated', nms_threshold=.1)
    maps = [{name: value.detach() for name, value in part.items()} for part in head(torch.randn(2, 4, 20, 20))]
    results = []
    for place in ('cpu', device):
        head, moved = head.to(place), [{name: value.to(place).requires_grad_() for name, value in part.items()}
                                       for part in maps]
        losses = head.loss(moved, samples)
        sum(losses.values()).backward()
        results.append([*losses.values(), *(value.grad for part in moved for value in part.values()),
                        *(value for found in head.predict(moved) for value in found)])
    assert len(results[0][-1]) > 5
    for ours, wanted in zip(*results[::-1], strict=True):
        torch.testing.assert_close(ours.detach().cpu(), wanted.detach(), rtol=1e-4, atol=1e-5)


def test_bfloat16_maps_are_judged_in_float32():
    head = small()
    maps = [{name: value.bfloat16() for name, value in part.items()} for part in head(torch.randn(1, 4, 20, 20))]
    losses = head.loss(maps, [sample(torch.tensor([person(3, 1)]))])
    assert all(loss.dtype == torch.float32 for loss in losses.values())


# ----------------------------------------------------------------------------------------------------------- decoding

def test_peaks_are_the_highest_of_their_neighbours():
    scores = torch.zeros(1, 2, 5, 6)
    scores[0, 0, 1, 1], scores[0, 0, 1, 2], scores[0, 1, 1, 2], scores[0, 1, 4, 5] = .9, .8, .7, .6
    best, classes, cells = peaks(scores, 4, window=3)
    assert best[0].tolist() == pytest.approx([.9, .7, .6, 0]) and classes[0, :3].tolist() == [0, 1, 1]
    assert cells[0, :3].tolist() == [7, 8, 29]
    assert peaks(scores, 4)[0][0].tolist() == pytest.approx([.9, .8, .7, .6])
    assert peaks(scores, 1000)[0].shape == (1, 60)
    assert gather(scores, cells)[0, :3].tolist() == [pytest.approx(v) for v in ([.9, 0], [.8, .7], [0, .6])]


def test_boxes_that_are_no_numbers_or_that_nothing_fits_are_not_found():
    head = small(nms=None)
    maps = [{name: torch.zeros(1, n, 20, 20) for name, n in dict(head.branches, heatmap=1).items()}]
    maps[0]['dim'][0, 1, 3, 4], maps[0]['height'][0, 0, 5, 6] = 1000, torch.nan
    maps[0]['dim'][0, :2, 7, 8] = torch.tensor([5, -8])  # 148 m, 0.3 mm
    assert len(head.predict(maps)[0][0]) == 397


def test_scores_that_are_no_numbers_are_not_taken_for_an_empty_street():
    head = small(peak_window=3)
    maps = [{name: torch.zeros(1, n, 20, 20) for name, n in dict(head.branches, heatmap=1).items()}]
    maps[0]['heatmap'][0, 0, 3, 4] = torch.nan
    with pytest.raises(DataError, match='1 scores of 400 are NaN'):
        head.predict(maps)


def test_classes_of_a_task_suppress_each_other_unless_told_not_to():
    boxes, scores = torch.tensor([person(3, 1), person(3.2, 1), person(3.1, 1)]), torch.tensor([.5, .9, .7])
    for per_class, left in ((False, [.9]), (True, [.9, .7])):
        for options in (dict(nms='circle', nms_threshold=.3), dict(nms='rotated', nms_threshold=.2)):
            head = small([('person', 'bicycle')], nms_per_class=per_class, **options)
            assert head.suppress(boxes, scores, torch.tensor([0, 0, 1]), 0)[1].tolist() == pytest.approx(left)
    assert len(small(nms=None, max_kept=2).suppress(boxes, scores, torch.zeros(3), 0)[0]) == 2


@pytest.mark.parametrize(('post_range', 'said'), [
    (None, 0), ((0, -8, -5, 16, 8, 3), 0), ((-1, -8.8, -5, 16, 8, 3), 0), ((0, -8, -5, 15, 8, 3), 1),
    ((0, -7, -5, 16, 8, 3), 1)])
def test_detections_that_are_dropped_within_the_map_are_said(monkeypatch, post_range, said):
    texts = []
    monkeypatch.setattr(center_head, 'print_log', lambda text, *_: texts.append(text))
    small(post_range=post_range)
    assert len(texts) == said and all('Widen it' in text for text in texts)


# ---------------------------------------------------------------------------------------------------- wrong arguments

@pytest.mark.parametrize(('options', 'message'), [
    (dict(tasks=[('person',), ()]), r"\[\['person'\], \[\]\]"), (dict(tasks=[('person', 'person')]), 'each name once'),
    (dict(classes=('car',)), r"\['car'\]"), (dict(nms='soft'), "nms='soft'"),
    (dict(nms_threshold=(.1, .2)), '2 values of nms_threshold for 1 tasks'),
    (dict(code_weights=(1,) * 8), '8 code_weights, expected 10')])
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        small(**options)


def test_features_of_another_size_are_refused():
    with pytest.raises(ConfigError, match=r'features of \(20, 10\) rows and columns, expected \(20, 20\)'):
        small()(torch.zeros(1, 4, 20, 10))


@pytest.mark.parametrize(('extent', 'voxel', 'stride'), [((0, 0, 0, 10, 10, 1), (.3, .2), 1),
                                                         ((0, 0, 0, 10, 10, 1), (.2, .2), 4),
                                                         ((0, 0, 0, 0, 10, 1), (.2, .2), 1)])
def test_a_range_that_cells_do_not_fill_is_refused(extent, voxel, stride):
    with pytest.raises(ConfigError, match='multiples of the stride'):
        BevGrid.of(extent, voxel, stride)


@pytest.mark.parametrize(('bad', 'message'), [
    (BaseDataElement(), 'sample 7 without boxes'), (sample(torch.zeros(2, 8)), r'of shape \(2, 8\)'),
    (sample(torch.zeros(2, 9), [0]), r'labels of shape \(1,\)'), (sample(torch.zeros(2, 9), ignore=[True]), 'of all')])
def test_wrong_samples_are_named(bad, message):
    bad.set_metainfo(dict(sample_id=7))
    with pytest.raises(DataError, match=message):
        small().targets([sample(torch.tensor([person(3, 1)])), bad])
