"""The losses and targets of the agnostic network against slow forms, and the network by hand."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from perception.common.structures import LaneSample
from perception.distill.taps import record
from perception.lanes.cluster import ClusterDecoder
from perception.lanes.losses_agnostic import area_loss, discriminative_loss, ego_area, ego_slots, point_loss
from perception.lanes.models.agnostic import AgnosticLaneNet, FeaturePyramid
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
BACKBONES = ('enet', 'resnet18')


def road(places, size=(32, 48), batch=1, order=None):
    """Straight lanes two pixels wide from near the middle of row 8 to a column of the last row, numbered in `order`."""
    height, width = size
    ids = torch.zeros(batch, *size, dtype=torch.long)
    for k, place in enumerate(places):
        for y in range(8, height):
            x = round(width / 2 + (place - width / 2) * (y - 4) / (height - 5))
            if 0 <= x < width - 1:
                ids[:, y, x:x + 2] = (order or range(1, 255))[k]
    return ids


# --- discriminative loss -------------------------------------------------------------------------------------------
def slow_discriminative(embeddings, instances, delta_var, delta_dist):
    """Instance by instance and pixel by pixel, as the formulas are written."""
    totals = np.zeros(3)
    for feats, ids in zip(embeddings.double().numpy(), instances.numpy()):
        means, var = [], 0
        for k in sorted(set(ids.ravel()) - {0, 255}):
            pixels = [feats[:, y, x] for y, x in np.argwhere(ids == k)]
            means.append(sum(pixels) / len(pixels))
            var += sum(max(np.linalg.norm(means[-1] - x) - delta_var, 0) ** 2 for x in pixels) / len(pixels)
        count = len(means)
        dist = sum(max(delta_dist - np.linalg.norm(means[a] - means[b]), 0) ** 2
                   for a in range(count) for b in range(count) if a != b)
        totals += (var / max(count, 1), dist / max(count * (count - 1), 1),
                   sum(map(np.linalg.norm, means)) / max(count, 1))
    return totals / len(embeddings)


@pytest.mark.parametrize('device', DEVICES)
def test_discriminative_loss_equals_a_slow_form(device):
    """Images with three, two, one and no instance, numbers with gaps, ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(4, 3, 6, 7, generator=generator)
    instances = torch.randint(0, 4, (4, 6, 7), generator=generator)
    instances[0][instances[0] == 2] = 9
    instances[1][instances[1] == 3] = 255
    instances[2] = torch.where(instances[2] > 2, 5, 0)
    instances[3] = torch.where(instances[3] > 1, 255, 0)
    ours = discriminative_loss(embeddings.double().to(device), instances.to(device), .3, 1.5)
    np.testing.assert_allclose(torch.stack(ours).cpu(), slow_discriminative(embeddings, instances, .3, 1.5), rtol=1e-9)


def test_discriminative_loss_is_zero_for_tight_distant_clusters():
    instances = road((10, 38))
    embeddings = torch.stack([instances.float() * 4, torch.zeros(1, 32, 48)], 1)
    var, dist, _ = discriminative_loss(embeddings, instances)
    assert var == 0 and dist == 0
    assert float(discriminative_loss(embeddings / 8, instances)[1]) == pytest.approx(2.5 ** 2, rel=1e-5)


@pytest.mark.parametrize('instances', [torch.zeros(2, 4, 5, dtype=torch.long), torch.ones(2, 4, 5, dtype=torch.long),
                                       torch.full((2, 4, 5), 255)])
def test_discriminative_loss_of_one_or_no_instance_is_finite(instances):
    """Also where all pixels are equal, so that distances and their square roots are 0."""
    for embeddings in (torch.zeros(2, 4, 4, 5), torch.randn(2, 4, 4, 5)):
        embeddings.requires_grad_()
        losses = discriminative_loss(embeddings, instances)
        sum(losses).backward()
        assert all(torch.isfinite(loss) for loss in losses) and losses[1] == 0
        assert torch.isfinite(embeddings.grad).all()


def test_discriminative_loss_has_the_right_gradient():
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.double, requires_grad=True)
    instances = torch.randint(0, 3, (2, 3, 4), generator=generator)
    assert torch.autograd.gradcheck(lambda x: sum(discriminative_loss(x, instances, .4, 2.)), embeddings)


