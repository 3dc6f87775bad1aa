from dataclasses import replace
from math import cos, pi, sin

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch.utils._python_dispatch import TorchDispatchMode

from perception.bev.geometry import CameraGeometry, cell_pixels
from perception.bev.models.view_transforms.base import BEVFeatures
from perception.bev.models.view_transforms.depth import LSS, BEVDepth, DeformableConv, camera_numbers
from perception.bev.models.view_transforms.ipm import IPM, VoxelPull
from perception.registry import MODELS
from perception.utils.errors import ConfigError, DataError

GRID = dict(x=(-12.8, 12.8, .8), y=(-12.8, 12.8, .8), z=(-1., 3.))  # 32 x 32 cells, the ground at 0
TINY = dict(mid_channels=8, blocks=1, aspp=False)
KINDS = {
    'ipm': lambda: IPM(6, 5, GRID, heights=[0.]),
    'ipm of 3 planes': lambda: IPM(6, 5, GRID, heights=[0., .5, 1.], mid_channels=4),
    'voxel pull': lambda: VoxelPull(6, 5, GRID, layers=3),
    'lss': lambda: LSS(6, 5, GRID, depth=(1., 13., 1.)),
    'bevdepth': lambda: BEVDepth(6, 5, GRID, depth=(1., 13., 1.), **TINY),
    'bevdepth with all': lambda: BEVDepth(6, 5, GRID, depth=(1., 13., 1.), mid_channels=8, use_dcn=True,
                                          aggregation=True)}
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


