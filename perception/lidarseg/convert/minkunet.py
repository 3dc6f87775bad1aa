"""MinkUNet, SPVCNN (mit-han-lab, mmdet3d 1.4).

Published weights become those of `lidarseg/models`. Sparse weights come as (K, in, out), or (in, out) for one cell,
from TorchSparse and MinkowskiEngine, whose offsets run in different orders; as (k_x, k_y, k_z, in, out) from spconv 1
and mmcv; or as (out, k_x, k_y, k_z, in) from spconv 2, which is ours. spconv 2 reads its kernels of one cell as a plain
(in, out) buffer whatever their shape says, and so does this file.
"""
import argparse
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from perception.common.published import Origin, take_weights
from perception.lidarseg.models.minkunet import BLOCKS, WIDTHS, MinkUNet
from perception.lidarseg.models.spvcnn import SPVCNN
from perception.lidarseg.published import fitting_config
from perception.ops.sparse.weights import from_minkowski, from_spconv1, from_torchsparse
from perception.utils.checkpoint import weights_of
from perception.utils.checks import check_choice
from perception.utils.errors import CheckpointError

OPTIONS = {'--net': {
    'choices': ['auto', 'minkunet', 'spvcnn'], 'default': 'auto',
    'help': 'mit-han-lab; minkunet: leave out point transforms that the file holds unused'}}
NETS = {'auto': None, 'minkunet': MinkUNet, 'spvcnn': SPVCNN}


class Names(NamedTuple):
    """How a project names the modules; k, n and j are the numbers of layer, level (from 0) and block (from 0).

    Attributes:
        mark: a name that only its files hold.
        stem, down, up: of a convolution with its norm, in the stem and between the levels.
        down_block, up_block: of a residual block.
        pair: of the convolution and the norm inside `stem`, `down`, `up` and the shortcut of a block.
        block: of the five or six parts of a residual block.
        points: of the two layers of a point transform.
        head: of the classifier.
    """
    mark: str
    stem: tuple[str, str]
    down: str
    up: str
    down_block: str
    up_block: str
    pair: tuple[str, str]
    block: dict[str, str]
    points: tuple[str, str]
    head: str


class Layout(NamedTuple):
    """How a library stores sparse weights.

    Attributes:
        shape: our shape (out, k, k, k, in) to the file's.
        convert: the file's weight and k to ours.
        leaf: name of the weight inside its module.
    """
    shape: Callable[[tuple], tuple]
    convert: Callable[[Tensor, int], Tensor]
    leaf: str


def _offsets_shape(shape: tuple) -> tuple:
    out, k, _, _, inside = shape
    return (k ** 3, inside, out) if k > 1 else (inside, out)


def _from_spconv2(weight: Tensor, kernel_size: int) -> Tensor:
    if kernel_size > 1:
        return weight
    return weight.reshape(weight.shape[-1], weight.shape[0]).t().reshape(weight.shape)


TORCHSPARSE = Layout(_offsets_shape, from_torchsparse, 'kernel')
MINKOWSKI = Layout(_offsets_shape, from_minkowski, 'kernel')
SPCONV1 = Layout(lambda shape: (*shape[1:], shape[0]), lambda weight, _: from_spconv1(weight), 'weight')
SPCONV2 = Layout(lambda shape: shape, _from_spconv2, 'weight')

SEQUENTIAL = {'conv1.conv': 'net.0', 'conv1.norm': 'net.1', 'conv2.conv': 'net.3', 'conv2.norm': 'net.4',
              'shortcut.conv': 'downsample.0', 'shortcut.norm': 'downsample.1'}
SPCONV = {'conv1.conv': 'conv1', 'conv1.norm': 'bn1', 'conv2.conv': 'conv2', 'conv2.norm': 'bn2',
          'shortcut.conv': 'downsample.0', 'shortcut.norm': 'downsample.1'}
ENGINE = {'conv1.conv': 'conv1', 'conv1.norm': 'norm1.bn', 'conv2.conv': 'conv2', 'conv2.norm': 'norm2.bn',
          'shortcut.conv': 'downsample.net.0', 'shortcut.norm': 'downsample.net.1.bn'}
POINTS = ('backbone.point_transforms.{k}.0', 'backbone.point_transforms.{k}.1')


