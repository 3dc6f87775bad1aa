"""The core works where the folder of the plugin is deleted."""
import os
import shutil
import subprocess
import sys

CHECK = '''
import importlib, pathlib
from perception.apis.listing import benchmarks, converters, mini_sets
import perception.apis.config, perception.apis.inference, perception.apis.test, perception.apis.train
assert 'culane' in mini_sets() and 'ffhq' not in mini_sets(), mini_sets()
assert not [name for name in converters() if 'plugins/gan' in name]
root = pathlib.Path(perception.__path__[0])
for room in ('distill', 'common', 'lanes'):
    for path in sorted((root / room).rglob('*.py')):
        if path.name != '__init__.py':
            importlib.import_module('.'.join(('perception', *path.relative_to(root).with_suffix('').parts)))
perception.apis.config.load_config('configs/sad/enet_culane.py', mini=True)
from perception.registry import MODELS
assert MODELS.get('ENet').__name__ == 'ENet'
'''


def test_the_core_works_without_the_plugin(root, tmp_path):
    for name in ('perception', 'configs'):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__', '*.png'))
    shutil.rmtree(tmp_path / 'perception/plugins/gan')
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', CHECK], cwd=tmp_path, capture_output=True, text=True,
                         env=dict(os.environ, PYTHONPATH=str(tmp_path), OMP_NUM_THREADS='1'))
    assert run.returncode == 0, run.stderr[-2000:]
