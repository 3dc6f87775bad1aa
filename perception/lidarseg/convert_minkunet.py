"""Published MinkUNet and SPVCNN weights (mit-han-lab) to the weights of `lidarseg/models`."""
import re

import torch
from torch import Tensor

from perception.lidarseg.models.minkunet import WIDTHS, MinkUNet
from perception.lidarseg.models.spvcnn import SPVCNN
from perception.ops.sparse.weights import from_torchsparse
from perception.utils.checkpoint import weights_of
from perception.utils.checks import close_matches
from perception.utils.errors import CheckpointError, ConfigError

# how the authors' layers are called here; \1, \2 are numbers that stay
RENAMED = [
    (r'stem\.0\.kernel', r'backbone.stem.0.conv.weight'),
    (r'stem\.3\.kernel', r'backbone.stem.1.conv.weight'),
    (r'stem\.1\.(.+)', r'backbone.stem.0.norm.\1'),
    (r'stem\.4\.(.+)', r'backbone.stem.1.norm.\1'),
    (r'(stage\d|up\d)\.0\.net\.0\.kernel', r'backbone.\1.transition.conv.weight'),
    (r'(stage\d|up\d)\.0\.net\.1\.(.+)', r'backbone.\1.transition.norm.\2'),
    (r'(stage\d|up\d)\.block(\d)\.downsample\.0\.kernel', r'backbone.\1.blocks.\2.shortcut.conv.weight'),
    (r'(stage\d|up\d)\.block(\d)\.downsample\.1\.(.+)', r'backbone.\1.blocks.\2.shortcut.norm.\3'),
    (r'(stage\d|up\d)\.block(\d)\.net\.0\.kernel', r'backbone.\1.blocks.\2.conv1.conv.weight'),
    (r'(stage\d|up\d)\.block(\d)\.net\.1\.(.+)', r'backbone.\1.blocks.\2.conv1.norm.\3'),
    (r'(stage\d|up\d)\.block(\d)\.net\.3\.kernel', r'backbone.\1.blocks.\2.conv2.conv.weight'),
    (r'(stage\d|up\d)\.block(\d)\.net\.4\.(.+)', r'backbone.\1.blocks.\2.conv2.norm.\3'),
    (r'classifier\.0\.(.+)', r'head.linear.\1'),
    (r'point_transforms\.(\d\..+)', r'backbone.point_transforms.\1'),
]
KERNEL_SIZES = {27: 3, 8: 2}  # by the number of offsets
NETS = {'auto': None, 'minkunet': MinkUNet, 'spvcnn': SPVCNN}


def is_minkunet(weights: dict[str, Tensor]) -> bool:
    """Whether the names are those of mit-han-lab's MinkUNet or SPVCNN."""
    return 'stem.0.kernel' in weights and 'up4.0.net.0.kernel' in weights


def convert_minkunet(source: dict[str, Tensor], net: str = 'auto') -> tuple[dict[str, Tensor], str]:
    """Rename and re-order the weights of MinkUNet or SPVCNN; widths are read from the shapes.

    Args:
        source: a state dict, or a checkpoint that holds one as `state_dict`; names may start with `module.`.
        net: 'minkunet', 'spvcnn', or 'auto' for SPVCNN where there are point transforms. Files of MinkUNet may hold
            them too, unused, and then need its name here.

    Returns:
        The state dict, and the config with the options that fit it.

    Raises:
        CheckpointError: names or shapes that are not theirs.
        ConfigError: an unknown net.
    """
    if net not in NETS:
        raise ConfigError(f'convert_minkunet: net={net!r}, expected one of {tuple(NETS)}. {close_matches(net, NETS)}')
    source = weights_of(source, 'convert_minkunet')
    weights, foreign = {}, []
    for name, value in source.items():
        new = _new_name(_with_blocks(name))
        if net == 'minkunet' and name.startswith('point_transforms.'):
            continue
        if new is None:
            foreign.append(name)
        elif name.endswith('kernel'):
            weights[new] = from_torchsparse(value, KERNEL_SIZES.get(len(value), 1) if value.ndim == 3 else 1)
        else:
            weights[new] = value.clone()
    if foreign or 'head.linear.weight' not in weights:
        raise CheckpointError(f'convert_minkunet: {len(foreign)} unknown names such as {foreign[:3]}, expected '
                              'MinkUNet or SPVCNN of mit-han-lab. Check which net the file holds.')
    kind = NETS[net] or (SPVCNN if 'backbone.point_transforms.0.0.weight' in weights else MinkUNet)
    return weights, _fit(weights, kind)


def _fit(weights: dict[str, Tensor], net: type[MinkUNet]) -> str:
    """Compare with the net of the same widths; returns how to use the weights."""
    classes, channels = weights['head.linear.weight'].shape
    width = next((ratio for ratio in (1.0, 0.64, 0.5) if int(ratio * WIDTHS[-1]) == channels), channels / WIDTHS[-1])
    with torch.device('meta'):
        model = net(width=width, num_classes=classes)
    expected, found = ({name: tuple(value.shape) for name, value in tensors.items()}
                       for tensors in (model.state_dict(), weights))
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        listed = ', '.join(f'{name} {found.get(name, "missing")} for {expected.get(name, "none")}'
                           for name in wrong[:5])
        raise CheckpointError(f'convert_minkunet: {len(wrong)} tensors do not fit {net.__name__} of width {width:g} '
                              f'({listed}), expected all of them. The file is cut, or of another net.')
    half = '_half' if width == 0.5 else ''
    options = [f'model.width={width:g}'] * (width not in (0.5, 1.0))
    options += [f'model.num_classes={classes}'] * (classes != 19)
    config = f'configs/lidarseg/{net.__name__.lower()}{half}_kitti.py'
    return ' '.join([config, '--cfg-options', *options] if options else [config])


def _with_blocks(name: str) -> str:
    """Residual blocks under one name: theirs are `stage1.1`, `stage1.2`, but `up1.1.0`, `up1.1.1`."""
    name = re.sub(r'^(up\d)\.1\.(\d)\.', r'\1.block\2.', name)
    return re.sub(r'^(stage\d)\.([12])\.', lambda match: f'{match[1]}.block{int(match[2]) - 1}.', name)


def _new_name(name: str) -> str | None:
    for pattern, replacement in RENAMED:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return None