def turn(angle):
    """Rotation about z."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:2, :2] = torch.tensor([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    return matrix


def rig(samples=1, cameras=6, size=(64, 176), height=1.6, device='cpu'):
    """Cameras all around a car, at differing heights in the samples; x to the right, y forward, z up."""
    cam_to_img = torch.tensor([[.55 * size[1], 0, size[1] / 2 - .5], [0, .55 * size[1], size[0] / 2 - .5], [0, 0, 1]])
    ahead = torch.tensor([[1., 0, 0, 0], [0, 0, -1, height], [0, 1, 0, -.313], [0, 0, 0, 1]], dtype=torch.float64)
    frame_to_cam = torch.stack([ahead @ turn(2 * pi * i / cameras + .02) for i in range(cameras)]).float()
    frame_to_cam = frame_to_cam.repeat(samples, 1, 1, 1)
    frame_to_cam[:, :, 1, 3] += .2 * torch.arange(samples)[:, None]
    matrices = (cam_to_img.repeat(samples, cameras, 1, 1), frame_to_cam, torch.eye(3).repeat(samples, cameras, 1, 1),
                torch.eye(4).repeat(samples, 1, 1))
    return CameraGeometry(*(matrix.to(device) for matrix in matrices), size)


@pytest.mark.parametrize('size', [(64, 176), (61, 169)])
def test_points_see_the_cell_at_their_pixel_whatever_the_size_of_the_image(size):
    """Features tell the middle of the 8 pixels that they stand for; points between them see what lies between."""
    geometry, net = rig(size=size), IPM(2, 5, GRID, heights=[0.])
    middles = torch.stack(torch.meshgrid(8. * torch.arange(22) + 3.5, 8. * torch.arange(8) + 3.5, indexing='xy'))
    (bag,), (seen,) = net.pull(middles.repeat(1, 6, 1, 1, 1), *net.ranks(geometry, (8, 22))), net.points(geometry)[None]
    uv, _, visible = geometry.project(seen)
    whole = (visible.sum(1) == 1)[:, None] & visible & (uv > 3.5).all(-1) & (uv < uv.new_tensor([171.5, 59.5])).all(-1)
    (_, camera, point) = whole.nonzero().T
    assert len(point) > 300
    torch.testing.assert_close(bag.flatten(1).T[point], uv[0, camera, point], rtol=0, atol=2e-3)


def image_features(samples=1, cameras=6, channels=6, size=(8, 22), seed=0):
    return torch.randn(samples, cameras, channels, *size, generator=torch.Generator().manual_seed(seed))


def build(kind, evaluating=True):
    """A net whose results do not change when a 3 x 3 kernel is turned or mirrored."""
    torch.manual_seed(0)
    net = KINDS[kind]()
    if kind == 'voxel pull':
        weight = net.join.conv.weight.data
        turned = [torch.rot90(weight, k, (2, 3)) for k in range(4)]
        weight[:] = sum(turned + [w.flip(3) for w in turned]) / 8
    if kind == 'bevdepth with all':  # offsets that move samples
        torch.nn.init.normal_(net.depthnet.depth_conv[4].conv_offset.weight, std=.1)
    return net.eval() if evaluating else net


# ------------------------------------------------------------------------------------------------- all view transforms

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('cameras', [1, 2, 5, 12])
def test_any_number_of_cameras(kind, cameras):
    """One camera of one sample leaves batch normalisation a single row of camera numbers."""
    net, features = build(kind, evaluating=False), image_features(1, cameras).requires_grad_()
    found = net(features, rig(1, cameras))
    assert found.bev.shape == (1, 5, 32, 32) and torch.isfinite(found.bev).all()
    found.bev.square().sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    if found.depth is None:
        assert net.depth_map(found) is None and not net.loss(found, [])
    else:
        assert found.depth.shape == (1, cameras, 12, 8, 22)
        torch.testing.assert_close(found.depth.sum(2), torch.ones(1, cameras, 8, 22))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('image', 'size'), [((64, 176), (4, 11)), ((90, 160), (6, 10)), ((33, 71), (1, 1)),
                                             ((128, 64), (17, 3))])
def test_any_size(kind, image, size):
    found = build(kind)(image_features(2, 3, 6, size), rig(2, 3, image))
    assert found.bev.shape == (2, 5, 32, 32) and torch.isfinite(found.bev).all()


@pytest.mark.parametrize('kind', KINDS)
def test_a_batch_equals_its_samples(kind):
    net, geometry, features = build(kind), rig(3), image_features(3)
    whole = net(features, geometry)
    for b in range(3):
        one = CameraGeometry(*(getattr(geometry, name)[b:b + 1] for name in
                               ('cam_to_img', 'frame_to_cam', 'image_aug', 'bev_aug')), geometry.size)
        alone = net(features[b:b + 1], one)
        torch.testing.assert_close(alone.bev, whole.bev[b:b + 1], rtol=1e-4, atol=1e-5)
    assert (whole.bev[0] - whole.bev[1]).abs().max() > 1e-2


def close_cells(found, expected):
    """Share of cells that agree: a point on a border may fall into either cell."""
    return ((found - expected).abs() < 1e-3).all(1).float().mean()


@pytest.mark.parametrize('kind', ['ipm', 'ipm of 3 planes', 'voxel pull', 'lss'])
def test_a_rig_turned_by_a_quarter_turns_the_grid(kind):
    net, geometry, features = build(kind), rig(), image_features()
    turned = replace(geometry, frame_to_cam=geometry.frame_to_cam @ turn(-pi / 2).float())
    before, after = net(features, geometry).bev, net(features, turned).bev
    expected = torch.rot90(before, -1, (2, 3))  # y grows downwards
    assert (before - expected).abs().max() > .1
    assert close_cells(after, expected) > .995


@pytest.mark.parametrize('kind', ['ipm', 'ipm of 3 planes', 'voxel pull', 'lss'])
@pytest.mark.parametrize('axis', [0, 1])
def test_a_flip_of_the_frame_flips_the_grid(kind, axis):
    net, geometry, features = build(kind), rig(2), image_features(2)
    bev_aug = torch.eye(4).repeat(2, 1, 1)
    bev_aug[:, axis, axis] = -1
    before, after = net(features, geometry).bev, net(features, replace(geometry, bev_aug=bev_aug)).bev
    assert close_cells(after, before.flip(3 - axis)) > .995
    assert close_cells(after, before) < .5


@pytest.mark.parametrize('kind', ['ipm', 'ipm of 3 planes', 'voxel pull', 'lss'])
def test_a_frame_turned_by_a_quarter_turns_the_grid(kind):
    net, geometry, features = build(kind), rig(), image_features()
    before = net(features, geometry).bev
    after = net(features, replace(geometry, bev_aug=turn(pi / 2).float()[None])).bev
    assert close_cells(after, torch.rot90(before, -1, (2, 3))) > .995


@pytest.mark.parametrize('kind', KINDS)
def test_mirrored_images_give_the_same_grid(kind):
    """Where the net sees one cell at a time; BEVDepth's looks at neighbours and reads the matrix."""
    net, geometry = build(kind), rig(size=(64, 176))
    flip = torch.tensor([[-1., 0, 175], [0, 1, 0], [0, 0, 1]]).expand(1, 6, 3, 3)
    features, flipped = image_features(), replace(geometry, image_aug=flip)
    if 'bevdepth' in kind:
        depth, context = net.lift(features, geometry)
        if net.depth_aggregation_net is not None:
            return
        before, after = (net.pool(*maps, net.ranks(cameras, (8, 22))) for maps, cameras in
                         (((depth, context), geometry), ((depth.flip(4), context.flip(4)), flipped)))
    else:
        before, after = net(features, geometry).bev, net(features.flip(4), flipped).bev
    assert close_cells(after, before) > .995


