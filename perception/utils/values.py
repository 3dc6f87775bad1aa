"""Whether values of a config are what its classes take, told by the types that their arguments are annotated with."""
import functools
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from math import inf, isnan
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError

_WORDS = dict(true=True, yes=True, on=True, false=False, no=False, off=False)
_NAMES = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text', Path: 'a path', dict: 'a dict',
          type(None): 'None'}
# what mmengine takes out of a section before its class is called
_TAKEN = ('type', 'priority', 'convert_to_iter_based', '_scope_', '_delete_')
# what the numbers of an argument may be, by the words with which its name ends
_RANGES = [
    ('', lambda n: -inf < n < inf, ('mean', 'heights')),
    (' of 0 or more', lambda n: 0 <= n < inf, (
        'weight', 'weights', 'seed', 'std', 'high', 'ratio', 'depth', 'blocks', 'layers', 'threshold',
        'distance', 'alpha', 'beta', 'gamma', 'delta_var', 'delta_dist', 'sparsity', 'near', 'ignore_radius',
        'ignore_disc', 'min_radius', 'min_height', 'min_points', 'iterations', 'rows', 'pad_below',
        'center_labels', 'minority_classes')),
    (' of 1 or more', lambda n: 1 <= n < inf, (
        'channels', 'num_classes', 'stride', 'num_points', 'point_rows', 'num_threads', 'max_objects', 'max_kept',
        'step', 'thickness', 'kernel', 'kernels', 'kernel_size', 'dilations', 'pool', 'features', 'hidden', 'outputs',
        'widths', 'multiplier', 'topk')),
    (' above 0', lambda n: 0 < n < inf, (
        'size', 'sizes', 'width', 'strides', 'temperature', 'power', 'scale', 'unit', 'sigma', 'lr_mlp')),
    (' from 0 to 1', lambda n: 0 <= n <= 1, (
        'momentum', 'drop', 'drop_connect', 'smoothing', 'share', 'overlap', 'recall_score')),
]
_LENGTHS = ('begin', 'end', 'T_max')  # of a schedule; parts of an epoch where it is converted to iterations


class _Misfit(Exception):
    """A value is not what a hint asks for."""


@functools.cache
def arguments(kind: Any) -> tuple[dict[str, Any], bool]:
    """What a class or function accepts, through the **kwargs of a class too.

    Returns:
        annotation of each argument by name, `Any` where there is none, and whether any other name is accepted.
    """
    takes_nothing = (getattr(kind, '__init__', 0), getattr(kind, '__new__', 0)) == (object.__init__, object.__new__)
    found, is_open = {}, not takes_nothing  # of what is not written in Python nothing is known
    for owner in inspect.getmro(kind) if inspect.isclass(kind) else [kind]:
        function = owner.__dict__.get('__init__') if inspect.isclass(owner) else owner
        if not inspect.isfunction(function):
            continue
        parameters = [p for p in inspect.signature(function).parameters.values() if p.name != 'self']
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, _honest(_annotation(function, p.name), p.default))
        is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not is_open:
            break
    return found, is_open


def _annotation(function: Any, name: str) -> Any:
    """Annotation of an argument, `Any` where there is none or it names what exists for a type checker alone."""
    one = {key: hint for key, hint in inspect.get_annotations(function).items() if key == name}
    try:
        return typing.get_type_hints(types.SimpleNamespace(__annotations__=one), function.__globals__).get(name, Any)
    except Exception:
        return Any


def _honest(hint: Any, default: Any) -> Any:
    """A hint that its own default fits."""
    if default is inspect.Parameter.empty:
        return hint
    try:
        adapt(default, hint)
    except _Misfit:
        return hint | None if default is None else Any
    return hint


def default_of(kind: Any, name: str | int) -> Any:
    """What an argument is where it is not given, None where that is not known."""
    for owner in inspect.getmro(kind) if inspect.isclass(kind) else [kind]:
        function = owner.__dict__.get('__init__') if inspect.isclass(owner) else owner
        if inspect.isfunction(function) and name in inspect.signature(function).parameters:
            return inspect.signature(function).parameters[name].default
    return None


