"""SCNN with VGG-16 (SCNN_Pytorch, scnn_pytorch: the paper's Lua weights or those trained there; PytorchAutoDrive), and
its backbone, VGG-16 with batch norm (torchvision)."""
import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from perception.common.image_preprocessor import ImagePreprocessor
from perception.lanes.models.scnn import SCNN, vgg16_stages
from perception.lanes.old_names import IMAGENET, Conversion, lane_arguments, make_renamer, size_of, take_weights

OPTIONS = {'--input-size': {'type': 'int', 'nargs': 2, 'metavar': ('H', 'W'), 'help': 'lanes; the size of the images '
                            'where the existence head does not tell it'}}
# our convolution -> its place in torchvision's `features` of VGG-16; its norm follows it in both
VGG = {f'{stage}.{k}': first + k for stage, first, places in (
    ('stem', 0, (0, 3, 7, 10)), ('stage1', 14, (0, 3, 6)), ('stage2', 23, (1, 4, 7)), ('stage3', 34, (0, 3, 6)))
    for k in places}
VGG_BLOCKS = ('1_1', '1_2', '2_1', '2_2', '3_1', '3_2', '3_3', '4_1', '4_2', '4_3', '5_1', '5_2', '5_3')
VGG_MARK = 'features.40.weight'  # of torchvision's nets, the last convolution of VGG-16 with batch norm
DIRECTIONS = ('down', 'up', 'right', 'left')
CULANE = dict(type=ImagePreprocessor, mean=(91.75, 93.15, 93.38), std=(65.61, 67.91, 70.28))


class _VGG(nn.Module):
    """The backbone of SCNN alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage1, self.stage2, self.stage3 = vgg16_stages()


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of one of the three projects, or of torchvision's VGG-16 with batch norm."""
    return any(mark in weights for mark in (*PROJECTS, VGG_MARK))


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Published weights as ours, and the line of a config that builds their net; of a backbone how SCNN starts from it.

    Args:
        weights: a published state dict.
        options: `input_size` (H, W) or None, of the images.

    Raises:
        CheckpointError: incomplete or mis-shaped weights.
    """
    if VGG_MARK in weights:
        weights = {name: value for name, value in weights.items() if not name.startswith('classifier.')}
        found = Conversion(_VGG, {}, make_renamer(_vgg('features')))
        return take_weights(weights, found, 'VGG-16 with batch norm (torchvision)')[0], (
            'SCNN: tools/train.py configs/lanes/scnn_culane.py --cfg-options load_from=FILE')
    weights = dict(weights)  # some are reshaped
    name, read_net = next(project for mark, project in PROJECTS.items() if mark in weights)
    return take_weights(weights, read_net(weights), f'SCNN with VGG-16 ({name})', options.input_size)


def _read_scnn_pytorch(source: dict[str, Tensor]) -> Conversion:
    """The paper's Lua weights as SCNN_Pytorch renames them, or those trained there."""
    names = dict(zip(DIRECTIONS, ('up_down', 'down_up', 'left_right', 'right_left')))
    passes = {f'message.{ours}': f'message_passing.{theirs}.weight' for ours, theirs in names.items()}
    neck = {f'neck.{k}': f'layer1.{k}' for k in (0, 1, 3, 4)}
    return _scnn(source, _vgg('backbone') | neck, passes, ('layer2.1', 'fc.0', 'fc.2'), CULANE)


def _read_plain(source: dict[str, Tensor]) -> Conversion:
    """The paper's Lua weights as scnn_pytorch renames them, without biases where batch norms follow.

    Its own passes up and left leave out their last slice; the paper's do not, so they are not taken over.
    """
    blocks = _pairs({ours: (f'conv{block}', f'bn{block}')
                     for ours, block in zip((*VGG, 'neck.0', 'neck.3'), (*VGG_BLOCKS, '6', '7'))})
    for name in (f'conv{block}' for block in VGG_BLOCKS):
        if f'{name}.weight' in source:
            source.setdefault(f'{name}.bias', torch.zeros(len(source[f'{name}.weight'])))
    passes = {f'message.{name}': f'conv_{name[0]}.weight' for name in DIRECTIONS}
    return _scnn(source, blocks, passes, ('conv8', 'fc9', 'fc10'), CULANE)


def _read_auto_drive(source: dict[str, Tensor]) -> Conversion:
    """SCNN with or without existence head, whose passes are `legacy`."""
    passes = {f'message.{name}': f'scnn.conv_{name[0]}.weight' for name in DIRECTIONS}
    passes |= {f'message.{name}_bias': f'scnn.conv_{name[0]}.bias' for name in DIRECTIONS}
    neck = {f'neck.{k}': f'fc67.{k}' for k in (0, 1, 3, 4)}
    found = _scnn(source, _vgg('encoder.net') | neck, passes,
                  ('fc8.1', 'lane_classifier.linear1', 'lane_classifier.linear2'), IMAGENET)
    return found._replace(arguments=dict(found.arguments, legacy=True))


def _scnn(source: dict[str, Tensor], modules: dict[str, str], passes: dict[str, str], heads: tuple[str, str, str],
          images: dict) -> Conversion:
    """SCNN from the names of its backbone and neck, of its passes, and of its classifier and two linear layers."""
    classifier, first, last = heads
    num_classes = size_of(source, f'{classifier}.weight')
    lanes = dict(num_lanes=0)
    if any(name.startswith((f'{first}.', f'{last}.')) for name in source):
        lanes = lane_arguments(source, first, last, num_classes)
    for ours, theirs in passes.items():  # (128, 128, 1, 9) of the passes down and up, (128, 128, 9, 1) of the others
        kernel, axis = source.get(theirs), 2 if ours.endswith(('down', 'up')) else 3
        if kernel is not None and kernel.dim() == 4 and kernel.shape[axis] == 1:
            source[theirs] = kernel.squeeze(axis)
    modules = modules | {'classifier.1': classifier, 'exist.classifier.0': first, 'exist.classifier.2': last}
    arguments = dict(data_preprocessor=images, num_classes=num_classes, **lanes)
    return Conversion(SCNN, arguments, make_renamer(modules, passes))


def _pairs(names: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Our module -> published module, from our convolution -> published convolution and the norm behind it."""
    modules = {}
    for ours, (convolution, norm) in names.items():
        stage, k = ours.split('.')
        modules |= {ours: convolution, f'{stage}.{int(k) + 1}': norm}
    return modules


def _vgg(prefix: str) -> dict[str, str]:
    """Modules of a VGG-16 with the places of torchvision."""
    return _pairs({ours: (f'{prefix}.{place}', f'{prefix}.{place + 1}') for ours, place in VGG.items()})


PROJECTS: dict[str, tuple[str, Callable[[dict[str, Tensor]], Conversion]]] = {  # by a name that only they have
    'message_passing.up_down.weight': ('SCNN_Pytorch, also its copy of the Lua weights', _read_scnn_pytorch),
    'conv_d.weight': ('scnn_pytorch, its copy of the Lua weights', _read_plain),
    'scnn.conv_d.weight': ('PytorchAutoDrive', _read_auto_drive)}