@pytest.mark.parametrize('kind', KINDS)
def test_another_calibration_gives_another_grid(kind):
    net, geometry, features = build(kind), rig(), image_features()
    moved = replace(geometry, frame_to_cam=geometry.frame_to_cam @ turn(.3).float())
    assert (net(features, geometry).bev - net(features, moved).bev).abs().max() > .01


@pytest.mark.parametrize('kind', KINDS)
def test_ranks_are_kept_while_the_frame_is_not_augmented(kind):
    net, features = build(kind), image_features(2)
    made = []
    original = net.make_ranks
    net.make_ranks = lambda *given: made.append(0) or original(*given)
    first = net(features, rig(2)).bev
    assert torch.equal(net(features, rig(2)).bev, first) and len(made) == len(net.cache) == 1
    net(features, rig(2, height=1.7))
    net(image_features(2, size=(4, 11)), rig(2))
    assert len(made) == len(net.cache) == 3
    augmented = replace(rig(2), bev_aug=turn(.1).float().repeat(2, 1, 1))
    net(features, augmented), net(features, augmented)
    assert len(made) == 5 and len(net.cache) == 3


@pytest.mark.parametrize('kind', KINDS)
def test_built_by_name_and_free_of_buffers(kind):
    net = build(kind)
    assert MODELS.module_dict[type(net).__name__] is type(net)
    assert not [name for name, _ in net.named_buffers() if not name.endswith(('mean', 'var', 'num_batches_tracked'))]


@pytest.mark.parametrize('features', [image_features(1, 5), image_features(2, 6), image_features(1, 6, 7),
                                      image_features()[0]])
def test_features_of_other_cameras_are_refused(features):
    with pytest.raises(DataError, match=r'\(1, 6, 6\)'):
        build('lss')(features, rig())


@pytest.mark.parametrize('kind', KINDS)
def test_cameras_that_see_nothing_of_the_grid(kind):
    net, geometry, features = build(kind, evaluating=False), rig(2), image_features(2).requires_grad_()
    geometry.frame_to_cam[:, :, 1, 3] += 1000  # high above it
    found = net(features, geometry)
    assert torch.isfinite(found.bev).all() and (found.bev == found.bev[:1, :, :1, :1]).all()
    found.bev.sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize('kind', ['ipm', 'ipm of 3 planes', 'voxel pull', 'lss'])
def test_a_camera_without_a_place_is_left_out(kind):
    """A matrix that is not finite takes its camera away, not the others."""
    net, geometry, features = build(kind), rig(), image_features()
    others = CameraGeometry(geometry.cam_to_img[:, 1:], geometry.frame_to_cam[:, 1:].clone(), geometry.image_aug[:, 1:],
                            geometry.bev_aug, geometry.size)
    geometry.frame_to_cam[:, 0] = float('nan')
    torch.testing.assert_close(net(features, geometry).bev, net(features[:, 1:], others).bev)


