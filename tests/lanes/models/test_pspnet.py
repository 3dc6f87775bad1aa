"""The context module against the released code's outputs, the published size, and the converter."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from torch import nn

from perception.apis.config import load_config
from perception.distill.taps import record
from perception.lanes.models.pspnet import PSPP, PSPNet
from perception.registry import MODELS
from perception.utils.errors import ConfigError

SMALL = dict(depth=18, channels=16, scales=(2, 3), input_size=(32, 48), num_classes=5)
CASES = ('odd_33x47', 'exact_60x60', 'small_8x9')


@pytest.fixture
def published_context(golden):
    """The golden's arrays, and our module with its weights."""
    arrays = golden('pspnet_blocks_A')

    def build(legacy):
        module = PSPP(12, 6, arrays['scale_series'].tolist(), legacy).eval()
        names = {**{f'branches.{k}.0': f'conv2d_list.{k}' for k in range(4)},
                 **{f'branches.{k}.1': f'bn2d_list.{k}' for k in range(4)}, 'fuse.0': 'out_conv2d',
                 'fuse.1': 'out_bn2d'}
        weights = {}
        for name, value in module.state_dict().items():
            owner, leaf = name.rsplit('.', 1)
            weights[name] = arrays.get(f'state_dict/{names[owner]}.{leaf}', value).to(value.dtype)
        module.load_state_dict(weights)
        return module
    return arrays, build


def close(ours, theirs, tolerance=1e-5):
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


@pytest.mark.parametrize('case', CASES)
def test_context_equals_the_released_code(published_context, case):
    arrays, build = published_context
    with torch.no_grad():
        close(build(True)(arrays[f'{case}/input'].float()), arrays[f'{case}/output_align_corners_True'])


def test_context_equals_a_slow_form(shuffled):
    """Cells averaged one by one; every pixel of their enlargement interpolated between the nearest cell centres."""
    torch.manual_seed(0)
    module = shuffled(PSPP(3, 2, (2, 5)).double())
    x = torch.randn(2, 3, 7, 8, dtype=torch.double)
    parts = [x]
    for branch, scale, (rows, columns), (top, left) in ((module.branches[0], 2, (4, 4), (0, 0)),
                                                        (module.branches[1], 5, (2, 2), (1, 1))):
        cells = x.new_zeros(2, 3, rows, columns)
        for i in range(rows):
            for j in range(columns):
                y, z = max(i * scale - top, 0), max(j * scale - left, 0)
                cells[:, :, i, j] = x[:, :, y:(i + 1) * scale - top, z:(j + 1) * scale - left].mean((2, 3))
        cells, large = branch(cells), x.new_zeros(2, 2, 7, 8)
        for i in range(7):
            for j in range(8):
                y = min(max((i + top + .5) / scale - .5, 0), rows - 1)
                z = min(max((j + left + .5) / scale - .5, 0), columns - 1)
                for row, wy in ((int(y), 1 - y % 1), (min(int(y) + 1, rows - 1), y % 1)):
                    for column, wz in ((int(z), 1 - z % 1), (min(int(z) + 1, columns - 1), z % 1)):
                        large[:, :, i, j] += wy * wz * cells[:, :, row, column]
        parts.append(large)
    with torch.no_grad():
        torch.testing.assert_close(module(x), module.fuse(torch.cat(parts, 1)))


