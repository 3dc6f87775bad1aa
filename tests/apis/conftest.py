"""Running tools and helper scripts of these tests as a user would: in processes of their own."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture(scope='session')
def run():
    """Call `python ARGUMENTS` from any folder, with the toy room importable; returns the completed process."""
    def run_python(*arguments, cwd=None, timeout=300, **environment):
        paths = [str(HERE), *filter(None, [os.environ.get('PYTHONPATH')])]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS='1', **environment)
        return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=env, timeout=timeout, text=True,
                              capture_output=True)
    return run_python


@pytest.fixture
def toy(monkeypatch):
    """The module with the toy data set, model and metric."""
    monkeypatch.syspath_prepend(str(HERE))
    import toy_room
    return toy_room


@pytest.fixture
def toy_config(toy):
    """A config that trains in a second."""
    return HERE / 'toy_config.py'


@pytest.fixture(scope='session')
def assert_same():
    """A function: nested containers of tensors and values are equal bit for bit."""
    def compare(a, b, where=''):
        assert type(a) is type(b), where
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b), where
        elif isinstance(a, dict):
            assert a.keys() == b.keys(), where
            for key in a:
                compare(a[key], b[key], f'{where}.{key}')
        elif isinstance(a, (list, tuple)):
            assert len(a) == len(b), where
            for i, (x, y) in enumerate(zip(a, b)):
                compare(x, y, f'{where}[{i}]')
        else:
            assert a == b, where
    return compare
