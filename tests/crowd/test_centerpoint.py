"""CenterPoint with either encoder and either head: it takes steps, predicts, and sees mirror images as such."""
import pytest
import torch

from perception.common.hooks.start import check_classes
from perception.common.nets.center_head import CenterHead
from perception.common.nets.pillars import PillarEncoder
from perception.common.nets.second import SECOND, SECONDFPN
from perception.common.nets.sparse_encoder import SparseEncoder
from perception.common.structures import BoxSample
from perception.crowd.models.centerpoint import CenterPoint
from perception.crowd.models.dha import DHAHead
from perception.crowd.models.flip import FlipDetector, average, mirrored
from perception.utils.errors import ConfigError, DataError

PILLARS = dict(
    point_cloud_range=(0, -6.4, -2, 12.8, 6.4, 1.2), voxel_size=(.2, .2, 3.2),
    encoder=dict(type=PillarEncoder, channels=(8,)), backbone=dict(type=SECOND, channels=(8, 8), layers=(1, 1),
                                                                   strides=(1, 2)),
    neck=dict(type=SECONDFPN, channels=(8, 8), strides=(1, 2)))
VOXELS = dict(
    PILLARS, voxel_size=(.2, .2, .2),
    encoder=dict(type=SparseEncoder, channels=(4, 8), blocks=1, paddings=(1,), last_channels=4))
HEAD = dict(type=CenterHead, tasks=[['pedestrian']], stride=1, shared_channels=8, head_channels=8, peak_window=3,
            max_detections=50, score_threshold=.05)
DHA = dict(HEAD, type=DHAHead, levels=(0, 1, 2))
NETS = dict(pillars=dict(PILLARS, head=HEAD), voxels=dict(VOXELS, head=dict(HEAD, stride=2)),
            dha=dict(PILLARS, head=DHA), voxels_dha=dict(VOXELS, head=dict(DHA, base_level=1)))


def net(name: str, **changes) -> CenterPoint:
    """A small net of the same weights each time."""
    torch.manual_seed(0)
    return CenterPoint(**{**NETS[name], **changes})


def batch(people: int = 3, scans: int = 2) -> dict:
    """Scans of the ground with people on it, as a data loader gives them."""
    generator = torch.Generator().manual_seed(0)
    points, samples = [], []
    for number in range(scans):
        boxes = [[3. + 2 * k, -2. + 1.5 * k, -.8, .6, .5, 1.7, .4 * k, 1, torch.nan] for k in range(people)]
        boxes = torch.tensor(boxes).view(-1, 9)
        body = boxes[:, None, :3] + (torch.rand(people, 40, 3, generator=generator) - .5) * boxes[:, None, 3:6]
        ground = torch.rand(300, 3, generator=generator) * torch.tensor([12.8, 12.8, .05]) - torch.tensor([0, 6.4, 1.7])
        points.append(torch.nn.functional.pad(torch.cat([body.flatten(0, 1), ground]), (0, 1), value=.5))
        samples.append(BoxSample(boxes=boxes, labels=torch.zeros(people, dtype=torch.long),
                                 ignore=torch.zeros(people, dtype=torch.bool), metainfo=dict(sample_id=f'{number}')))
    return dict(inputs=dict(points=points), data_samples=samples)


