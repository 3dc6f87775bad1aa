"""SPVNAS, specialised nets and super-net (mit-han-lab).

Published weights become those of `lidarseg/models/spvnas.py`. Released are specialised nets, whose weights are cut to
the searched widths (all but the classifier's), and the super-net, of which a `net.config` takes the first channels of
each layer. In the first block of each up level these are the first channels of the upsampled part and the first ones of
the skip, which starts where the widest upsampled part would end.
"""
import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from perception.common.published import Origin, take_weights
from perception.lidarseg.models.minkunet import Architecture, Level
from perception.lidarseg.models.spvnas import LARGEST, NETS, SPVNAS, read_net_config, to_net_config
from perception.lidarseg.published import fitting_config
from perception.ops.sparse.weights import from_torchsparse
from perception.utils.checkpoint import weights_of
from perception.utils.errors import CheckpointError, ConfigError
from perception.utils.outputs import result_path

OPTIONS = {'--net-config': {
    'metavar': 'FILE', 'help': 'SPVNAS; the net.config beside the weights, which only the super-net needs'}}
SPECIALISED = 'downsample.0.feature.0.net.0.net.conv.kernel'
SUPER_NET = 'downsample.0.feature.layers.0.net.layers.0.net.conv.kernel'
STEM = {'0.conv': 'stem.0', '0.norm': 'stem.1', '1.conv': 'stem.3', '1.norm': 'stem.4'}


def fits(weights: dict[str, Tensor]) -> bool:
    """Whether the names are those of a specialised SPVNAS or of its super-net."""
    return SPECIALISED in weights or SUPER_NET in weights


def convert(weights: dict[str, Tensor], options: argparse.Namespace) -> tuple[dict[str, Tensor], str]:
    """Our weights of a file's, and the config with the options that fit them; see `convert_spvnas`.

    The widths of a net that `NETS` does not know are written beside the target, as `<target>.net.config`.

    Raises:
        CheckpointError, DataError: that file cannot be written.
    """
    weights, arguments = convert_spvnas(weights, options.net_config)
    settings = Path(options.target).expanduser().with_suffix('.net.config')
    if not isinstance(arguments['net'], str):
        with result_path(settings) as part:
            part.write_text(json.dumps(arguments['net'], indent=1))
    return weights, spvnas_usage(arguments, settings)


def convert_spvnas(source: dict[str, Tensor], net_config: str | Path | Mapping | None = None) -> tuple[dict, dict]:
    """Rename, re-order and cut published weights.

    Args:
        source: a state dict, or a checkpoint that holds one as `state_dict`; names may start with `module.`.
        net_config: name, path or entries of the net's widths, see SPVNAS. A specialised net tells them by itself, the
            super-net needs them.

    Returns:
        The state dict for `SPVNAS(**arguments)`, and these arguments; `net` is a name of `NETS` or a dict.

    Raises:
        CheckpointError: foreign, incomplete or mis-shaped weights.
        ConfigError: a super-net without widths, or widths that cannot be.
    """
    source = weights_of(source, 'convert_spvnas')
    if not fits(source):
        raise CheckpointError(f'convert_spvnas: names such as {", ".join(list(source)[:3])}, expected SPVNAS of '
                              'mit-han-lab. Check which net the file holds.')
    whole = SUPER_NET in source
    if whole and net_config is None:
        raise ConfigError('convert_spvnas: the super-net came without widths, expected a net.config that says which '
                          'net to take from it. Pass --net-config.')
    if net_config is None:
        architecture = _read_widths(source)
    else:
        architecture = NETS.get(str(net_config)) or read_net_config(net_config)
    if whole and architecture.stem[1] != LARGEST[0]:
        raise ConfigError(f'convert_spvnas: a stem of {architecture.stem[1]}, expected {LARGEST[0]}, which is the same '
                          'for all nets of the super-net. Check output_channels[0] of the net.config.')
    classes = source['classifier.linear.weight'].shape[0] if 'classifier.linear.weight' in source else 19
    name = next((name for name, known in NETS.items() if known == architecture), None)
    arguments = dict(net=name or to_net_config(architecture), num_classes=classes)
    with torch.device('meta'):
        model = SPVNAS(**arguments)
    origins = {}
    for ours, value in model.state_dict().items():
        origins[ours] = _origin(ours, tuple(value.shape), architecture, whole)
    if whole:  # second blocks that the net leaves out
        unused = [f'{_stage(level)}.feature.layers.1.' for level, blocks in _levels(architecture) if len(blocks) < 2]
        source = {name: value for name, value in source.items() if not name.startswith(tuple(unused))} \
            if unused else source
    what = f'SPVNAS {name or "with these widths"}' + (' in its super-net' if whole else '')
    return take_weights(source, origins, 'convert_spvnas', what), arguments


def spvnas_usage(arguments: dict, net_config: str | Path) -> str:
    """The config that fits converted weights, with its options.

    Args:
        arguments: as `convert_spvnas` returns them.
        net_config: path of the file with the widths, where `NETS` does not know them.
    """
    options = ['model.voxel_head=False']  # published nets have none
    if not isinstance(arguments['net'], str):
        options.insert(0, f'model.net={net_config}')
    return fitting_config('spvnas', arguments['num_classes'], options)


