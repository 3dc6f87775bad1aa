"""StyleGAN2 against numbers of the published code, its counts of parameters, its files, and its ONNX graph."""
import argparse

import numpy as np
import pytest
import torch

from perception.apis.benchmarks.stylegan import grouped, measure
from perception.apis.convert import convert
from perception.apis.export import compare, to_onnx
from perception.common.measure import count_model_macs, count_parameters
from perception.plugins.gan.convert import rosinality
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.layers import ModulatedConv, blur
from perception.plugins.gan.models.stylegan2 import StyleGAN2
from perception.plugins.gan.regularisers import (
    discriminator_loss,
    generator_loss,
    path_lengths,
    path_penalty,
    r1_penalty,
)
from perception.utils.checkpoint import load_weights
from perception.utils.errors import CheckpointError, ConfigError, DataError

SHAPE = [32, 32, 32, 32, 24, 24, 16, 16]


@pytest.fixture(scope='module')
def golden(shared):
    with np.load(shared / 'goldens/stylegan2_A.npz') as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def part(golden, start):
    return {name.removeprefix(start): value.float() for name, value in golden.items() if name.startswith(start)}


@pytest.fixture
def generator(golden):
    net = StyleGAN2(32, style_dim=32, num_mlp=2, channels=SHAPE)
    load_weights(net, rosinality.without_kernels(part(golden, 'g/')))
    return net


@pytest.fixture
def discriminator(golden):
    net = StyleGAN2Discriminator(32, channels=[16, 24, 32, 32])
    load_weights(net, rosinality.without_kernels(part(golden, 'd/')))
    return net


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_images_and_features_are_those_of_the_published_code(generator, golden):
    with torch.no_grad():
        w, w2 = generator.mapping(golden['z']), generator.mapping(golden['z2'])
        close(w, golden['w'])
        made = generator.synthesis(generator.mix(w), generator.fixed_noise)
        close(made.image, golden['image'])
        for i, rgb in enumerate(made.rgbs):
            close(rgb, golden[f'rgb_{i}'])
        for i, feature in enumerate(made.features):
            close(feature.flatten(1)[:, ::37], golden[f'feat_{i}_stride37'])
        mixed = generator.synthesis(generator.mix(w, w2, 3), generator.fixed_noise).image
        close(mixed, golden['image_mixing_inject3'])
        truncated = torch.lerp(golden['w_mean'], w, 0.7)
        close(generator.synthesis(generator.mix(truncated), generator.fixed_noise).image,
              golden['image_truncation_0.7'])
        noise = [golden[f'per_sample_noise_{i}'] for i in range(7)]
        close(generator.synthesis(generator.mix(w), noise).image, golden['image_per_sample_noise'])
        latents = generator.mix(w)
        moved = torch.cat([latents, latents + golden['offset']])
        close(moved, golden['w_plus_concat_offset'])
        for i, feature in enumerate(generator.synthesis(moved, generator.fixed_noise).features):
            close(feature.flatten(1)[:, ::37], golden[f'feat_offset_{i}_stride37'])


def test_path_lengths_and_their_gradients(generator, golden):
    latents = generator.mix(generator.mapping(golden['z']))
    noise = [golden[f'per_sample_noise_{i}'] for i in range(7)]
    lengths = path_lengths(generator.synthesis(latents, noise).image, latents, golden['path_y'])
    close(lengths, golden['path_lengths'])
    loss, mean = path_penalty(lengths, golden['path_mean_before'])
    close(mean, golden['path_mean_after'])
    close(loss, golden['path_loss'])
    loss.backward()
    for name, weight in (('conv1_modulation_weight', generator.conv1.conv.modulation.weight),
                         ('convs2_conv_weight', generator.convs[2].conv.weight),
                         ('style1_weight', generator.style[1].weight)):
        expected = golden[f'path_grad_{name}']
        torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    without = {name for name, p in generator.named_parameters() if p.grad is None}
    assert without == {f'{name}.bias' for name in ('to_rgb1', 'to_rgbs.0', 'to_rgbs.1', 'to_rgbs.2')}


def test_the_discriminator_and_r1(discriminator, golden):
    for size in (2, 4, 8):
        real = golden[f'real_b{size}'].float().requires_grad_()
        scores = discriminator(real)
        close(scores, golden[f'd_out_b{size}'])
        penalty = r1_penalty(scores, real)
        close(penalty, golden[f'r1_b{size}'])
        if size == 4:
            penalty.backward()
            close(torch.autograd.grad(discriminator(real).sum(), real)[0], golden['r1_grad_x'])
            for name, weight in (('convs1_conv1_weight', discriminator.convs[1].conv1[0].weight),
                                 ('final_linear1_weight', discriminator.final_linear[1].weight)):
                expected = golden[f'r1_grad_{name}']
                torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
            assert [name for name, p in discriminator.named_parameters() if p.grad is None] == ['final_linear.1.bias']
            fake = discriminator(golden['image'])
            close(fake, golden['d_out_fake'])
            close(discriminator_loss(scores, fake), golden['d_logistic'])
            close(generator_loss(fake), golden['g_nonsaturating'])


@pytest.mark.parametrize('batch', [1, 3, 6, 7])
def test_batches_that_the_group_does_not_divide(discriminator, batch):
    assert discriminator(torch.zeros(batch, 3, 32, 32)).shape == (batch, 1)
    with pytest.raises(DataError, match=r'16, 16.*expected \(B, 3, 32, 32\)'):
        discriminator(torch.zeros(batch, 3, 16, 16))


