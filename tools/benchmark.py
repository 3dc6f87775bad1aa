#!/usr/bin/env python
"""Measure speed or evidence: one subcommand for each module of perception/apis/benchmarks that has a function `run`."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this tool, installed or not

from perception.apis.cli import run_command
from perception.apis.listing import add_options, benchmarks, choose


def main() -> None:
    """Hand the command line to the benchmark's module, which is imported once its arguments are known to be right."""
    known = benchmarks()
    parser = argparse.ArgumentParser(
        description='Measure speed or evidence.', formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='benchmarks, each with its own --help:\n'
               + '\n'.join(f'  {name}\n      {found.summary}' for name, found in known.items())
               + '\n\nexample, on simulated data:\n  python tools/benchmark.py lidarseg/sparse')
    parser.add_argument('benchmark', metavar='BENCHMARK', help='one of the names below')
    name = parser.parse_args(sys.argv[1:2]).benchmark
    benchmark = run_command(choose, name, known)
    options = argparse.ArgumentParser(prog=f'{parser.prog} {name}', description=benchmark.text, allow_abbrev=False)
    args = add_options(options, benchmark.options).parse_args(sys.argv[2:])
    run_command(benchmark.run, args)


if __name__ == '__main__':
    main()
