"""State dicts of NVIDIA's StyleGAN2, StyleGAN3 and discriminator, whose names are made here from ours."""
import pickle

import pytest
import torch

from perception.plugins.gan.convert import nvidia
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan3 import StyleGAN3
from perception.utils.checkpoint import load_checkpoint, load_weights
from perception.utils.errors import CheckpointError
from tests.plugins.gan.conftest import generator


def theirs(net):
    """A StyleGAN2 generator in NVIDIA's layout."""
    found = {f'mapping.fc{i}.{part}': getattr(net.style[i + 1], part) for i in range(len(net.style) - 1)
             for part in ('weight', 'bias')} | {'mapping.w_avg': torch.zeros(net.style_dim)}
    found['synthesis.b4.const'] = net.input.input[0]
    layers = {'b4.conv1': net.conv1} | {f'b{8 << i // 2}.conv{i % 2}': conv for i, conv in enumerate(net.convs)}
    for i, (name, layer) in enumerate(layers.items()):
        found |= {f'synthesis.{name}.weight': layer.conv.weight[0], f'synthesis.{name}.bias': layer.activate.bias,
                  f'synthesis.{name}.noise_strength': layer.noise.weight[0],
                  f'synthesis.{name}.noise_const': net.fixed_noise[i][0, 0],
                  f'synthesis.{name}.resample_filter': torch.zeros(4, 4)}
        found |= {f'synthesis.{name}.affine.{part}': value for part, value in layer.conv.modulation.named_parameters()}
    for i, layer in enumerate([net.to_rgb1, *net.to_rgbs]):
        name = f'synthesis.b{4 << i}.torgb'
        found |= {f'{name}.weight': layer.conv.weight[0], f'{name}.bias': layer.bias.flatten()}
        found |= {f'{name}.affine.{part}': getattr(layer.conv.modulation, part) for part in ('weight', 'bias')}
    return {name: value.detach() for name, value in found.items()}


def test_stylegan2():
    torch.manual_seed(0)
    net, z = generator([6, 5, 8, 7, 4, 3]), torch.randn(2, 12)
    for conv in net.convs:
        torch.nn.init.normal_(conv.noise.weight)
    assert nvidia.fits(theirs(net)) and not nvidia.fits(net.state_dict())
    weights, usage = nvidia.convert(theirs(net), None)
    assert 'size=16' in usage and '[6, 5, 8, 7, 4, 3]' in usage
    other = generator([6, 5, 8, 7, 4, 3])
    load_weights(other, weights)
    assert torch.equal(other({'z': z}), net({'z': z}))
    broken = theirs(net)
    del broken['synthesis.b8.torgb.bias']
    with pytest.raises(CheckpointError, match=r'to_rgbs\.0\.bias'):
        nvidia.convert(broken, None)


@pytest.mark.parametrize('options', [{}, dict(kernel=1, radial=True)], ids=['T', 'R'])
def test_stylegan3(options):
    torch.manual_seed(0)
    shape = dict(size=16, style_dim=12, num_mlp=2, num_layers=4, channels=[5, 6, 7, 6, 5], frequencies=8, **options)
    net, z = StyleGAN3(**shape), torch.randn(2, 12)
    published = {'mapping.w_avg': torch.zeros(12)}
    for name, value in net.state_dict().items():
        kind, _, rest = name.partition('.')
        if kind == 'style':
            published[f'mapping.fc{int(rest[0]) - 1}{rest[1:]}'] = value
        elif kind == 'input':
            published[f'synthesis.{name}'] = value
        else:
            number, _, end = rest.partition('.')
            published[f'synthesis.L{number}_16_{len(net.layers[int(number)].bias)}.{end}'] = value
    for i, layer in enumerate(net.layers[:-1]):
        published[f'synthesis.L{i}_16_{len(layer.bias)}.down_filter'] = layer.fall
    weights, usage = nvidia.convert(published, None)
    assert f'radial={bool(options)}' in usage and 'channels=[5, 6, 7, 6, 5]' in usage
    other = StyleGAN3(**shape)
    load_weights(other, weights)
    assert torch.equal(other({'z': z}), net({'z': z}))
    with pytest.raises(CheckpointError, match='layers'):
        nvidia.convert({name: value for name, value in published.items() if 'L2_' not in name}, None)


def test_the_discriminator():
    torch.manual_seed(0)
    net, images = StyleGAN2Discriminator(16, channels=[4, 6, 7]), torch.randn(4, 3, 16, 16)
    names = {'convs.0.0.weight': 'b16.fromrgb.weight', 'convs.0.1.bias': 'b16.fromrgb.bias',
             'final_conv.0.weight': 'b4.conv.weight', 'final_conv.1.bias': 'b4.conv.bias'}
    for part in ('weight', 'bias'):
        names |= {f'final_linear.0.{part}': f'b4.fc.{part}', f'final_linear.1.{part}': f'b4.out.{part}'}
    for i, size in ((1, 16), (2, 8)):
        for ours, other in (('conv1.0.weight', 'conv0.weight'), ('conv1.1.bias', 'conv0.bias'),
                            ('conv2.1.weight', 'conv1.weight'), ('conv2.2.bias', 'conv1.bias'),
                            ('skip.1.weight', 'skip.weight')):
            names[f'convs.{i}.{ours}'] = f'b{size}.{other}'
    published = {names[name]: value for name, value in net.state_dict().items()}
    weights, usage = nvidia.convert(published, None)
    assert nvidia.fits(published) and 'size=16, channels=[4, 6, 7]' in usage
    other = StyleGAN2Discriminator(16, channels=[4, 6, 7])
    load_weights(other, weights)
    assert torch.equal(other(images), net(images))
    with pytest.raises(CheckpointError, match='labelled'):
        nvidia.convert(published | {'mapping.fc0.weight': torch.zeros(2, 2)}, None)


@pytest.mark.parametrize('protocol', [2, 4])
def test_pickles_are_refused(tmp_path, protocol):
    (tmp_path / 'net.pkl').write_bytes(pickle.dumps(dict(G_ema=torch.nn.Linear), protocol))
    with pytest.raises(CheckpointError, match='could execute code'):
        load_checkpoint(tmp_path / 'net.pkl')
