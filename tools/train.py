#!/usr/bin/env python
"""Train a config."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this tool, installed or not

from perception.apis.cli import run_command


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description='Train a config; checkpoints, log and model.pth (weights of the best epoch) go to the work dir.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example, on simulated data in a few minutes:\n'
               '  python tools/train.py configs/lidarseg/cylinder3d_half_kitti.py --mini')
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('--mini', action='store_true', help='small model, simulated data (written at first use)')
    parser.add_argument('--work-dir', metavar='DIR', help='default: work_dirs/<folder>/<config>[_mini] in the project')
    parser.add_argument('--resume', nargs='?', const=True, default=False, metavar='CKPT',
                        help='continue from the newest checkpoint in the work dir, or from CKPT')
    parser.add_argument('--amp', action='store_true', help='mixed precision; on a CPU this is bfloat16')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='override single values, such as train_cfg.max_epochs=3')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none',
                        help='pytorch: started by torchrun --nproc_per_node=N')
    parser.add_argument('--log', nargs='+', action='extend', default=[], choices=('tensorboard', 'wandb', 'mlflow'),
                        metavar='NAME',
                        help='log to tensorboard, wandb or mlflow too, beside the files in the work dir')
    parser.add_argument('--check', action='store_true',
                        help="build everything, two iterations, print taps, shapes, losses and each distillation "
                             "term's share of the gradient, stop; a teacher need not be trained yet")
    parser.add_argument('--allow-nan', type=int, default=0, metavar='N',
                        help='skip up to N steps whose loss is not finite, which otherwise end the training')
    parser.add_argument('--structure', metavar='JSON',
                        help='train the slim net of tools/prune.py search; load_from gives it weights to begin with')
    args = parser.parse_args()
    run_command(run, args, resumable=not args.check, long=True)


def run(args: argparse.Namespace) -> None:
    """Train; imported only now, since importing torch takes seconds."""
    from perception.apis.config import parse_options
    from perception.apis.train import train
    train(args.config, args.mini, args.work_dir, args.resume, args.amp, parse_options(args.cfg_options), args.launcher,
          args.check, args.allow_nan, args.log, args.structure)


if __name__ == '__main__':
    main()