def _mmdet3d(mark: str, net: str, pair: tuple[str, str], block: dict[str, str]) -> Names:
    b = 'backbone.'
    return Names(mark, (f'{b}conv_input.0{net}', f'{b}conv_input.1{net}'), f'{b}encoder.{{n}}.0{net}',
                 f'{b}decoder.{{n}}.0{net}', f'{b}encoder.{{n}}.{{j1}}', f'{b}decoder.{{n}}.1.{{j}}', pair, block,
                 POINTS, 'decode_head.conv_seg')


MIT_HAN_LAB = Names('stem.0.kernel', ('stem', 'stem'), 'stage{n1}.0.net', 'up{n1}.0.net', 'stage{n1}.{j1}',
                    'up{n1}.1.{j}', ('0', '1'), SEQUENTIAL,
                    ('point_transforms.{k}.0', 'point_transforms.{k}.1'), 'classifier.0')
PROJECTS = {  # project -> names and layout; spconv's is read from the shapes
    'mit-han-lab': (MIT_HAN_LAB, TORCHSPARSE),
    'mmdet3d with TorchSparse': (_mmdet3d('backbone.encoder.0.1.net.0.kernel', '.net', ('0', '1'), SEQUENTIAL),
                                 TORCHSPARSE),
    'mmdet3d with MinkowskiEngine': (_mmdet3d('backbone.encoder.0.1.conv1.kernel', '.net', ('0', '1.bn'), ENGINE),
                                     MINKOWSKI),
    'mmdet3d with spconv': (_mmdet3d('backbone.encoder.0.1.conv1.weight', '', ('0', '1'), SPCONV), SPCONV2)}


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether the names are those of a MinkUNet or SPVCNN of one of `PROJECTS`."""
    return minkunet_project(weights) is not None


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Our weights of a file's, and the config with the options that fit them; see `convert_minkunet`."""
    return convert_minkunet(weights, options.net)


def minkunet_project(weights: dict[str, Tensor]) -> str | None:
    """Which of `PROJECTS` names its MinkUNet or SPVCNN like these weights, or None."""
    if 'downsample.0.transition.net.conv.kernel' in weights:
        return None  # SPVNAS has the same stem
    return next((project for project, (names, _) in PROJECTS.items() if names.mark in weights), None)


def convert_minkunet(source: dict[str, Tensor], net: str = 'auto') -> tuple[dict[str, Tensor], str]:
    """Rename and re-order the weights of MinkUNet or SPVCNN; widths are read from the shapes.

    Args:
        source: a state dict, or a checkpoint that holds one as `state_dict`; names may start with `module.`.
        net: 'minkunet', 'spvcnn', or 'auto' for SPVCNN where there are point transforms that saw any batch. Files of
            mit-han-lab's MinkUNet hold them too, unused; where they do not count batches they need its name here.

    Returns:
        The state dict, and the config with the options that fit it.

    Raises:
        CheckpointError: names or shapes that are not theirs.
        ConfigError: an unknown net.
    """
    check_choice('convert_minkunet: net', net, NETS)
    source = weights_of(source, 'convert_minkunet')
    project = minkunet_project(source)
    if project is None:
        raise CheckpointError(f'convert_minkunet: names such as {", ".join(list(source)[:3])}, expected MinkUNet or '
                              f'SPVCNN of {", ".join(PROJECTS)}. Check which net the file holds.')
    names, layout = PROJECTS[project]
    if layout is SPCONV2:
        layout = _spconv_layout(source, names)
    kind = NETS[net] or (SPVCNN if _has_point_branch(source) else MinkUNet)
    if kind is MinkUNet:
        source = {name: value for name, value in source.items() if not name.startswith('point_transforms.')}
    arguments = _arguments(source, names)
    with torch.device('meta'):
        model = kind(**arguments)
    where = f'convert_minkunet ({project})'
    weights = take_weights(source, find_origins(model, names, layout), where, _describe(kind, arguments))
    return weights, _usage(kind, arguments)


def _has_point_branch(source: dict[str, Tensor]) -> bool:
    """Whether there are point transforms that were trained; mit-han-lab's MinkUNet holds some that never ran."""
    counts = [value for name, value in source.items()
              if re.fullmatch(r'(backbone\.)?point_transforms\.0\.1\.num_batches_tracked', name)]
    there = any(re.match(r'(backbone\.)?point_transforms\.', name) for name in source)
    return there and not any(bool((count == 0).all()) for count in counts)


