"""DenseNet-121 (torchvision, of any age; CRCKD's published code).

torchvision's classifier of ImageNet is left out: the result is to start a training from.
"""
import argparse
import re

from torch import Tensor

from perception.plugins.medical.models.densenet import DenseNet
from perception.utils.errors import CheckpointError

OPTIONS = {}
OLD = re.compile(r'^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$')  # names of torchvision before 2017
HEADS = ('classifier.weight', 'classifier.bias')


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of torchvision's DenseNets, old or new, or of CRCKD's."""
    return any('features.denseblock1.denselayer1.' in name for name in weights)


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Published weights as ours, and how to use them.

    Args:
        weights: a published state dict.
        options: not used.

    Raises:
        CheckpointError: incomplete or mis-shaped weights.
    """
    weights = {OLD.sub(r'\1\2', name.removeprefix('densenet121.')): value for name, value in weights.items()}
    whole = 'fc_layer.weight' in weights
    if not whole:
        weights = {name: value for name, value in weights.items() if name not in HEADS}
    classes = len(weights['classifier.bias']) if whole and 'classifier.bias' in weights else 2
    net = DenseNet(num_classes=classes, auxiliary='classifier_b3.weight' in weights)
    own = {name: value for name, value in net.state_dict().items() if whole or name.startswith('features.')}
    wrong = [name for name in dict.fromkeys((*own, *weights)) if not name.endswith('num_batches_tracked') and (
        name not in own or name not in weights or own[name].shape != weights[name].shape)]
    if wrong:
        raise CheckpointError(f'convert: {len(wrong)} weights are missing, not known or of another shape '
                              f'({", ".join(wrong[:4])}), expected those of a DenseNet-121. Give its file.')
    model = f'model = dict(type=DenseNet, num_classes={classes}' + ', auxiliary=True' * net.auxiliary + ')'
    return weights, model if whole else '--cfg-options load_from=FILE in any training of a DenseNet-121'
