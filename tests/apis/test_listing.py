"""What the tools list is told by files alone."""
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from perception.apis import convert as convert_module
from perception.apis.listing import Listed, benchmarks, converters, mini_sets, modules
from perception.utils.errors import CheckpointError, DataError

TOOLS = ('train', 'test', 'visualize', 'make_mini', 'convert_checkpoint', 'export', 'benchmark')


def test_what_lies_there_is_found(root):
    assert {'semantickitti', 'nuscenes', 'waymo', 'culane', 'tusimple'} <= set(mini_sets())
    assert {'cost', 'distillation'} <= set(benchmarks())
    assert len(converters()) >= 3
    for found in [*converters().values(), *benchmarks().values()]:
        assert len(found.summary) > 10, f'{found.path} says nothing of itself'


def test_options_and_summaries_are_read_without_importing(tmp_path):
    (tmp_path / 'room').mkdir()
    head = '"""A module.\n\nMore."""\nimport nowhere_at_all\n'
    (tmp_path / 'room/x.py').write_text(head + 'OPTIONS = {"--net": {"default": 3}}\ndef run(args): pass\n')
    (tmp_path / 'room/helper.py').write_text(head)
    (tmp_path / 'y.py').write_text(head + 'def run(args): pass\n')
    found = modules(tmp_path, '**/*.py', 'run')
    assert list(found) == ['y', 'room/x']
    assert (found['room/x'].summary, found['room/x'].options, found['y'].options) == (
        'A module', {'--net': {'default': 3}}, {})


def test_what_a_benchmark_says_names_its_config(monkeypatch):
    def run(args):
        raise DataError('x: nothing there. Try tools/train.py CONFIG --mini.')

    listed = Listed(None, 'A benchmark.', {})
    monkeypatch.setattr(Listed, 'load', lambda self: SimpleNamespace(run=run))
    for args, said in ((SimpleNamespace(config='a.py'), 'tools/train.py a.py --mini'),
                       (SimpleNamespace(), 'tools/train.py CONFIG --mini')):
        with pytest.raises(DataError, match=said):
            listed.run(args)


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
    fits = types.SimpleNamespace(
        fits=lambda weights: 'a.weight' in weights,
        convert=lambda weights, given: seen.append(given) or (dict(new=weights['b']), 'model = dict(type=X)'))
    other = types.SimpleNamespace(fits=fits.fits, convert=lambda weights, given: (dict(new=weights['c']), 'Y'))
    found = {'a/convert/never': types.SimpleNamespace(fits=lambda weights: False), 'a/convert/fits': fits,
             'a/convert/late': other, 'plugins/b/convert/x': other}
    monkeypatch.setattr(convert_module, 'converters', lambda: {name: Listed(name, '', {}) for name in found})
    monkeypatch.setattr(Listed, 'load', lambda self: found[self.path])
    said = convert_module.convert(options)
    assert seen == [options] and torch.equal(torch.load(options.target)['new'], torch.ones(3))
    assert said.endswith('use with: model = dict(type=X)\nfor nets of b: --room b')
    options.room = 'b'
    assert convert_module.convert(options).endswith('use with: Y') and len(torch.load(options.target)['new']) == 1


def test_unknown_weights_are_refused_by_what_would_be_known(options):
    with pytest.raises(CheckpointError, match=r'x\.pth: names such as a\.weight, b, c, expected .*Cylinder3D'):
        convert_module.convert(options)
    options.target = options.target.parent
    with pytest.raises(CheckpointError, match='a folder came'):
        convert_module.convert(options)
