"""Rules for the package's code that hold everywhere."""
import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

ROOMS = sorted(p.name for p in (Path(__file__).parents[2] / 'perception').iterdir() if (p / '__init__.py').is_file())

# imports the modules of each room in a process of its own, forked after what all rooms import anyway
BARE = '''
import importlib, os, pathlib, sys, traceback
class Absent:
    names = ('spconv', 'triton', 'open3d', 'cumm', 'mmcv._ext', 'mmcv.ops')
    def find_spec(self, name, path=None, target=None):
        if name in self.names or name.startswith(tuple(n + '.' for n in self.names)):
            raise ImportError(f'{name} is not on this machine')
sys.meta_path.insert(0, Absent())
import cv2, mmengine.runner, scipy.optimize, torch
package = pathlib.Path(sys.argv[1])
for room in sys.argv[2:]:
    child = os.fork()
    if not child:
        try:
            for path in sorted((package / room).rglob('*.py')):
                if path.name != '__init__.py':
                    importlib.import_module('.'.join(('perception', *path.relative_to(package).with_suffix('').parts)))
        except BaseException:
            print(f'{room}: {traceback.format_exc()[-1500:]}', flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(f'{room}: its process was killed')
'''


@functools.cache
def modules(root):
    return [(path, ast.parse(path.read_text())) for path in sorted((root / 'perception').rglob('*.py'))]


def test_every_raise_says_something(root):
    silent = []
    for path, tree in modules(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                call = node.exc
                bare_name = isinstance(call, ast.Name) and call.id[:1].isupper() and call.id != 'StopIteration'
                if bare_name or (isinstance(call, ast.Call) and not call.args and not call.keywords):
                    silent.append(f'{path}:{node.lineno}')
    assert not silent, f'raise without a message: {silent}'


def test_the_package_does_not_print(root):
    prints = [f'{path}:{node.lineno}' for path, tree in modules(root) for node in ast.walk(tree)
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'print']
    assert not prints, f'print in the package: {prints}'


def test_public_functions_have_docstrings(root):
    bare = []
    for path, tree in modules(root):
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_') \
                    and not ast.get_docstring(node):
                bare.append(f'{path}:{node.lineno} {node.name}')
    assert not bare, f'public names without a docstring: {bare}'


def test_nothing_imports_torchvision_timm_or_mmpretrain(root):
    found = [path for path, _ in modules(root) for line in path.read_text().splitlines()
             if line.strip().startswith(tuple(f'{word} {name}' for word in ('import', 'from')
                                              for name in ('torchvision', 'timm', 'mmpretrain')))]
    assert not found


def test_rooms_import_on_a_bare_machine(root):
    env = dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', BARE, str(root / 'perception'), *ROOMS], env=env,
                         capture_output=True, text=True, cwd=root)
    assert run.returncode == 0, run.stderr[-2000:]
    assert not run.stdout, run.stdout


def test_registrations_are_where_the_registry_looks_for_them(root):
    strange = []
    for path, _ in modules(root):
        lines = path.read_text().splitlines()
        strange += [f'{path}:{number}' for number, line in enumerate(lines, 1) if path.name != 'registry.py'
                    and '.register_module' in line and not re.match(r' *@[A-Z_]+\.register_module\(', line)]
    assert not strange, f'expected @NAME.register_module(...), which perception/registry.py finds: {strange}'
