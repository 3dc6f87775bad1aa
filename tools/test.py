#!/usr/bin/env python
"""Test a checkpoint."""
import argparse

from perception.apis.cli import run_command
from perception.apis.config import parse_options
from perception.apis.test import test


def main() -> None:
    """Parse the command line and test."""
    parser = argparse.ArgumentParser(
        description='Test weights with the official metric; optionally write a submission or pictures.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example, after the same config was trained with --mini:\n'
               '  python tools/test.py configs/lidarseg/cylinder3d_half_kitti.py '
               'work_dirs/cylinder3d_half_kitti_mini/model.pth --mini')
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('checkpoint', metavar='CKPT', help='model.pth, student.pth or a training checkpoint')
    parser.add_argument('--mini', action='store_true', help='small model, simulated data (written at first use)')
    parser.add_argument('--amp', action='store_true', help='mixed precision; on a CPU this is bfloat16')
    parser.add_argument('--tta', metavar='MODE', help='test-time augmentation: flip4 or grid36')
    parser.add_argument('--submit', metavar='DIR', help='write a submission of the test split, do not score')
    parser.add_argument('--draw', metavar='DIR', help='write a picture of each scan')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help='override single values, such as test_dataloader.num_workers=0')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none',
                        help='pytorch: started by torchrun --nproc_per_node=N')
    args = parser.parse_args()
    run_command(lambda: test(args.config, args.checkpoint, args.mini, args.amp, args.tta, args.submit, args.draw,
                             parse_options(args.cfg_options), args.launcher))


if __name__ == '__main__':
    main()
