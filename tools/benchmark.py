#!/usr/bin/env python
"""Measure speed or evidence: one subcommand for each benchmark."""
import argparse
import importlib
import sys

from perception.apis.cli import run_command

BENCHMARKS = {
    'sparse': 'each sparse convolution of Cylinder3D on one scan',
    'cylinder3d': 'Cylinder3D against the same net on spconv, or its training step',
    'distillation': 'students without and with a distillation method, over seeds',
    'many_lanes': 'the agnostic lane net against fixed slots where there are many lanes',
    'compare': 'trained models side by side',
    'cost': 'parameters, MACs, milliseconds and memory of LiDAR nets, students against teachers',
    'augmentation': 'augmentation and voxelisation of a scan against plain NumPy',
    'latency': 'parameters, MACs and milliseconds of lane nets',
    'lane_metrics': 'the CULane score against the original C++ tool',
}


def main() -> None:
    """Hand the command line to the benchmark's module."""
    parser = argparse.ArgumentParser(
        description='Measure speed or evidence.', formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='benchmarks, each with its own --help:\n'
               + '\n'.join(f'  {name:<14}{text}' for name, text in BENCHMARKS.items())
               + '\n\nexample, on simulated data:\n  python tools/benchmark.py sparse')
    parser.add_argument('benchmark', choices=BENCHMARKS, metavar='BENCHMARK', help='one of the names below')
    name = parser.parse_args(sys.argv[1:2]).benchmark
    module = importlib.import_module(f'perception.apis.benchmarks.{name}')
    options = argparse.ArgumentParser(prog=f'{parser.prog} {name}', description=module.__doc__)
    module.add_arguments(options)
    run_command(module.run, options.parse_args(sys.argv[2:]))


if __name__ == '__main__':
    main()
