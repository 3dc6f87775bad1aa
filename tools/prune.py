#!/usr/bin/env python
"""Find the widths of a slim net for a budget."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this tool, installed or not

from perception.apis.cli import run_command


def main() -> None:
    """Parse the command line and search."""
    parser = argparse.ArgumentParser(
        description='Find the widths of a slim net for a budget (PEEL); the structure is a JSON file, with a chart '
                    'beside it. tools/train.py --structure trains the slim net.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example, on real digits, after tools/train.py configs/peel/resnet18_imagenet.py --mini:\n'
               '  python tools/prune.py search configs/peel/resnet18_imagenet.py '
               'work_dirs/peel/resnet18_imagenet_mini/model.pth \\\n      --mini --ratio 0.5 -o structure.json')
    parser.add_argument('task', choices=['search'], help='what to do')
    parser.add_argument('config', metavar='CONFIG', help='config file; of a distillation the student is pruned')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', nargs='?', help='weights of the whole net; without them '
                        'all groups count alike, to see what a budget gives before a training')
    parser.add_argument('-o', '--out', metavar='JSON', default='structure.json', help='default: structure.json')
    parser.add_argument('--weights', metavar='PTH', help='also write the slim net, with the weights that stay')
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument('--ratio', type=float, help='of what the whole net costs; default: as in the config, or 0.5')
    budget.add_argument('--value', type=float, help='the budget as a number, such as 2.05e9')
    parser.add_argument('--type', choices=('macs', 'params', 'activations', 'latency'),
                        help="what is counted, latency in ms of this machine's CPU; default: as in the config, or macs")
    parser.add_argument('--source', metavar='FILE', help='run the net on this file, such as a scan, to see what its '
                        'layers cost; default: images of noise, for sparse nets samples of the test data')
    parser.add_argument('--method', choices=('peel', 'uniform', 'shuffled', 'slimming'), default='peel',
                        help='peel, or a control at the same budget')
    parser.add_argument('--seed', type=int, default=0, help='of --method shuffled')
    parser.add_argument('--mini', action='store_true', help='the checkpoint was trained with --mini')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='override single values, such as prune.divisor=4')
    run_command(run, parser.parse_args(), long=True)


def run(args: argparse.Namespace) -> None:
    """Search; imported only now, since importing torch takes seconds."""
    from perception.apis.config import parse_options
    from perception.apis.prune.search import search
    for line in search(args.config, args.checkpoint, args.out, args.ratio, args.value, args.type, args.mini,
                       args.source, args.method, args.seed, parse_options(args.cfg_options), args.weights):
        print(line)


if __name__ == '__main__':
    main()