class Seen(TorchDispatchMode):
    """Which dtypes each operator was given."""

    def __init__(self):
        super().__init__()
        self.dtypes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = [value.dtype for value in args if isinstance(value, torch.Tensor) and value.is_floating_point()]
        self.dtypes.setdefault(func.overloadpacket.__name__, set()).update(found)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kind', KINDS)
def test_softmax_pooling_projection_and_loss_stay_in_float32(kind, dtype):
    net, geometry, features = build(kind), rig(), image_features()
    samples = [BaseDataElement(depth=1 + 10 * torch.rand(6, 8, 22))]
    expected = net(features, geometry)
    net.cache = type(net.cache)()
    with torch.autocast('cpu', dtype), Seen() as seen:
        found = net(features, geometry)
        losses = net.loss(found, samples)
    names = ['embedding_bag', '_embedding_bag_forward_only', '_embedding_bag']
    exact = {torch.float32, torch.float64}
    used = {name for name in seen.dtypes if name in [*names, '_softmax', 'binary_cross_entropy']}
    assert len(used) == (3 if 'bevdepth' in kind else 2 if kind == 'lss' else 1)
    assert all(seen.dtypes[name] <= exact for name in used)
    assert dtype in seen.dtypes['convolution']
    if kind != 'bevdepth with all':  # whose deformable convolution multiplies matrices too
        assert seen.dtypes['bmm'] <= exact  # projection
    torch.testing.assert_close(found.bev.float(), expected.bev, rtol=.1, atol=.1)
    if found.depth is not None:
        assert found.depth.dtype == found.bev.dtype == torch.float32
    if losses:
        assert losses['loss_depth'].dtype == torch.float32
        torch.testing.assert_close(losses, net.loss(expected, samples), rtol=.02, atol=.02)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('kind', KINDS)
def test_results_repeat_bit_for_bit(kind, device):
    results = []
    for _ in range(2):
        net, features = build(kind).to(device), image_features(2).to(device).requires_grad_()
        bev = net(features, rig(2, device=device)).bev
        bev.square().sum().backward()
        results.append((bev.detach(), features.grad))
    if kind != 'bevdepth with all' or device == 'cpu':  # samples of deformable convolutions are added by atomics
        assert all(torch.equal(a, b) for a, b in zip(*results))


# ---------------------------------------------------------------------------------------------------------------- LSS

def test_lss_puts_a_pixel_where_it_belongs():
    """A car 6.5 m ahead and 2 m to the left, seen by the front camera alone."""
    net = LSS(1, 1, GRID, depth=(1., 13., 1.))
    geometry = rig(1, 4)
    geometry.frame_to_cam = geometry.frame_to_cam @ turn(-.02).float()  # straight ahead
    context, depth = torch.zeros(1, 4, 1, 8, 22), torch.zeros(1, 4, 12, 8, 22)
    u, v, _ = geometry.project(torch.tensor([[-2., 6.313, 1.]]))[0][0, 0, 0].tolist() + [0]
    column, row = round((u + .5) / 8 - .5), round((v + .5) / 8 - .5)
    context[0, 0, 0, row, column], depth[0, 0, 5, row, column] = 3., .5  # depth 6 m from the camera
    bev = net.pool(depth, context, net.ranks(geometry, (8, 22)))
    assert bev.nonzero().tolist() == [[0, 0, 16 + 7, 16 - 3]] and bev.sum() == 1.5
    assert net.depth_map(BEVFeatures(bev, depth))[0, 0, row, column] == 6.5


