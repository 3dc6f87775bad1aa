"""FlowNet: Learning Optical Flow with Convolutional Networks, the simple net (FlowNetS), trained on driving clips.

Alexey Dosovitskiy, Philipp Fischer, Eddy Ilg, Philip Haeusser, Caner Hazirbas, Vladimir Golkov, Patrick van der Smagt,
Daniel Cremers, Thomas Brox. ICCV 2015. There is no true flow in driving data: it learns without any, by what two images
have in common, or from the flow of OpenCV's dense inverse search. It stands in for the FlowNet2 of FM-Net.

Shapes: N pairs of images of H x W pixels; flow (N, 2, H, W) in pixels, see `common/flow.py`.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from perception.common.flow import consistent, dis_flows, warp
from perception.common.structures import SteeringSample
from perception.registry import MODELS
from perception.steering.models.fm_net import MODES, ClipPreprocessor
from perception.utils.checks import check_choice, rows_and_columns
from perception.utils.errors import ConfigError, DataError

LEARNS = ('images', 'dis')
HIDDEN = 0.3  # weight of pixels whose flow there and back disagrees; with 0 nets learn to disagree
EPE_WEIGHTS = (0.005, 0.01, 0.02, 0.08, 0.32)  # of the scales 1/4 .. 1/64, on sums over their pixels


@MODELS.register_module()
class FlowNetS(BaseModel):
    """Contracts a pair of images to 1/64 and expands it to the flow at 1/4.

    Taps: `conv1` (1/2, `base_channels`), `conv4` (1/16, 8 times as many) and `conv6` (1/64, 16 times as many), those
    that FM-Net mimics.

    `learn='images'`: census transforms of the first image and of the second one, warped by the flow, are compared where
    the flow there and back agree; the flow is smooth where the image is. `learn='dis'`: the end-point error to the flow
    of dense inverse search, where that one there and back agrees.

    Args:
        data_preprocessor: a ClipPreprocessor or its config.
        input_size: (H, W) that images are resized to, multiples of 64.
        base_channels: of `conv1`, 64 as published.
        learn: see above.
        smooth_weight: of the smoothness, for 'images'.
        unit: pixels that one unit of the net's outputs stands for.
        init_cfg: see mmengine.

    Raises:
        ConfigError: a size that the net cannot take, or another way to learn.
    """

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, input_size: Sequence[int] = (512, 640),
                 base_channels: int = 64, learn: str = 'images', smooth_weight: float = 2.0, unit: float = 20.0,
                 init_cfg: dict | None = None):
        super().__init__(data_preprocessor or dict(type=ClipPreprocessor), init_cfg)
        check_choice('FlowNetS: learn', learn, LEARNS)
        self.input_size = rows_and_columns('FlowNetS: input_size', input_size)
        if any(n % 64 for n in self.input_size):
            raise ConfigError(f'FlowNetS: input_size={self.input_size}, expected multiples of 64. Choose the nearest '
                              'such size.')
        self.learn, self.smooth_weight, self.unit = learn, smooth_weight, unit
        c = base_channels
        self.conv1, self.conv2, self.conv3 = _conv(6, c, 7, 2), _conv(c, 2 * c, 5, 2), _conv(2 * c, 4 * c, 5, 2)
        self.conv3_1, self.conv4, self.conv4_1 = _conv(4 * c, 4 * c), _conv(4 * c, 8 * c, 3, 2), _conv(8 * c, 8 * c)
        self.conv5, self.conv5_1 = _conv(8 * c, 8 * c, 3, 2), _conv(8 * c, 8 * c)
        self.conv6 = _conv(8 * c, 16 * c, 3, 2)
        self.deconvs, self.flows, self.ups = nn.ModuleList(), nn.ModuleList([_flow(16 * c)]), nn.ModuleList()
        channels = 16 * c
        for width, skip in zip((8 * c, 4 * c, 2 * c, c), (8 * c, 8 * c, 4 * c, 2 * c)):
            self.deconvs.append(nn.Sequential(nn.ConvTranspose2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.1)))
            self.ups.append(nn.ConvTranspose2d(2, 2, 4, 2, 1))
            channels = skip + width + 2
            self.flows.append(_flow(channels))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, 0.1)
                nn.init.zeros_(module.bias)
        for module in self.flows:
            nn.init.normal_(module.weight, std=1e-3)

    def compute(self, pairs: Tensor) -> list[Tensor]:
        """The flow of pairs of images.

        Args:
            pairs: (N, 6, H, W) of `input_size`, in -1..1.

        Returns:
            at 1/4, 1/8, 1/16, 1/32 and 1/64 of the size, each in pixels of `input_size`.
        """
        x2 = self.conv2(self.conv1(pairs))
        x3 = self.conv3_1(self.conv3(x2))
        x4 = self.conv4_1(self.conv4(x3))
        x5 = self.conv5_1(self.conv5(x4))
        x = self.conv6(x5)
        found = [self.flows[0](x)]
        for deconv, up, flow, skip in zip(self.deconvs, self.ups, self.flows[1:], (x5, x4, x3, x2)):
            x = torch.cat([skip, deconv(x), up(found[0])], 1)
            found.insert(0, flow(x))
        return [self.unit * flow for flow in found]

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = 'tensor') -> dict | list:
        """Run the net on a batch of a ClipPreprocessor.

        Args:
            inputs: `clip` (B, T, 3, H, W) in -1..1, each frame after the first one with the one before it; or `pairs`
                (N, 6, H, W).
            data_samples: a SteeringSample for each clip; new ones are made where predictions need them.
            mode: 'tensor', 'loss' or 'predict'.

        Returns:
            'tensor': dict with `flow`, (N, 2, H / 4, W / 4) of `input_size`, in its pixels. 'loss': scalars `loss_*`.
            'predict': the samples with `pred_flow` (T, 2, H, W) in pixels of the clip, from the frame before to each
            frame; NaN of the first one.

        Raises:
            DataError: clips of one frame.
        """
        check_choice('FlowNetS: mode', mode, MODES)
        pairs = inputs.get('pairs')
        if pairs is None:
            clip = inputs['clip']
            if clip.shape[1] < 2:
                raise DataError(f'FlowNetS: clips of {clip.shape[1]} frame, expected 2 or more. Set clip_length.')
            pairs = torch.cat([clip[:, :-1], clip[:, 1:]], 2).flatten(0, 1)
        small = self.resized(pairs)
        if mode == 'loss':
            return self.loss(small)
        flow = self.compute(small)[0]
        if mode == 'tensor':
            return dict(flow=flow)
        samples = data_samples or [SteeringSample() for _ in inputs['clip']]
        shape = inputs['clip'].shape
        scale = flow.new_tensor([shape[4] / self.input_size[1], shape[3] / self.input_size[0]]).view(1, 2, 1, 1)
        flow = scale * F.interpolate(flow, shape[3:], mode='bilinear', align_corners=False)
        for sample, rows in zip(samples, flow.unflatten(0, (shape[0], shape[1] - 1)).float()):
            sample.pred_flow = torch.cat([torch.full_like(rows[:1], torch.nan), rows])
        return samples

    def resized(self, pairs: Tensor) -> Tensor:
        """Pairs (N, 6, h, w) at `input_size`."""
        if tuple(pairs.shape[2:]) == self.input_size:
            return pairs
        return F.interpolate(pairs, self.input_size, mode='bilinear', align_corners=False, antialias=True)

    def loss(self, pairs: Tensor) -> dict[str, Tensor]:
        """The losses of the class's docstring, of pairs (N, 6, H, W) of `input_size`."""
        if self.learn == 'dis':
            return dict(loss_epe=self._distilled(pairs))
        both = torch.cat([pairs, torch.cat([pairs[:, 3:], pairs[:, :3]], 1)])  # there and back
        census, smooth = 0.0, 0.0
        for weight, flow in zip((1.0, 0.5, 0.25), self.compute(both)):  # 1/4, 1/8, 1/16
            finer = F.interpolate(flow.float(), scale_factor=2, mode='bilinear', align_corners=False)
            terms = unsupervised(finer, both, self.input_size)
            census, smooth = census + weight * terms[0], smooth + weight * terms[1]
        return dict(loss_census=census, loss_smooth=self.smooth_weight * smooth)

    def _distilled(self, pairs: Tensor) -> Tensor:
        with torch.no_grad():
            images = ((pairs + 1) * 127.5).round().clamp(0, 255).byte()
            there = dis_flows(images[:, :3], images[:, 3:])
            trusted = consistent(there, dis_flows(images[:, 3:], images[:, :3])).float()
        total = 0.0
        for weight, flow in zip(EPE_WEIGHTS, self.compute(pairs)):
            size = tuple(flow.shape[2:])
            known = F.adaptive_avg_pool2d(trusted, size)  # share of the pixels that are trusted
            target = F.adaptive_avg_pool2d(there * trusted, size) / known.clamp(min=1e-3)
            error = ((flow.float() - target).norm(dim=1, keepdim=True) * known).sum() / len(pairs)
            total = total + weight / EPE_WEIGHTS[0] * error / (self.input_size[0] * self.input_size[1] / 16)
        return total