def _levels(architecture: Architecture) -> list[tuple[str, tuple]]:
    sides = (('stage', architecture.down), ('up', architecture.up))
    return [(f'{side}{n}', level.blocks) for side, levels in sides for n, level in enumerate(levels, 1)]


def _stage(level: str) -> str:
    """Their name of a level, such as `downsample.0` for `stage1`."""
    return f'{"down" if level.startswith("stage") else "up"}sample.{int(level[-1]) - 1}'


def _read_widths(source: dict[str, Tensor]) -> Architecture:
    """The widths of a specialised net by those of its norms; the released net's where they cannot be read."""
    def width(name: str) -> int:
        return source[f'{name}.net.bn.weight'].shape[0]

    def level(stage: str) -> Level:
        blocks, number = [], 0
        while any(name.startswith(f'{stage}.feature.{number}.') for name in source):
            block = f'{stage}.feature.{number}.net'
            blocks.append((width(f'{block}.0'), width(f'{block}.1')))
            number += 1
        return Level(width(f'{stage}.transition'), tuple(blocks))

    try:
        architecture = Architecture(
            (source['stem.1.weight'].shape[0], source['stem.4.weight'].shape[0]),
            tuple(level(f'downsample.{number}') for number in range(4)),
            tuple(level(f'upsample.{number}') for number in range(4)), project_first=True)
        return read_net_config(to_net_config(architecture))
    except (KeyError, IndexError, ConfigError):  # the comparison with that net names all that is missing
        return NETS['65GMACs']


def _origin(ours: str, shape: tuple[int, ...], architecture: Architecture, whole: bool) -> Origin:
    """Where a weight lies: name and shape in the file, and how to get ours of that shape from it."""
    module, leaf = ours.rsplit('.', 1)
    place = module.split('.')[1:]
    if module == 'head.linear':
        return Origin(f'classifier.linear.{leaf}', (shape[0], LARGEST[8]) if leaf == 'weight' else shape,
                      _cut(shape))
    if place[0] == 'stem':
        old, out, inside = STEM['.'.join(place[1:])], LARGEST[0], (4, LARGEST[0])[int(place[1])]
    elif place[0] == 'point_transforms':
        number, layer = int(place[1]), 'conv' if place[2] == '0' else 'bn'
        old = f'point_transforms.{number}.net.{layer}' + ('.linear' if layer == 'conv' else '.bn') * whole
        inside, out = (LARGEST[k] for k in ((0, 4), (4, 6), (6, 8))[number])
    else:
        old, inside, out = _of_level(place, whole)
    kernel = len(shape) == 5
    if not whole:
        full = _offsets_shape(shape) if kernel else shape
    elif kernel:
        full = _offsets_shape((out, *shape[1:4], inside))
    else:
        full = (out, inside)[:len(shape)]
    if not kernel:
        return Origin(f'{old}.{leaf}', full, _cut(shape))
    rows = _concatenated(place, architecture, out) if whole else None
    return Origin(f'{old}.kernel', full, lambda weight: _kernel(weight, shape, rows))


def _of_level(place: list[str], whole: bool) -> tuple[str, int, int]:
    """A convolution or norm of a level: its name, and its channels in and out in the super-net."""
    down, number = place[0].startswith('stage'), int(place[0][-1])
    before, after = (LARGEST[number - 1], LARGEST[number]) if down else (LARGEST[3 + number], LARGEST[4 + number])
    stage, end = _stage(place[0]), 'conv' if place[-1] == 'conv' else 'bn.bn' if whole else 'bn'
    if place[1] == 'transition':
        return f'{stage}.transition.net.{end}', before, before if down else after
    block, part = int(place[2]), place[3]
    inside = after
    if block == 0 and part != 'conv2':
        inside = before if down else after + LARGEST[4 - number]
    root = f'{stage}.feature.{"layers." * whole}{block}'
    inner = 'downsample' if part == 'shortcut' else f'net.{"layers." * whole}{0 if part == "conv1" else 1}'
    return f'{root}.{inner}.net.{end}', inside, after


def _concatenated(place: list[str], architecture: Architecture, out: int) -> Tensor | None:
    """Input channels of a layer behind an upsampled part and a skip; None for the first ones."""
    if not place[0].startswith('up') or place[1] != 'blocks' or int(place[2]) or place[3] == 'conv2':
        return None
    number = int(place[0][-1])
    skips = [architecture.stem[1], *(level.blocks[-1][1] for level in architecture.down)]
    return torch.cat([torch.arange(architecture.up[number - 1].transition),
                      out + torch.arange(skips[4 - number])])


def _kernel(weight: Tensor, shape: tuple[int, ...], rows: Tensor | None) -> Tensor:
    """Ours of a sparse weight: the first outputs, and the first inputs or those named."""
    weight = from_torchsparse(weight, shape[1])
    return _cut(shape)(weight if rows is None else weight.index_select(-1, rows))


def _cut(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """The first rows along each axis."""
    return lambda weight: weight[tuple(slice(n) for n in shape)]


def _offsets_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(out, k, k, k, in) as TorchSparse stores it."""
    out, k, _, _, inside = shape
    return (k ** 3, inside, out) if k > 1 else (inside, out)