@pytest.mark.parametrize('name', NETS)
def test_takes_a_step_and_predicts(name):
    model = net(name)
    losses = model(**batch(), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(p.grad is not None for p in model.parameters()) and total.isfinite()
    data = batch()
    found = model.eval().test_step(data)
    assert found[0].sample_id == '0' and found[0].boxes.shape == (3, 9)
    for sample in found:
        count = len(sample.pred_scores)
        assert sample.pred_boxes.shape == (count, 9) and sample.pred_labels.shape == (count,)
        assert (sample.pred_scores.diff() <= 0).all()


def test_scans_without_points_and_without_samples():
    model = net('dha').eval()
    with torch.no_grad():
        found = model(dict(points=[torch.zeros(0, 4), torch.zeros(3, 5)]), mode='predict')
        assert len(found) == 2 and {'heatmap', 'aux'} <= set(model(dict(points=[torch.zeros(0, 4)]))[0])
    losses = net('dha')(**batch(people=0), mode='loss')
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(('call', 'error', 'named'), [
    (lambda: net('pillars')(dict(points=[torch.zeros(3, 4)]), mode='guess'), ConfigError, "mode='guess'"),
    (lambda: net('pillars')(dict(points=[torch.zeros(3, 4)]), mode='loss'), DataError, 'without samples'),
    (lambda: net('pillars')(dict(points=[torch.zeros(3, 3)])), DataError, '4'),
    (lambda: net('pillars', head=dict(HEAD, stride=2))(dict(points=[torch.zeros(3, 4)])), ConfigError, 'stride 2'),
    (lambda: net('pillars', head=dict(HEAD, stride=3)), ConfigError, 'stride 3')])
def test_what_cannot_work_is_said(call, error, named):
    with pytest.raises(error, match=named):
        call()


def test_the_same_start_for_nets_that_differ_in_the_head():
    one, other = net('pillars').state_dict(), net('dha').state_dict()
    shared = [name for name in one if name in other]
    assert len(shared) > 60 and all(torch.equal(one[name], other[name]) for name in shared)


# --- mirror images ---
@pytest.mark.parametrize('name', ['pillars', 'dha'])
def test_predictions_of_a_mirrored_scan_are_mirrored(name):
    model = FlipDetector(net(name).eval())
    data, other = batch(scans=1), batch(scans=1)
    other['inputs']['points'][0][:, 1] *= -1
    one, mirror = (model.test_step(part)[0] for part in (data, other))
    boxes = mirror.pred_boxes * torch.tensor([1, -1, 1, 1, 1, 1, -1, 1, -1.])
    assert len(one.pred_boxes) == len(boxes) > 0
    match = torch.cdist(one.pred_boxes[:, :2], boxes[:, :2]).argmin(1)
    torch.testing.assert_close(one.pred_boxes, boxes[match], rtol=0, atol=1e-3)
    torch.testing.assert_close(one.pred_scores, mirror.pred_scores, rtol=0, atol=1e-4)


def test_maps_that_are_mirrored_twice_are_the_same():
    model = net('dha').eval()
    with torch.no_grad():
        maps = model.head.complete(model.maps(batch()['inputs']))[0]
    again = mirrored(mirrored(maps))
    for name, value in again.items():
        torch.testing.assert_close(value, maps[name])
    mean = average(maps, again)
    torch.testing.assert_close(mean['heatmap'], maps['heatmap'], rtol=0, atol=1e-4)


@pytest.mark.parametrize(('changes', 'mode', 'named'), [
    ({}, 'flip4', 'flip4'), (dict(point_cloud_range=(0, -6.4, -2, 12.8, 12.8, 1.2)), 'flip', 'y = -6.4')])
def test_what_cannot_be_mirrored(changes, mode, named):
    with pytest.raises(ConfigError, match=named):
        FlipDetector(net('pillars', **changes), mode)


@pytest.mark.parametrize('head', [HEAD, DHA])
def test_classes_are_compared_by_name(head):
    check_classes(net('pillars', head=head), ('pedestrian',), 'the test data')
    two = net('pillars', head=dict(head, tasks=[['pedestrian'], ['cyclist']]))
    for classes in (('pedestrian',), ('cyclist', 'pedestrian')):
        with pytest.raises(ConfigError, match=f'pedestrian, cyclist came for the test data, expected {classes[0]}'):
            check_classes(two, classes, 'the test data')
    other = net('pillars', head=dict(head, tasks=[['pedestrian'], ['cyclist']], classes=['cyclist', 'pedestrian']))
    check_classes(other, ('cyclist', 'pedestrian'), 'the test data')