def unsupervised(flow: Tensor, both: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How little the images that a flow connects are alike, and how little it is smooth.

    Args:
        flow: (2 N, 2, h, w) of N pairs there, then back, in pixels of `size`.
        both: (2 N, 6, H, W) the pairs, then each the other way round.
        size: (H, W).

    Returns:
        mean distance of census transforms, mostly of where both ways agree, and mean slope of the flow, in pixels of
        h x w, where the first image has none.
    """
    flow, count = _in_own_pixels(flow, size), len(flow) // 2
    images = F.adaptive_avg_pool2d(both.float(), flow.shape[2:])
    first, second = images[:, :3], images[:, 3:]
    with torch.no_grad():
        seen = consistent(flow, torch.cat([flow[count:], flow[:count]]))
    taken, inside = warp(second, flow)
    seen = inside * torch.where(seen, 1.0, HIDDEN)
    distance = census_distance(first, taken)
    census = (distance * seen).sum() / seen.sum().clamp(min=1)
    smooth = sum((torch.exp(-10 * _slope(first, axis).abs().mean(1, True)) * _slope(flow, axis).abs()).mean()
                 for axis in (2, 3))
    return census, smooth


def _in_own_pixels(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """A flow (B, 2, h, w) in pixels of `size` as pixels of h x w."""
    return flow * flow.new_tensor([flow.shape[3] / size[1], flow.shape[2] / size[0]]).view(1, 2, 1, 1)


def census_distance(first: Tensor, second: Tensor, window: int = 7) -> Tensor:
    """How many neighbours of a pixel are brighter or darker in one image and not in the other, softly.

    Stein, DAGM 2004; in the soft form of Meister, Hur, Roth, AAAI 2018. Light that changes as a whole changes nothing.

    Args:
        first, second: (B, 3, H, W) in -1..1.
        window: rows and columns of the neighbourhood.

    Returns:
        (B, 1, H, W) mean over the neighbours, 0..1.
    """
    gaps = []
    for image in (first, second):
        grey = image.mean(1, keepdim=True) * 127.5
        near = F.unfold(F.pad(grey, (window // 2,) * 4, mode='replicate'), window).unflatten(2, grey.shape[2:])
        step = near - grey
        gaps.append(step / (0.81 + step.square()).sqrt())
    gap = (gaps[0] - gaps[1]).square()
    return (gap / (0.1 + gap)).mean(1, keepdim=True)


def _slope(x: Tensor, axis: int) -> Tensor:
    """Difference of each row or column to the next one, zero at the end."""
    return F.pad(x.diff(dim=axis), (0, 0, 0, 1) if axis == 2 else (0, 1))


def _conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2), nn.LeakyReLU(0.1))


def _flow(in_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, 2, 3, padding=1)
