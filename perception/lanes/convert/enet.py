"""ENet (PytorchAutoDrive)."""
import argparse

from torch import Tensor

from perception.lanes.models.enet import ENet
from perception.lanes.old_names import (
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
# our module -> published one, in the first block, in a block, in a block up
STEM = {'conv': 'main_branch', 'norm': 'batch_norm', 'act': 'out_activation'}
BLOCK = {'act': 'out_activation', **{f'{ours}.{k}': f'{theirs}.{k}' for k in range(6) for ours, theirs in
                                     (('reduce', 'ext_conv1'), ('conv', 'ext_conv2'), ('expand', 'ext_conv3'))}}
UP = {'main.0': 'main_conv1.0', 'main.1': 'main_conv1.1', 'reduce.0': 'ext_conv1.0', 'reduce.1': 'ext_conv1.1',
      'conv.0': 'ext_tconv1', 'conv.1': 'ext_tconv1_bnorm', 'expand.0': 'ext_conv2.0', 'expand.1': 'ext_conv2.1'}


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of an ENet."""
    return 'encoder.downsample1_0.ext_conv1.0.weight' in weights


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Published weights as ours, and the line of a config that builds their net.

    Args:
        weights: a published state dict.
        options: `input_size` (H, W) or None, of the images.

    Raises:
        CheckpointError: incomplete or mis-shaped weights.
    """
    return take_weights(weights, read_net(weights), 'ENet (PytorchAutoDrive)', options.input_size)


def read_net(source: dict[str, Tensor]) -> Conversion:
    """Which ENet the weights are of, with or without existence head."""
    arguments = dict(data_preprocessor=IMAGENET, num_classes=size_of(source, 'decoder.transposed_conv.weight', 1),
                     **exist_arguments(source, 'lane_classifier'))
    kinds = list(enumerate(('regular', 'dilated', 'asymmetric', 'dilated') * 2))
    blocks = {'down1': 'encoder.downsample1_0', 'down2': 'encoder.downsample2_0',
              **{f'stage1.{k}': f'encoder.regular1_{k + 1}' for k in range(4)},
              **{f'stage2.{k}': f'encoder.{kind}2_{k + 1}' for k, kind in kinds},
              **{f'stage3.{k}': f'encoder.{kind}3_{k}' for k, kind in kinds},
              **{f'decoder.stage1.{k}': f'decoder.regular4_{k + 1}' for k in range(2)},
              'decoder.stage2.0': 'decoder.regular5_1'}
    ups = {'decoder.up1': 'decoder.upsample4_0', 'decoder.up2': 'decoder.upsample5_0'}
    modules = join_names(blocks, BLOCK) | join_names(ups, UP) | join_names({'exist': 'lane_classifier'}, EXIST)
    modules |= join_names({'stem': 'encoder.initial_block'}, STEM) | {'classifier': 'decoder.transposed_conv'}
    return Conversion(ENet, arguments, make_renamer(modules))
