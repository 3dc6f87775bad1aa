"""The registries of `perception`: children of mmdet3d's, and reachable from mmengine's root as `perception.<Name>`.

A type in a config is normally the class itself. A string works too: unprefixed names are looked up here, then in
mmdet3d, then in mmengine; the module that defines a class is imported at the first look-up of any name.
"""
from pathlib import Path

import mmengine.registry as root
from mmdet3d import registry as mmdet3d
from mmengine.registry import Registry

_PACKAGE = Path(__file__).parent


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


RUNNERS = _child('RUNNERS')
RUNNER_CONSTRUCTORS = _child('RUNNER_CONSTRUCTORS')
LOOPS = _child('LOOPS')
HOOKS = _child('HOOKS')
LOG_PROCESSORS = _child('LOG_PROCESSORS')
OPTIMIZERS = _child('OPTIMIZERS')
OPTIM_WRAPPERS = _child('OPTIM_WRAPPERS')
OPTIM_WRAPPER_CONSTRUCTORS = _child('OPTIM_WRAPPER_CONSTRUCTORS')
PARAM_SCHEDULERS = _child('PARAM_SCHEDULERS')
DATASETS = _child('DATASETS')
DATA_SAMPLERS = _child('DATA_SAMPLERS')
TRANSFORMS = _child('TRANSFORMS')
MODELS = _child('MODELS')
MODEL_WRAPPERS = _child('MODEL_WRAPPERS')
WEIGHT_INITIALIZERS = _child('WEIGHT_INITIALIZERS')
TASK_UTILS = _child('TASK_UTILS')
METRICS = _child('METRICS')
EVALUATOR = _child('EVALUATOR')
VISUALIZERS = _child('VISUALIZERS')
VISBACKENDS = _child('VISBACKENDS')
INFERENCERS = _child('INFERENCERS')
