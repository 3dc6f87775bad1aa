"""`setup.py` states what the package imports and no more, and what it cannot state is said in one sentence."""
import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys

import pytest

# where the name to import is not the name to install
DISTRIBUTION = dict(cv2='opencv-python', PIL='pillow', nuscenes='nuscenes-devkit', imageio_ffmpeg='imageio-ffmpeg',
                    rerun='rerun-sdk', pillow_heif='pillow-heif', torch_pruning='torch-pruning', sklearn='scikit-learn')
# imported, but brought by `make setup` without its requirements, see setup.py
UNLISTED = {'mmdet3d'}
OPTIONAL = ('gan', 'heic', 'medical', 'nuscenes', 'onnx', 'points', 'prune', 'rerun', 'shapely', 'spconv', 'steering',
            'tensorboard', 'triton', 'wandb', 'mlflow')
# who runs `tools/setup.sh` needs these, or a requirement of a requirement must not lead to another version
ALSO_PINNED = {'mmcv', 'mmcv-lite', 'mmdet', 'mmdet3d', 'opencv-python-headless', 'setuptools'}
ABSENT = '''
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in sys.argv[1:]:
            raise ImportError(f'{name} is not on this machine')
sys.meta_path.insert(0, Absent())
import perception.registry
'''
HALF = '''
import sys
from importlib.machinery import PathFinder
class Half:
    """Finds of mmcv only the folder without code that comes first in the path."""
    def find_spec(self, name, path=None, target=None):
        if name == 'mmcv':
            return PathFinder.find_spec(name, sys.path[1:2])
sys.meta_path.insert(0, Half())
import perception.registry
'''


def distribution(module: str) -> str:
    top = module.split('.')[0]
    return DISTRIBUTION.get(top, top)


def imports(root):
    """Distributions that the package imports plainly, and those that it imports by `import_optional`."""
    plain, optional = set(), set()
    for path in sorted((root / 'perception').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                plain.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                plain.add(node.module)
            elif isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'import_optional':
                assert isinstance(node.args[0], ast.Constant), f'{path}:{node.lineno}: the name must be written out'
                optional.add(node.args[0].value)
    plain = {distribution(name) for name in plain
             if name.split('.')[0] not in {*sys.stdlib_module_names, 'perception'}}
    return plain, {distribution(name) for name in optional} - plain


def requirement(text: str) -> str:
    return re.match(r'[\w-]+', text)[0]


@pytest.fixture(scope='module')
def stated(root):
    """The arguments of `setup()` that are literals."""
    call = next(node for node in ast.walk(ast.parse((root / 'setup.py').read_text()))
                if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'setup')
    return {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg != 'packages'}


@pytest.fixture(scope='module')
def pins(root):
    lines = (root / 'tools/constraints.txt').read_text().splitlines()
    return dict(re.match(r'([\w-]+)((?:==|<).+)', line).groups() for line in lines if not line.startswith('#'))


def test_requirements_are_what_the_package_imports(root, stated):
    plain, _ = imports(root)
    assert {requirement(text) for text in stated['install_requires']} == plain - UNLISTED
    assert plain >= UNLISTED


def test_extras_are_what_the_package_imports_where_it_is_installed(root, stated):
    _, optional = imports(root)
    extras = {requirement(text) for extra in OPTIONAL for text in stated['extras_require'][extra]}
    assert extras - {'pyarrow'} == optional  # its version matters to rerun-sdk
    assert set(stated['extras_require']) == {*OPTIONAL, 'mmdet3d', 'test'}


def test_each_package_whose_version_matters_is_pinned(stated, pins):
    named = {requirement(text) for text in stated['install_requires']}
    named |= {requirement(text) for extra in OPTIONAL for text in stated['extras_require'][extra]}
    # any version will do
    free = {'scipy', 'pillow', 'tqdm', 'matplotlib', 'pillow-heif', 'tensorboard', 'triton', 'wandb', 'mlflow',
            'scikit-learn'}
    assert set(pins) == (named - free) | ALSO_PINNED
    assert pins['opencv-python'] == pins['opencv-python-headless'], 'both write the folder cv2'
    assert pins['mmcv'] == pins['mmcv-lite']


def test_the_registry_names_the_pinned_versions(root, stated, pins):
    text = (root / 'perception/registry.py').read_text()
    assert all(f"'{name}{pins[name]}'" in text for name in ('mmcv-lite', 'mmdet', 'mmdet3d'))
    for extra in stated['extras_require']['mmdet3d']:
        name, first, end = re.fullmatch(r'(\w+)>=(.+),<(.+)', extra).groups()
        assert f"('{name}', '{first}', '{end}'" in text


def import_registry(root, *arguments, folder='', code=ABSENT):
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [str(folder), str(root)])), OMP_NUM_THREADS='1')
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *arguments], env=env, capture_output=True,
                         text=True, cwd=root)
    assert run.returncode == 1
    return run.stderr.splitlines()[-1]


@pytest.mark.parametrize(('absent', 'command'), [
    (['mmcv'], 'pip install mmcv-lite==2.1.0 --no-deps'),
    (['mmdet3d'], 'pip install mmdet3d==1.4.0 --no-deps'),
    (['mmcv', 'mmdet', 'mmdet3d'], 'pip install mmcv-lite==2.1.0 mmdet==3.3.0 mmdet3d==1.4.0 --no-deps')])
def test_what_is_missing_is_said_with_one_command(root, absent, command):
    sentence = import_registry(root, *absent)
    assert sentence.startswith('perception.utils.errors.MissingDependency: ')
    assert all(f'no {name}' in sentence for name in absent)
    assert ('mmcv or mmcv-lite >=2.0.0rc4,<2.2.0' in sentence) == ('mmcv' in absent)
    assert f'`{command}`' in sentence