def find_origins(model: torch.nn.Module, names: Names, layout: Layout) -> dict[str, Origin]:
    """Where each weight of a MinkUNet or SPVCNN lies in the files of a project.

    Args:
        model: the net, also on the meta device.
        names: of the project.
        layout: of its sparse weights.
    """
    origins = {}
    for ours, value in model.state_dict().items():
        module, leaf = ours.rsplit('.', 1)
        shape, convert = tuple(value.shape), None
        if len(shape) == 5:
            leaf, kernel_size, shape = layout.leaf, shape[1], layout.shape(shape)
            convert = _convertible(layout, kernel_size)
        origins[ours] = Origin(f'{_old_module(module, names)}.{leaf}', shape, convert)
    return origins


def _convertible(layout: Layout, kernel_size: int) -> Callable[[Tensor], Tensor]:
    return lambda weight: layout.convert(weight, kernel_size)


def _old_module(module: str, names: Names) -> str:
    """A module of ours by its name in a project."""
    if module == 'head.linear':
        return names.head
    conv_or_norm = {'conv': names.pair[0], 'norm': names.pair[1]}
    place = module.split('.')[1:]
    if place[0] == 'stem':
        number, part = int(place[1]), conv_or_norm[place[2]]
        if names.stem[0] == names.stem[1]:  # both convolutions in one sequence: 0, 1 and 3, 4
            part = str(int(part) + 3 * number)
        return f'{names.stem[number]}.{part}'
    if place[0] == 'point_transforms':
        return names.points[int(place[2])].format(k=place[1])
    side, level = ('down', int(place[0][-1])) if place[0].startswith('stage') else ('up', int(place[0][-1]))
    numbers = dict(n=level - 1, n1=level)
    if place[1] == 'transition':
        return f'{getattr(names, side).format(**numbers)}.{conv_or_norm[place[2]]}'
    numbers |= dict(j=int(place[2]), j1=int(place[2]) + 1)
    return f'{getattr(names, f"{side}_block").format(**numbers)}.{names.block[".".join(place[3:])]}'


def _arguments(source: dict[str, Tensor], names: Names) -> dict:
    """The arguments of the net that the names and shapes tell."""
    head = source.get(f'{names.head}.weight')
    if head is None or head.dim() != 2:
        raise CheckpointError(f'convert_minkunet: {names.head}.weight is {"missing" if head is None else "no matrix"}, '
                              'expected a whole net. The file is cut, or of another net.')
    classes, channels = head.shape
    width = next((ratio for ratio in (1.0, 0.64, 0.5) if int(ratio * WIDTHS[-1]) == channels), channels / WIDTHS[-1])
    if channels == sum(WIDTHS[k] for k in (4, 6, 8)):
        raise CheckpointError(f'convert_minkunet: a classifier of {channels} features, expected {WIDTHS[-1]}, '
                              'those of the last level. This is MinkUNetBackboneV2, another net, which is not built '
                              'here.')
    if channels < 3:
        raise CheckpointError(f'convert_minkunet: a classifier of {channels} features, expected at least 3. The file '
                              'is no MinkUNet.')
    blocks = []
    for side in ('down_block', 'up_block'):
        for level in range(4):
            j = 0
            while _has_block(source, getattr(names, side).format(n=level, n1=level + 1, j=j, j1=j + 1)):
                j += 1
            blocks.append(j)
    blocks = tuple(blocks) if min(blocks) else BLOCKS
    return dict(width=width, blocks=blocks, num_classes=classes)


def _has_block(source: dict[str, Tensor], block: str) -> bool:
    return any(name.startswith(f'{block}.') for name in source)


def _spconv_layout(source: dict[str, Tensor], names: Names) -> Layout:
    """spconv 1 or 2 by the axes of a kernel of 3 x 3 x 3, whose outputs are no 3."""
    shape = source.get(f'{names.stem[1]}.0.weight', torch.empty(0)).shape
    return SPCONV1 if shape[:3] == (3, 3, 3) and shape[1:4] != (3, 3, 3) else SPCONV2


def _describe(net: type[MinkUNet], arguments: dict) -> str:
    return f'{net.__name__} of width {arguments["width"]:g}'


def _usage(net: type[MinkUNet], arguments: dict) -> str:
    """The config that fits weights, with its options."""
    half = '_half' if arguments['width'] == 0.5 else ''
    options = [f'model.width={arguments["width"]:g}'] * (arguments['width'] not in (0.5, 1.0))
    if arguments['blocks'] != BLOCKS:
        options.append(f'model.blocks={",".join(map(str, arguments["blocks"]))}')
    return fitting_config(f'{net.__name__.lower()}{half}', arguments['num_classes'], options)
