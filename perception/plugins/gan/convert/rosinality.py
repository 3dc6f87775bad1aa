"""StyleGAN2 (rosinality's stylegan2-pytorch, StyleKD, CAGC).

Their `.pt` files hold `g`, `d`, `g_ema` and perhaps `latent_avg`; names of weights are ours, but for the kernels of
blurs, which are no weights here. `read` takes a part of such a file, `write` makes one that those projects load.
"""
import argparse
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from perception.plugins.gan.models.layers import TAPS
from perception.plugins.gan.models.stylegan2 import StyleGAN2
from perception.utils.checkpoint import check_weights, load_checkpoint, save_atomic, weights_of
from perception.utils.checks import check_choice
from perception.utils.errors import CheckpointError

OPTIONS = {}
PARTS = ('g', 'd', 'g_ema')
KERNEL = re.compile(r'(^|\.)kernel$')


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of a StyleGAN2 generator."""
    return 'conv1.conv.modulation.weight' in weights and 'to_rgb1.bias' in weights


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """The state dict of a published generator as ours, and how to use it.

    Args:
        weights: a published state dict.
        options: not used.

    Raises:
        CheckpointError: incomplete or mis-shaped weights.
    """
    weights = without_kernels(weights)
    shape = shape_of(weights)
    net = StyleGAN2(**shape)
    weights = {**{name: value for name, value in net.state_dict().items() if name.startswith('noises.')}, **weights}
    check_weights(net, weights, 'convert')
    return weights, f'model.student = dict(type=StyleGAN2, {", ".join(f"{k}={v}" for k, v in shape.items())})'


def shape_of(weights: dict[str, Tensor]) -> dict:
    """Arguments of the StyleGAN2 that weights belong to.

    Raises:
        CheckpointError: some of them are missing.
    """
    try:
        count = len([name for name in weights if re.fullmatch(r'convs\.\d+\.conv\.weight', name)])
        channels = [weights['input.input'].shape[1], weights['conv1.conv.weight'].shape[1],
                    *(weights[f'convs.{i}.conv.weight'].shape[1] for i in range(count))]
        kernel = weights['convs.1.conv.weight'].shape[-1]
        widths = [len(weights[f'style.{i}.weight']) for i in range(1, 1 + len(
            [name for name in weights if re.fullmatch(r'style\.\d+\.weight', name)]))]
        style_dim = weights['style.1.weight'].shape[1]
    except KeyError as error:
        raise CheckpointError(f'rosinality: no weight {error}, expected a whole StyleGAN2 generator. Give its '
                              'file.') from error
    mlp = len(widths) if set(widths) == {style_dim} else widths[:-1]
    return dict(size=4 << (count // 2), style_dim=style_dim, num_mlp=mlp, channels=channels, second_kernel=kernel)


def without_kernels(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the kernels of blurs."""
    return {name: value for name, value in weights.items() if not KERNEL.search(name)}


def read(path: str | Path, part: str = 'g_ema') -> dict[str, Tensor]:
    """Weights of a part of a `.pt` file, with our names.

    Args:
        path: the file.
        part: `'g'`, `'d'` or `'g_ema'`.

    Raises:
        CheckpointError: unreadable, or without that part.
    """
    check_choice('rosinality.read: part', part, PARTS)
    file = load_checkpoint(path)
    if not isinstance(file.get(part), dict):
        raise CheckpointError(f'{path}: keys {", ".join(map(str, list(file)[:8]))}, expected {part!r} among them. Give '
                              "a training checkpoint of rosinality's stylegan2-pytorch, or another part.")
    return without_kernels(weights_of(file[part], f'{path}: {part}'))


def write(path: str | Path, **parts: nn.Module) -> None:
    """Write a `.pt` file that those projects load.

    Args:
        path: the file.
        parts: nets by their keys `g`, `d`, `g_ema`; a generator's also brings `latent_avg`.

    Raises:
        CheckpointError: it cannot be written.
    """
    file = {}
    for part, net in parts.items():
        check_choice('rosinality.write: part', part, PARTS)
        file[part] = with_kernels({name: value.detach().cpu() for name, value in net.state_dict().items()})
        if part == 'g_ema':
            file['latent_avg'] = net.mean_latent()[0].cpu()
    save_atomic(file, path)


def with_kernels(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the kernels of blurs beside the weights of their layers."""
    kernel, found = torch.outer(torch.tensor(TAPS), torch.tensor(TAPS)), dict(weights)
    for name in weights:
        if match := re.fullmatch(r'convs\.(\d+)\.conv\.weight', name):
            if int(match[1]) % 2 == 0:
                found[f'convs.{match[1]}.conv.blur.kernel'] = kernel * 4
        elif match := re.fullmatch(r'(to_rgbs\.\d+)\.bias', name):
            found[f'{match[1]}.upsample.kernel'] = kernel * 4
        elif match := re.fullmatch(r'(convs\.\d+\.(?:conv2|skip))\.1\.weight', name):
            found[f'{match[1]}.0.kernel'] = kernel
    return found