@pytest.mark.parametrize(('size', 'options', 'millions'), [
    (256, {}, 30.034), (256, dict(channels=[154] * 10 + [77] * 2 + [39] * 2), 5.573),
    (256, dict(channels=[154] * 10 + [77] * 2 + [39] * 2, second_kernel=1), 4.755), (1024, {}, 30.370),
    (1024, dict(channels=[154] * 10 + [77, 77, 39, 39, 20, 20, 10, 10]), 5.648)])
def test_counts_of_parameters(size, options, millions):
    with torch.device('meta'):
        net = StyleGAN2(size, **options)
    assert round(count_parameters(net) / 1e6, 3) == millions
    assert round(count_parameters(net.style) / 1e6, 3) == 2.101


def test_multiply_adds():
    student = StyleGAN2(256, channels=[154] * 10 + [77] * 2 + [39] * 2)
    with torch.no_grad():
        count = count_model_macs(student, lambda net: net(dict(z=torch.randn(1, 512))))
    assert count / 1e9 == pytest.approx(4.12, rel=0.015)  # published, without the blurs


@pytest.mark.parametrize(('size', 'millions'), [(256, 28.864), (1024, 29.013)])
def test_counts_of_the_discriminator(size, millions):
    with torch.device('meta'):
        assert round(count_parameters(StyleGAN2Discriminator(size)) / 1e6, 3) == millions


# --- the fast form beside the published one ---
@pytest.mark.parametrize(('up', 'kernel', 'demodulate'), [(False, 3, True), (True, 3, True), (False, 1, False)])
def test_the_fast_form_equals_the_published_one(up, kernel, demodulate):
    torch.manual_seed(0)
    layer, x, w = ModulatedConv(6, 5, kernel, 8, demodulate, up), torch.randn(3, 6, 7, 7), torch.randn(3, 8)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, w), grouped(layer, x, w), rtol=0, atol=3e-6)


def test_the_benchmark_compares_both_forms(generator):
    found = measure(generator, batch=2, rounds=1)
    assert found['difference'] < 1e-5 and found['ratio'] > 0


def test_half_precision_stays_finite():
    torch.manual_seed(0)
    layer, x, w = ModulatedConv(6, 5, 3, 8), torch.randn(2, 6, 7, 7), 1e4 * torch.randn(2, 8)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        fast = layer(x, w)
    with torch.no_grad():
        assert (fast.float() - layer(x, w)).abs().max() < 0.05


def test_the_blur_of_zeros_and_ones():
    assert blur(torch.ones(1, 2, 5, 5), 1).shape == (1, 2, 4, 4)
    torch.testing.assert_close(blur(torch.ones(1, 2, 5, 5), 0, gain=4), torch.full((1, 2, 2, 2), 4.))


# --- files ---
def test_published_files_are_read_and_written(generator, discriminator, golden, tmp_path):
    rosinality.write(tmp_path / 'net.pt', g=generator, d=discriminator, g_ema=generator)
    file = torch.load(tmp_path / 'net.pt', weights_only=True)
    assert set(file) == {'g', 'd', 'g_ema', 'latent_avg'} and file['latent_avg'].shape == (32,)
    for key, start in (('g', 'g/'), ('d', 'd/')):
        theirs = part(golden, start)
        assert {k: v.shape for k, v in file[key].items()} == {k: v.shape for k, v in theirs.items()}
        assert all(torch.allclose(file[key][name], value) for name, value in theirs.items())
    weights, usage = rosinality.convert(rosinality.read(tmp_path / 'net.pt'), None)
    assert 'size=32' in usage and str(SHAPE) in usage and 'num_mlp=' in usage and 'second_kernel=3' in usage
    assert rosinality.fits(file['g']) and not rosinality.fits(file['d'])
    load_weights(StyleGAN2(**rosinality.shape_of(weights)), weights)
    convert(argparse.Namespace(source=tmp_path / 'net.pt', target=tmp_path / 'g_ema.pth'))  # as the tool does
    load_weights(generator, tmp_path / 'g_ema.pth')
    with pytest.raises(CheckpointError, match="expected 'g_ema'"):
        rosinality.write(tmp_path / 'd.pt', d=discriminator)
        rosinality.read(tmp_path / 'd.pt')
    with pytest.raises(CheckpointError, match='convs'):
        load_weights(generator, rosinality.read(tmp_path / 'net.pt', 'd'))


def test_arguments_that_cannot_be():
    with pytest.raises(ConfigError, match='size=48.*power of 2'):
        StyleGAN2(48)
    for wrong in (dict(num_mlp=0), dict(lr_mlp=0.0), dict(style_dim=0), dict(num_mlp=[8, 0])):
        with pytest.raises(ConfigError, match='expected positive numbers'):
            StyleGAN2(32, **wrong)
    with pytest.raises(ConfigError, match='8 positive numbers at 32'):
        StyleGAN2(32, channels=[4] * 7)
    with pytest.raises(ConfigError, match='4 positive numbers'):
        StyleGAN2Discriminator(32, channels=[4] * 3)


def test_onnx_makes_the_same_images(tmp_path):
    pytest.importorskip('onnxscript', reason='onnxscript, which exports, is not installed')
    module, inputs, outputs = StyleGAN2(8, 8, 1, channels=[4] * 4, truncation=0.7).eval().deployable()
    to_onnx(module, inputs, outputs, tmp_path / 'net.onnx')
    assert compare(module, inputs, tmp_path / 'net.onnx', trials=2) < 1e-3
