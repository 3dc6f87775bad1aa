#!/usr/bin/env python
"""Write mini data sets: simulated scans and images in official layouts."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this tool, installed or not

from perception.apis.cli import run_command
from perception.apis.listing import mini_sets


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  python tools/make_mini.py semantickitti --seed 1 --root data/mini/other_streets\n'
               '  python tools/make_mini.py tusimple --root data/mini/tusimple_many_lanes --cfg-options '
               'streets=many_lanes')
    parser.add_argument('dataset', nargs='*', metavar='DATASET',
                        help=f'any of {", ".join(mini_sets())}; all by default')
    parser.add_argument('--root', metavar='DIR', help='folder of the data set (default: data/mini/<dataset>)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same bytes')
    parser.add_argument('--force', action='store_true', help='write it again even if it is complete')
    parser.add_argument('--sheet', metavar='PNG',
                        help='draw a contact sheet with labels; of several data sets, each gets its name added')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help="further arguments of the data set's writer, such as train=54")
    args = parser.parse_args()
    if args.root and len(args.dataset) != 1:
        parser.error('--root is the folder of one data set; name one')
    run_command(write, args)


def write(args: argparse.Namespace) -> None:
    """Write what is missing; imported only now, since importing torch takes seconds."""
    from perception.apis.config import parse_options
    from perception.apis.mini import make_mini
    for line in make_mini(args.dataset, args.root, args.seed, args.force, args.sheet, parse_options(args.cfg_options)):
        print(line, flush=True)


if __name__ == '__main__':
    main()
