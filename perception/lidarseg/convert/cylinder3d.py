"""Cylinder3D (Cylinder3D, PVKD, mmdet3d 1.4).

Published weights become those of `lidarseg/models/cylinder3d.py`. Sizes are read from the shapes. Sparse weights come
as (k_rho, k_phi, k_z, in, out) from spconv 1 and mmcv, or as (out, k_rho, k_phi, k_z, in) from spconv 2, which is ours.
"""
import argparse
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from perception.common.published import Origin, take_weights
from perception.lidarseg.models.cylinder3d import SHARING, Cylinder3D
from perception.lidarseg.published import data_set_of, fitting_config
from perception.utils.checkpoint import weights_of
from perception.utils.errors import CheckpointError, ConfigError

OPTIONS = {'--indice-sharing': {
    'choices': ['legacy', 'correct'], 'default': 'legacy',
    'help': 'Cylinder3D; legacy: published weights; correct: trained with a key for each kernel'}}
NORM_LEAVES = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
BRANCHES = ('branch1.0', 'branch1.1', 'branch2.0', 'branch2.1')
USUAL = {  # sizes that configs have
    ('cylinder3d', 'kitti'): dict(base_channels=32, compression=32, point_channels=256),
    ('cylinder3d_half', 'kitti'): dict(base_channels=16, compression=16, point_channels=256),
    ('cylinder3d', 'nuscenes'): dict(base_channels=32, compression=16, point_channels=256),
    ('cylinder3d_half', 'nuscenes'): dict(base_channels=16, compression=16, point_channels=128)}


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether weights have the names of a Cylinder3D, or might be one under other names."""
    return cylinder3d_project(weights) is not None or _axes(weights.values()) == [count for _, count in _positions()]


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Our weights of a file's, and the config with the options that fit them; see `convert_cylinder3d`."""
    weights, arguments = convert_cylinder3d(weights, options.indice_sharing)
    return weights, matching_config(arguments)


def convert_cylinder3d(source: dict[str, Tensor], indice_sharing: str = 'legacy') -> tuple[dict[str, Tensor], dict]:
    """Rename, re-order and cut published weights.

    The authors' nets were trained with spconv 1, which reuses the neighbours of the first layer with the same key, so
    the last convolution of each up block reads 9 of its 27 kernel slices; the others hold NaN in published files and
    are left out by 'legacy'.

    Args:
        source: a state dict, or a checkpoint that holds one as `state_dict`.
        indice_sharing: 'legacy' for published weights, 'correct' for weights that were trained with separate keys.

    Returns:
        The state dict for `Cylinder3D(**arguments)`, and these arguments.

    Raises:
        CheckpointError: foreign, incomplete or mis-shaped weights, or NaN in a kernel slice that is used.
        ConfigError: an unknown sharing.
    """
    if indice_sharing not in SHARING:
        raise ConfigError(f'convert_cylinder3d: indice_sharing={indice_sharing!r}, expected one of {SHARING}. Use '
                          "'legacy' for published weights.")
    source = weights_of(source, 'convert_cylinder3d')
    if cylinder3d_project(source) is None:
        source = _named_by_position(source)
    style = cylinder3d_project(source)
    arguments = dict(_sizes(source, style), refine=None, indice_sharing=indice_sharing)
    spconv2 = source[_old_name('head.weight', style)].shape[1:4] == (3, 3, 3)
    with torch.device('meta'):
        expected, declared = (Cylinder3D(**dict(arguments, indice_sharing=sharing)).state_dict()
                              for sharing in (indice_sharing, 'correct'))
    origins = {}
    for name, value in expected.items():
        shape, convert = tuple(declared[name].shape), None
        if len(shape) == 5:
            shape = shape if spconv2 else (*shape[1:], shape[0])
            convert = partial(_kernel, shape=value.shape, spconv2=spconv2, name=_old_name(name, style))
        if name.startswith('head.') and style == 'pvkd':
            convert = partial(_last_class_first, convert=convert)
        origins[name] = Origin(_old_name(name, style), shape, convert)
    return take_weights(source, origins, 'convert_cylinder3d', 'Cylinder3D'), arguments


def matching_config(arguments: dict) -> str:
    """How to use converted weights: the config and the options that fit them.

    Args:
        arguments: as `convert_cylinder3d` returns them.
    """
    net = 'cylinder3d_half' if arguments['base_channels'] == 16 else 'cylinder3d'
    usual = USUAL.get((net, data_set_of(net, arguments['num_classes'])), {})
    options = [f'model.{name}={arguments[name]}' for name in ('base_channels', 'compression', 'point_channels')
               if arguments[name] != usual.get(name)]
    if tuple(arguments['point_widths']) != (64, 128, 256):
        options.append(f'model.point_widths={",".join(map(str, arguments["point_widths"]))}')
    options += ['model.refine=None', f'model.indice_sharing={arguments["indice_sharing"]}']
    return fitting_config(net, arguments['num_classes'], options)


