"""The core works where the folder of a plugin is deleted."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = sorted(path.parent.name for path in
                 (Path(__file__).parents[2] / 'perception/plugins').glob('*/__init__.py'))
CHECK = '''
import importlib, pathlib
from perception.apis.listing import converters, mini_sets
import perception.apis.config, perception.apis.inference, perception.apis.test, perception.apis.train
print(*mini_sets())
print(*(found.path for found in converters().values()))
root = pathlib.Path(perception.__path__[0])
for room in ('distill', 'common', 'lanes'):
    for path in sorted((root / room).rglob('*.py')):
        if path.name != '__init__.py':
            importlib.import_module('.'.join(('perception', *path.relative_to(root).with_suffix('').parts)))
perception.apis.config.load_config('configs/sad/enet_culane.py', mini=True)
from perception.registry import MODELS
assert MODELS.get('ENet').__name__ == 'ENet'
'''


@pytest.mark.parametrize('plugin', PLUGINS)
def test_the_core_works_without_it(root, tmp_path, plugin):
    for name in ('perception', 'configs'):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns('*.png'))
    shutil.rmtree(tmp_path / 'perception/plugins' / plugin)
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', CHECK], cwd=tmp_path, capture_output=True, text=True,
                         env=dict(os.environ, PYTHONPATH=str(tmp_path), OMP_NUM_THREADS='1'))
    assert run.returncode == 0, run.stderr[-2000:]
    sets, files = (line.split() for line in run.stdout.splitlines())
    own = {path.stem for path in (root / 'configs/_base_').glob('*.py')
           if f'perception.plugins.{plugin}.' in path.read_text() and '\nmini_data = ' in path.read_text()}
    assert own and not own & set(sets) and 'culane' in sets
    assert files and not [file for file in files if f'plugins/{plugin}/' in file]
