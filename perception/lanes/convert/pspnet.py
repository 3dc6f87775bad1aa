"""PSPNet (Codes-for-IntRA-KD): the teacher of IntRA-KD, with ResNet-101 and the context of the released code."""
import argparse

from torch import Tensor

from perception.lanes.models.pspnet import PSPNet
from perception.lanes.old_names import CAFFE, Conversion, size_of, take_weights

OPTIONS = {'--input-size': {'type': 'int', 'nargs': 2, 'metavar': ('H', 'W'), 'help': 'lanes; the size of the images '
                            'where the existence head does not tell it'}}


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of IntRA-KD's PSPNet."""
    return 'context_model.out_conv2d.weight' in weights


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Published weights as ours, and the line of a config that builds their net.

    Args:
        weights: a published state dict.
        options: `input_size` (H, W) or None, of the images.

    Raises:
        CheckpointError: incomplete or mis-shaped weights.
    """
    return take_weights(weights, read_net(weights), 'PSPNet (Codes-for-IntRA-KD)', options.input_size)


def read_net(source: dict[str, Tensor]) -> Conversion:
    """Which PSPNet the weights are of."""
    arguments = dict(data_preprocessor=CAFFE, num_classes=size_of(source, 'classifier.weight'), num_lanes=0,
                     legacy=True)
    modules = {**{f'context.branches.{k}.0': f'context_model.conv2d_list.{k}' for k in range(4)},
               **{f'context.branches.{k}.1': f'context_model.bn2d_list.{k}' for k in range(4)},
               'context.fuse.0': 'context_model.out_conv2d', 'context.fuse.1': 'context_model.out_bn2d',
               'stem.0': 'base_model.conv1', 'stem.1': 'base_model.bn1', 'classifier': 'classifier'}

    def rename(name: str) -> str:
        module, leaf = name.rsplit('.', 1)
        return f'{modules.get(module, module.replace("stage", "base_model.layer"))}.{leaf}'
    return Conversion(PSPNet, arguments, rename)