def test_half_precision_is_summed_in_float32():
    instances = road((10, 38))
    embeddings = torch.randn(1, 4, 32, 48).bfloat16()
    losses = discriminative_loss(embeddings, instances)
    assert all(loss.dtype == torch.float32 for loss in losses)
    torch.testing.assert_close(losses, discriminative_loss(embeddings.float(), instances))


# --- targets of the auxiliary heads --------------------------------------------------------------------------------
@pytest.mark.parametrize('device', DEVICES)
def test_ego_slots_find_the_lanes_around_the_vehicle(device):
    """Whatever their numbers; lanes beyond the slots are left out, missing ones stay empty."""
    places = (-30, -5, 12, 30, 55, 90)
    ids = torch.cat([road(places, order=(4, 9, 2, 7, 1, 3)), road((30, 55)), road(())]).to(device)
    x, seen = ego_slots(ids, 4)
    assert x.shape == seen.shape == (3, 4, 32)
    slow = road(places).cpu()
    for slot, k in enumerate((2, 3, 4, 5)):  # 1 to 6 from left to right
        for y in range(32):
            columns = np.flatnonzero(slow[0, y] == k)
            assert bool(seen[0, slot, y]) == bool(len(columns))
            if len(columns):
                assert float(x[0, slot, y]) == columns.mean()
    assert seen[1].any(1).tolist() == [False, False, True, True]
    assert not seen[2].any()


def test_an_ignored_pixel_belongs_to_no_slot():
    ids = road((12, 30))
    ids[:, :, :3] = 255
    ids[:, 20:] = torch.where(ids[:, 20:] > 0, 255, 0)
    assert not ego_slots(ids, 2)[1][:, :, 20:].any()


@pytest.mark.parametrize('device', DEVICES)
def test_ego_area_equals_a_slow_form(device):
    ids = torch.cat([road((12, 30)), road((-5, 12)), road((-60, 30))])
    slots = ego_slots(ids.to(device), 4)
    area = ego_area(*slots, 48).cpu()
    for b in range(3):
        left, right = (1, 2) if b != 1 else (2, None)  # the second image has no right lane
        for y in range(32):
            a, c = (np.flatnonzero(ids[b, y] == k) if k else np.array([]) for k in (left, right))
            for u in range(48):
                if len(a) and len(c):
                    expected = int(a.mean() <= u <= c.mean())
                else:
                    expected = 255 if len(a) or len(c) else 0
                assert int(area[b, y, u]) == expected
    assert (area[0] == 1).any() and (area[1] == 255).any() and (area[2] == 255).any()


def test_area_loss_ignores_unknown_pixels():
    logits = torch.randn(2, 2, 8, 12, requires_grad=True)
    area = torch.randint(0, 2, (2, 32, 48))
    area[:, :, 24:] = 255
    slow = [float(F.cross_entropy(logits[b, :, i, j], area[b, 4 * i + 2, 4 * j + 2]).detach())
            for b in range(2) for i in range(8) for j in range(6)]
    assert float(area_loss(logits, area).detach()) == pytest.approx(np.mean(slow), rel=1e-5)
    nothing = area_loss(logits, torch.full_like(area, 255))
    nothing.backward()
    assert nothing == 0 and not logits.grad.any()


def test_point_loss_equals_a_slow_form():
    x, seen = ego_slots(torch.cat([road((12, 30)), road((-5, 12, 40))]), 4)
    points = torch.rand(2, 4, 8)
    losses = []
    for b, s, r in np.ndindex(2, 4, 8):
        row = 4 * r + 2
        if seen[b, s, row]:
            difference = abs(float(points[b, s, r]) - (float(x[b, s, row]) + .5) / 48)
            losses.append(difference ** 2 / .1 if difference < .05 else difference - .025)
    assert len(losses) > 20
    assert float(point_loss(points, x, seen, 48)) == pytest.approx(np.mean(losses), rel=1e-5)
    assert point_loss(points, x, torch.zeros_like(seen), 48) == 0


