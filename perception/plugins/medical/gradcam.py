"""Grad-CAM, Selvaraju et al., ICCV 2017 (arXiv 1610.02391): where a classifier looks for a class."""
import torch
from torch import Tensor

from perception.distill.taps import record
from perception.plugins.medical.models.densenet import DenseNet


def grad_cam(model: DenseNet, images: Tensor, classes: Tensor | None = None) -> Tensor:
    """Positive part of the last map, its channels weighted by their mean gradient for a class.

    Args:
        model: in evaluation mode.
        images: (B, 3, H, W) normalised.
        classes: (B,) whose score is explained; the predicted ones by default.

    Returns:
        (B, h, w) maps, the largest value of each 1, or all 0 where nothing speaks for the class.
    """
    with torch.enable_grad(), record(model, dict(map='last_map')) as outputs:
        logits = model.compute(images.detach().requires_grad_())['logits']
    chosen = logits.argmax(1) if classes is None else classes
    features = outputs['map']
    gradient, = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), features)
    maps = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu().detach()
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)
