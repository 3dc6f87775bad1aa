"""ERFNet (Codes-for-Lane-Detection, Codes-for-IntRA-KD, PytorchAutoDrive).

The name of its existence head tells the project; without one it is taken for IntRA-KD's.
"""
import argparse

from torch import Tensor

from perception.lanes.models.erfnet import ERFNet
from perception.lanes.old_names import (
    CAFFE,
    EXIST,
    IMAGENET,
    Conversion,
    exist_arguments,
    join_names,
    make_renamer,
    size_of,
    take_weights,
)

OPTIONS = {'--input-size': {'type': 'int', 'nargs': 2, 'metavar': ('H', 'W'), 'help': 'lanes; the size of the images '
                            'where the existence head does not tell it'}}
# our module -> published one, in a factorised block, in a block down, in a block up
BLOCK = {'first.0': 'conv3x1_1', 'first.2': 'conv1x3_1', 'first.3': 'bn1', 'second.0': 'conv3x1_2',
         'second.2': 'conv1x3_2', 'second.3': 'bn2', 'conv': 'conv', 'norm': 'bn', '0': 'conv', '1': 'bn'}


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of an ERFNet."""
    return 'encoder.layers.0.conv.weight' in weights


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Published weights as ours, and the line of a config that builds their net.

    Args:
        weights: a published state dict.
        options: `input_size` (H, W) or None, of the images.

    Raises:
        CheckpointError: incomplete or mis-shaped weights.
    """
    projects = 'Codes-for-Lane-Detection, Codes-for-IntRA-KD, PytorchAutoDrive'
    return take_weights(weights, read_net(weights), f'ERFNet ({projects})', options.input_size)


def read_net(source: dict[str, Tensor]) -> Conversion:
    """Which ERFNet the weights are of."""
    head = 'lane_classifier' if 'lane_classifier.linear1.weight' in source else 'lane_exist'
    images = IMAGENET if head == 'lane_classifier' else CAFFE
    arguments = dict(data_preprocessor=images, num_classes=size_of(source, 'decoder.output_conv.weight', 1),
                     **exist_arguments(source, head))
    stages = [f'stage1.{k}' for k in range(6)] + [f'stage2.{k}' for k in range(5)] + [f'stage3.{k}' for k in range(4)]
    blocks = {ours: f'encoder.layers.{k}' for k, ours in enumerate(stages)}
    blocks |= {'stem': 'encoder.initial_block', **{f'decoder.{k}': f'decoder.layers.{k}' for k in range(6)}}
    modules = join_names(blocks, BLOCK) | join_names({'exist': head}, EXIST)
    modules |= {'classifier': 'decoder.output_conv', 'encoder_classifier': 'encoder.output_conv'}
    return Conversion(ERFNet, arguments, make_renamer(modules))
