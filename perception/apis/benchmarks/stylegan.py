"""StyleGAN2's generator beside its published form: a weight and a group for each image, blurs of 16 taps.

Both have the same weights; they take turns in one process. Time is that of this process' CPU, the shortest of the
rounds, forward and backward of all weights; the largest difference of their images is checked first. On a GPU ours is
also timed with channels_last, and with that and bfloat16.
"""
import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.apis.config import load_config
from perception.common.measure import gpu_seconds, interleave, machine
from perception.registry import MODELS
from perception.utils.checks import check_positive
from perception.utils.errors import DataError

GOAL = 0.6  # of the published form's time, 256 pixels, 4 images, one CPU
TOLERANCE = 1e-4  # of the largest value of an image, for a whole net
OPTIONS = {
    '--config': {'default': 'configs/gan/stylegan2_ffhq256.py', 'help': 'of the generator (default: %(default)s)'},
    '--mini': {'action': 'store_true', 'help': 'the small net of its mini section'},
    '--batch': {'type': 'int', 'default': 4, 'help': 'images (default: 4)'},
    '--rounds': {'type': 'int', 'default': 3, 'help': 'measured rounds (default: 3)'},
    '--threads': {'type': 'int', 'default': 1, 'help': 'CPU threads (default: 1)'}}


def run(args: argparse.Namespace) -> dict[str, float]:
    """Measure and log.

    Returns:
        `ours` and `published` [s], `ratio`, `difference` (of the largest value), and on a GPU `gpu_...` [s].

    Raises:
        ConfigError: a number below 1.
        DataError: both make different images.
    """
    check_positive('stylegan', batch=args.batch, rounds=args.rounds, threads=args.threads)
    model = load_config(args.config, args.mini).model
    net, before = MODELS.build(model.get('student') or model).train(), torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        found = measure(net, args.batch, args.rounds)
        found |= on_gpu(net.cuda(), args.batch, args.rounds) if torch.cuda.is_available() else {}
    finally:
        torch.set_num_threads(before)
    lines = [f'{net.size} pixels, {args.batch} images, forward and backward; {machine()}']
    lines.append(f'ours {1e3 * found["ours"]:.0f} ms, published form {1e3 * found["published"]:.0f} ms: '
                 f'{found["ratio"]:.2f}x (goal {GOAL}x at 256 pixels, 4 images); images differ by '
                 f'{found["difference"]:.0e} of the largest value')
    lines += [f'{name}: {1e3 * value:.1f} ms' for name, value in found.items() if name.startswith('gpu')]
    print_log('\n'.join(lines), 'current')
    return found


def measure(net: nn.Module, batch: int, rounds: int) -> dict[str, float]:
    """CPU seconds of both forms, and how much their images differ; see `run`."""
    z, noise = torch.randn(batch, net.style_dim, generator=torch.Generator().manual_seed(0)), net.fixed_noise
    with torch.no_grad():
        ours = images(net, z, noise)
        with published(net):
            theirs = images(net, z, noise)
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if not difference <= TOLERANCE:
        raise DataError(f'stylegan: images differ by {difference:.1e} of the largest value, expected at most '
                        f'{TOLERANCE:.0e}. Report it with the version of torch.')
    runs = {'ours': partial(step, net, z, noise), 'published': partial(step, net, z, noise, published)}
    seconds = {name: min(values) for name, values in interleave(runs, rounds, time.process_time).items()}
    return dict(seconds, ratio=seconds['ours'] / seconds['published'], difference=difference)


def on_gpu(net: nn.Module, batch: int, rounds: int) -> dict[str, float]:
    """GPU seconds of both forms, of ours with channels_last, and with that and bfloat16."""
    z, noise = torch.randn(batch, net.style_dim, device='cuda'), net.fixed_noise
    half = partial(torch.autocast, 'cuda', torch.bfloat16)
    found = dict(gpu_ours=min(gpu_seconds(partial(step, net, z, noise), rounds)),
                 gpu_published=min(gpu_seconds(partial(step, net, z, noise, published), rounds)))
    for layer in net.modules():
        if hasattr(layer, 'demodulate'):
            layer.weight.data = layer.weight.data[0].contiguous(memory_format=torch.channels_last)[None]
    net.input.input.data = net.input.input.data.contiguous(memory_format=torch.channels_last)
    found['gpu_channels_last'] = min(gpu_seconds(partial(step, net, z, noise), rounds))
    found['gpu_channels_last_bfloat16'] = min(gpu_seconds(partial(step, net, z, noise, lambda _: half()), rounds))
    return found


def images(net: nn.Module, z: Tensor, noise: list[Tensor]) -> Tensor:
    """(B, 3, H, W) of latents z (B, D)."""
    return net.synthesis(net.mix(net.mapping(z)), noise).image


def step(net: nn.Module, z: Tensor, noise: list[Tensor], form=lambda _: nullcontext()) -> None:
    """Forward and backward."""
    with form(net):
        torch.autograd.grad(images(net, z, noise).float().square().mean(), list(net.parameters()), allow_unused=True)


@contextmanager
def published(net: nn.Module) -> Iterator[None]:
    """The modulated convolutions of a net in their published form."""
    with patch.object(type(net.conv1.conv), 'forward', grouped):
        yield


def grouped(layer: nn.Module, x: Tensor, w: Tensor) -> Tensor:
    """A modulated convolution with a weight for each image.

    Args:
        layer: with `weight` (1, O, C, k, k), `scale`, `modulation`, `demodulate`, `up`, `padding`.
        x: (B, C, H, W).
        w: (B, D) latents.

    Returns:
        (B, O, H or 2H, ...).
    """
    batch, channels = x.shape[:2]
    weight = layer.weight * layer.scale * layer.modulation(w).view(batch, 1, channels, 1, 1)
    if layer.demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, batch * channels, *x.shape[2:])
    if not layer.up:
        out = F.conv2d(x, weight.flatten(0, 1), padding=layer.padding, groups=batch)
        return out.view(batch, -1, *out.shape[2:])
    out = F.conv_transpose2d(x, weight.transpose(1, 2).flatten(0, 1), stride=2, groups=batch)
    out = out.view(batch, -1, *out.shape[2:])
    taps = x.new_tensor([1., 3., 3., 1.]) / 4
    flat = F.pad(out, (1, 1, 1, 1)).flatten(0, 1)[:, None]
    flat = F.conv2d(flat, torch.outer(taps, taps)[None, None])
    return flat.view(batch, -1, *flat.shape[2:])
