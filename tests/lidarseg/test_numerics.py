"""What every net owes whatever its weights: other batches, orders and precisions change next to nothing."""
import pytest
import torch

from perception.common.structures import PointSegSample
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTI
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.models.spvcnn import SPVCNN
from perception.lidarseg.models.spvnas import SPVNAS
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer

NETS = {'cylinder3d': lambda: Cylinder3D(base_channels=4, compression=4, point_channels=16, point_widths=(8, 8, 16),
                                         refine='mirror'),
        'minkunet': lambda: MinkUNet(width=.125), 'spvcnn': lambda: SPVCNN(width=.125, voxel_head=True),
        'spvnas': lambda: SPVNAS(ratio=.125, voxel_head=True)}


def voxelizer(name):
    return CylinderVoxelizer((96, 72, 8)) if name == 'cylinder3d' else CubeVoxelizer(.5)


def batch(scans, labels=None):
    samples = [PointSegSample(metainfo=dict(num_points=len(scan))) for scan in scans]
    for sample, values in zip(samples, labels or []):
        sample.labels = values
    return dict(inputs=dict(points=list(scans)), data_samples=samples)


@pytest.fixture(scope='module')
def scans(mini_kitti):
    """Two simulated scans: every third point, and the labels of these."""
    items = [SemanticKITTI(mini_kitti, 'train', sequences=[0])[i] for i in (0, 2)]
    return [(item['inputs']['points'][::3], item['data_samples'].labels[::3]) for item in items]


@pytest.fixture(scope='module', params=NETS)
def trained(request, scans):
    """A net after a few steps, with its voxelizer and the gradients of the first step."""
    torch.manual_seed(0)
    net, voxels = NETS[request.param](), voxelizer(request.param)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    data = voxels(batch(*zip(*scans)), training=True)
    first = None
    for _ in range(12):
        optimizer.zero_grad()
        sum(net.train()(**data, mode='loss').values()).backward()
        first = first or {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
        optimizer.step()
    return net.eval(), voxels, first


def logits(net, voxels, points):
    """(N, C) float32 logits of the points of some scans."""
    with torch.no_grad():
        return net(voxels(batch(points))['inputs'])['point_logits'].float()


def test_every_parameter_learns(trained):
    _, _, gradients = trained
    dead = [name for name, gradient in gradients.items()
            if not bool(torch.isfinite(gradient).all()) or not bool((gradient != 0).any())]
    assert not dead


def test_bfloat16_labels_points_as_float32_does(trained, scans):
    net, voxels, _ = trained
    points = scans[0][0]
    exact = logits(net, voxels, [points])
    with torch.autocast('cpu', torch.bfloat16):
        rough = logits(net, voxels, [points])
    assert len(exact.argmax(1).unique()) > 1  # it tells classes apart
    assert float((exact - rough).abs().max()) > 0  # bfloat16 was used
    assert float((exact.argmax(1) == rough.argmax(1)).float().mean()) > .95


def test_a_scan_alone_is_labelled_as_in_a_batch(trained, scans):
    net, voxels, _ = trained
    (first, _), (second, _) = scans
    alone = [logits(net, voxels, [points]) for points in (first, second)]
    for points in ([first, second], [second, first]):
        together = logits(net, voxels, points)
        expected = torch.cat(alone if points[0] is first else alone[::-1])
        torch.testing.assert_close(together, expected, rtol=1e-3, atol=1e-3)
    empty = logits(net, voxels, [first[:0], second, first[:0]])
    torch.testing.assert_close(empty, alone[1], rtol=1e-3, atol=1e-3)


def test_the_order_of_points_changes_nothing(trained, scans):
    """A cube is given by its first point, so here it holds no other one."""
    net, voxels, _ = trained
    points = scans[0][0]
    if isinstance(voxels, CubeVoxelizer):
        inputs = voxels(batch([points]))['inputs']
        points = inputs['voxel_feats']
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    expected = logits(net, voxels, [points])[order]
    torch.testing.assert_close(logits(net, voxels, [points[order]]), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('count', [0, 1])
def test_scans_of_no_or_one_point_get_no_or_one_label(trained, count):
    net, voxels, _ = trained
    points = torch.tensor([[5., 1., -1., .5]])[:count]
    with torch.no_grad():
        sample, = net(**voxels(batch([points])), mode='predict')
    assert sample.pred_labels.shape == (count,) and bool((sample.pred_labels < 19).all())


@pytest.mark.parametrize('name', NETS)
@pytest.mark.parametrize('spread', [0, .3], ids=['one_voxel', 'one_voxel_of_the_coarsest'])
def test_a_scan_as_small_as_a_voxel_is_learned_from(name, spread):
    """A batch of its own, as the last one of an epoch may be: a level of one voxel has no batch statistics."""
    net, voxels = NETS[name]().train(), CylinderVoxelizer((96, 72, 8)) if name == 'cylinder3d' else CubeVoxelizer(.05)
    means = {key: value.clone() for key, value in net.named_buffers()}
    scan = torch.tensor([[5., 5., 0, .3]]) + spread * torch.tensor([[0.], [1.]])
    losses = net(**voxels(batch([scan], [torch.tensor([3, 3])]), training=True), mode='loss')
    sum(losses.values()).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())
    assert all(value.isfinite().all() for value in losses.values())
    assert spread == 0 or any(not value.equal(means[key]) for key, value in net.named_buffers())
