"""Taps: a short name for the output of a sub-module, recorded during one forward.

A tap is `name -> path of a sub-module` (`dict(logits='head')`). Hooks live only as long as the `with` block, so copies
of a model (EMA, export) carry none, and nothing is recorded in evaluation. A value that is no module's output gets a
named `nn.Identity` in the model.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError


def tapped_module(model: nn.Module, name: str, path: str) -> nn.Module:
    """The sub-module a tap names.

    Args:
        model: the model the path starts from.
        name: the tap's short name, for the message.
        path: dotted path below the model, such as `'backbone'` or `'encoder.stage2'`.

    Raises:
        ConfigError: the model has no such sub-module.
    """
    modules = dict(model.named_modules())
    if not path or path not in modules:
        raise ConfigError(f'tap {name!r}: {type(model).__name__} has no sub-module {path!r}, expected the path of one. '
                          f'{close_matches(path, filter(None, modules))}')
    return modules[path]


@contextmanager
def record(model: nn.Module, taps: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Record the outputs of sub-modules while the block runs.

    Args:
        model: the model whose forward runs in the block.
        taps: short name -> path of the sub-module.

    Yields:
        A dict, empty at first, that holds the output of each tap after the block; sparse outputs keep coordinates.

    Raises:
        ConfigError: a path is missing, a tapped module ran twice or never, or what it returned was changed in place.

    Example:
        >>> with record(model, dict(logits='head')) as outputs:
        ...     losses = model(inputs, data_samples, mode='loss')
        >>> outputs['logits']
    """
    outputs: dict[str, Any] = {}
    calls, versions = dict.fromkeys(taps, 0), {}

    def hook_for(name: str):
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            calls[name] += 1
            outputs[name], versions[name] = output, _version(output)
        return hook

    handles = []
    try:
        for name, path in taps.items():
            handles.append(tapped_module(model, name, path).register_forward_hook(hook_for(name)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
    for name, count in calls.items():
        if count != 1:
            raise ConfigError(f'tap {name!r}: sub-module {taps[name]!r} of {type(model).__name__} ran {count} times in '
                              f'one forward, expected once. Tap a module that runs once, or give the value a named '
                              f'nn.Identity in the model.')
        if _version(outputs[name]) != versions[name]:
            raise ConfigError(f'tap {name!r}: a later layer of {type(model).__name__} changed the output of '
                              f'{taps[name]!r} in place, expected it to stay as it was recorded. Tap the layer that '
                              'changes it, or give that one inplace=False.')


def _version(output: Any) -> int:
    """How often a tensor (or the features of a sparse one) was changed in place; 0 for anything else."""
    output = getattr(output, 'feats', output)
    return output._version if isinstance(output, Tensor) and not output.is_inference() else 0
