"""Optical flow: how far each pixel of an image moves until the next one.

Flow is (2, H, W) or (B, 2, H, W), pixels to the right, then pixels down.
"""
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.utils.checks import check_choice

PRESETS = dict(ultrafast=cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, fast=cv2.DISOPTICAL_FLOW_PRESET_FAST,
               medium=cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
SMALLEST = 16  # rows and columns that OpenCV's search needs


def dis_flow(first: np.ndarray, second: np.ndarray, preset: str = 'medium') -> np.ndarray:
    """Flow by dense inverse search (Kroeger, Timofte, Dai, Van Gool, ECCV 2016), OpenCV's implementation.

    Args:
        first, second: (H, W, 3) uint8 RGB.
        preset: 'ultrafast', 'fast' or 'medium'.

    Returns:
        (2, H, W) float32; zero of images with fewer than 16 rows or columns, which the search cannot take.

    Raises:
        ConfigError: another preset.
    """
    check_choice('dis_flow: preset', preset, PRESETS)
    if min(first.shape[:2]) < SMALLEST:
        return np.zeros((2, *first.shape[:2]), np.float32)
    grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in (first, second)]
    return np.ascontiguousarray(cv2.DISOpticalFlow_create(PRESETS[preset]).calc(*grey, None).transpose(2, 0, 1))


def dis_flows(first: Tensor, second: Tensor, preset: str = 'medium') -> Tensor:
    """The same of pairs (B, 3, H, W) uint8: (B, 2, H, W) float32, on the device of the images."""
    images = [batch.permute(0, 2, 3, 1).cpu().numpy() for batch in (first, second)]
    found = np.stack([dis_flow(a, b, preset) for a, b in zip(*images)])
    return torch.from_numpy(found).to(first.device)


def warp(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Take from the second image what the flow of the first one leads to.

    Args:
        image: (B, C, H, W), the second one.
        flow: (B, 2, H, W) of the first one.

    Returns:
        (B, C, H, W), and (B, 1, H, W) bool, where the flow stays inside of the image.
    """
    height, width = image.shape[2:]
    y, x = torch.meshgrid(torch.arange(height, device=flow.device), torch.arange(width, device=flow.device),
                          indexing='ij')
    x, y = x + flow[:, 0], y + flow[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    taken = F.grid_sample(image, grid.to(image.dtype), mode='bilinear', padding_mode='border', align_corners=False)
    return taken, inside[:, None]


def consistent(forward: Tensor, backward: Tensor, share: float = 0.01, floor: float = 0.5) -> Tensor:
    """Where the flow back leads to where the flow there came from (Sundaram, Brox, Keutzer, ECCV 2010).

    Args:
        forward, backward: (B, 2, H, W) from the first image to the second, and back.
        share, floor: |there + back|^2 is less than share (|there|^2 + |back|^2) + floor.

    Returns:
        (B, 1, H, W) bool.
    """
    back, inside = warp(backward, forward)
    gap, length = (forward + back).square().sum(1, True), forward.square().sum(1, True) + back.square().sum(1, True)
    return inside & (gap < share * length + floor)
