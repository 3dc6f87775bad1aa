"""What the tools list is told by files alone."""
import subprocess
import sys
import time

import pytest

from perception.apis import convert as convert_module
from perception.apis.listing import benchmarks, constant, converters, mini_sets, module_name, summary
from perception.utils.errors import CheckpointError

TOOLS = ('train', 'test', 'visualize', 'make_mini', 'convert_checkpoint', 'export', 'benchmark')


def test_what_lies_there_is_found(root):
    assert {'semantickitti', 'nuscenes', 'waymo', 'culane', 'tusimple'} <= set(mini_sets())
    assert {'cost', 'distillation'} <= set(benchmarks())
    for path in [*converters(), *benchmarks().values()]:
        assert len(summary(path)) > 10, f'{path} says nothing of itself'
        assert module_name(path).startswith('perception.')


def test_constants_and_summaries_are_read_without_importing(tmp_path):
    path = tmp_path / 'x.py'
    path.write_text('"""A module.\n\nMore."""\nimport nowhere_at_all\nOPTIONS = {"--net": {"default": 3}}\n')
    assert (summary(path), constant(path, 'OPTIONS'), constant(path, 'absent', 7)) == (
        'A module', {'--net': {'default': 3}}, 7)


@pytest.mark.parametrize('tool', TOOLS)
def test_help_imports_nothing_heavy(root, tool):
    code = (f'import runpy, sys; sys.argv = ["x", "--help"]\ntry:\n    runpy.run_path({str(root / "tools" / tool)!r} + '
            '".py", run_name="__main__")\nfinally:\n    heavy = {"torch", "mmengine", "numpy", "cv2"} & '
            'set(sys.modules)\n    assert not heavy, heavy')
    start = time.process_time()
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and 'usage:' in done.stdout, done.stderr[-1000:]
    assert time.process_time() - start < 1


# --- conversion ---
@pytest.fixture
def options(tmp_path):
    """Arguments of a conversion; the source holds three tensors."""
    import argparse

    import torch
    torch.save({'a.weight': torch.zeros(2), 'b': torch.ones(3), 'c': torch.ones(1)}, tmp_path / 'x.pth')
    return argparse.Namespace(source=tmp_path / 'x.pth', target=tmp_path / 'out.pth')


def test_the_first_converter_that_fits_writes_the_weights(options, monkeypatch, caplog):
    import types

    import torch
    seen = []
    modules = dict(never=types.SimpleNamespace(fits=lambda weights: False), fits=types.SimpleNamespace(
        fits=lambda weights: 'a.weight' in weights,
        convert=lambda weights, given: seen.append(given) or (dict(new=weights['b']), 'model = dict(type=X)')))
    monkeypatch.setattr(convert_module, 'converters', lambda: list(modules))
    monkeypatch.setattr(convert_module, 'module_name', lambda name: name)
    monkeypatch.setattr(convert_module.importlib, 'import_module', modules.get)
    convert_module.convert(options)
    assert seen == [options] and torch.equal(torch.load(options.target)['new'], torch.ones(3))


def test_unknown_weights_are_refused_by_what_would_be_known(options):
    with pytest.raises(CheckpointError, match=r'x\.pth: names such as a\.weight, b, c, expected .*Cylinder3D'):
        convert_module.convert(options)
    options.target = options.target.parent
    with pytest.raises(CheckpointError, match='a folder came'):
        convert_module.convert(options)
