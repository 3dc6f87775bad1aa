"""From a config file and command-line options to the config of a run."""
import ast
import copy
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyObject
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError, PerceptionError
from perception.utils.paths import PROJECT_ROOT, default_work_dir, from_root


def load_config(path: str | Path, mini: bool = False, options: dict[str, Any] | None = None) -> Config:
    """Read a config file, then apply its own `mini` section and single options.

    Args:
        path: the file, relative to the current directory or to the project.
        mini: apply the overrides in the config's `mini`.
        options: further overrides with dotted names, such as `{'train_cfg.max_epochs': 3}`.

    Returns:
        the resolved config, without the key `mini`; `work_dir` is `work_dirs/<folder>/<config>[_mini]` unless it was
        given; all writable.

    Raises:
        ConfigError: no such file, an error in it, no `mini` section, an override that the config does not know, or a
            training too short for its schedule.
    """
    path = find_config(path)
    try:
        cfg = Config.fromfile(path, format_python_code=False)  # yapf is slow and turns Ctrl-C into a SyntaxError
    except PerceptionError:
        raise
    except Exception as error:
        raise ConfigError(f'{path}: the config cannot be read ({type(error).__name__}: {error}), expected '
                          f'a pure-Python config. Correct the file.') from error
    # one dict that stands under two names becomes two, so that an override changes only what it names
    object.__setattr__(cfg, '_cfg_dict', ConfigDict(_classes(cfg._cfg_dict._to_lazy_dict())))
    overrides = cfg.pop('mini', None)
    if mini:
        if not overrides:
            raise ConfigError(f'{path}: --mini was given, expected the config to end with mini = dict(...). Train '
                              f'without --mini, or add that section.')
        merge(cfg._cfg_dict, overrides, f'{path.name}: mini')
    for name, value in (options or {}).items():
        set_option(cfg._cfg_dict, name, value)
    check_schedule(cfg, path.name)
    for name in (key for key in cfg if key.endswith('_dataloader') and isinstance(cfg[key], dict)):
        size = cfg[name].get('batch_size', 1)
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f'{path.name}: {name}.batch_size={size!r}, expected a whole number of 1 or more. Correct '
                              'it.')
    cfg.work_dir = str(from_root(cfg.get('work_dir') or default_work_dir(path, mini)))
    return cfg


def _classes(value: Any) -> Any:
    """Classes for dotted names, by which a config that a run left in its work dir names its types."""
    if isinstance(value, (list, tuple)):
        return type(value)(_classes(item) for item in value)
    if not isinstance(value, dict):
        return value
    found = {key: _classes(item) for key, item in value.items()}
    if isinstance(found.get('type'), str) and found['type'].startswith('perception.'):
        found['type'] = get_object_from_string(found['type']) or found['type']  # or a name in a registry
    return found


def check_schedule(cfg: Config, where: str) -> None:
    """See that every scheduler begins before the training ends, such as after overriding `train_cfg.max_epochs`.

    Args:
        cfg: the config.
        where: start of an error message.

    Raises:
        ConfigError: one would not run.
    """
    schedulers, loop = cfg.get('param_scheduler') or [], cfg.get('train_cfg') or {}
    for i, scheduler in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        length = 'max_epochs' if scheduler.get('by_epoch', True) else 'max_iters'
        begin, end = scheduler.get('begin', 0), scheduler.get('end', loop.get(length))
        if end is not None and end <= begin:
            kind = scheduler.get('type')
            raise ConfigError(
                f'{where}: param_scheduler.{i}, {getattr(kind, "__name__", kind)}, begins at {begin} and ends at '
                f'{end}, expected an end behind its beginning. Give train_cfg.{length} more than {begin}, or shorten '
                f'the schedule too; --cfg-options "param_scheduler=[]" leaves the rate as it is.')


