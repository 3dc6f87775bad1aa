"""From a config file and command-line options to the config of a run."""
import ast
import copy
import functools
import importlib
import inspect
import keyword
import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import mmengine.config.config as mmengine_config
import numpy as np
from mmengine import dataset as mmengine_data
from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.utils import get_installed_path, get_object_from_string, import_modules_from_strings
from torch.utils import data as torch_data

from perception import registry
from perception.apis.cli import out_of_memory
from perception.apis.schedule import check_schedule, length_of, lengthen_pipeline, scale_schedule
from perception.common.dataset import ConcatDataset
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError, PerceptionError
from perception.utils.paths import PROJECT_ROOT, default_work_dir, from_root
from perception.utils.values import Quoted, arguments, check_values, default_of, known_keys, typed

# names of a config that something reads, beside the arguments of mmengine's Runner; any other is a helper of its file
_READ = ('find_unused_parameters', 'model_wrapper_cfg', 'sync_bn', 'auto_scale_lr', 'compile', 'custom_imports',
         'detect_anomalous_params', 'predictor', 'tta_model', 'tta_dataset', 'ensemble_model', 'saved_model',
         'predictions', 'submission', 'submit_dataloader', 'draw', 'more_metrics', 'mini_data', 'mini_sheet',
         'published', 'evidence', 'prune', 'structure', 'robustness')
_STANDARD_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
_file2dict = Config._file2dict


def _python_alone(filename: str, *args, **kwargs) -> tuple:
    """mmengine's reader of a file and its bases, which would execute tags of YAML."""
    if not str(filename).endswith('.py'):
        raise ConfigError(f'{filename}: a {Path(filename).suffix or "nameless"} file came, expected a Python config '
                          '(.py). Write it as one; other formats are never read as configs, nor as their bases.')
    return _file2dict(filename, *args, **kwargs)


Config._file2dict = staticmethod(_python_alone)
# `with read_base(): from perception.configs.lanes.enet_culane import *` inherits from any folder, as in OpenMMLab
mmengine_config.get_installed_path = lambda package: str(PROJECT_ROOT) if package == 'perception' else (
    get_installed_path(package))


def load_config(path: str | Path, mini: bool = False, options: dict[str, Any] | None = None) -> Config:
    """Read a config file, then apply its own `mini` section and single options.

    `train_cfg.max_epochs` among the options scales the schedule, unless they name parts of that too. A loader without
    workers keeps none alive, and `train_cfg.val_interval=0`, or a `val_begin` behind the end, drops the validation.

    Args:
        path: the file, relative to the current directory or to the project.
        mini: apply the overrides in the config's `mini`.
        options: further overrides with dotted names, such as `{'train_cfg.max_epochs': 3}`.

    Returns:
        the resolved config, without the key `mini`; `work_dir` is `work_dirs/<folder>/<config>[_mini]` unless it was
        given, `experiment_name` is `<folder>/<config>[_mini]`; all writable.

    Raises:
        ConfigError: no such file, an error in it, no `mini` section, an override that the config does not know, a value
            of another type than its class takes, or a schedule that does not fit the training.
    """
    path = find_config(path)
    try:
        cfg = Config.fromfile(path, format_python_code=False)  # yapf is slow and turns Ctrl-C into a SyntaxError
    except PerceptionError:
        raise
    except Exception as error:
        raise ConfigError(
            f'{path}: the config cannot be read ({type(error).__name__}: {error}), expected a pure-Python config. '
            'Correct the file; what it inherits from this project is named from any folder as in `with read_base(): '
            'from perception.configs.lanes.enet_culane import *`.') from error
    # one dict that stands under two names becomes two, so that an override changes only what it names
    object.__setattr__(cfg, '_cfg_dict', ConfigDict(_imported(cfg, path)))
    overrides = cfg.pop('mini', None)
    if mini:
        if not overrides:
            raise ConfigError(f'{path}: --mini was given, expected the config to end with mini = dict(...). Train '
                              f'without --mini, or add that section.')
        merge(cfg._cfg_dict, overrides, f'{path.name}: mini')
    length = length_of(cfg)
    for name, value in (options or {}).items():
        _check_read(cfg, name)
        set_option(cfg._cfg_dict, name, value)
        if name.partition('.')[0] == 'custom_imports':
            _import_own(cfg._cfg_dict, path)
    parts = {key: cfg[key] for key in cfg if is_read(key) and cfg[key] is not None}
    check_values(dict({key: part for key, part in parts.items() if key in arguments(Runner)[0]}, type=Runner),
                 path.name)
    check_values({key: part for key, part in parts.items() if key not in arguments(Runner)[0]}, path.name)
    _check_ranges(cfg, path.name)
    _check_joined(cfg, path.name)
    if not any(name.startswith('param_scheduler') for name in options or {}):
        scale_schedule(cfg, length)
    lengthen_pipeline(cfg, length)
    check_schedule(cfg, path.name)
    _settle(cfg)
    place = default_work_dir(path, mini)
    cfg.work_dir = str(from_root(cfg.get('work_dir') or place))
    cfg.experiment_name = cfg.get('experiment_name') or f'{place.parent.name}/{place.name}'
    return cfg


