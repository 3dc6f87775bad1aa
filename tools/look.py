#!/usr/bin/env python
"""Look at a config, at the samples it trains on, at the logs of runs."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this tool, installed or not

from perception.apis.cli import run_command


def main() -> None:
    """Parse the command line and look."""
    parser = argparse.ArgumentParser(
        description='Look at a config, at samples as the net gets them, at the logs of runs.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n'
               '  python tools/look.py config configs/pvd/minkunet_kitti.py --mini\n'
               '  python tools/look.py samples configs/lanes/enet_culane.py --mini --out work_dirs/samples\n'
               '  python tools/look.py logs work_dirs/lanes/enet_culane_mini work_dirs/sad/enet_culane_mini '
               '--out work_dirs/logs.svg')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    config = commands.add_parser('config', help='print the resolved config, which is a config again',
                                 description='Print a config with its bases, mini section and options applied; the '
                                             'text is a config again.')
    samples = commands.add_parser('samples', help='draw samples after augmentation, with their labels',
                                  description='Draw what the net sees: samples after augmentation, with their labels.')
    for command in (config, samples):
        command.add_argument('config', metavar='CONFIG', help='config file')
        command.add_argument('--mini', action='store_true', help='its small model, on simulated data')
        command.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                             help='override single values, as tools/train.py does')
    samples.add_argument('--out', required=True, metavar='DIR', help='folder of the pictures')
    samples.add_argument('--num', type=int, default=8, metavar='N', help='how many, spread over the data (default: 8)')
    samples.add_argument('--split', default='train', choices=('train', 'val', 'test'), help='default: train')
    samples.add_argument('--epoch', type=int, default=0, metavar='N', help='of the augmentation (default: 0)')
    logs = commands.add_parser('logs', help='draw losses, scores and time of several runs',
                               description='Draw the curves of losses, scores and time of runs, and print a line on '
                                           'each.')
    logs.add_argument('runs', nargs='+', metavar='RUN', help='work dir of a run')
    logs.add_argument('--out', required=True, metavar='FILE', help='the picture: .png, .svg or .pdf')
    logs.add_argument('--keys', nargs='+', action='extend', default=[], metavar='NAME',
                      help='what to draw (default: loss, scores, lr, time)')
    args = parser.parse_args()
    run_command(dict(config=show_config, samples=draw_samples, logs=draw_logs)[args.command], args)


def show_config(args: argparse.Namespace) -> None:
    """Print the config; imported only now, since importing torch takes seconds."""
    from perception.apis.config import parse_options
    from perception.apis.look import resolved
    print(resolved(args.config, args.mini, parse_options(args.cfg_options)))


def draw_samples(args: argparse.Namespace) -> None:
    """Draw samples and print where they are."""
    from perception.apis.config import parse_options
    from perception.apis.look import samples
    for path in samples(args.config, args.out, args.num, args.mini, args.split, args.epoch,
                        parse_options(args.cfg_options)):
        print(path, flush=True)


def draw_logs(args: argparse.Namespace) -> None:
    """Draw the curves and print a line on each run."""
    from perception.apis.logs import compare
    for line in compare(args.runs, args.out, args.keys):
        print(line)


if __name__ == '__main__':
    main()