@pytest.mark.parametrize(('version', 'fits'), [('2.2.0', False), ('1.7.2', False), ('2.1.0', True)])
def test_an_mmcv_of_another_version_is_replaced_and_not_covered(root, tmp_path, version, fits):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').write_text(f"__version__ = '{version}'\n")
    (tmp_path / 'mmcv/version.py').write_text(f"__version__ = '{version}'\n")
    if fits:  # mmdet3d's registry needs no more of mmcv than its version
        assert import_registry(root, folder=tmp_path, code='import perception.registry; exit("it fits")') == 'it fits'
        return
    sentence = import_registry(root, folder=tmp_path)
    assert f'mmcv {version} found' in sentence
    assert '`pip uninstall -y mmcv mmcv-lite; pip install mmcv-lite==2.1.0 --no-deps`' in sentence


def test_an_mmcv_that_was_taken_away_by_halves_counts_as_missing(root, tmp_path):
    (tmp_path / 'mmcv/ops').mkdir(parents=True)
    assert 'no mmcv found' in import_registry(root, folder=tmp_path, code=HALF)


def test_a_package_that_fails_by_itself_is_not_called_missing(root, tmp_path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').write_text("raise ImportError('libGL.so.1 is not there')\n")
    (tmp_path / 'mmcv/version.py').write_text("__version__ = '2.1.0'\n")
    sentence = import_registry(root, folder=tmp_path)
    assert 'libGL.so.1 is not there' in sentence and 'no mmcv' not in sentence


def test_setup_builds_nothing_unless_asked(root):
    script = (root / 'tools/setup.sh').read_text()
    plain = re.sub(r'(?ms)^if \[ -n "\$ops" \].*?^fi$', '', script)
    assert plain != script
    for word in ('build-essential', '-dev"', 'ninja', 'c++', 'MMCV_WITH_OPS'):
        assert word in script and word not in plain, word


# --- tools/setup.sh where it ends before it installs anything ---
@pytest.fixture
def project(root, tmp_path):
    """A copy of what `make setup` reads, with an environment whose Python does not run."""
    for name in ('setup.py', 'tools/setup.sh', 'tools/constraints.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    program(tmp_path / '.venv/bin/python', 'exit 1')
    return tmp_path


def program(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(('#!/bin/sh', *lines)))
    path.chmod(0o755)
    return path


def setup(project, **environment):
    run = subprocess.run(['bash', 'tools/setup.sh'], cwd=project, env=dict(os.environ, **environment),
                         capture_output=True, text=True)
    return run.returncode, (run.stdout + run.stderr).splitlines()


@pytest.mark.parametrize(('stamped', 'ops', 'complete'), [
    ('', '', True), ('', '1', False), (' with operators', '1', True), (' with operators', '', True)])
def test_what_is_complete_is_left_alone(project, stamped, ops, complete):
    parts = [(project / name).read_bytes() for name in ('setup.py', 'tools/setup.sh', 'tools/constraints.txt')]
    digest = hashlib.sha256(b''.join((str(project.resolve()).encode(), b'\n', *parts))).hexdigest()
    (project / '.venv/perception-setup.sha').write_text(f'{digest}{stamped}\n')
    code, lines = setup(project, OPS=ops)
    assert len(lines) == 1
    assert (code, 'is complete' in lines[0], 'does not run' in lines[0]) == (1 - complete, complete, not complete)


def test_an_environment_whose_python_is_gone_is_named(project):
    (project / '.venv/bin/python').unlink()
    (project / '.venv/bin/python').symlink_to('/nowhere/python3')
    code, lines = setup(project)
    assert code == 1 and len(lines) == 1
    assert '`rm -r .venv; make setup`' in lines[0]


@pytest.mark.parametrize(('version', 'what'), [('3.14.1', 'Python 3.14.1 found'), ('3.9.2', 'Python 3.9.2 found'),
                                               (None, 'does not run')])
def test_another_python_is_refused(project, version, what):
    shutil.rmtree(project / '.venv')
    python = program(project / 'python', f'echo {version}' if version else 'exit 127')
    code, lines = setup(project, PYTHON=str(python))
    assert code == 1 and len(lines) == 1
    assert what in lines[0] and '`make setup PYTHON=python3.11`' in lines[0]
    assert not (project / '.venv').exists()


def test_operators_are_refused_where_their_packages_do_not_exist(project):
    program(project / '.venv/bin/python', 'echo 3.13.1')
    code, lines = setup(project, OPS='1')
    assert code == 1 and len(lines) == 1
    assert 'OPS=1 came with Python 3.13.1' in lines[0] and '`rm -r .venv; make setup OPS=1 PYTHON=' in lines[0]


def test_a_tool_uses_the_package_beside_it(root, tmp_path):
    """Not one that is installed from elsewhere; what else is missing is said in a sentence."""
    elsewhere = tmp_path / 'perception'
    elsewhere.mkdir()
    (elsewhere / '__init__.py').write_text('raise RuntimeError("the wrong package")')
    hide = 'import sys; sys.modules["mmengine"] = None; import runpy; sys.argv = ["look.py", "config", "x.py"]; '
    done = subprocess.run([sys.executable, '-c', hide + f'runpy.run_path("{root}/tools/look.py", run_name="__main__")'],
                          env=dict(os.environ, PYTHONPATH=str(tmp_path)), capture_output=True, text=True)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'mmengine' in done.stderr and f'pip install -e {root}' in done.stderr
