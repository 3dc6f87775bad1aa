"""SPVNAS: SPVCNN with widths and depths that were searched (Tang et al., ECCV 2020, section 4).

Only static nets are built, from the widths or from the `net.config` that was released with each of them. The search
is not part of this project.
"""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from perception.lidarseg.models.minkunet import Architecture, Level
from perception.lidarseg.models.spvcnn import SPVCNN, SPVBackbone
from perception.registry import MODELS
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError

NETS = {  # by its MACs; 10.8 million parameters
    '65GMACs': Architecture(
        stem=(32, 32),
        down=(Level(16, ((44, 24), (36, 24))),
              Level(44, ((80, 52), (68, 52))),
              Level(84, ((64, 188), (68, 188))),
              Level(152, ((116, 232), (96, 232)))),
        up=(Level(188, ((140, 140), (248, 140))),
            Level(104, ((64, 152),)),
            Level(48, ((104, 96), (56, 96))),
            Level(64, ((112, 76),))),
        project_first=True)}
LARGEST = (32, 48, 96, 192, 384, 384, 192, 128, 128)  # widths of the super-net: stem, stages 1 to 4, ups 1 to 4
OTHERS = ('num_classes', 'pres', 'vres', 'macro_depth_constraint')  # entries of a net.config that are no widths


@MODELS.register_module()
class SPVNAS(SPVCNN):
    """The net; its taps are MinkUNet's.

    Args:
        data_preprocessor: a CubeVoxelizer or its config.
        num_classes: C, without the ignored class.
        net: a name of `NETS`, the path of a released `net.config`, or a dict of its entries.
        ratio: factor on all widths, rounded up to multiples of 4; 0.5 is PVD's student.
        **arguments: see MinkUNet, all but its width and blocks.
    """

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 19,
                 net: str | Path | Mapping = '65GMACs', ratio: float = 1.0, **arguments):
        for name in ('width', 'blocks'):
            if name in arguments:
                raise ConfigError(f'SPVNAS: {name}={arguments[name]!r}, expected net and ratio, which say all widths '
                                  'and depths. Leave it out.')
        known = NETS.get(net) if isinstance(net, str) else None
        self.architecture = narrowed(known or read_net_config(net), ratio)
        super().__init__(data_preprocessor, num_classes, **arguments)

    def build_backbone(self, in_channels: int, architecture: Architecture) -> nn.Module:
        """The U-Net with the searched widths."""
        return SPVBackbone(in_channels, self.architecture)


