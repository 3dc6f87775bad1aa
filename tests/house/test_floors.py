"""The floors of the house: a module imports only lower floors or its own room."""
import ast
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# a task is a room with configs of its own, configs/<room>
TASKS = sorted(p.name for p in (ROOT / 'perception').iterdir() if p.is_dir() and (ROOT / 'configs' / p.name).is_dir())
FLOOR = dict(utils=0, registry=.5, ops=1, common=2, **dict.fromkeys(TASKS, 3), distill=3, prune=3, plugins=4, apis=5)
OUTSIDE = ('configs', 'tools', 'tests', 'data')
LIGHT = ('ops', 'distill')  # importable with torch, numpy and mmengine alone
# packages that are imported inside functions only
ANYWHERE_LAZY = ('spconv', 'triton', 'open3d')


def room_of(path: Path, package: Path) -> str:
    """The room of a module, such as `lanes` or `plugins/gan`."""
    parts = path.relative_to(package).with_suffix('').parts
    return '/'.join(parts[:2]) if parts[0] == 'plugins' else parts[0]


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and dotted name of each import, by a statement or by importlib with a constant name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [(node.lineno, f'{node.module}.{alias.name}') for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, 'relative import'))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split('.')[-1] in ('import_module', '__import__'):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.JoinedStr):  # what stands before the first {} tells the room
                name = name.values[0]
            found.append((node.lineno, name.value if isinstance(name, ast.Constant) else 'a computed name'))
    return found


def broken_rules(path: Path, package: Path) -> list[str]:
    """What a module imports although its floor forbids it."""
    room = room_of(path, package)
    if room.split('/')[0] not in FLOOR:
        known = ', '.join(FLOOR)
        return [f'{path}: a module of perception/{room}, expected one of {known}. Give a new task its configs/{room}.']
    floor = FLOOR[room.split('/')[0]]
    tree = ast.parse(path.read_text())
    wrong = []
    for line, name in imported(tree):
        parts = name.split('.')
        if name == 'relative import':
            wrong.append(f'{path}:{line}: relative import')
        elif name == 'a computed name':
            if room not in ('utils', 'apis'):  # import_optional, and the listings of apis
                wrong.append(f'{path}:{line}: importlib with {name} hides what {room} reaches')
        elif parts[0] in OUTSIDE:
            wrong.append(f'{path}:{line}: {name} lies outside the package')
        elif parts[0] == 'perception' and len(parts) > 1:
            other = '/'.join(parts[1:3]) if parts[1] == 'plugins' else parts[1]
            target = FLOOR.get(parts[1], 9)
            lower = target < floor and not (floor == 4 and parts[1] in TASKS)
            if other != room and not lower:
                wrong.append(f'{path}:{line}: {room} (floor {floor}) imports {name} (floor {target})')
            if room in LIGHT and parts[1] == 'registry':
                wrong.append(f'{path}:{line}: {room} must stay importable without the registry')
        elif room in TASKS and name.startswith(('mmdet3d.structures', 'mmcv.ops')):
            wrong.append(f'{path}:{line}: {name} needs compiled operators')
        elif room in LIGHT and parts[0] in ('mmdet3d', 'mmcv', 'mmdet'):
            wrong.append(f'{path}:{line}: {room} imports {name}')
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            wrong += [f'{path}:{line}: {name} at the top of a module' for line, name in imported(node)
                      if name.split('.')[0] in ANYWHERE_LAZY]
    return wrong


def test_every_module_keeps_to_its_floor(root):
    package = root / 'perception'
    modules = [p for p in package.rglob('*.py') if p.parent != package or p.name == 'registry.py']
    assert len(modules) > 20
    wrong = [rule for path in modules for rule in broken_rules(path, package)]
    assert not wrong, '\n'.join(wrong)


def test_a_plugin_uses_what_it_may(tmp_path):
    module = tmp_path / 'perception/plugins/medical/new.py'
    module.parent.mkdir(parents=True)
    module.write_text('\n'.join(f'import perception.{name}' for name in (
        'utils.paths', 'registry', 'ops.ranges', 'common.dataset', 'distill.crckd', 'plugins.medical.draw')))
    assert not broken_rules(module, tmp_path / 'perception')