# --- the network ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('backbone', BACKBONES)
def test_outputs_and_taps(backbone):
    net = AgnosticLaneNet(input_size=(32, 48), backbone=backbone).eval()
    taps = ('stage1', 'stage2', 'stage3', 'pyramid', 'head_input', 'logits')
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad(), record(net, {name: name for name in taps}) as out:
        outputs = net(dict(images=images))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == dict(logits=(2, 2, 32, 48),
                                                                                 embeddings=(2, 4, 16, 24))
    assert [out[name].shape[2:] for name in taps[:5]] == [(8, 12), (4, 6), (4, 6), (8, 12), (16, 24)]
    outputs = net.train()(dict(images=images))
    assert outputs['area_logits'].shape == (2, 2, 8, 12) and outputs['points'].shape == (2, 4, 18)


def test_pyramid_equals_its_parts():
    torch.manual_seed(0)
    pyramid = FeaturePyramid((4, 6, 8), 5).eval()
    stages = [torch.randn(2, 4, 8, 12), torch.randn(2, 6, 4, 6), torch.randn(2, 8, 4, 6)]
    with torch.no_grad():
        coarse = pyramid.laterals[2](stages[2]) + pyramid.laterals[1](stages[1])
        fine = F.interpolate(coarse, scale_factor=2, mode='bilinear') + pyramid.laterals[0](stages[0])
        torch.testing.assert_close(pyramid(stages), pyramid.smooth(fine))


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('backbone', BACKBONES)
def test_every_weight_learns(backbone, half):
    torch.manual_seed(0)
    net = AgnosticLaneNet(input_size=(32, 48), backbone=backbone).train()
    inputs = dict(images=torch.randn(2, 3, 32, 48), labels=road((-5, 12, 30, 55), batch=2))
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        losses = net(inputs, mode='loss')
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert set(losses) == {f'loss_{name}' for name in ('seg', 'iou', 'var', 'dist', 'reg', 'area', 'point')}
    sum(losses.values()).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not [name for name, p in net.named_parameters() if p.dim() == 4 and not p.grad.any()]


def test_loss_is_put_together_with_its_weights():
    torch.manual_seed(0)
    weights = dict(var_weight=2., dist_weight=3., reg_weight=5., area_weight=7., point_weight=11.)
    net = AgnosticLaneNet(input_size=(32, 48), **weights).train()
    labels = road((-5, 12, 30, 55), batch=2)
    labels[:, :3] = 255
    inputs = dict(images=torch.randn(2, 3, 32, 48), labels=labels)
    outputs = net(inputs)
    losses = net.loss(outputs, inputs)
    cells = torch.where(labels == 255, 0, labels).view(2, 16, 2, 24, 2).amax((2, 4))
    var, dist, reg = discriminative_loss(outputs['embeddings'], cells)
    x, seen = ego_slots(labels, 4)
    expected = dict(loss_var=2 * var, loss_dist=3 * dist, loss_reg=5 * reg,
                    loss_area=7 * area_loss(outputs['area_logits'], ego_area(x, seen, 48)),
                    loss_point=11 * point_loss(outputs['points'], x, seen, 48))
    binary = torch.where(labels == 255, 255, (labels > 0).long())
    expected['loss_seg'] = F.cross_entropy(outputs['logits'], binary, torch.tensor([.4, 1.]), ignore_index=255)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_instances_take_the_place_of_labels():
    """A fifth lane that the slots of the labels leave out."""
    torch.manual_seed(0)
    net = AgnosticLaneNet(input_size=(32, 48)).eval()
    images, instances = torch.randn(1, 3, 32, 48), road((-15, 0, 12, 30, 45))
    labels = torch.where(instances > 4, 0, instances)
    both = net(dict(images=images, labels=labels, instances=instances), mode='loss')
    alone = net(dict(images=images, labels=instances), mode='loss')
    assert all(torch.equal(both[name], alone[name]) for name in alone)
    assert not torch.equal(both['loss_seg'], net(dict(images=images, labels=labels), mode='loss')['loss_seg'])


def test_auxiliary_heads_can_be_left_out():
    net = AgnosticLaneNet(input_size=(32, 48), area_weight=0, point_weight=0).train()
    losses = net(dict(images=torch.randn(2, 3, 32, 48), labels=road((12, 30), batch=2)), mode='loss')
    assert 'loss_area' not in losses and 'loss_point' not in losses
    assert not [name for name, _ in net.named_parameters() if 'area' in name or 'point' in name]


