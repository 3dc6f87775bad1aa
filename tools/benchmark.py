#!/usr/bin/env python
"""Measure speed or evidence: one subcommand for each module of perception/apis/benchmarks that has a function `run`."""
import argparse
import importlib
import sys

from perception.apis.cli import run_command
from perception.apis.subcommands import choose, list_subcommands


def main() -> None:
    """Hand the command line to the benchmark's module, which is imported once its arguments are known to be right."""
    benchmarks = list_subcommands('perception.apis.benchmarks', 'run')
    parser = argparse.ArgumentParser(
        description='Measure speed or evidence.', formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='benchmarks, each with its own --help:\n'
               + '\n'.join(f'  {name}\n      {found.text.splitlines()[0]}' for name, found in benchmarks.items())
               + '\n\nexample, on simulated data:\n  python tools/benchmark.py lidarseg/sparse')
    parser.add_argument('benchmark', metavar='BENCHMARK', help='one of the names below')
    name = parser.parse_args(sys.argv[1:2]).benchmark
    benchmark = run_command(choose, name, benchmarks)
    args = benchmark.parser(prog=f'{parser.prog} {name}').parse_args(sys.argv[2:])
    run_command(importlib.import_module(benchmark.module).run, args)


if __name__ == '__main__':
    main()
