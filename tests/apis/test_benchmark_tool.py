"""tools/benchmark.py finds its benchmarks by listing them, and answers before anything heavy is imported."""
import argparse
import importlib
import subprocess
import sys

import pytest

from perception.apis import subcommands
from perception.apis.subcommands import choose, list_subcommands
from perception.utils.errors import ConfigError

BENCHMARKS = list_subcommands('perception.apis.benchmarks', 'run')


def call(root, *words):
    return subprocess.run([sys.executable, root / 'tools/benchmark.py', *words], capture_output=True, text=True)


def test_what_can_be_run_is_listed():
    assert {'cost', 'distillation', 'lanes/culane_metric', 'lanes/many_lanes', 'lidarseg/augmentation',
            'lidarseg/cylinder3d', 'lidarseg/sparse'} == set(BENCHMARKS)
    assert list(BENCHMARKS)[:2] == ['cost', 'distillation']


@pytest.mark.parametrize('name', BENCHMARKS)
def test_what_is_read_is_what_is_imported(name):
    module = importlib.import_module(BENCHMARKS[name].module)
    assert BENCHMARKS[name].options == module.OPTIONS
    assert BENCHMARKS[name].text.splitlines()[0] == module.__doc__.splitlines()[0]
    text = BENCHMARKS[name].parser(prog=name).format_help()
    assert all(option in text for option in module.OPTIONS if option.startswith('--'))


def test_helpers_are_not_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(subcommands, 'PROJECT_ROOT', tmp_path)
    folder = tmp_path / 'some/room'
    folder.mkdir(parents=True)
    (folder / 'speed.py').write_text('"""Speed.\n\nMore."""\nimport absent\n'
                                     'OPTIONS = {"--n": {"type": "int", "default": 3}}\ndef run(args):\n    pass\n')
    (folder / 'helper.py').write_text('def runner():\n    pass\n')
    (folder.parent / 'plain.py').write_text('def run(args):\n    pass\n')
    found = list_subcommands('some', 'run')
    assert list(found) == ['plain', 'room/speed']
    assert found['room/speed'].module == 'some.room.speed' and found['room/speed'].text == 'Speed.\n\nMore.'
    assert found['room/speed'].parser().parse_args(['--n', '4']) == argparse.Namespace(n=4)
    assert (found['plain'].text, found['plain'].options) == ('', {})


def test_close_names_are_shown():
    assert choose('cost', BENCHMARKS) is BENCHMARKS['cost']
    for wrong in ('spares', 'sparse', 'lanes/sparse'):
        with pytest.raises(ConfigError, match=f'{wrong}: .* Did you mean lidarseg/sparse'):
            choose(wrong, BENCHMARKS)
    with pytest.raises(ConfigError, match='latenzy: .*expected one of cost, .*--help'):
        choose('latenzy', BENCHMARKS)


@pytest.mark.parametrize('words', [['--help'], ['lidarseg/sparse', '--help'], ['cost', '--help']])
def test_the_tool_explains_itself(root, words):
    run = call(root, *words)
    assert run.returncode == 0, run.stderr
    assert words[0] in run.stdout


def test_help_imports_nothing_heavy(root):
    code = ('import runpy, sys\n'
            f'sys.argv = [{str(root / "tools/benchmark.py")!r}, "cost", "--help"]\n'
            'try:\n    runpy.run_path(sys.argv[0], run_name="__main__")\n'
            'except SystemExit as end:\n    heavy = {"torch", "numpy", "mmengine"} & set(sys.modules)\n'
            '    sys.exit(f"{heavy} {end.code}" if heavy or end.code else 0)\n')
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_tool_refuses_what_it_does_not_know(root):
    run = call(root, 'spares')
    assert run.returncode == 2 and 'spares' in run.stderr and 'lidarseg/sparse?' in run.stderr
    run = call(root, 'lidarseg/sparse', '--dtype', 'int8')
    assert run.returncode == 2 and 'int8' in run.stderr
