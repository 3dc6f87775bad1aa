"""The registries of `perception`: children of mmdet3d's, and reachable from mmengine's root as `perception.<Name>`.

A type in a config is normally the class itself. A string works too: unprefixed names are looked up here, then in
mmdet3d, then in mmengine; at the first look-up of any name the modules are imported that register something there.
"""
import re
from importlib.util import find_spec
from pathlib import Path

import mmengine.registry as root
from mmengine.registry import Registry
from mmengine.utils import digit_version

from perception.utils.errors import MissingDependency

# What `setup.py` cannot list: how to call it, its first version and the first that is too new, what to install.
_OPENMMLAB = dict(
    mmcv=('mmcv or mmcv-lite', '2.0.0rc4', '2.2.0', 'mmcv-lite==2.1.0'),
    mmdet=('mmdet', '3.0.0', '3.4.0', 'mmdet==3.3.0'),
    mmdet3d=('mmdet3d', '1.4.0', '2.0.0', 'mmdet3d==1.4.0'))
_PACKAGE = Path(__file__).parent


def _version(name: str) -> str | None:
    """Version of an OpenMMLab package, read without importing it; None where it is not installed."""
    try:
        spec = find_spec(name)
    except ImportError:
        return None
    if spec is None or spec.origin is None:  # no origin: a folder that an uninstallation left
        return None
    return re.search(r"__version__ = '(.+?)'", Path(spec.origin).with_name('version.py').read_text())[1]


def _why_absent(error: Exception) -> str:
    """The sentence for an import of mmdet3d that failed with `error`: what is wrong and the one command that helps."""
    came, expected, install = [], [], []
    command = 'pip install'
    for name, (called, first, end, package) in _OPENMMLAB.items():
        version = _version(name)
        if version and digit_version(first) <= digit_version(version) < digit_version(end):
            continue
        came.append(f'{name} {version}' if version else f'no {name}')
        expected.append(f'{called} >={first},<{end}')
        install.append(package)
        if name == 'mmcv' and version:  # mmcv and mmcv-lite are one folder: neither may be put over the other
            command = 'pip uninstall -y mmcv mmcv-lite; pip install'
    if not came:
        return f'perception: mmdet3d cannot be imported ({error}), expected it to work. Run `pip check` to see why.'
    return (f'perception: {", ".join(came)} found, expected {", ".join(expected)}. Run '
            f'`{command} {" ".join(install)} --no-deps`.')


try:
    from mmdet3d import registry as mmdet3d
except (ImportError, AssertionError, AttributeError) as error:  # mmdet3d asserts the versions of its companions
    raise MissingDependency(_why_absent(error)) from error


def _registering() -> tuple[dict[str, list[str]], dict[str, str]]:
    """Dotted names of the modules that register something: those of each registry, and that of each class or function;
    none is imported."""
    found, owners = {}, {}
    for file in sorted(_PACKAGE.rglob('*.py')):
        text, module = file.read_text(), '.'.join(('perception', *file.relative_to(_PACKAGE).with_suffix('').parts))
        for name in set(re.findall(r'^ *@(\w+)\.register_module\(', text, re.MULTILINE)):
            found.setdefault(name, []).append(module)
        for name in re.findall(r'\.register_module\(.*\n(?: *@.*\n)* *(?:class|def) (\w+)', text):
            owners[name] = module
    return found, owners


_LOCATIONS, OWNERS = _registering()


def _child(name: str) -> Registry:
    parent = getattr(mmdet3d, name)
    node = Registry(parent.name, parent=parent, scope='perception', locations=_LOCATIONS.get(name, []))
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
