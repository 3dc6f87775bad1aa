"""Where the stages of a net look, as SAD's paper shows it: their activations as maps over an image."""
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import cv2
import numpy as np
from torch import Tensor, nn

from perception.common.visual import canvas
from perception.lanes.draw import scaled


@contextmanager
def record_stages(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect what the sub-modules `stage1`, `stage2`, ... of a net give while it runs.

    Yields:
        stage -> (B, C, h, w) of its last run, filled as the net runs.
    """
    found, handles = {}, []
    for name, module in model.named_children():
        if name.startswith('stage'):
            handles.append(module.register_forward_hook(lambda module, args, out, name=name: found.update(
                {name: out[0] if isinstance(out, tuple) else out})))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def attention_map(feats: Tensor) -> np.ndarray:
    """Where a stage looks: squares of its activations summed over channels (SAD, G^2_sum), scaled to 0..1.

    The spatial softmax of the loss is left out: it would show little but its maximum. A square root is taken, so that
    weak responses are seen too, and one half percent of the pixels may be beyond the scale, so that a few wild ones,
    such as at the border, do not darken the rest.

    Args:
        feats: (C, h, w) activations.

    Returns:
        (h, w) float32.
    """
    strength = feats.detach().float().square().sum(0).sqrt()
    strength = strength - strength.min()
    top = strength.flatten().quantile(0.995, interpolation='higher').clamp(min=1e-12)
    return (strength / top).clamp(max=1).cpu().numpy()


def heat_overlay(image: np.ndarray, strength: np.ndarray, opacity: float = 0.7) -> np.ndarray:
    """A map of 0..1 over an image: blue where it is weak, red where it is strong; the image shows where it is weak.

    Args:
        image: (H, W, 3) uint8 RGB.
        strength: (h, w), scaled to the image.
        opacity: of the strongest colour; the weakest has a third of it.
    """
    strength = cv2.resize(strength.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)
    colors = cv2.applyColorMap((255 * strength).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    share = opacity * (1 + 2 * strength[..., None]) / 3
    return np.round(share * colors + (1 - share) * image).astype(np.uint8)


def draw_attention(image: np.ndarray, maps: Mapping[str, np.ndarray], title: str = '', width: int = 420) -> np.ndarray:
    """Attention of each stage of a net, side by side.

    Args:
        image: (H, W, 3) uint8 RGB, what the net sees; it stands first.
        maps: stage -> (h, w) map of 0..1.
        title: written above.
        width: of one panel, pixels.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    image = scaled(image, width)
    row = canvas.beside([canvas.titled(image, 'image'), *(canvas.titled(heat_overlay(image, strength), stage)
                                                          for stage, strength in maps.items())])
    note = 'each map from its weakest (blue) to its strongest (red) response'
    return canvas.stacked([canvas.bar(row.shape[1], title, note, height=32, size=16), row])
