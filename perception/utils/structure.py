"""Widths of a pruned net: which channels of which layers a net keeps, as plain data that a checkpoint can hold.

A structure is a dict, a JSON file on disk:

    format      'peel-1'
    groups      for each group of channels that are pruned together: `name`, `full`, `backbone` and `final` width,
                `importance`, `keep` (the channels that stay, ascending) and `members`, rows of
                [module, side, start, stride, count, size]: channel i stands at start + i * stride and the count - 1
                positions behind it, among the `size` outputs ('out') or inputs ('in') of the unpruned module
and what was asked for and reached (`convention`, `target`, `macs`, ...), which nothing here reads.
"""
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception.utils.checks import close_matches
from perception.utils.errors import CheckpointError, ConfigError

FORMAT = 'peel-1'
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NAMES = dict(out=('out_channels', 'out_features', 'num_features', 'num_parameters'),
              ins=('in_channels', 'in_features'))
Plan = dict[str, dict[int, list[int]]]  # tensor -> axis -> positions that go


def read_structure(path: str | Path) -> dict[str, Any]:
    """A structure from its file.

    Raises:
        ConfigError: it cannot be read, is no structure, or one of another version.
    """
    try:
        structure = json.loads(Path(path).expanduser().read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f'{path}: unreadable ({error}), expected the JSON file of a structure. Write one with '
                          'tools/prune.py search.') from error
    return checked(structure, str(path))


def checked(structure: Any, where: str) -> dict[str, Any]:
    """The structure, once it is sure that it is one.

    Args:
        structure: what came.
        where: start of an error message.

    Raises:
        ConfigError: it is no structure, or one of another version.
    """
    found = structure.get('format') if isinstance(structure, Mapping) else type(structure).__name__
    if found != FORMAT:
        raise ConfigError(f'{where}: format {found!r}, expected {FORMAT!r}. Search the structure again with '
                          'tools/prune.py search.')
    groups = structure.get('groups')
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise ConfigError(f'{where}: groups={type(groups).__name__}, expected a list of groups of channels. Search '
                          'the structure again with tools/prune.py search.')
    for group in groups:
        full, keep, members = group.get('full'), group.get('keep'), group.get('members')
        right = isinstance(full, int) and isinstance(keep, list) and all(type(i) is int for i in keep) \
            and keep == sorted(set(keep)) and keep and keep[0] >= 0 and keep[-1] < full and isinstance(members, list)
        right = right and all(isinstance(row, (list, tuple)) and len(row) == 6 and isinstance(row[0], str)
                              and row[1] in ('out', 'in') and all(type(n) is int and n >= 0 for n in row[2:])
                              and row[2] + (full - 1) * row[3] + row[4] <= row[5] for row in members)
        if not right:
            raise ConfigError(f'{where}: group {group.get("name")!r} with full={full!r}, expected `keep`, ascending '
                              'channels below `full`, and `members` that hold them. Search the structure again with '
                              'tools/prune.py search.')
    return dict(structure)


def same_widths(one: Mapping, other: Mapping) -> bool:
    """Whether two structures keep the same channels of the same layers."""
    def essence(structure: Mapping) -> list:
        return sorted((group['name'], list(group['keep']), sorted(map(list, group['members'])))
                      for group in structure['groups'])
    return essence(one) == essence(other)


def axis_of(module: nn.Module, side: str) -> int:
    """Axis of a module's weight along its outputs ('out') or inputs ('in')."""
    if isinstance(module, _TRANSPOSED):
        return 1 if side == 'out' else 0
    return 0 if side == 'out' else getattr(module, 'in_axis', 1)


def is_depthwise(module: nn.Module) -> bool:
    """Whether each channel of a convolution sees itself alone."""
    groups = getattr(module, 'groups', 1)
    return groups > 1 and groups == module.in_channels == module.out_channels