def test_lss_equals_a_loop():
    net, geometry, features = build('lss'), rig(2, 2, (32, 48)), image_features(2, 2, 6, (2, 3))
    found = net(features, geometry)
    maps = F.conv2d(features.flatten(0, 1), net.depthnet.weight, net.depthnet.bias).unflatten(0, (2, 2))
    shares, context = maps[:, :, :12].softmax(2), maps[:, :, 12:]
    expected = torch.zeros(2, 5, 32, 32)
    for b, n, d, i, j in torch.cartesian_prod(*map(torch.arange, shares.shape)).tolist():
        uv = torch.tensor([cell_pixels(48, 3)[j], cell_pixels(32, 2)[i]]).expand(2, 2, 1, 2)
        x, y, z = geometry.unproject(uv, torch.full((2, 2, 1), d + 1.))[b, n, 0].tolist()
        column, row = (x + 12.8) // .8, (y + 12.8) // .8
        if 0 <= column < 32 and 0 <= row < 32 and -1 <= z < 3:
            expected[b, :, int(row), int(column)] += shares[b, n, d, i, j] * context[b, n, :, i, j]
    assert expected.any()
    torch.testing.assert_close(found.bev, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.depth, shares)


@pytest.mark.parametrize(('depth', 'bins', 'last'), [((4, 45, 1), 41, 44), ((1., 60., 1.), 59, 59), ((2, 58, .5), 112,
                                                                                                  57.5)])
def test_published_depths(depth, bins, last):
    net = LSS(2, 2, GRID, depth=depth)
    assert len(net.depths) == bins == net.depthnet.out_channels - 2 and net.depths[-1] == last


@pytest.mark.parametrize(('change', 'match'), [
    (dict(depth=(1, 60, .7)), 'depth='), (dict(depth=(0, 60, 1)), 'depth='), (dict(depth=(60, 1, 1)), 'depth='),
    (dict(depth=(1, 60, 0)), 'depth='), (dict(align='center'), "align='center'"), (dict(reduce='avg'), 'reduce'),
    (dict(grid=dict(GRID, x=(-1, 1, .3))), 'x=')])
def test_lss_refuses(change, match):
    with pytest.raises(ConfigError, match=match):
        LSS(**(dict(in_channels=2, out_channels=2, grid=GRID) | change))


# ----------------------------------------------------------------------------------------------------------- BEVDepth

def test_what_bevdepth_is_told_of_a_camera():
    geometry = rig(2, 3)
    geometry.image_aug[1, 2] = torch.tensor([[.4, .1, 7], [-.1, .5, 8], [0, 0, 1]])
    geometry.bev_aug[1] = torch.diag(torch.tensor([1.1, -1.1, 1.1, 1.]))
    numbers = camera_numbers(geometry)
    assert numbers.shape == (2, 3, 27) and numbers.dtype == torch.float32
    focal = .55 * 176
    pose = geometry.frame_to_cam[1, 2].double().inverse()[:3].flatten().tolist()
    assert numbers[1, 2].tolist() == pytest.approx(
        [focal, focal, 87.5, 31.5, .4, .1, 7, -.1, .5, 8, 1.1, 0, 0, -1.1, 1.1, *pose], rel=1e-5, abs=1e-5)