def known_keys(node: Mapping) -> tuple[dict[str, Any], bool]:
    """What a section of a config may hold: arguments of its `type`, of torch's DataLoader where there is a `dataset`.

    Returns:
        as `arguments`.
    """
    kind = node.get('type')
    if kind is None and 'dataset' in node:
        return arguments(DataLoader)[0], True
    if not callable(kind):
        return {}, True
    found, is_open = arguments(kind)
    if 'optimizer' in node:
        found = {**arguments(DefaultOptimWrapperConstructor)[0], 'constructor': Any, **found}
    return found, is_open


class Quoted(str):
    """Text that was typed in quotes: where a name or a number will do, `'08'` is the name."""


def adapt(value: Any, hint: Any, text: bool = False) -> Any:
    """A value as an annotation asks for it.

    Args:
        value: of a config.
        hint: the annotation.
        text: it was typed, so that `no` may stand for False, `08` for 8 and one value for a list of one.

    Raises:
        _Misfit: it is something else.
    """
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [part for part in parts if part is not Tensor]  # configs hold none
        numbers = [part for part in parts if part in _SCALARS and part not in (str, Path)]  # `08` before the text '08'
        plain = () if text and isinstance(value, (list, tuple)) else parts  # its items are typed
        for typed, some in ((text, () if isinstance(value, Quoted) else numbers), (False, plain), (text, parts)):
            for part in some:
                try:
                    return adapt(value, part, typed)
                except _Misfit:
                    continue
        raise _Misfit(value)
    if origin is Literal:
        for part in parts:
            if value == part or (text and str(value) == str(part)):
                return part
        raise _Misfit(value)
    if origin in _SCALARS:
        return _SCALARS[origin](value, text)
    if not inspect.isclass(origin) or origin in (Any, object, type):
        return value
    if issubclass(origin, Iterable) and origin.__module__ in ('builtins', 'collections.abc'):
        return _adapt_many(value, origin, parts, text)
    if isinstance(value, (bool, Real, str)) and not issubclass(origin, (Real, np.generic, np.dtype)) and (
            not isinstance(value, str) or origin.__module__ != 'torch'):  # torch.device and the like have names
        raise _Misfit(value)
    return value


def _adapt_many(value: Any, origin: type, parts: tuple, text: bool) -> Any:
    """`adapt` for dicts and lists."""
    if issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _Misfit(value)
        for item in value.values() if len(parts) == 2 else ():
            adapt(item, parts[1], text)
        return value
    if text and not isinstance(value, (list, tuple)) and value is not None:
        value = [value]
    if isinstance(value, (list, tuple)):
        if origin is tuple and parts and parts[-1] is not ...:
            if len(value) != len(parts):
                raise _Misfit(value)
            return type(value)(adapt(item, part, text) for item, part in zip(value, parts))
        return type(value)(adapt(item, parts[0], text) for item in value) if parts else value
    if value is None or isinstance(value, (bool, Real, Mapping)) or (isinstance(value, str) and parts
                                                                     and parts[0] not in (str, Any)):
        raise _Misfit(value)
    return value


def _bool(value: Any, text: bool) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return value
    if isinstance(value, Integral) and value in (0, 1):
        return bool(value)
    if text and str(value).lower() in _WORDS:
        return _WORDS[str(value).lower()]
    raise _Misfit(value)


def _number(kind: type, abstract: type) -> Any:
    def convert(value: Any, text: bool) -> Any:
        if isinstance(value, abstract) and not isinstance(value, bool):
            return value
        if text and isinstance(value, (str, float)):
            try:
                number = kind(value)
            except (ValueError, OverflowError) as error:
                raise _Misfit(value) from error
            if isinstance(value, str) or number == value:
                return number
        raise _Misfit(value)
    return convert


def _str(value: Any, text: bool) -> str:
    if isinstance(value, (str, Path)):
        return str(value) if isinstance(value, Quoted) else value
    if text and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise _Misfit(value)


def _none(value: Any, text: bool) -> None:
    if value is not None and not (text and str(value).lower() in ('none', 'null')):
        raise _Misfit(value)