def _imported(cfg: Config, path: Path) -> dict:
    """All of a config, with classes where it names them: by an import, by a dotted name, or by that in a registry.

    Raises:
        ConfigError: something that it names is not there.
    """
    try:
        values = _classes(cfg._to_lazy_dict())
    except ImportError as error:
        missing = getattr(error.__context__, 'name', None) or ''
        if isinstance(error, ModuleNotFoundError) and f'import {missing.partition(".")[0]}' not in str(error):
            raise  # a package that a module of the project needs
        raise _not_found(path, error) from error
    _import_own(values, path)
    return {key: {inner: part if inner == 'model' else _named(part, f'{path.name}: mini.{inner}')
                  for inner, part in value.items()} if key == 'mini' and isinstance(value, dict)
            else value if key == 'model' or not is_read(key)  # the registries of models tell what is meant there
            else _named(value, f'{path.name}: {key}') for key, value in values.items()}


def _import_own(values: dict, path: Path) -> None:
    """Import the modules that `custom_imports` names, whose classes are then known by name.

    Raises:
        ConfigError: one is not there.
    """
    if values.get('custom_imports'):
        try:
            import_modules_from_strings(**values['custom_imports'])
        except (ImportError, TypeError) as error:
            raise _not_found(f'{path}: custom_imports', error.__context__ or error) from error


def _not_found(where: str | Path, error: Exception) -> ConfigError:
    return ConfigError(f'{where}: {error}, expected modules and names that Python finds. Correct it, or name the '
                       'folder in which the module or package lies: `PYTHONPATH=FOLDER tools/train.py ...`.')


def is_read(name: str) -> bool:
    """Whether anything reads a value of this name that stands at the top of a config."""
    return name in _READ or name in arguments(Runner)[0]


def _check_read(cfg: Config, name: str) -> None:
    """Refuse to change what only the config file itself reads.

    Raises:
        ConfigError: such a name; where its value stands is said.
    """
    top = name.partition('.')[0]
    if top not in cfg or is_read(top):
        return
    places = [place for place, value in leaves(cfg._cfg_dict) if place != top and value == cfg[top]
              and is_read(place.partition('.')[0])]
    where = f'Its value stands at {", ".join(places[:6])}; give these.' if places else (
        'Give the values that were made of it.')
    raise ConfigError(f'--cfg-options {name}: {top} is a variable of the config file, which nothing reads afterwards, '
                      f'expected a part of the model, the data or the training. {where}')


