#!/usr/bin/env python
"""Write a mini data set: simulated scans in an official layout."""
import argparse
import time
from pathlib import Path

from perception.apis.cli import run_command
from perception.lidarseg.mini import draw_sheet, write_semantickitti_mini

WRITERS = dict(semantickitti=write_semantickitti_mini)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog='Example: tools/make_mini.py semantickitti --seed 1',
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', nargs='*', metavar='DATASET', choices=[*WRITERS, []],
                        help=f'any of {", ".join(WRITERS)}; all by default')
    parser.add_argument('--root', type=Path, help='folder of the data set (default: data/mini/<dataset>)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same bytes')
    parser.add_argument('--force', action='store_true', help='write it again even if it is complete')
    parser.add_argument('--sheet', type=Path, metavar='PNG', help='draw the first scans into this picture')
    args = parser.parse_args()
    for name in args.dataset or WRITERS:
        start = time.perf_counter()
        root = args.root.absolute() if args.root else f'data/mini/{name}'
        root = run_command(WRITERS[name], root, seed=args.seed, force=args.force)
        print(f'{name}: {root} is complete ({time.perf_counter() - start:.1f} s); the data are simulated')
        if args.sheet:
            print(f'{name}: {run_command(draw_sheet, root, args.sheet)}')


if __name__ == '__main__':
    main()
