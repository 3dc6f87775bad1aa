"""Published Cylinder3D weights (Cylinder3D, PVKD, mmdet3d 1.4) to the weights of `lidarseg/models/cylinder3d.py`.

Sizes are read from the shapes. Sparse weights come as (k_rho, k_phi, k_z, in, out) from spconv 1 and mmcv, or as
(out, k_rho, k_phi, k_z, in) from spconv 2, which is ours.
"""
import torch
from torch import Tensor

from perception.lidarseg.models.cylinder3d import SHARING, Cylinder3D
from perception.utils.checkpoint import weights_of
from perception.utils.errors import CheckpointError, ConfigError

BRANCHES = ('branch1.0', 'branch1.1', 'branch2.0', 'branch2.1')
# (base_channels, compression, point_channels) of the project's configs
CONFIGS = {(32, 32, 256): 'configs/lidarseg/cylinder3d_kitti.py',
           (16, 16, 256): 'configs/lidarseg/cylinder3d_half_kitti.py'}


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
    """
    if indice_sharing not in SHARING:
        raise ConfigError(f'convert_cylinder3d: indice_sharing={indice_sharing!r}, expected one of {SHARING}. Use '
                          "'legacy' for published weights.")
    source = weights_of(source, 'convert_cylinder3d')
    style = _style(source)
    arguments = dict(_sizes(source, style), refine=None, indice_sharing=indice_sharing)
    with torch.device('meta'):
        expected = {name: value.shape for name, value in Cylinder3D(**arguments).state_dict().items()
                    if not name.startswith('data_preprocessor')}
    old_names = {name: _old_name(name, style) for name in expected}
    _compare_names(source, old_names)
    spconv2 = source[old_names['head.weight']].shape[0] == arguments['num_classes'] + 1
    weights = {}
    for name, shape in expected.items():
        value = source.get(old_names[name], torch.tensor(0))  # an old file may lack num_batches_tracked
        if len(shape) == 5:
            value = _kernel(value, shape, spconv2, old_names[name])
        if name.startswith('head.') and style == 'pvkd':
            value = torch.cat([value[1:], value[:1]])  # their class 0, "unlabelled", is our last one
        if value.shape != shape:
            raise CheckpointError(f'{old_names[name]}: shape {tuple(value.shape)} after conversion, expected '
                                  f'{tuple(shape)}. Widths differ within this file; it is not a whole Cylinder3D.')
        weights[name] = value.contiguous().clone()
    return weights, arguments


def matching_config(arguments: dict) -> str:
    """How to use converted weights: the config and the options that fit them.

    Args:
        arguments: as `convert_cylinder3d` returns them.
    """
    key = tuple(arguments[name] for name in ('base_channels', 'compression', 'point_channels'))
    if key not in CONFIGS or tuple(arguments['point_widths']) != (64, 128, 256):
        return 'no config of these widths; model = dict(type=Cylinder3D, ' + \
            ', '.join(f'{name}={value!r}' for name, value in arguments.items()) + ')'
    options = ['model.refine=None', f'model.indice_sharing={arguments["indice_sharing"]}']
    if arguments['num_classes'] != 19:
        options.append(f'model.num_classes={arguments["num_classes"]}')
    return f'{CONFIGS[key]} --cfg-options {" ".join(options)}'


def _style(source: dict[str, Tensor]) -> str:
    if any(name.startswith('cylinder_3d_generator.') for name in source):
        return 'pvkd'
    if any(name.startswith('voxel_encoder.vfe_layers.') for name in source):
        return 'mmdet3d'
    raise CheckpointError(f'convert_cylinder3d: names such as {", ".join(list(source)[:3]) or "none"}, expected '
                          '`cylinder_3d_generator...` (Cylinder3D, PVKD) or `voxel_encoder...` (mmdet3d 1.4). Give a '
                          'checkpoint of one of these projects.')


def _sizes(source: dict[str, Tensor], style: str) -> dict:
    """The arguments of Cylinder3D that the shapes tell."""
    def shape(name: str) -> torch.Size:
        old = _old_name(name, style)
        if old not in source:
            raise CheckpointError(f'convert_cylinder3d: {old} is missing, expected a whole Cylinder3D. The file is '
                                  'truncated or of another version.')
        return source[old].shape
    outputs, head = shape('head.bias')[0], shape('head.weight')
    in_channels = head[-1] if head[0] == outputs else head[-2]
    return dict(num_classes=outputs - 1, base_channels=in_channels // 4,
                compression=shape('encoder.compress.weight')[0],
                point_channels=shape('encoder.project.weight')[0],
                point_widths=[shape(f'encoder.layers.{k}.0.weight')[0] for k in range(3)])


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


def _compare_names(source: dict[str, Tensor], old_names: dict[str, str]) -> None:
    missing = sorted(name for name in set(old_names.values()) - set(source) if not name.endswith('num_batches_tracked'))
    unexpected = sorted(set(source) - set(old_names.values()))
    if missing or unexpected:
        raise CheckpointError(f'convert_cylinder3d: {len(missing)} missing names ({", ".join(missing[:5])}) and '
                              f'{len(unexpected)} unknown ones ({", ".join(unexpected[:5])}), expected those of '
                              'Cylinder3D. Give the weights of a whole, unmodified net.')


def _kernel(value: Tensor, shape: torch.Size, spconv2: bool, name: str) -> Tensor:
    """A sparse weight as (out, k_rho, k_phi, k_z, in), with the kernel slices that are used."""
    if spconv2:
        value = value.permute(1, 2, 3, 4, 0)
    slices, used = value.flatten(0, 2), shape[1:4].numel()
    if len(slices) < used or (len(slices) > used and not name.endswith('.conv3.weight')):
        raise CheckpointError(f'{name}: {len(slices)} kernel slices, expected {used}. The file does not fit '
                              'Cylinder3D, or mixes weight layouts.')
    slices = slices[:used]
    if torch.isnan(slices).any():
        raise CheckpointError(f'{name}: NaN in a kernel slice that is used, expected numbers. Published weights need '
                              "indice_sharing='legacy', which leaves their unused slices out.")
    return slices.reshape(*shape[1:4], *slices.shape[1:]).permute(4, 0, 1, 2, 3)