@pytest.mark.parametrize('legacy', [False, True])
def test_every_pixel_reaches_the_coarsest_scale(legacy):
    """Unlike in the released form, where the padding may be all that it sees."""
    module = PSPP(2, 2, (60,), legacy).eval()
    x = torch.randn(1, 2, 36, 100, requires_grad=True)
    seen = []
    module.branches[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module(x)
    assert seen[0].shape == (1, 2, 1, 2)
    grad, = torch.autograd.grad(seen[0].sum(), x)
    assert bool((grad != 0).all()) != legacy


def test_number_of_parameters_of_the_released_teacher():
    with torch.device('meta'):
        net = PSPNet()
    assert sum(p.numel() for p in net.parameters()) == 65_592_933
    assert sum(p.numel() for p in net.context.parameters()) == 23_073_792
    assert sum(p.numel() for p in net.classifier.parameters()) == 18_981


def test_network_equals_its_parts(shuffled):
    torch.manual_seed(0)
    net = shuffled(PSPNet(**SMALL, num_lanes=4))
    taps = ('stage1', 'stage2', 'stage3', 'stage4', 'head_input', 'logits')
    with torch.no_grad(), record(net, {name: name for name in taps}) as out:
        result = net(dict(images=torch.randn(2, 3, 32, 48)))
        coarse = net.classifier(net.context(out['stage4']))
    torch.testing.assert_close(result['logits'], F.interpolate(coarse, (32, 48), mode='bilinear', align_corners=True))
    pooled = F.avg_pool2d(coarse.softmax(1), 2).flatten(1)
    torch.testing.assert_close(result['exist_logits'], net.exist.classifier(pooled))
    assert {name: tuple(value.shape[1:]) for name, value in out.items()} == dict(
        stage1=(64, 8, 12), stage2=(128, 4, 6), stage3=(256, 4, 6), stage4=(512, 4, 6), head_input=(16, 4, 6),
        logits=(5, 32, 48))


def test_the_finer_head_joins_the_context_with_an_early_stage(shuffled):
    torch.manual_seed(0)
    net = shuffled(PSPNet(**SMALL, num_lanes=4, fine_channels=6))
    taps = ('stage1', 'stage4', 'head_input')
    with torch.no_grad(), record(net, {name: name for name in taps}) as out:
        result = net(dict(images=torch.randn(2, 3, 32, 48)))
        context = F.interpolate(net.context(out['stage4']), (8, 12), mode='bilinear', align_corners=False)
        joined = net.join(torch.cat([context, net.fine(out['stage1'])], dim=1))
        coarse = net.classifier(joined)
    torch.testing.assert_close(out['head_input'], joined)
    torch.testing.assert_close(result['logits'], F.interpolate(coarse, (32, 48), mode='bilinear', align_corners=True))
    pooled = F.avg_pool2d(coarse.softmax(1), 2).flatten(1)
    torch.testing.assert_close(result['exist_logits'], net.exist.classifier(pooled))
    assert net.fine[0].weight.shape == (6, 64, 1, 1)


def test_statistics_follow_slowly():
    assert {m.momentum for m in PSPNet(**SMALL).modules() if isinstance(m, nn.BatchNorm2d)} == {.05}
    assert {m.momentum for m in PSPNet(**SMALL, bn_momentum=.1).modules() if isinstance(m, nn.BatchNorm2d)} == {.1}


@pytest.mark.parametrize('half, fine_channels', [(False, 0), (True, 0), (False, 6)])
def test_every_weight_learns(half, fine_channels):
    torch.manual_seed(0)
    net = PSPNet(**SMALL, num_lanes=4, fine_channels=fine_channels).train()
    inputs = dict(images=torch.randn(2, 3, 32, 48), labels=torch.randint(0, 5, (2, 32, 48)), exist=torch.ones(2, 4))
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        losses = net(inputs, mode='loss')
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not [name for name, p in net.named_parameters() if p.dim() == 4 and not p.grad.any()]


def test_scales_below_one_are_refused():
    with pytest.raises(ConfigError, match=r'PSPP: scales=\(10, 0\), expected factors of at least 1'):
        PSPP(4, scales=(10, 0))


# --- published weights ---------------------------------------------------------------------------------------------




@pytest.mark.parametrize('config', ['lanes/pspnet_apolloscape', 'steering/pspnet_cityscapes'])
def test_rates_and_decay_are_those_of_the_released_code(config):
    """mmengine's custom keys rule out what is said of biases and norms, so those of the new layers have their own."""
    cfg = load_config(f'configs/{config}.py')
    net = MODELS.build(dict(cfg.model, depth=18, base_channels=4, channels=8))
    wrapper = build_optim_wrapper(net, cfg.optim_wrapper)
    names, rate = {id(weight): name for name, weight in net.named_parameters()}, cfg.optim_wrapper.optimizer.lr
    for group in wrapper.optimizer.param_groups:
        name = names[id(group['params'][0])]
        module, leaf = name.rsplit('.', 1)
        norm, bias = isinstance(net.get_submodule(module), nn.BatchNorm2d), leaf == 'bias'
        factor = (10 if name.startswith(('context', 'classifier')) else 1) * (2 if bias and not norm else 1)
        assert group['lr'] == pytest.approx(factor * rate), name
        assert group['weight_decay'] == (0 if bias or norm else 1e-4), name