_SCALARS = {bool: _bool, int: _number(int, Integral), float: _number(float, Real), str: _str, Path: _str,
            type(None): _none, None: _none}


def _say(hint: Any) -> str:
    """A hint in words."""
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return ' or '.join(dict.fromkeys(_say(part) for part in parts if part is not Tensor))
    if origin is Literal:
        return 'one of ' + ', '.join(map(str, parts))
    if origin in _NAMES:
        return _NAMES[origin]
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return 'a dict'
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        count = f' of {len(parts)}' if origin is tuple and parts and parts[-1] is not ... else ''
        return f'a list{count}' + (f' ({_say(parts[0])} each)' if parts and parts[0] is not Any else '')
    return getattr(origin, '__name__', str(origin))


def typed(node: Mapping | list, key: str | int, value: Any, where: str, hint: Any = None) -> Any:
    """A value that was typed, as the section of a config takes it.

    Args:
        node: the section, with what stands there now.
        key: of the value.
        value: as it was read.
        where: start of an error message.
        hint: annotation of the value; that of the argument of the section's `type`, or what stands there, by default.

    Raises:
        ConfigError: it is of another type.
    """
    if hint is None and isinstance(node, Mapping):
        hint = known_keys(node)[0].get(key)
    if hint in (None, Any):
        old = node.get(key, default_of(node.get('type'), key)) if isinstance(node, Mapping) else node[key]
        hint = next((kind | None for kind in (bool, float, str, list)
                     if isinstance(old, (kind, tuple) if kind is list else Real if kind is float else kind)), Any)
    try:
        return adapt(value, hint, text=True)
    except _Misfit:
        raise ConfigError(f'{where}={value!r}, expected {_say(hint)}. Correct it.') from None


def check_values(value: Any, where: str) -> None:
    """See that all of a config is what its classes take.

    Args:
        value: the config, a section of it, or one of its values.
        where: it stands, for the message.

    Raises:
        ConfigError: a value of another type, an argument that a class does not have, or a number out of its range.
    """
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            check_values(item, f'{where}.{i}')
    if isinstance(value, float) and isnan(value):
        raise ConfigError(f'{where}=nan, expected a number. Correct it.')
    if not isinstance(value, Mapping):
        return
    (known, is_open), inner = known_keys(value), where + ('.' if ': ' in where else ': ')
    for key, item in value.items():
        if key in known and not (key in _LENGTHS and value.get('convert_to_iter_based') and isinstance(item, Real)):
            try:
                adapt(item, known[key])
            except _Misfit:
                raise ConfigError(f'{inner}{key}={item!r}, expected {_say(known[key])}. Correct it.') from None
            if getattr(value.get('type'), '__module__', '').startswith('perception.'):
                _check_range(key, item, inner)
        elif not is_open and key not in (*known, *_TAKEN):
            raise ConfigError(f'{where}: unknown key {key!r}, expected an argument of {value["type"].__name__}. '
                              f'{close_matches(key, known)}')
        if key == 'clip_grad' and isinstance(item, Mapping):  # passed on to what its own `type` names
            item = dict(item, type=clip_grad_value_ if item.get('type') == 'value' else clip_grad_norm_)
        check_values(item, f'{inner}{key}')


def _check_range(key: str, value: Any, where: str) -> None:
    """See that the numbers of an argument of a class of the project are what its name allows, also those in lists."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_range(key, item, where)
    elif isinstance(value, Real) and not isinstance(value, bool):
        for words, fits, names in _RANGES:
            if f'_{key}'.endswith(tuple(f'_{name}' for name in names)) and not fits(value):
                kind = 'finite number' if abs(value) == inf else 'number'
                raise ConfigError(f'{where}{key}={value!r}, expected a {kind}{words}. Correct it.')


class TypedArguments:
    """Base of classes that people also build from Python: their arguments are checked as those of a config are.

    Raises:
        ConfigError: see `check_values`.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        names = list(inspect.signature(cls.__init__).parameters)[1:]
        check_values(dict(zip(names, args), **kwargs, type=cls), cls.__name__)
        return super().__new__(cls)