def cylinder3d_project(source: dict[str, Tensor]) -> str | None:
    """The project that names weights like these, 'pvkd' or 'mmdet3d', or None."""
    marks = {'pvkd': ('cylinder_3d_generator.', 'cylinder_3d_spconv_seg.'), 'mmdet3d': ('voxel_encoder.vfe_layers.',)}
    return next((style for style, mark in marks.items() if any(name.startswith(mark) for name in source)), None)


def _named_by_position(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under other names in the order of the authors' net, as their nuScenes trainer loads them.

    Raises:
        CheckpointError: other numbers of weights or of their axes.
    """
    wanted = _positions()
    if _axes(source.values()) != [count for _, count in wanted]:
        raise CheckpointError(f'convert_cylinder3d: names such as {", ".join(list(source)[:3]) or "none"}, expected '
                              '`cylinder_3d_generator...` (Cylinder3D, PVKD), `voxel_encoder...` (mmdet3d 1.4), or the '
                              f'{len(wanted)} weights of the former in their order. Give a checkpoint of one of these '
                              'projects.')
    return {name: value for (name, _), value in zip(wanted, source.values())}


def _axes(values: Iterable[Tensor]) -> list[int]:
    return [value.dim() for value in values]


def _positions() -> list[tuple[str, int]]:
    """The weights of the authors' net in their order, with their numbers of axes."""
    axes = {'norm': (1, 1, 1, 1, 0), 'linear': (2, 1), 'conv': (5,), 'head': (5, 1)}
    leaves = {'norm': NORM_LEAVES, 'linear': ('weight', 'bias'), 'conv': ('weight',), 'head': ('weight', 'bias')}
    return [(f'{module}.{leaf}', count) for module, kind in _in_order()
            for leaf, count in zip(leaves[kind], axes[kind])]


def _in_order() -> list[tuple[str, str]]:
    """The modules of the authors' net in their order, with their kinds."""
    a, b = 'cylinder_3d_generator.', 'cylinder_3d_spconv_seg.'
    order = [(f'{a}PPmodel.{k}', 'linear' if k in (1, 4, 7, 10) else 'norm') for k in (0, 1, 2, 4, 5, 7, 8, 10)]
    order.append((f'{a}fea_compression.0', 'linear'))
    for block in ('downCntx', *(f'resBlock{n}' for n in (2, 3, 4, 5))):
        order += [(f'{b}{block}.{name}', 'norm' if name.startswith('bn') else 'conv') for name in
                  ('conv1', 'bn0', 'conv1_2', 'bn0_2', 'conv2', 'bn1', 'conv3', 'bn2',
                   *(['pool'] if block != 'downCntx' else []))]
    for block in (f'upBlock{n}' for n in range(4)):
        order += [(f'{b}{block}.{name}', 'norm' if 'bn' in name else 'conv') for name in
                  ('trans_dilao', 'trans_bn', 'conv1', 'bn1', 'conv2', 'bn2', 'conv3', 'bn3', 'up_subm')]
    order += [(f'{b}ReconNet.{name}', 'norm' if name.startswith('bn') else 'conv') for name in
              ('conv1', 'bn0', 'conv1_2', 'bn0_2', 'conv1_3', 'bn0_3')]
    return [*order, (f'{b}logits', 'head')]


def _sizes(source: dict[str, Tensor], style: str) -> dict:
    """The arguments of Cylinder3D that the shapes tell."""
    def shape(name: str, axes: int = 2) -> torch.Size:
        old = _old_name(name, style)
        if old not in source or source[old].dim() != axes:
            came = f'has the shape {tuple(source[old].shape)}' if old in source else 'is missing'
            raise CheckpointError(f'convert_cylinder3d: {old} {came}, expected a whole Cylinder3D. The file is '
                                  'truncated or of another version.')
        return source[old].shape
    outputs, head = shape('head.bias', 1)[0], shape('head.weight', 5)
    in_channels = head[-1] if head[1:4] == (3, 3, 3) else head[-2]
    sizes = dict(num_classes=outputs - 1, base_channels=in_channels // 4,
                 compression=shape('encoder.compress.weight')[0],
                 point_channels=shape('encoder.project.weight')[0])
    widths = [shape(f'encoder.layers.{k}.0.weight')[0] for k in range(3)]
    if min(*sizes.values(), *widths) < 1:
        raise CheckpointError(f'convert_cylinder3d: {sizes} by its shapes, expected positive numbers. The file holds '
                              'no whole Cylinder3D.')
    return dict(sizes, point_widths=widths)


def _modules() -> dict[str, tuple[str, str]]:
    """Our module -> (name in Cylinder3D and PVKD, name in mmdet3d 1.4)."""
    a, b, e = 'cylinder_3d_generator.', 'cylinder_3d_spconv_seg.', 'voxel_encoder.'
    table = {'encoder.norm': (f'{a}PPmodel.0', f'{e}pre_norm'),
             'encoder.project': (f'{a}PPmodel.10', f'{e}vfe_layers.3'),
             'encoder.compress': (f'{a}fea_compression.0', f'{e}compression_layers.0'),
             'head': (f'{b}logits', 'decode_head.conv_seg')}
    for k in range(3):
        for part in (0, 1):
            table[f'encoder.layers.{k}.{part}'] = (f'{a}PPmodel.{3 * k + 1 + part}', f'{e}vfe_layers.{k}.{part}')

    def block(ours: str, pvkd: str, mmdet3d: str) -> None:
        convs = zip(BRANCHES, ('conv1', 'conv1_2', 'conv2', 'conv3'), ('conv0_0', 'conv0_1', 'conv1_0', 'conv1_1'))
        norms = zip(BRANCHES, ('bn0', 'bn0_2', 'bn1', 'bn2'), ('bn0_0', 'bn0_1', 'bn1_0', 'bn1_1'))
        table.update({f'{ours}.{name}.conv': (f'{pvkd}.{old}', f'{mmdet3d}.{mm}') for name, old, mm in convs})
        table.update({f'{ours}.{name}.norm': (f'{pvkd}.{old}', f'{mmdet3d}.{mm}') for name, old, mm in norms})

    block('backbone.stem', f'{b}downCntx', 'backbone.down_context')
    for n in (1, 2, 3, 4):
        ours, pvkd, mmdet3d = f'backbone.stage{n}', f'{b}resBlock{n + 1}', f'backbone.down_block_list.{n - 1}'
        block(f'{ours}.block', pvkd, mmdet3d)
        table[f'{ours}.pool'] = (f'{pvkd}.pool', f'{mmdet3d}.pool')
        ours, pvkd, mmdet3d = f'backbone.up{n}', f'{b}upBlock{4 - n}', f'backbone.up_block_list.{n - 1}'
        table[f'{ours}.reduce.conv'] = (f'{pvkd}.trans_dilao', f'{mmdet3d}.trans_conv')
        table[f'{ours}.reduce.norm'] = (f'{pvkd}.trans_bn', f'{mmdet3d}.trans_bn')
        table[f'{ours}.unpool'] = (f'{pvkd}.up_subm', f'{mmdet3d}.up_subm')
        for k in range(3):
            table[f'{ours}.convs.{k}.conv'] = (f'{pvkd}.conv{k + 1}', f'{mmdet3d}.conv{k + 1}')
            table[f'{ours}.convs.{k}.norm'] = (f'{pvkd}.bn{k + 1}', f'{mmdet3d}.bn{k + 1}')
    for k, suffix in enumerate(('', '_2', '_3')):
        table[f'backbone.context.convs.{k}'] = (f'{b}ReconNet.conv1{suffix}', f'backbone.ddcm.conv{k + 1}')
        table[f'backbone.context.norms.{k}'] = (f'{b}ReconNet.bn0{suffix}', f'backbone.ddcm.bn{k + 1}')
    return table


MODULES = _modules()


def _old_name(name: str, style: str) -> str:
    module, leaf = name.rsplit('.', 1)
    return f'{MODULES[module][0 if style == "pvkd" else 1]}.{leaf}'


def _last_class_first(value: Tensor, convert: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Their class 0, "unlabelled", is our last one."""
    value = value if convert is None else convert(value)
    return torch.cat([value[1:], value[:1]])


def _kernel(value: Tensor, shape: torch.Size, spconv2: bool, name: str) -> Tensor:
    """A sparse weight as (out, k_rho, k_phi, k_z, in), with the kernel slices that are used."""
    if spconv2:
        value = value.permute(1, 2, 3, 4, 0)
    slices = value.flatten(0, 2)[:shape[1:4].numel()]  # 'legacy' leaves some out
    if torch.isnan(slices).any():
        raise CheckpointError(f'{name}: NaN in a kernel slice that is used, expected numbers. Published weights need '
                              "indice_sharing='legacy', which leaves their unused slices out.")
    return slices.reshape(*shape[1:4], *slices.shape[1:]).permute(4, 0, 1, 2, 3)