def leaves(node: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    """Dotted name and value of everything below a section, itself too."""
    if place:
        yield place, node
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in pairs:
        yield from leaves(value, f'{place}.{key}' if place else str(key))


def loaders(cfg: Config) -> list[str]:
    """Names of the data loaders of a config that are there."""
    return [key for key in cfg if key.endswith('_dataloader') and isinstance(cfg[key], dict)]


def _check_ranges(cfg: Config, where: str) -> None:
    """See that what is counted is counted from where it makes sense.

    Raises:
        ConfigError: a number that is too small.
    """
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    rate = optimizer.get('lr') if isinstance(optimizer, dict) else None
    if isinstance(rate, (int, float)) and not 0 <= rate < math.inf:
        raise ConfigError(f'{where}: optim_wrapper.optimizer.lr={rate!r}, expected a number of 0 or more. Correct it.')
    for section, key, least in [*((name, 'batch_size', 1) for name in loaders(cfg)),
                                *((name, 'num_workers', 0) for name in loaders(cfg)),
                                ('randomness', 'seed', 0), ('train_cfg', 'max_epochs', 1),
                                ('train_cfg', 'max_iters', 1), ('train_cfg', 'val_interval', 0),
                                ('train_cfg', 'val_begin', 0)]:
        value, most = (cfg.get(section) or {}).get(key, least), 2**32 - 1 if key == 'seed' else math.inf
        if value is None and (key == 'seed' or cfg[section].get('batch_sampler') is not None):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            limit = f'{least} or more' if most == math.inf else f'{least} to {most}'
            raise ConfigError(f'{where}: {section}.{key}={value!r}, expected a whole number of {limit}. Correct it.')


def _check_joined(cfg: Config, where: str) -> None:
    """See that data sets are joined in the training alone, and by what hands on the epoch.

    Raises:
        ConfigError: others are joined, or by a wrapper of PyTorch or mmengine.
    """
    for name in loaders(cfg):
        kind = (cfg[name].get('dataset') or {}).get('type')
        if not isinstance(kind, type):
            continue
        if issubclass(kind, (torch_data.ConcatDataset, mmengine_data.RepeatDataset,
                             mmengine_data.ClassBalancedDataset)):
            raise ConfigError(f'{where}: {name}.dataset: {kind.__module__}.{kind.__name__} came, which does not tell a '
                              'data set the epoch, expected one data set or perception.common.dataset.ConcatDataset. '
                              'Take that, where a data set may stand several times, each with another seed.')
        if issubclass(kind, ConcatDataset) and name != 'train_dataloader':
            raise ConfigError(f'{where}: {name}.dataset: ConcatDataset came, expected one data set, for scores and '
                              'submissions are of one. Name one of them, and test the others after it.')


def _settle(cfg: Config) -> None:
    """Make values agree that OpenMMLab's users change alone."""
    for name in [name for name, hook in (cfg.get('default_hooks') or {}).items() if hook is None]:
        if name not in _STANDARD_HOOKS:  # which mmengine adds where they are not named
            cfg.default_hooks.pop(name)
    for name in loaders(cfg):
        if cfg[name].get('num_workers', 0) == 0:
            cfg[name].update({key: None if key == 'prefetch_factor' else False for key in
                              ('persistent_workers', 'prefetch_factor') if key in cfg[name]})
    loop, (_, length) = cfg.get('train_cfg') or {}, length_of(cfg) or ('', math.inf)
    parts = [cfg[name] is not None for name in ('val_dataloader', 'val_cfg', 'val_evaluator') if name in cfg]
    if any(parts) and (not all(parts) or loop.get('val_interval') == 0 or (loop.get('val_begin') or 0) > length):
        if loop.get('val_interval') == 0:
            loop.pop('val_interval')
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        print_log('train_cfg: nothing is validated, so the validation data are not read, and model.pth will hold the '
                  'latest weights.', 'current')


def names_config(function: Callable) -> Callable:
    """A function whose first argument is a config: what it raises names that one wherever it says `CONFIG`.

    A type that no registry knows, and what a class refuses to be built with, become a ConfigError.
    """
    @functools.wraps(function)
    def wrapped(config: str | Path, *args, **kwargs) -> Any:
        try:
            return function(config, *args, **kwargs)
        except PerceptionError as error:
            error.args = (str(error).replace(' CONFIG', f' {config}'), *error.args[1:])
            raise
        except (KeyError, ValueError, TypeError, AssertionError, ArithmeticError, RuntimeError) as error:
            found = re.match(r'["\']?(\S+) is not in the \S+::(.+?) registry', str(error))  # as mmengine says it
            if found:
                raise ConfigError(
                    f'{config}: type={found[1]!r}, expected a class or the name of one that is registered as '
                    f'{found[2]}. {close_matches(found[1], _known_types(found[2]))}') from error
            if str(error).startswith('Expected more than 1 value per channel'):  # torch's batch norm
                raise ConfigError(
                    f'{config}: a batch of one sample came to a batch norm on maps of one cell or a scan of one voxel, '
                    'of which it learns nothing, expected two samples or more. Set train_dataloader.drop_last=True if '
                    'the last batch has but one, or another batch_size; for small scans take smaller voxels.') \
                    from error
            refused = _refusal(error)
            if refused is None:
                raise
            raise ConfigError(f'{config}: {refused}, expected values that it takes. Correct the config or '
                              '--cfg-options.') from error
    return wrapped


def _refusal(error: Exception) -> str | None:
    """What a library says of the values that a class was built with, None for any other error.

    Of our own classes only arguments that they do not have are one, and what a library below them raises, but for a
    KeyError and a TypeError, for else it is a defect. A RuntimeError of memory or of processes is none.
    """
    kind = last = name = None
    for cause in filter(None, (error, error.__context__)):  # mmengine's hooks hide where a TypeError comes from
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            last, name = frame.f_globals.get('__name__', ''), frame.f_code.co_name
            if name == 'build_from_cfg':
                kind = frame.f_locals.get('obj_cls', kind)
            elif name == 'from_cfg':
                kind = Runner
        if kind is not None:
            break
    if kind is None or last.partition('.')[0] not in ('mmengine', 'torch', 'numpy', 'multiprocessing'):
        return None
    if isinstance(cause, RuntimeError) and (type(cause) is not RuntimeError or kind is Runner or out_of_memory(cause)
                                            or last.startswith(('torch.distributed', 'torch.nn.parallel'))):
        return None
    called = isinstance(cause, TypeError) and name == 'build_from_cfg'  # it does not take these arguments
    if getattr(kind, '__module__', '').startswith('perception.') and isinstance(cause, (KeyError, TypeError)) and not \
            called:
        return None
    what = (str(cause.args[0] if isinstance(cause, KeyError) else cause).splitlines() or [''])[0]
    return f'{getattr(kind, "__name__", kind)} refuses a value ({type(cause).__name__}: {what[:200]})'


def _classes(value: Any) -> Any:
    """Classes for dotted names, by which a config that a run left in its work dir names its types; imports are seen to
    be there, and values other than classes and functions are taken from them."""
    if isinstance(value, (LazyObject, LazyAttr)):
        found = value.build()
        return value if callable(found) or inspect.ismodule(found) else found
    if isinstance(value, (list, tuple)):
        return type(value)(_classes(item) for item in value)
    if not isinstance(value, dict):
        return value
    found = {key: _classes(item) for key, item in value.items()}
    if isinstance(found.get('type'), str) and '.' in found['type']:
        found['type'] = get_object_from_string(found['type']) or found['type']
    return found


def config_text(cfg: Config) -> str:
    """A config as a Python file, in which classes and functions stand by their dotted names."""
    return ''.join(f'{key} = {_written(value, used=len(key) + 3)}\n' for key, value in cfg._to_lazy_dict().items())


Config.pretty_text = property(config_text)  # mmengine's own cannot be read again with some names and numbers


def _written(value: Any, indent: int = 0, used: int = 0) -> str:
    """A value as Python text whose lines have up to 120 letters, `used` of the first one by what stands before it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        named = all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in value)
        heads = [f'{key}=' if named else f'{key!r}: ' for key in value]
        brackets, items = ('dict(', ')') if named else ('{', '}'), list(value.values())
    elif isinstance(value, (list, tuple)):
        brackets, items, heads = ('[', ']') if isinstance(value, list) else ('(', ')'), value, [''] * len(value)
    elif isinstance(value, (LazyObject, LazyAttr)):
        return repr(f'{value.module}.{value}')
    elif inspect.isclass(value) or inspect.isfunction(value):
        return repr(f'{value.__module__}.{value.__qualname__}')
    elif isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    else:
        return repr(str(value) if isinstance(value, Path) else value)
    parts = [head + _written(item, indent + 4, len(head)) for head, item in zip(heads, items)]
    line = ', '.join(parts) + (',' if isinstance(value, tuple) and len(parts) == 1 else '')
    if indent + used + len(line) + 7 <= 120 and '\n' not in line:
        return line.join(brackets)
    pad = ' ' * (indent + 4)
    return brackets[0] + '\n' + ''.join(f'{pad}{part},\n' for part in parts) + ' ' * indent + brackets[1]


def find_config(path: str | Path) -> Path:
    """The config file, looked for in the current directory and in the project.

    Raises:
        ConfigError: no such file; names that are close are shown. Or no path.
    """
    if not isinstance(path, (str, Path)):
        raise ConfigError(f'config: a {type(path).__name__} came, expected the path of a config file. Give its path; '
                          'other values are given as options.')
    for candidate in (Path(path).expanduser(), from_root(path)):
        if candidate.is_file():
            return candidate.resolve()
    known = sorted(p.relative_to(PROJECT_ROOT).as_posix() for p in (PROJECT_ROOT / 'configs').glob('*/*.py')
                   if p.parent.name != '_base_')
    raise ConfigError(f'{path}: no such file, expected a config. {close_matches(str(path), known)}')


def need(cfg: Config, what: str, *keys: str, instead: str = '') -> None:
    """See that a config names what was asked for.

    Args:
        cfg: the config.
        what: was asked for, as it stands in the message.
        keys: that name it.
        instead: a sentence on what else the user may do.

    Raises:
        ConfigError: one is absent.
    """
    absent = [key for key in keys if cfg.get(key) is None]
    if absent:
        raise ConfigError(f'{cfg.filename}: {what} was asked for, expected the config to define '
                          f'{" and ".join(absent)}. configs/_base_/runtime.py says what these keys hold. '
                          f'{instead}'.rstrip())


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
        key = _known_key(base, key, where, where.endswith(': mini'))
        old = base.get(key)
        if isinstance(old, dict) and not isinstance(value, dict) and value is not None:
            raise ConfigError(f'{where}.{key}: {value!r} came, expected a dict or None. Its keys are '
                              f'{", ".join(map(str, old))}.')
        if isinstance(old, dict) and isinstance(value, dict) and value.get('type', old.get('type')) == old.get('type'):
            merge(old, value, f'{where}.{key}')
        else:
            base[key] = copy.deepcopy(value)


def set_option(base: ConfigDict, name: str, value: Any) -> None:
    """Set one value of a config by its dotted name, such as `optim_wrapper.optimizer.lr` or `custom_hooks.0.interval`.

    Text becomes what the argument of a class asks for: `no` a truth value, `08` a number, one value a list of one. A
    section whose argument is a dict by default, such as `prune.importance`, begins as that one.

    Raises:
        ConfigError: an unknown key, a position that the list does not have, a plain value in place of a section, or a
            value of another type than the one that stands there.
    """
    where, node, top = '--cfg-options ' + name, base, 'type' not in base  # or a section of a config
    *path, last = name.split('.')
    for key in path:
        key, kind = _known_key(node, key, where, top), node.get('type') if isinstance(node, dict) else None
        if isinstance(usual := default_of(kind, key), dict) and 'type' not in usual and (
                isinstance(node.get(key) or {}, dict)):
            node[key] = ConfigDict({**usual, **(node.get(key) or {})})
        node, top = node.get(key) if isinstance(node, dict) else node[key], False
    if path != ['default_hooks'] or not isinstance(value, dict):  # which may get another one
        last = _known_key(node, last, where, top)
    old = node.get(last) if isinstance(node, dict) else node[last]
    if isinstance(old, dict) and not isinstance(value, dict) and value is not None:
        raise ConfigError(f'{where}: {value!r} came, expected a dict or None. Its keys are {", ".join(map(str, old))}.')
    hint = arguments(Runner)[0].get(last) if top else None
    value = _classes(value)
    if name.partition('.')[0] != 'model':  # which may mean other things by `type`
        value = _named(dict(type=value), where)['type'] if last == 'type' else _named(value, where)
    node[last] = typed(node, last, value, where, hint)


def _known_key(node: Any, key: str, where: str, top: bool = False) -> str | int:
    if isinstance(node, list):
        if not key.isdigit() or int(key) >= len(node):
            raise ConfigError(f'{where}: {key!r} came, expected a position in a list of {len(node)}. Count from 0.')
        return int(key)
    if not isinstance(node, dict):
        raise ConfigError(f'{where}: {key!r} came below the value {node!r}, expected the name to end there. Give a '
                          f'whole dict as a value if you mean to put one there.')
    known = [*node, *known_keys(node)[0]]
    if key not in known and not (top and is_read(key)):
        raise ConfigError(f'{where}: unknown key {key!r}, expected one that the config has. '
                          f'{close_matches(key, known)}')
    return key


def _named(value: Any, where: str) -> Any:
    """Classes for the names in `dict(type=...)`, as the registries know them.

    Raises:
        ConfigError: no registry knows one.
    """
    if isinstance(value, list):
        return [_named(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: item if key == 'clip_grad' else _named(item, where) for key, item in value.items()}
    kind = found.get('type')
    if isinstance(kind, str) and '.' not in kind:
        known = _known_types()
        if kind not in known:
            for node in _nodes():
                node.import_from_location()
            known = _known_types()
        if kind not in known:
            raise ConfigError(f'{where}: no class {kind!r} is known, expected one that is registered in this '
                              'project, in mmengine or by custom_imports; a config file may also import it and name it '
                              f'without quotes. {close_matches(kind, known)}')
        if kind in registry.OWNERS and known[kind].__module__.partition('.')[0] in ('mmengine', 'mmcv', 'mmdet3d'):
            importlib.import_module(registry.OWNERS[kind])  # of the same name, such as CheckpointHook: this one counts
            known = _known_types()
        found['type'] = known[kind]
    return found


def _nodes(name: str | None = None) -> list[registry.Registry]:
    """The registries of the project, or the one of that name."""
    return [node for node in vars(registry).values() if isinstance(node, registry.Registry)
            and name in (None, node.name)]


def _known_types(name: str | None = None) -> dict[str, Any]:
    """What the registries of the project, or the one of that name, and their parents hold so far, by name."""
    found = {}
    for node in _nodes(name):
        while node is not None:
            found = {**node.module_dict, **found}
            node = node.parent
    return found


def parse_options(pairs: Iterable[str]) -> dict[str, Any]:
    """Command-line overrides `a.b=value`, as OpenMMLab spells them.

    Values are read as Python literals, in which words need no quotes and `dict(a=1)` is a dict, else as text; `1,2`
    makes a list.

    Raises:
        ConfigError: a pair without `=`.
    """
    options = {}
    for pair in pairs:
        name, sign, text = pair.partition('=')
        if not sign or not name:
            raise ConfigError(f'--cfg-options: {pair!r} came, expected KEY=VALUE. Write for example '
                              f'train_cfg.max_epochs=3.')
        value = _literal(text.strip())
        options[name] = list(value) if isinstance(value, tuple) and not text.lstrip().startswith('(') else value
    return options


class _Words(ast.NodeTransformer):
    """Makes constants of words, and a dict of a call of `dict`."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        words = dict(true=True, false=False, none=None)
        return ast.Constant(words.get(node.id.lower(), node.id))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if getattr(node.func, 'id', '') != 'dict' or node.args or any(word.arg is None for word in node.keywords):
            return node
        return ast.Dict([ast.Constant(word.arg) for word in node.keywords],
                        [self.visit(word.value) for word in node.keywords])


def _literal(text: str) -> Any:
    try:
        return _quoted(ast.literal_eval(_Words().visit(ast.parse(text, mode='eval')).body))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    if text[:1] + text[-1:] in ('[]', '()'):
        parts = [_literal(part) for part in _split(text[1:-1])]
        return parts if text[0] == '[' else tuple(parts)
    parts = _split(text)
    return [_literal(part) for part in parts] if len(parts) > 1 else text


def _quoted(value: Any) -> Any:
    """A literal whose texts that begin like numbers are marked: nobody can type those without quotes."""
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_quoted, value))
    return Quoted(value) if isinstance(value, str) and value[:1] in tuple('0123456789+-.') else value


def _split(text: str) -> list[str]:
    """Parts of a text between the commas that stand in no brackets."""
    depth, parts = 0, ['']
    for letter in text:
        depth += (letter in '([{') - (letter in ')]}')
        if letter == ',' and depth == 0:
            parts.append('')
        else:
            parts[-1] += letter
    return [part.strip() for part in (parts if parts[-1].strip() else parts[:-1])]
