"""tools/benchmark.py finds its benchmarks by listing them, and answers before anything heavy is imported."""
import argparse
import subprocess
import sys

import pytest

from perception.apis.listing import add_options, benchmarks, choose
from perception.utils.errors import ConfigError

BENCHMARKS = benchmarks()


def call(root, *words):
    return subprocess.run([sys.executable, root / 'tools/benchmark.py', *words], capture_output=True, text=True)


def test_what_can_be_run_is_listed():
    assert {'cost', 'distillation', 'rotated', 'lanes/culane_metric', 'lanes/many_lanes', 'lidarseg/augmentation',
            'lidarseg/cylinder3d', 'lidarseg/sparse'} <= set(BENCHMARKS)
    of_rooms = ['/' in name for name in BENCHMARKS]
    assert of_rooms == sorted(of_rooms) and next(iter(BENCHMARKS)) == 'arms'


@pytest.mark.parametrize('name', BENCHMARKS)
def test_what_is_read_is_what_is_imported(name):
    module = BENCHMARKS[name].load()
    assert BENCHMARKS[name].options == module.OPTIONS
    assert BENCHMARKS[name].text.splitlines()[0] == module.__doc__.splitlines()[0]
    text = add_options(argparse.ArgumentParser(), module.OPTIONS).format_help()
    assert all(option in text for option in module.OPTIONS if option.startswith('--'))


def test_types_of_options_are_names():
    parser = add_options(argparse.ArgumentParser(), {'--n': {'type': 'int'}, '--x': {'type': 'float', 'default': 2.0}})
    assert parser.parse_args(['--n', '4']) == argparse.Namespace(n=4, x=2.0)


def test_close_names_are_shown():
    assert choose('cost', BENCHMARKS) is BENCHMARKS['cost']
    for wrong in ('spares', 'sparse', 'lanes/sparse'):
        with pytest.raises(ConfigError, match=f'{wrong}: .* Did you mean lidarseg/sparse'):
            choose(wrong, BENCHMARKS)
    with pytest.raises(ConfigError, match='wombat: .*expected one of arms, .*--help'):
        choose('wombat', BENCHMARKS)


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
    assert run.returncode == 2 and 'spares' in run.stderr and 'lidarseg/sparse' in run.stderr
    run = call(root, 'arms', 'config.py', '--back')  # which the process in the background would take for itself again
    assert run.returncode == 2 and '--back' in run.stderr
    run = call(root, 'lidarseg/sparse', '--dtype', 'int8')
    assert run.returncode == 2 and 'int8' in run.stderr
