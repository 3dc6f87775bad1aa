"""The floors of the house: a module imports only lower floors or its own room."""
import ast
from pathlib import Path

import pytest

FLOOR = dict(registry=0, utils=0, ops=1, common=2, lidarseg=3, lanes=3, crowd=3, bev=3, steering=3, distill=3, prune=3,
             plugins=4, apis=5)
TASKS = ('lidarseg', 'lanes', 'crowd', 'bev', 'steering')
OUTSIDE = ('configs', 'tools', 'tests', 'data')
# packages that may be imported at the top of a module only in the named rooms
ANYWHERE_LAZY = ('spconv', 'triton', 'open3d')


def rooms_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix('').parts
    return '/'.join(parts[:2]) if parts[0] == 'plugins' else parts[0]


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [(node.lineno, f'{node.module}.{alias.name}') for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, 'relative import'))
    return found


def broken_rules(path: Path, package: Path) -> list[str]:
    """What a module imports although its floor forbids it."""
    room = rooms_of(path, package)
    floor = FLOOR[room.split('/')[0]]
    tree = ast.parse(path.read_text())
    wrong = []
    for line, name in imported(tree):
        parts = name.split('.')
        if name == 'relative import':
            wrong.append(f'{path}:{line}: relative import')
        elif parts[0] in OUTSIDE:
            wrong.append(f'{path}:{line}: {name} lies outside the package')
        elif parts[0] == 'perception' and len(parts) > 1:
            other = '/'.join(parts[1:3]) if parts[1] == 'plugins' else parts[1]
            target = FLOOR[parts[1]]
            lower = target < floor and not (floor == 4 and parts[1] in TASKS)
            if other != room and not lower:
                wrong.append(f'{path}:{line}: {room} (floor {floor}) imports {name} (floor {target})')
            if room in ('ops', 'distill') and parts[1] == 'registry':
                wrong.append(f'{path}:{line}: {room} must stay importable without the registry')
        elif room in ('lidarseg', 'lanes') and name.startswith(('mmdet3d.structures', 'mmcv.ops')):
            wrong.append(f'{path}:{line}: {name} needs compiled operators')
        elif room in ('ops', 'distill') and parts[0] in ('mmdet3d', 'mmcv', 'mmdet'):
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


@pytest.mark.parametrize(('room', 'line'), [
    ('lidarseg', 'from perception.distill.pvd import PVDLoss'),
    ('common', 'import perception.lidarseg.mini'),
    ('ops', 'from perception.registry import MODELS'),
    ('distill', 'from mmdet3d.registry import MODELS'),
    ('utils', 'from tests.conftest import ROOT'),
    ('lidarseg', 'from mmcv.ops import nms_rotated'),
    ('common', 'import open3d as o3d'),
    ('lidarseg', 'from . import mini'),
])
def test_the_rule_catches_a_broken_floor(tmp_path, room, line):
    folder = tmp_path / 'perception' / room
    folder.mkdir(parents=True)
    (folder / 'new.py').write_text(line + '\n')
    assert len(broken_rules(folder / 'new.py', tmp_path / 'perception')) == 1


def test_top_level_is_the_agreed_one(root):
    import subprocess
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
