"""StyleGAN3: published geometry, counts and filters; fast filters beside plain ones; what moves when it does."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from perception.apis.config import load_config
from perception.apis.export import compare, to_onnx
from perception.common.measure import count_parameters
from perception.plugins.gan.metrics import translation_score
from perception.plugins.gan.models.adversarial import LazyAdam
from perception.plugins.gan.models.generator import Synthesis
from perception.plugins.gan.models.stylegan3 import StyleGAN3, filtered_leaky_relu, low_pass, signals
from perception.plugins.gan.students import begin, latent_directions
from perception.utils.errors import ConfigError

TINY = dict(size=16, style_dim=12, num_mlp=1, num_layers=4, base=1024, most=6)
R = dict(kernel=1, radial=True)


@pytest.mark.parametrize(('options', 'millions'), [
    (dict(base=16384), 23.320), (dict(), 28.472), (dict(size=1024), 22.313),
    (dict(channels=[153] * 8 + [108, 76, 54, 38, 27, 19, 19], frequencies=512), 3.180),
    (dict(R, most=1024), 15.780)], ids=['T', 'T of 32768', 'T of 1024 pixels', 'student', 'R'])
def test_counts_of_parameters(options, millions, monkeypatch):
    monkeypatch.setattr('torch.randn', lambda *shape: torch.empty(shape))  # which takes seconds
    assert count_parameters(StyleGAN3(**options)) / 1e6 == pytest.approx(millions, abs=6e-4)


def test_geometry_is_the_published_one():
    found = signals(256, 14, 2)
    assert [way.size for way in found] == [36] * 3 + [52] * 2 + [84] * 2 + [148] * 3 + [276] * 3 + [256] * 2
    assert [way.rate for way in found] == [16] * 3 + [32] * 2 + [64] * 2 + [128] * 3 + [256] * 5
    np.testing.assert_allclose([way.cutoff for way in found][::3], [2, 5.66, 16, 45.25, 128], rtol=1e-3)
    layers = StyleGAN3(256, most=4).layers[:-1]
    assert [(layer.up, layer.down, layer.pad) for layer in layers] == [
        (4, 2, -6) if i in (3, 5, 7, 10) else (2, 2, -11) if i == 13 else (2, 2, 9) for i in range(14)]
    assert [way.size for way in signals(32, 6, 2)] == [36, 36, 52, 52, 52, 32, 32]


def test_filters():
    taps = low_pass(12, 2, 12, 32)
    expected = [.0007919, .01001832, .03894952, .09241279, .15652562, .20130185]
    torch.testing.assert_close(taps, torch.tensor([*expected, *expected[::-1]]), rtol=0, atol=1e-6)
    round_one = low_pass(12, 2, 12, 32, radial=True)
    assert float(round_one.sum()) == pytest.approx(1, abs=1e-6)
    for other in (round_one.T, round_one.flip(0), round_one.rot90()):
        torch.testing.assert_close(round_one, other)


def plain(x, taps, up, down, low, high, gain):
    """Zeros between samples, a convolution, samples left out."""
    spread = x.new_zeros(*x.shape[:2], x.shape[2] * up, x.shape[3] * up)
    spread[:, :, ::up, ::up] = x
    kernel = (torch.outer(taps, taps) if taps.ndim == 1 else taps).flip(0, 1) * gain
    spread = F.conv2d(F.pad(spread, (low, high, low, high)), kernel.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])
    return spread[:, :, ::down, ::down]


@pytest.mark.parametrize('options', [{}, R], ids=['T', 'R'])
def test_the_fast_filters_equal_the_plain_ones(options):
    torch.manual_seed(0)
    for layer in StyleGAN3(32, num_layers=6, most=2, style_dim=4, **options).layers[:-1]:
        x = torch.randn(2, 3, 30, 30)
        high = layer.pad + 1 - layer.up
        expected = plain(x, layer.rise, layer.up, 1, layer.pad, high, layer.up ** 2)
        expected = plain((F.leaky_relu(expected, 0.2) * 2 ** 0.5).clamp(-256, 256), layer.fall, 1, layer.down, 0, 0, 1)
        found = filtered_leaky_relu(x, layer.rise, layer.fall, layer.up, layer.down, layer.pad)
        torch.testing.assert_close(found, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize('options', [{}, R], ids=['T', 'R'])
def test_the_image_moves_with_its_features(options):
    torch.manual_seed(0)
    net = StyleGAN3(32, num_layers=6, base=2048, most=8, style_dim=12, **options).eval()
    with torch.no_grad():
        latents = net.mix(net.mapping(torch.randn(2, 12)))
        before = net.synthesis(latents).image
        net.input.transform[0, 2] = -3 / 32
        after = net.synthesis(latents).image
    off = (before[..., 4:-4, 4:-7] - after[..., 4:-4, 7:-4]).square().mean()
    assert before.shape == (2, 3, 32, 32) and 10 * torch.log10(before.var() / off) > 60
    assert (before[..., 4:-4, 4:-7] - after[..., 4:-4, 4:-7]).square().mean() > 1e3 * off


@pytest.mark.parametrize('shift', [(0.99, 0.2), (-0.7, -0.99)])
def test_equivariance_is_the_psnr_of_moved_features_beside_moved_images(monkeypatch, shift):
    torch.manual_seed(0)
    net = StyleGAN3(32, num_layers=6, base=2048, most=8, style_dim=12).eval()
    assert translation_score(net, 3, 2) > 60 and torch.equal(net.input.transform, torch.eye(3))
    monkeypatch.setattr(torch, 'rand', lambda *size, generator: (torch.tensor(shift) + 1) / 2)
    x, y = (int(round(4 * by)) for by in shift)  # columns, rows

    def synthesis(latents):
        by = [int(n) for n in (-32 * net.input.transform[:2, 2]).round()]
        image = torch.arange(1024.).view(1, 1, 32, 32) / 1024
        made = torch.full_like(image, 7.)  # what comes in at the borders does not count
        made[..., max(by[1], 0):32 + min(by[1], 0), max(by[0], 0):32 + min(by[0], 0)] = image[
            ..., max(-by[1], 0):32 - max(by[1], 0), max(-by[0], 0):32 - max(by[0], 0)] + 0.1 * (by == [x, y])
        return Synthesis(made, [], [])
    monkeypatch.setattr(net, 'synthesis', synthesis)
    assert translation_score(net, 3, 2) == pytest.approx(10 * np.log10(4 / 0.01), abs=1e-3)


def test_turned_input_turns_the_image_of_r():
    torch.manual_seed(0)
    net = StyleGAN3(32, num_layers=6, base=2048, most=8, style_dim=12, **R).eval()
    with torch.no_grad():
        latents = net.mix(net.mapping(torch.randn(2, 12)))
        before = net.synthesis(latents).image
        net.input.transform[:2, :2] = torch.tensor([[0., -1.], [1., 0.]])
        after = net.synthesis(latents).image
    errors = [float((before.rot90(turns, (2, 3)) - after).square().mean() / before.var()) for turns in (1, 3)]
    assert min(errors) < 1e-6 < 0.1 < max(errors)


def test_magnitudes_follow_in_the_step_of_the_discriminator_alone(adversarial):
    model = adversarial(free=True)
    assert not model.generator.noise_sizes and model._offsets(2, torch.Generator().manual_seed(0)).shape == (2, 1, 12)
    batch = dict(inputs=dict(image=list(torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8))), data_samples=None)
    logs = model.train_step(batch, LazyAdam(dict(lr=0.01, lr_discriminator=0.8))(model))
    assert all(torch.isfinite(value) for value in logs.values()) and logs['loss_relation'] > 0
    ours, mean = (net.layers[1].magnitude_ema for net in (model.generator, model.student))
    assert torch.equal(ours, mean) and ours != 1 and model.teacher.layers[1].magnitude_ema == 1


def test_students():
    torch.manual_seed(0)
    teacher, z = StyleGAN3(**TINY), torch.randn(2, 12)
    same = StyleGAN3(**TINY)
    begin(same, teacher, 'slices')
    assert torch.equal(same({'z': z}), teacher({'z': z}))
    slim = StyleGAN3(**TINY, channels=[3] * 5, frequencies=6)
    begin(slim, teacher, 'slices', [torch.arange(6.)] * 5)
    assert torch.equal(slim.layers[1].weight, teacher.layers[1].weight[3:, 3:])
    assert torch.equal(slim.input.weight, teacher.input.weight[3:])
    assert latent_directions(teacher, (1, 2)).shape == (10, 12)
    for wrong in (dict(channels=[3] * 4), dict(num_layers=3), dict(kernel=2), dict(size=24), dict(frequencies=-2),
                  dict(decay=2.0)):
        with pytest.raises(ConfigError, match='StyleGAN3.*expected'):
            StyleGAN3(**dict(TINY, **wrong))


def test_onnx_makes_the_same_images(tmp_path):
    pytest.importorskip('onnxscript', reason='onnxscript, which exports, is not installed')
    module, inputs, outputs = StyleGAN3(**dict(TINY, num_layers=3, critical=1)).eval().deployable()
    to_onnx(module, inputs, outputs, tmp_path / 'net.onnx')
    assert compare(module, inputs, tmp_path / 'net.onnx', trials=2) < 1e-3


def test_the_schedule_is_the_published_one(root):
    cfg = load_config(root / 'configs/stylekd/stylegan3_ffhq256.py', options={'optim_wrapper.lr_mapping': 0.5})
    assert cfg.train_cfg.max_iters * 16 == 25_000_000 and not cfg.train_dataloader.dataset.flip
    assert dict(cfg.optim_wrapper, constructor=None) == dict(
        constructor=None, lr=0.0025, lr_mapping=0.5, lr_discriminator=0.8)