@pytest.mark.parametrize(('room', 'line'), [
    ('lidarseg', 'from perception.distill.pvd import PVDLoss'),
    ('common', 'import perception.lidarseg.predictor'),
    ('lanes', 'import importlib; importlib.import_module("perception.lidarseg.predictor")'),
    ('lanes', 'import importlib; importlib.import_module("perception." + "lidarseg")'),
    ('lanes', 'from perception.lidarseg.draw import draw_scan'),
    ('distill', 'from perception.lanes.losses import soft_iou_loss'),
    ('ops', 'from perception.registry import MODELS'),
    ('distill', 'from mmdet3d.registry import MODELS'),
    ('utils', 'from tests.conftest import ROOT'),
    ('lanes', 'from mmcv.ops import nms_rotated'),
    ('common', 'import open3d as o3d'),
    ('lidarseg', 'from . import mini'),
    ('kitchen', 'import numpy'),
    ('plugins/medical', 'from perception.lanes.draw import draw_sample'),
    ('plugins/medical', 'from perception.plugins.gan import fid'),
    ('plugins/medical', 'from perception.apis.inference import load'),
    ('lanes', 'from perception.plugins.medical.draw import draw_scores'),
    ('distill', 'from perception.plugins.medical.draw import draw_scores'),
])
def test_the_rule_catches_a_broken_floor(tmp_path, room, line):
    folder = tmp_path / 'perception' / room
    folder.mkdir(parents=True)
    (folder / 'new.py').write_text(line + '\n')
    assert len(broken_rules(folder / 'new.py', tmp_path / 'perception')) == 1


def import_circle(package: Path) -> list[str]:
    """Modules of which each imports the next and the last the first, also inside functions; empty where none do."""
    names = {path: '.'.join(path.relative_to(package.parent).with_suffix('').parts).removesuffix('.__init__')
             for path in package.rglob('*.py')}
    modules, graph = set(names.values()), {}
    for path, module in names.items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith('TYPE_CHECKING'):
                node.body = []  # nothing is imported there
        # a name is a module, or an object of one
        graph[module] = {known for _, name in imported(tree) for known in (name, name.rpartition('.')[0])
                         if known in modules and known != module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others(root, tmp_path):
    assert not (circle := import_circle(root / 'perception')), ' imports '.join(circle[::-1])
    package = tmp_path / 'perception'
    package.mkdir()
    (package / 'a.py').write_text('def f():\n    from perception.b import g\n')
    (package / 'b.py').write_text('from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import perception.a\n')
    assert not import_circle(package)
    (package / 'b.py').write_text('from perception import a\n')
    assert set(import_circle(package)) == {'perception.a', 'perception.b'}


def foreign_imports(path: Path) -> list[str]:
    """What a tool imports of the package beside perception.apis."""
    return [f'{path}:{line}: {name}' for line, name in imported(ast.parse(path.read_text()))
            if name.startswith('perception.') and not name.startswith('perception.apis.')]


def test_tools_import_apis_alone(root, tmp_path):
    assert not [found for path in (root / 'tools').glob('*.py') for found in foreign_imports(path)]
    (tmp_path / 'tool.py').write_text('def f():\n    from perception.lanes.models.enet import ENet\n')
    assert len(foreign_imports(tmp_path / 'tool.py')) == 1


def test_the_tools_know_no_room(root):
    """Neither do the apis that every room uses; benchmarks of a room lie in its own folder."""
    rooms = (*TASKS, 'prune', 'plugins')
    shared = [p for folder in ('tools', 'perception/apis') for p in (root / folder).rglob('*.py')
              if not set(p.relative_to(root).parts) & set(rooms)]
    named = [f'{path}:{line}: {name}' for path in shared for line, name in imported(ast.parse(path.read_text()))
             if name.startswith(tuple(f'perception.{room}' for room in rooms))]
    assert len(shared) > 10 and not named, named


def test_top_level_is_the_agreed_one(root):
    files = subprocess.run(['git', 'ls-files'], cwd=root, capture_output=True, text=True)
    if files.returncode:
        pytest.skip('this copy is not a git checkout')
    top = {name.split('/')[0] for name in files.stdout.split()}
    assert top <= {'setup.py', 'perception', 'configs', 'tools', 'data', 'tests', 'README.md', 'Makefile', 'LICENSE',
                   'pyproject.toml', '.gitignore', '.ci'}


def test_folders_of_scripts_are_no_packages(root):
    assert not [p for name in OUTSIDE for p in (root / name).rglob('__init__.py')]
    filled = [p for p in (root / 'perception').rglob('__init__.py') if p.read_text().strip()]
    assert not filled, f'__init__ files stay empty: {filled}'
    missing = {p.parent for p in (root / 'perception').rglob('*.py')} - \
              {p.parent for p in (root / 'perception').rglob('__init__.py')}
    assert not missing, f'folders without __init__.py: {missing}'
