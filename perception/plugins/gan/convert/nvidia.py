"""StyleGAN2 and StyleGAN3 of NVIDIA (stylegan2-ada-pytorch, stylegan3): state dicts of generators and discriminators.

NVIDIA's own files are pickles that run code when they are opened, and are not read. Who trusts one saves its plain
weights once, with NVIDIA's code beside it: torch.save(pickle.load(open('FILE.pkl', 'rb'))['G_ema'].state_dict(),
'g_ema.pt').
"""
import argparse
import re

import torch
from torch import Tensor

from perception.plugins.gan.convert import rosinality
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan3 import StyleGAN3
from perception.utils.checkpoint import check_weights
from perception.utils.errors import CheckpointError

OPTIONS = {}
LAYER = re.compile(r'synthesis\.L(\d+)_(\d+)_\d+\.(.+)')
ENDS = {  # of a convolution of StyleGAN2
    'weight': 'conv.weight', 'bias': 'activate.bias', 'noise_strength': 'noise.weight',
    'affine.weight': 'conv.modulation.weight', 'affine.bias': 'conv.modulation.bias'}


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of NVIDIA's generators or discriminator."""
    return 'mapping.fc0.weight' in weights or 'b4.out.weight' in weights


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """A state dict of NVIDIA's as ours, and how to use it.

    Args:
        weights: of a generator, or of a discriminator.
        options: not used.

    Raises:
        CheckpointError: incomplete or mis-shaped weights, or a net for labelled images.
    """
    if any('embed' in name for name in weights) or 'b4.out.weight' in weights and 'mapping.fc0.weight' in weights:
        raise CheckpointError('nvidia: weights of a net for labelled images (embed), expected one of images alone. '
                              'Give such a one.')
    weights = {name: value for name, value in weights.items() if not name.endswith(('resample_filter', 'w_avg'))}
    if 'b4.out.weight' in weights:
        return discriminator(weights)
    style = {f'style.{int(match[1]) + 1}.{match[2]}': value for name, value in weights.items()
             if (match := re.fullmatch(r'mapping\.fc(\d+)\.(.+)', name))}
    rest = {name: value for name, value in weights.items() if name.startswith('synthesis.')}
    return stylegan3(style, rest) if 'synthesis.input.freqs' in rest else stylegan2(style, rest)


def stylegan2(style: dict[str, Tensor], weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Weights of a StyleGAN2 generator, see `convert`."""
    found = dict(style)
    for name, value in weights.items():
        match = re.fullmatch(r'synthesis\.b(\d+)\.(?:const|(conv0|conv1|torgb)\.(.+))', name)
        if match is None:
            continue
        level, layer, end = int(match[1]).bit_length() - 3, match[2], match[3]  # level 0 has 4 pixels, 1 has 8
        number = 2 * level - 2 + (layer == 'conv1')
        if layer is None:
            found['input.input'] = value[None]
        elif end == 'noise_const':
            found[f'noises.noise_{number + 1}'] = value[None, None]
        elif layer == 'torgb' and end == 'bias':
            found[f'{to_rgb(level)}.bias'] = value.view(1, -1, 1, 1)
        elif end in ENDS:
            to = to_rgb(level) if layer == 'torgb' else f'convs.{number}' if level else 'conv1'
            found[f'{to}.{ENDS[end]}'] = value[None] if end in ('weight', 'noise_strength') else value
    return rosinality.convert(found, argparse.Namespace())


def to_rgb(level: int) -> str:
    """Our name of the colours of 4, 8, ... pixels, of level 0, 1, ..."""
    return f'to_rgbs.{level - 1}' if level else 'to_rgb1'


def stylegan3(style: dict[str, Tensor], weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Weights of a StyleGAN3 generator, see `convert`."""
    layers = {int(match[1]): (int(match[2]), name.rpartition('.weight')[0]) for name in weights
              if (match := LAYER.fullmatch(name)) and match[3] == 'weight'}
    count = len(layers) - 1
    if sorted(layers) != list(range(count + 1)) or 'style.1.weight' not in style:
        raise CheckpointError(f'nvidia: layers {sorted(layers)} of a StyleGAN3, expected all of them and its mapping. '
                              'Give the whole state dict.')
    found = style | {name.removeprefix('synthesis.'): value for name, value in weights.items() if '.input.' in name}
    for name, value in weights.items():
        if (match := LAYER.fullmatch(name)) and not match[3].endswith('_filter'):
            found[f'layers.{match[1]}.{match[3]}'] = value
    first = layers[0][1]
    radial = weights.get(f'{first}.down_filter', torch.zeros(1)).ndim == 2
    shape = dict(size=layers[count][0], style_dim=style['style.1.weight'].shape[1], num_mlp=len(style) // 2,
                 num_layers=count, kernel=weights[f'{first}.weight'].shape[-1], radial=radial,
                 frequencies=len(found['input.freqs']),
                 channels=[weights[f'{layers[i][1]}.weight'].shape[1] for i in range(count + 1)])
    with torch.device('meta'):
        net = StyleGAN3(**shape)
    check_weights(net, found, 'convert')
    return found, f'model.student = dict(type=StyleGAN3, {", ".join(f"{key}={value}" for key, value in shape.items())})'


def discriminator(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Weights of the residual discriminator, see `convert`."""
    sizes = sorted({int(match[1]) for name in weights if (match := re.match(r'b(\d+)\.conv0\.', name))}, reverse=True)
    names = {f'b{sizes[0] if sizes else 0}.fromrgb': 'convs.0.', 'b4.conv': 'final_conv.'}
    found = {}
    for name, value in weights.items():
        layer, _, end = name.rpartition('.')
        match = re.fullmatch(r'b(\d+)\.(conv0|conv1|skip)', layer)
        if match and int(match[1]) in sizes:
            block, part = f'convs.{sizes.index(int(match[1])) + 1}', match[2]
            first = 0 if part == 'conv0' else 1
            to = f'{block}.{dict(conv0="conv1", conv1="conv2", skip="skip")[part]}.'
            found[f'{to}{first + (end == "bias")}.{end}'] = value
        elif layer in names:
            found[f'{names[layer]}{int(end == "bias")}.{end}'] = value
        elif layer in ('b4.fc', 'b4.out'):
            found[f'final_linear.{int(layer == "b4.out")}.{end}'] = value
    shape = dict(size=sizes[0] if sizes else 0, channels=[
        *(len(weights[f'b{size}.conv0.bias']) for size in sizes if f'b{size}.conv0.bias' in weights),
        len(weights['b4.out.weight'][0])])
    with torch.device('meta'):
        net = StyleGAN2Discriminator(**shape)
    check_weights(net, found, 'convert')
    return found, ('model.discriminator = dict(type=StyleGAN2Discriminator, '
                   f'size={shape["size"]}, channels={shape["channels"]})')