def dumpable(cfg: Config) -> Config:
    """Make a config that was changed writable as a file again: classes among its values become references by name.

    Args:
        cfg: the config, changed in place; reading a value still gives the class.
    """
    def refer(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: refer(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(refer(item) for item in value)
        return LazyObject(value.__module__, value.__qualname__) if inspect.isclass(value) or inspect.isfunction(
            value) else value

    object.__setattr__(cfg, '_cfg_dict', ConfigDict(refer(cfg._cfg_dict._to_lazy_dict())))
    return cfg


def find_config(path: str | Path) -> Path:
    """The config file, looked for in the current directory and in the project.

    Raises:
        ConfigError: no such file; names that are close are shown.
    """
    for candidate in (Path(path).expanduser(), from_root(path)):
        if candidate.is_file():
            return candidate.resolve()
    known = sorted(p.relative_to(PROJECT_ROOT).as_posix() for p in (PROJECT_ROOT / 'configs').glob('*/*.py')
                   if p.parent.name != '_base_')
    raise ConfigError(f'{path}: no such file, expected a config. {close_matches(str(path), known)}')


def need(cfg: Config, what: str, *keys: str) -> None:
    """See that a config names what was asked for.

    Args:
        cfg: the config.
        what: was asked for, as it stands in the message.
        keys: that name it.

    Raises:
        ConfigError: one is absent.
    """
    absent = [key for key in keys if cfg.get(key) is None]
    if absent:
        raise ConfigError(f'{cfg.filename}: {what} was asked for, expected the config to define '
                          f'{" and ".join(absent)}. configs/_base_/runtime.py says what these keys hold.')


def called(part: dict, **arguments: Any) -> Any:
    """What a config's `dict(type=...)` makes of arguments that only the tools know, beside its own."""
    return part['type'](**arguments, **{key: value for key, value in part.items() if key != 'type'})


def merge(base: ConfigDict, overrides: dict, where: str) -> None:
    """Apply nested overrides to a config in place, refusing what it does not know.

    A dict merges into a dict, anything else replaces the whole value, lists too. A dict with another `type` than the
    one that stands there replaces it. Besides the keys that stand in the config, the arguments of its `type` are
    known, and those of torch's DataLoader where there is a `dataset`.

    Args:
        base: the config.
        overrides: in the same shape.
        where: start of an error message.

    Raises:
        ConfigError: an unknown key, or a plain value where the config has a section.
    """
    for key, value in overrides.items():
        key = _known_key(base, key, where)
        old = base.get(key)
        if isinstance(old, dict) and not isinstance(value, dict) and value is not None:
            raise ConfigError(f'{where}.{key}: {value!r} came, expected a dict or None. Its keys are '
                              f'{", ".join(map(str, old))}.')
        if isinstance(old, dict) and isinstance(value, dict) and value.get('type', old.get('type')) == old.get('type'):
            merge(old, value, f'{where}.{key}')
        else:
            base[key] = copy.deepcopy(value)


def _arguments(kind: Any) -> list[str]:
    """Names that a class or function accepts, through **kwargs of a class too."""
    names = []
    for owner in inspect.getmro(kind) if inspect.isclass(kind) else [kind]:
        function = owner.__dict__.get('__init__') if inspect.isclass(owner) else owner
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters.values()
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
                  and p.name != 'self']
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return names


def set_option(base: ConfigDict, name: str, value: Any) -> None:
    """Set one value of a config by its dotted name, such as `optim_wrapper.optimizer.lr` or `custom_hooks.0.interval`.

    Raises:
        ConfigError: an unknown key, a position that the list does not have, or a plain value in place of a section.
    """
    where, node = '--cfg-options ' + name, base
    *path, last = name.split('.')
    for key in path:
        key = _known_key(node, key, where)
        node = node.get(key) if isinstance(node, dict) else node[key]
    last = _known_key(node, last, where)
    old = node.get(last) if isinstance(node, dict) else node[last]
    if isinstance(old, dict) and not isinstance(value, dict) and value is not None:
        raise ConfigError(f'{where}: {value!r} came, expected a dict or None. Its keys are {", ".join(map(str, old))}.')
    node[last] = value


def _known_key(node: Any, key: str, where: str) -> str | int:
    if isinstance(node, list):
        if not key.isdigit() or int(key) >= len(node):
            raise ConfigError(f'{where}: {key!r} came, expected a position in a list of {len(node)}. Count from 0.')
        return int(key)
    if not isinstance(node, dict):
        raise ConfigError(f'{where}: {key!r} came below the value {node!r}, expected the name to end there. Give a '
                          f'whole dict as a value if you mean to put one there.')
    known = [*node, *_arguments(DataLoader if 'dataset' in node else node.get('type'))]
    if key not in known:
        raise ConfigError(f'{where}: unknown key {key!r}, expected one that the config has. '
                          f'{close_matches(key, known)}')
    return key


def parse_options(pairs: Iterable[str]) -> dict[str, Any]:
    """Command-line overrides `a.b=value`; values are read as Python literals, else as text; `1,2` makes a list.

    Raises:
        ConfigError: a pair without `=`.
    """
    options = {}
    for pair in pairs:
        name, sign, text = pair.partition('=')
        if not sign or not name:
            raise ConfigError(f'--cfg-options: {pair!r} came, expected KEY=VALUE. Write for example '
                              f'train_cfg.max_epochs=3.')
        value = _literal(text)
        options[name] = list(value) if isinstance(value, tuple) and not text.lstrip().startswith('(') else value
    return options


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({'true': 'True', 'false': 'False', 'none': 'None'}.get(text, text))
    except (ValueError, SyntaxError):
        return [_literal(part) for part in text.split(',')] if ',' in text else text