def test_depth_loss_equals_a_loop():
    net = build('bevdepth')
    probability = torch.randn(2, 3, 12, 4, 5, generator=torch.Generator().manual_seed(0)).softmax(2).requires_grad_()
    target = 16 * torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))  # bins from 1 to 13 m
    target[0, 0, 0] = torch.tensor([0., .5, 1., 12.999, 13.])  # unknown, too near, first, last, too far
    total, labelled = 0., 0
    for b, n, i, j in torch.cartesian_prod(*map(torch.arange, target.shape)).tolist():
        bin_ = int((target[b, n, i, j] - 1) // 1)
        if 0 <= bin_ < 12:
            labelled += 1
            for d, p in enumerate(probability[b, n, :, i, j].tolist()):
                total -= torch.tensor(p if d == bin_ else 1 - p).log().item()
    found = net.loss(BEVFeatures(None, probability), [BaseDataElement(depth=depth) for depth in target])
    assert list(found) == ['loss_depth'] and 0 < labelled < target.numel()
    assert found['loss_depth'].item() == pytest.approx(3 * total / labelled, rel=1e-5)
    found['loss_depth'].backward()
    assert not probability.grad[0, 0, :, 0, [0, 1, 4]].any() and probability.grad[0, 0, :, 0, [2, 3]].all()


def test_depth_loss_without_a_label_or_with_certainty():
    net = build('bevdepth')
    probability = torch.zeros(1, 1, 12, 1, 1)
    probability[0, 0, 3] = 1
    for metres, loss in ((0., 0.), (4.5, 0.), (5.5, 600.)):  # the logarithm of 0 is cut at -100
        found = net.loss(BEVFeatures(None, probability), [BaseDataElement(depth=torch.full((1, 1, 1), metres))])
        assert found['loss_depth'].item() == pytest.approx(loss)


@pytest.mark.parametrize('samples', [[BaseDataElement()], [BaseDataElement(depth=torch.zeros(6, 4, 11))], []])
def test_depth_loss_needs_depth_of_the_right_size(samples):
    net = build('bevdepth')
    with pytest.raises(DataError, match=r'\(6, 8, 22\)'):
        net.loss(net(image_features(), rig()), samples)


def test_bevdepth_learns_depth():
    """One step down the gradient of the depth loss lowers it."""
    net, features, geometry = build('bevdepth', evaluating=False), image_features(2), rig(2)
    samples = [BaseDataElement(depth=torch.full((6, 8, 22), 5.))] * 2
    optimizer, losses = torch.optim.Adam(net.parameters(), .01), []
    for _ in range(20):
        found = net(features, geometry)
        loss = net.loss(found, samples)['loss_depth']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < .1 * losses[0]
    assert (net.depth_map(net(features, geometry)) == 5.5).all()


def test_layers_of_the_published_net():
    grid = dict(x=(-51.2, 51.2, .8), y=(-51.2, 51.2, .8), z=(-5, 3))
    net, plain = (BEVDepth(64, 80, grid, mid_channels=32, use_dcn=whole, aggregation=whole) for whole in (True, False))
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    for name, shape in {'depthnet.reduce_conv.0.weight': (32, 64, 3, 3), 'depthnet.bn.running_var': (27,),
                        'depthnet.context_mlp.fc1.weight': (32, 27), 'depthnet.depth_se.conv_expand.bias': (32,),
                        'depthnet.depth_conv.2.bn2.weight': (32,),
                        'depthnet.depth_conv.3.aspp4.atrous_conv.weight': (32, 32, 3, 3),
                        'depthnet.depth_conv.3.global_avg_pool.1.weight': (32, 32, 1, 1),
                        'depthnet.depth_conv.3.global_avg_pool.2.running_mean': (32,),
                        'depthnet.depth_conv.3.conv1.weight': (32, 160, 1, 1),
                        'depthnet.depth_conv.4.weight': (32, 8, 3, 3),
                        'depthnet.depth_conv.4.conv_offset.weight': (18, 32, 3, 3),
                        'depthnet.depth_conv.5.weight': (112, 32, 1, 1),
                        'depthnet.context_conv.weight': (80, 32, 1, 1),
                        'depth_aggregation_net.conv.3.weight': (80, 80, 3, 3),
                        'depth_aggregation_net.out_conv.0.bias': (80,)}.items():
        assert shapes.get(name) == shape, name
    assert {name for name in shapes if 'conv_offset' not in name and 'aggregation' not in name} == \
        set(plain.state_dict())


def test_deformable_convolution():
    torch.manual_seed(0)
    layer, x = DeformableConv(8), torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1, groups=4), rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # all samples one row down and two columns to the right
        layer.conv_offset.bias[:] = torch.tensor([1., 2.]).repeat(9)
    moved = F.pad(x, (1, 3, 1, 2))[:, :, 1:, 2:]
    torch.testing.assert_close(layer(x), F.conv2d(moved, layer.weight, groups=4), rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # one sample alone, half a column to the left
        layer.conv_offset.bias.zero_()
        layer.conv_offset.bias[2 * 4 + 1] = -.5
        layer.weight.zero_()
        layer.weight[0, 0, 1, 1] = 1
    expected = (x[:, 0] + F.pad(x[:, 0], (1, 0))[..., :-1]) / 2
    torch.testing.assert_close(layer(x)[:, 0], expected, rtol=1e-4, atol=1e-5)
    layer.conv_offset.bias.data.zero_()
    stripes = torch.ones(1, 8, 2, 88).cumsum(-1).remainder(2) * 2 - 1  # a sample beside its place is no 1 or -1
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(layer(stripes.bfloat16())[:, 0].float(), stripes[:, 0])


def test_aggregation_smooths_the_volume_that_is_pooled():
    """Where its convolutions hand the volume on as it is, the grid is that of the plain pooling."""
    net = BEVDepth(6, 5, GRID, depth=(1., 13., 1.), aggregation=True, **TINY).eval()
    nothing = net.depth_aggregation_net
    for layer in (nothing.reduce_conv[0], nothing.out_conv[0]):
        layer.weight.data.zero_()
        layer.weight.data[range(5), range(5), 1, 1] = 1
    nothing.reduce_conv[1].eps = 0.
    nothing.out_conv[0].bias.data.zero_()
    nothing.conv[3].weight.data.zero_()
    depth, context = image_features(2, 3, 12).softmax(2), image_features(2, 3, 5).abs()
    ranks = net.ranks(rig(2, 3), (8, 22))
    torch.testing.assert_close(net.pool(depth, context, ranks), LSS.pool(net, depth, context, ranks), rtol=1e-4,
                               atol=1e-5)


def test_bevdepth_refuses():
    with pytest.raises(ConfigError, match='mid_channels=6'):
        BEVDepth(6, 5, GRID, mid_channels=6)


# ------------------------------------------------------------------------------------------------- planes and voxels

def by_grid_sample(net, maps, geometry):
    """All cells of all cameras, the mean over those that see a cell."""
    points = net.points(geometry)
    uv, _, visible = geometry.project(points)
    size = uv.new_tensor(geometry.size[::-1])
    found = F.grid_sample(maps.flatten(0, 1), (2 * (uv + .5) / size - 1).flatten(0, 1)[:, None], align_corners=False,
                          padding_mode='border')[:, :, 0].unflatten(0, maps.shape[:2])
    total = (found * visible[:, :, None]).sum(1) / visible.sum(1).clamp(min=1)[:, None]
    return total.unflatten(2, (len(net.heights), *net.grid.shape)).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize('kind', ['ipm', 'ipm of 3 planes', 'voxel pull'])
@pytest.mark.parametrize('augmented', [False, True])
def test_pulled_features_are_those_of_grid_sample(kind, augmented):
    net, geometry = build(kind), rig(2)
    if augmented:
        geometry.image_aug[:] = torch.tensor([[.8, .05, 3], [-.05, .8, -2], [0, 0, 1]])
        geometry.bev_aug[1] = turn(.3).float() * torch.tensor([1.05, 1.05, 1.05, 1])
    maps = image_features(2, channels=4).requires_grad_()
    found, expected = net.pull(maps, *net.ranks(geometry, (8, 22))), by_grid_sample(net, maps, geometry)
    assert (expected == 0).all(1).any() and (expected != 0).all(1).any()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    weight = torch.randn_like(found)
    grads = [torch.autograd.grad((value * weight).sum(), maps, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-3)


def test_only_visible_pairs_are_computed():
    net = build('ipm')
    geometry = rig(2)
    visible = geometry.project(net.points(geometry))[2]
    ranks, weights = net.ranks(geometry, (8, 22))
    assert len(weights) == len(ranks.rows) == 4 * visible.sum() < visible.numel()


def ground_images(geometry, value):
    """Features at full size: what `value` says of the ground's x, y that a pixel sees, zero above the horizon."""
    height, width = geometry.size
    uv = torch.stack(torch.meshgrid(torch.arange(float(width)), torch.arange(float(height)), indexing='xy'), dim=-1)
    lead = (*geometry.cam_to_img.shape[:2], height, width)
    eye = geometry.unproject(uv.expand(*lead, 2), torch.zeros(lead))
    ray = geometry.unproject(uv.expand(*lead, 2), torch.ones(lead)) - eye
    points = eye - ray * (eye[..., 2:] / ray[..., 2:])
    return torch.where(ray[..., 2:] < -1e-3, value(points[..., :2]), 0.).movedim(-1, 2), points[..., :2]


def test_a_ground_of_known_places_is_found_within_a_pixel():
    geometry = rig(1, 6, (128, 352))
    images, _ = ground_images(geometry, lambda xy: xy)
    net = IPM(2, 2, GRID, heights=[0.])
    pulled = net.pull(images, *net.ranks(geometry, (128, 352)))[0].movedim(0, -1)  # (Y, X, 2) places that cells saw
    points = net.points(geometry)[0]
    uv, _, visible = geometry.project(points)
    near = visible[0].sum(0) == 1
    seen = torch.cat([pulled.flatten(0, 1), torch.zeros(len(points), 1)], dim=1)
    away = (geometry.project(seen)[0] - uv)[0].norm(dim=-1)[visible[0] & near]
    assert len(away) > 300 and away.max() < 1


def test_a_checkerboard_is_found():
    def checks(xy):
        return (xy / 1.6).floor().sum(-1, keepdim=True) % 2

    geometry = rig(1, 6, (256, 704))
    images, _ = ground_images(geometry, checks)
    net = IPM(1, 1, GRID, heights=[0.])  # cells of 0.8 m, their middles 0.4 m from the borders of squares of 1.6 m
    pulled = net.pull(images, *net.ranks(geometry, (256, 704)))[0, 0]
    seen = geometry.project(net.points(geometry))[2].any(1).view(32, 32)
    right = checks(net.grid.centres())[..., 0]
    assert seen.sum() > 600 and ((pulled - right)[seen].abs() < .5).float().mean() > .995


def test_a_pole_smears_away_from_the_camera():
    """What IPM cannot do: what stands on the ground is drawn behind its foot, along the rays."""
    geometry = rig(1, 1, (128, 352))
    pole = torch.tensor([[.7, 7., 1.2 * i / 400] for i in range(401)])
    uv = geometry.project(pole)[0][0, 0].round().long()
    images = torch.zeros(1, 1, 1, 128, 352)
    for shift in (-1, 0, 1):
        images[0, 0, 0, uv[:, 1], uv[:, 0] + shift] = 1
    grid = dict(x=(-12.8, 12.8, .2), y=(-12.8, 25.6, .2))
    net = IPM(1, 1, grid, heights=[0.])
    pulled = net.pull(images, *net.ranks(geometry, (128, 352)))[0, 0]
    eye = geometry.frame_to_cam[0, 0].inverse()[:2, 3]
    marked = net.grid.centres()[pulled > .3] - eye
    foot = torch.tensor([.7, 7.]) - eye
    angles = torch.atan2(marked[:, 0], marked[:, 1]) - torch.atan2(foot[0], foot[1])
    distances = marked.norm(dim=1)
    assert len(marked) > 20 and angles.abs().max() < .03
    assert distances.min() > foot.norm() - .4 and distances.max() > 2 * foot.norm()


def test_planes_move_with_an_augmented_frame_and_voxels_do_not():
    geometry = rig()
    geometry.bev_aug[:, 2, 2], geometry.bev_aug[:, 2, 3] = 1.05, .3
    assert IPM(2, 2, GRID, heights=[-1.84, 0.]).point_heights(geometry)[0].tolist() == pytest.approx(
        [-1.84 * 1.05 + .3, .3])
    assert VoxelPull(2, 2, GRID, layers=4).point_heights(geometry)[0].tolist() == [-.5, .5, 1.5, 2.5]


def test_no_plane_and_no_layer():
    for build_net in (lambda: IPM(2, 2, GRID, heights=[]), lambda: VoxelPull(2, 2, GRID, layers=0)):
        with pytest.raises(ConfigError, match='no heights'):
            build_net()