def narrowed(architecture: Architecture, ratio: float) -> Architecture:
    """All widths times a ratio, rounded up to multiples of 4.

    Raises:
        ConfigError: the ratio is not positive.
    """
    if not ratio > 0:
        raise ConfigError(f'SPVNAS: ratio={ratio}, expected a positive number. 0.5 is the half-width student.')
    if ratio == 1:
        return architecture

    def narrow(width: int) -> int:
        return int(-(-width * ratio // 4)) * 4

    def levels(old: Sequence[Level]) -> tuple[Level, ...]:
        return tuple(Level(narrow(level.transition), tuple((narrow(a), narrow(b)) for a, b in level.blocks))
                     for level in old)

    stem = tuple(map(narrow, architecture.stem))
    return Architecture(stem, levels(architecture.down), levels(architecture.up), architecture.project_first)


def read_net_config(source: str | Path | Mapping) -> Architecture:
    """Widths of a released `net.config`, flat JSON.

    Args:
        source: its path, or a dict of its entries: `output_channels`, nine widths of the stem, stages and ups, and for
            each `{downsample,upsample}.N` its `transition`, its number of blocks `feature` and, for each block,
            `feature.layers.J.net.layers.0`, its hidden width. The other entries follow from these; they are checked.

    Raises:
        ConfigError: it cannot be read, lacks an entry, or has one that is unknown or cannot be.
    """
    where, values = 'net.config', source
    if not isinstance(source, str | Path | Mapping):
        raise ConfigError(f'SPVNAS: net={source!r}, expected one of {tuple(NETS)}, the path of a net.config or a dict '
                          'of its entries. Name the net.')
    if not isinstance(source, Mapping):
        where = str(source)
        try:
            values = json.loads(Path(source).expanduser().read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f'SPVNAS: net={where!r} cannot be read ({error}), expected one of {tuple(NETS)} or the '
                              f'path of a net.config. {close_matches(where, NETS)}') from error
    if not isinstance(values, Mapping) or 'output_channels' not in values:
        what = f'entries {", ".join(map(str, list(values)[:4])) or "none"}' if isinstance(values, Mapping) \
            else f'a {type(values).__name__}'
        raise ConfigError(f'{where}: {what} without output_channels, expected the widths of a searched net. Take the '
                          'net.config of a specialised SPVNAS, not that of the super-net or of another net.')
    outs = values['output_channels']
    if not isinstance(outs, Sequence) or len(outs) != len(LARGEST):
        raise ConfigError(f'{where}: output_channels={outs!r}, expected {len(LARGEST)} widths, of the stem, four '
                          'stages and four ups. Take the released file.')
    for number, out in enumerate(outs):
        _check_number(where, f'output_channels[{number}]', out, LARGEST[number])
    known = _known_entries()
    unknown = [name for name in map(str, values) if name not in known]
    if unknown:
        raise ConfigError(f'{where}: unknown entries {", ".join(unknown[:4])} ({len(unknown)}), expected those of a '
                          f'net.config. {close_matches(unknown[0], known)}')
    if values.get('pres') != values.get('vres'):
        raise ConfigError(f'{where}: pres={values.get("pres")!r} and vres={values.get("vres")!r}, expected equal '
                          'sizes of the voxels of points and net. The voxelizer of the config sets the size.')
    down = tuple(_level(values, where, f'downsample.{n}', n + 1, LARGEST[n]) for n in range(4))
    up = tuple(_level(values, where, f'upsample.{n}', n + 5, LARGEST[n + 5]) for n in range(4))
    for number, stage in enumerate((4, 6, 8)):
        _check_same(values, where, f'point_transforms.{number}', stage)
    return Architecture((outs[0], outs[0]), down, up, project_first=True)


def to_net_config(architecture: Architecture) -> dict:
    """The entries of a `net.config` with these widths, as `read_net_config` takes them."""
    levels = (*architecture.down, *architecture.up)
    values: dict = dict(output_channels=[architecture.stem[1], *(level.blocks[-1][1] for level in levels)])
    for stage, level in zip((f'{side}.{n}' for side in ('downsample', 'upsample') for n in range(4)), levels):
        values |= {f'{stage}.transition': level.transition, f'{stage}.feature': len(level.blocks)}
        values |= {f'{stage}.feature.layers.{j}.net.layers.0': hidden for j, (hidden, _) in enumerate(level.blocks)}
    return values


def _known_entries() -> set[str]:
    names = {'output_channels', *OTHERS, *(f'point_transforms.{number}' for number in range(3))}
    for stage in (f'{side}.{n}' for side in ('downsample', 'upsample') for n in range(4)):
        names |= {f'{stage}.transition', f'{stage}.feature'}
        names |= {f'{stage}.feature.layers.{j}.{end}' for j in (0, 1)
                  for end in ('net', 'net.layers.0', 'net.layers.1', 'downsample')}
    return names


def _level(values: Mapping, where: str, stage: str, number: int, widest: int) -> Level:
    """Widths of one stage; `number` is its place in output_channels, `widest` bounds its transition."""
    transition = _check_number(where, f'{stage}.transition', values.get(f'{stage}.transition'), widest)
    depth = _check_number(where, f'{stage}.feature', values.get(f'{stage}.feature'), 2)
    hidden = []
    for block in (f'{stage}.feature.layers.{j}' for j in range(depth)):
        name = f'{block}.net.layers.0'
        hidden.append(_check_number(where, name, values.get(name), LARGEST[number]))
        _check_same(values, where, f'{block}.net.layers.1', number)
        _check_same(values, where, f'{block}.downsample', number)
        if values.get(f'{block}.net', 2) != 2:
            raise ConfigError(f'{where}: {block}.net={values[f"{block}.net"]!r}, expected 2, the convolutions of a '
                              'block. Take the released file.')
    return Level(transition, tuple((width, values['output_channels'][number]) for width in hidden))


def _check_number(where: str, name: str, value: object, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        came = 'missing' if value is None else repr(value)
        raise ConfigError(f'{where}: {name} is {came}, expected a whole number from 1 to {largest}. Take the released '
                          'file.')
    return value


def _check_same(values: Mapping, where: str, name: str, number: int) -> None:
    """An entry that repeats an output width, where it is there."""
    expected = values['output_channels'][number]
    if values.get(name, expected) not in (expected, None):
        raise ConfigError(f'{where}: {name} is {values[name]!r}, expected {expected} as output_channels[{number}]. '
                          'Take the released file.')
