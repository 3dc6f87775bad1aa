"""The registries of `perception`: children of mmdet3d's, and reachable from mmengine's root as `perception.<Name>`.

A type in a config is normally the class itself. A string works too: unprefixed names are looked up here, then in
mmdet3d, then in mmengine; the module that defines a class is imported at the first look-up of any name.
"""
from pathlib import Path

import mmengine.registry as root
from mmdet3d import registry as mmdet3d
from mmengine.registry import Registry

_PACKAGE = Path(__file__).parent
_NAMES = ('RUNNERS', 'RUNNER_CONSTRUCTORS', 'LOOPS', 'HOOKS', 'LOG_PROCESSORS', 'OPTIMIZERS', 'OPTIM_WRAPPERS',
          'OPTIM_WRAPPER_CONSTRUCTORS', 'PARAM_SCHEDULERS', 'DATASETS', 'DATA_SAMPLERS', 'TRANSFORMS', 'MODELS',
          'MODEL_WRAPPERS', 'WEIGHT_INITIALIZERS', 'TASK_UTILS', 'METRICS', 'EVALUATOR', 'VISUALIZERS',
          'VISBACKENDS', 'INFERENCERS')


def _modules() -> list[str]:
    """Dotted names of all modules of the package, found on disk without importing them."""
    files = sorted(_PACKAGE.rglob('*.py'))
    return ['.'.join(('perception', *f.relative_to(_PACKAGE).with_suffix('').parts)) for f in files
            if f.name not in ('__init__.py', 'registry.py')]


def _child(name: str) -> Registry:
    parent = getattr(mmdet3d, name)
    node = Registry(parent.name, parent=parent, scope='perception', locations=_modules())
    getattr(root, name)._add_child(node)
    return node


for _name in _NAMES:
    globals()[_name] = _child(_name)
del _name
