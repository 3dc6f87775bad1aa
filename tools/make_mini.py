#!/usr/bin/env python
"""Write mini data sets: simulated scans and images in official layouts."""
import argparse
import time
from functools import partial
from pathlib import Path

from perception.apis.cli import run_command
from perception.common.nuscenes.mini import write_nuscenes_mini
from perception.lanes import mini as lanes
from perception.lanes.datasets.apolloscape.reader import ApolloScapeLaneMark
from perception.lanes.datasets.bdd100k.reader import BDD100K
from perception.lanes.datasets.culane.reader import CULane
from perception.lanes.datasets.llamas.reader import LLAMAS
from perception.lanes.datasets.tusimple.reader import TuSimple
from perception.lidarseg.datasets.nuscenes.draw import draw_sheet as draw_nuscenes
from perception.lidarseg.datasets.semantickitti import mini as lidarseg
from perception.lidarseg.datasets.waymo.mini import draw_sheet as draw_waymo
from perception.lidarseg.datasets.waymo.mini import write_waymo_mini

WRITERS = dict(
    semantickitti=lidarseg.write_semantickitti_mini, semantickitti_multiscan=lidarseg.write_multiscan_mini,
    nuscenes=write_nuscenes_mini, waymo=write_waymo_mini,
    culane=lanes.write_culane_mini, tusimple=lanes.write_tusimple_mini, bdd100k=lanes.write_bdd100k_mini,
    llamas=lanes.write_llamas_mini, apolloscape=lanes.write_apolloscape_mini,
    tusimple_many_lanes=partial(lanes.write_tusimple_mini, streets='many_lanes', train=54, val=12, test=36))
READERS = dict(culane=CULane, tusimple=TuSimple, bdd100k=BDD100K, llamas=LLAMAS, apolloscape=ApolloScapeLaneMark,
               tusimple_many_lanes=TuSimple)
SHEETS = dict({name: partial(lanes.draw_sheet, dataset=reader) for name, reader in READERS.items()},
              semantickitti=lidarseg.draw_sheet, semantickitti_multiscan=lidarseg.draw_sheet,
              nuscenes=draw_nuscenes, waymo=draw_waymo)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog='Example: tools/make_mini.py semantickitti --seed 1',
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', nargs='*', metavar='DATASET', choices=[*WRITERS, []],
                        help=f'any of {", ".join(WRITERS)}; all by default')
    parser.add_argument('--root', type=Path, help='folder of the data set (default: data/mini/<dataset>)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same bytes')
    parser.add_argument('--force', action='store_true', help='write it again even if it is complete')
    parser.add_argument('--sheet', type=Path, metavar='PNG',
                        help='draw a contact sheet with labels; of several data sets, each gets its name added')
    args = parser.parse_args()
    names = args.dataset or list(WRITERS)
    if args.root and len(names) > 1:
        parser.error('--root is the folder of one data set; name one')
    for name in names:
        start = time.perf_counter()
        root = args.root.absolute() if args.root else f'data/mini/{name}'
        root = run_command(WRITERS[name], root, seed=args.seed, force=args.force)
        print(f'{name}: {root} is complete ({time.perf_counter() - start:.1f} s); the data are simulated')
        if args.sheet:
            sheet = args.sheet if len(names) == 1 else args.sheet.with_stem(f'{args.sheet.stem}_{name}')
            print(f'{name}: {run_command(SHEETS[name], root, sheet)}')


if __name__ == '__main__':
    main()