def _plan(model: nn.Module, structure: Mapping, where: str) -> tuple[Plan, dict[str, dict[str, int]]]:
    """What goes of each tensor, and the new width of each side of each module; full sizes are not looked at."""
    modules, plan, sizes, widths = dict(model.named_modules()), {}, {}, {}
    removed: dict[tuple[str, str], set[int]] = {}
    for group in structure['groups']:
        gone = sorted(set(range(group['full'])) - set(group['keep']))
        for name, side, start, stride, count, size in group['members']:
            if name not in modules or getattr(modules[name], 'weight', None) is None:
                raise CheckpointError(f'{where}: the structure names a layer {name!r}, which {type(model).__name__} '
                                      'does not have, expected one made for this net. '
                                      f'{close_matches(name, filter(None, modules))}')
            removed.setdefault((name, side), set()).update(
                start + i * stride + j for i in gone for j in range(count))
            sizes[name, side] = size
    for (name, side), positions in removed.items():
        module, gone = modules[name], sorted(positions)
        widths.setdefault(name, {})[side] = sizes[name, side] - len(gone)
        if not gone:
            continue
        plan.setdefault(f'{name}.weight', {})[axis_of(module, side)] = gone
        if side == 'out':
            state = {**module._parameters, **module._buffers}
            for key, tensor in state.items():
                if key != 'weight' and tensor is not None and tensor.dim() == 1:
                    plan.setdefault(f'{name}.{key}', {})[0] = gone
    return plan, {name: dict(sides, **{f'full_{side}': sizes[name, side] for side in sides})
                  for name, sides in widths.items()}


def _without(tensor: Tensor, axes: Mapping[int, list[int]]) -> Tensor:
    for axis, gone in axes.items():
        stays = torch.ones(tensor.shape[axis], dtype=torch.bool)
        stays[gone] = False
        tensor = tensor.index_select(axis, stays.nonzero().flatten().to(tensor.device))
    return tensor


def apply_structure(model: nn.Module, structure: Mapping, where: str = 'structure') -> nn.Module:
    """Take the channels that a structure does not keep out of an unpruned net, in place.

    The weights that stay are those that the net had. `model.structure` tells the structure afterwards; parameters
    stay the same objects, so that an optimiser of them remains one.

    Args:
        model: as its config builds it, or trained.
        structure: see the module.
        where: start of an error message.

    Returns:
        the model.

    Raises:
        CheckpointError: the structure is of another net, or the net is pruned already.
    """
    if getattr(model, 'structure', None) is not None:
        raise CheckpointError(f'{where}: a net that is pruned already came, expected an unpruned one. Build it anew.')
    plan, widths = _plan(model, structure, where)
    for name, sides in widths.items():
        module = model.get_submodule(name)
        for side in ('out', 'in'):
            if side in sides and module.weight.shape[min(axis_of(module, side), module.weight.dim() - 1)] \
                    != sides[f'full_{side}']:
                raise CheckpointError(
                    f'{where}: {name} has {tuple(module.weight.shape)} weights, expected {sides[f"full_{side}"]} '
                    f'channels on its {side}put side as where the structure was searched. Use the config it was '
                    'searched with (--mini for a mini one).')
    state = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, axes in plan.items():
            tensor = state[name]
            if tensor.is_meta:
                shape = list(tensor.shape)
                for axis, gone in axes.items():
                    shape[axis] -= len(gone)
                owner, _, key = name.rpartition('.')
                module = model.get_submodule(owner)
                new = torch.empty(shape, device='meta', dtype=tensor.dtype)
                if key in module._parameters:
                    module._parameters[key] = nn.Parameter(new, tensor.requires_grad)
                else:
                    module._buffers[key] = new
            else:
                tensor.data = _without(tensor.data, axes)
                tensor.grad = None
    for name, sides in widths.items():
        module = model.get_submodule(name)
        if 'out' in sides and is_depthwise(module):
            module.groups = module.in_channels = sides['out']
        for side, names in (('out', _NAMES['out']), ('in', _NAMES['ins'])):
            for key in names if side in sides else ():
                if hasattr(module, key):
                    setattr(module, key, sides[side])
    model.structure = dict(structure)
    return model


def slice_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str, prefix: str = '') -> dict[str, Tensor]:
    """Weights of the unpruned net as its pruned form takes them; those that have its shape already stay as they are.

    Args:
        model: pruned.
        weights: by name.
        where: start of an error message.
        prefix: of the model's names among the weights, such as `'student.'`.
    """
    plan, own = _plan(model, model.structure, where)[0], model.state_dict()
    found = dict(weights)
    for name, axes in plan.items():
        tensor, shape = found.get(prefix + name), own[name].shape
        if tensor is None or tensor.dim() != len(shape) or tensor.shape == shape:
            continue
        full = [n + len(axes.get(axis, ())) for axis, n in enumerate(shape)]
        if list(tensor.shape) == full:
            found[prefix + name] = _without(tensor, axes)
    return found


def plain(value: Any) -> Any:
    """A structure's values as JSON has them: numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.item() if hasattr(value, 'item') else value