def test_prediction_fills_the_samples():
    class Fixed(AgnosticLaneNet):
        def compute(self, images):
            ids = road((-5, 12, 30, 55), (32, 48))
            corners = 3. * torch.eye(5)[F.max_pool2d(ids.float(), 2).long()]
            return dict(logits=torch.stack([torch.zeros(1, 32, 48), 9. * (ids > 0) - 4], 1),
                        embeddings=corners.permute(0, 3, 1, 2))

    net = Fixed(input_size=(32, 48), decoder=dict(type=ClusterDecoder, min_share=0)).eval()
    sample = LaneSample(metainfo=dict(original_shape=(590, 1640), sample_id='a'))
    sample, = net(dict(images=torch.zeros(1, 3, 32, 48)), [sample], mode='predict')
    assert torch.equal(sample.pred_labels, (road((-5, 12, 30, 55)) > 0)[0].long())
    assert sample.lane_probs.shape == (2, 32, 48) and sample.own_classes
    torch.testing.assert_close(sample.lane_probs.sum(0), torch.ones(32, 48))
    assert len(sample.pred_lanes) == 4
    for lane, place in zip(sample.pred_lanes, (-5, 12, 30, 55)):
        y = (lane[:, 1] + .5) * 32 / 590 - .5
        x = 24.5 + (place - 24) * (y - 4) / 27
        assert np.abs((lane[:, 0] + .5) * 48 / 1640 - .5 - x).max() < 1.5
    net.clustering = None
    assert 'pred_lanes' not in net(dict(images=torch.zeros(1, 3, 32, 48)), mode='predict')[0]


def test_network_learns_to_tell_lanes_apart():
    """Lanes of a fixed picture, five of them, within a few steps."""
    torch.manual_seed(0)
    net = AgnosticLaneNet(input_size=(32, 80), decoder=ClusterDecoder(min_share=4 / (16 * 40))).train()
    ids = road((0, 20, 40, 60, 78), (32, 80), 2)
    images = torch.randn(2, 3, 32, 80) * .1 + (ids > 0)[:, None] * 2
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(80):
        loss = sum(net(dict(images=images, labels=ids), mode='loss').values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    metas = [LaneSample(metainfo=dict(original_shape=(590, 1640))) for _ in range(2)]
    with torch.no_grad():
        samples = net.eval()(dict(images=images), metas, mode='predict')
    assert [len(sample.pred_lanes) for sample in samples] == [5, 5]


def test_an_existence_head_is_possible():
    net = AgnosticLaneNet(input_size=(32, 48), num_lanes=4).eval()
    inputs = dict(images=torch.randn(1, 3, 32, 48), labels=road((12, 30)), exist=torch.tensor([[0., 1., 1., 0.]]))
    assert 'loss_exist' in net(inputs, mode='loss')
    assert net(inputs, mode='predict')[0].exist_probs.shape == (4,)


# --- bad input -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(backbone='enett'), "backbone='enett', expected one of.*Did you mean enet"),
    (dict(num_classes=5), 'num_classes=5, .*expected 2 classes'),
    (dict(point_slots=3), '.*point_slots=3, expected .*even number of slots'),
    (dict(input_size=(30, 48)), r'input_size=\(30, 48\), expected .*multiples of 8')])
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=f'AgnosticLaneNet: {message}'):
        AgnosticLaneNet(**arguments)


def test_wrong_labels_are_refused():
    net = AgnosticLaneNet(input_size=(32, 48)).eval()
    images = torch.zeros(1, 3, 32, 48)
    with pytest.raises(DataError, match='AgnosticLaneNet.loss: no labels for images'):
        net(dict(images=images), mode='loss')
    with pytest.raises(DataError, match=r'labels of shape \(1, 16, 24\)'):
        net(dict(images=images, labels=torch.zeros(1, 16, 24, dtype=torch.long)), mode='loss')
    with pytest.raises(DataError, match=r'labels -1\.\.0, expected 0 for background'):
        net(dict(images=images, labels=torch.full((1, 32, 48), -1).clamp(max=0).index_fill(1, torch.tensor([0]), 0)),
            mode='loss')
