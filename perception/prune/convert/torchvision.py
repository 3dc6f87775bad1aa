"""ResNet-18, 34, 50, 101, MobileNetV2, MobileNetV3-small, EfficientNet-B0 (torchvision)."""
import argparse
import re

from torch import Tensor

from perception.prune.models.classifier import ImageClassifier
from perception.utils.checkpoint import check_weights

OPTIONS: dict = {}
_LAST = {'features.18.0.weight': 'mobilenet_v2', 'features.12.0.weight': 'mobilenet_v3_small',
         'features.8.0.weight': 'efficientnet_b0'}
_RESNETS = {(2, False): 'resnet18', (6, False): 'resnet34', (6, True): 'resnet50', (23, True): 'resnet101'}


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of one of these nets, classifier included."""
    return _net(weights) is not None


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Published weights as ours, and the line of a config that builds their net.

    Args:
        weights: a published state dict.
        options: not used.

    Raises:
        CheckpointError: incomplete or mis-shaped weights.
    """
    net = _net(weights)
    classes = len(weights['fc.bias'] if 'fc.bias' in weights else list(weights.values())[-1])
    found = {f'net.{_renamed(name) if net.startswith("resnet") else name}': value for name, value in weights.items()}
    check_weights(ImageClassifier(net=net, num_classes=classes), found, f'{net} (torchvision)')
    return found, f'model = dict(type=ImageClassifier, net={net!r}, num_classes={classes})'


def _net(weights: dict[str, Tensor]) -> str | None:
    if 'layer1.0.conv1.weight' in weights and 'fc.weight' in weights:
        blocks = 1 + max(int(found[1]) for name in weights if (found := re.match(r'layer3\.(\d+)\.', name)))
        return _RESNETS.get((blocks, 'layer1.0.conv3.weight' in weights))
    if 'features.0.0.weight' not in weights or not any(name.startswith('classifier.') for name in weights):
        return None
    return next((net for name, net in _LAST.items() if name in weights), None)


def _renamed(name: str) -> str:
    if name.startswith('fc.'):
        return name
    name = re.sub(r'^conv1\.', 'stem.0.', re.sub(r'^bn1\.', 'stem.1.', name))
    return 'backbone.' + re.sub(r'^layer(\d)', r'stage\1', name)
