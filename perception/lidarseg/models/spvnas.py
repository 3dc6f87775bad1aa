"""SPVNAS: SPVCNN with widths and depths that were searched (Tang et al., ECCV 2020, section 4).

Only static nets are built, from the widths or from the `net.config` that was released with each of them. The search
is not part of this project.
"""
import json
from collections.abc import Sequence
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


@MODELS.register_module()
class SPVNAS(SPVCNN):
    """The net; its taps are MinkUNet's.

    Args:
        data_preprocessor: a CubeVoxelizer or its config.
        num_classes: C, without the ignored class.
        net: a name of `NETS`, or the path of a released `net.config`.
        ratio: factor on all widths, rounded up to multiples of 4; 0.5 is PVD's student.
        **arguments: see MinkUNet, all but its width.
    """

    def __init__(self, data_preprocessor: dict | nn.Module | None = None, num_classes: int = 19,
                 net: str = '65GMACs', ratio: float = 1.0, **arguments):
        self.architecture = narrowed(NETS[net] if net in NETS else read_net_config(net), ratio)
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


def read_net_config(path: str | Path) -> Architecture:
    """Widths of a released `net.config`, flat JSON.

    Raises:
        ConfigError: it cannot be read, or lacks an entry.
    """
    try:
        values = json.loads(Path(path).expanduser().read_text())
        widths = values['output_channels']
        sides = [[_level(values, f'{side}.{number}', out) for number, out in enumerate(outs)]
                 for side, outs in (('downsample', widths[1:5]), ('upsample', widths[5:9]))]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f'SPVNAS: net={str(path)!r} cannot be read ({error}), expected one of {tuple(NETS)} or the '
                          f'path of a net.config. {close_matches(str(path), NETS)}') from error
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigError(f'{path}: an entry is missing or of the wrong kind ({error!r}), expected a net.config of '
                          'SPVNAS with output_channels and the widths of each stage. Take the released '
                          'file.') from error
    return Architecture((widths[0], widths[0]), tuple(sides[0]), tuple(sides[1]), project_first=True)


def _level(values: dict, stage: str, out: int) -> Level:
    hidden = [values[f'{stage}.feature.layers.{number}.net.layers.0'] for number in range(values[f'{stage}.feature'])]
    return Level(values[f'{stage}.transition'], tuple((width, out) for width in hidden))
