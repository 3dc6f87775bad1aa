#!/usr/bin/env python
"""Test checkpoints."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this tool, installed or not

from perception.apis.cli import run_command


def main() -> None:
    """Parse the command line and test."""
    parser = argparse.ArgumentParser(
        description='Test weights with the official metric; optionally write a submission or pictures. Of several '
                    'checkpoints the mean of probabilities decides.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='two checkpoints of one config and one of another, each on four views, scored by distance too:\n'
               '  python tools/test.py CONFIG a.pth b.pth --ensemble OTHER_CONFIG:c.pth --tta flip4 --metrics '
               'distance\n'
               'example, after the same config was trained with --mini:\n'
               '  python tools/test.py configs/lidarseg/cylinder3d_half_kitti.py '
               'work_dirs/lidarseg/cylinder3d_half_kitti_mini/model.pth --mini')
    parser.add_argument('config', metavar='CONFIG', help='config file: net, data and metric')
    parser.add_argument('checkpoints', nargs='*', metavar='CKPT',
                        help='model.pth, student.pth or a training checkpoint of this config; several vote')
    parser.add_argument('--predictions', metavar='PATH',
                        help="score a file or folder of anybody's results without a net, where the data set has such "
                             'files')
    parser.add_argument('--ensemble', nargs='+', action='extend', default=[], metavar='CONFIG:CKPT',
                        help='further models that vote, of other configs with the same classes')
    parser.add_argument('--mini', action='store_true', help='small model, simulated data (written at first use)')
    parser.add_argument('--amp', action='store_true', help='mixed precision; on a CPU this is bfloat16')
    parser.add_argument('--compile', action='store_true',
                        help='compile nets of images, such as those of lanes, which takes a minute or more; nets that '
                             'label LiDAR scans replay CUDA graphs')
    parser.add_argument('--tta', metavar='MODE', help='test-time augmentation: flip4, grid36; for people flip; '
                        "for ApolloScape's marks scales")
    parser.add_argument('--metrics', nargs='+', action='extend', default=[], metavar='NAME',
                        help="further scores, of the config's more_metrics, such as distance of LiDAR configs")
    parser.add_argument('--save', metavar='DIR',
                        help='keep the predictions of each scan; if the run is cut off, the same command continues it')
    parser.add_argument('--submit', metavar='DIR',
                        help='write a submission of the test split, do not score; continues likewise')
    parser.add_argument('--draw', metavar='DIR', help='write a picture of each scan and of the scores')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='override single values, such as test_dataloader.num_workers=0')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none',
                        help='pytorch: started by torchrun --nproc_per_node=N')
    args = parser.parse_args()
    run_command(run, args, long=True)


def run(args: argparse.Namespace) -> None:
    """Test; imported only now, since importing torch takes seconds."""
    from perception.apis.config import parse_options
    from perception.apis.inference import parse_members
    from perception.apis.test import test
    test(args.config, args.checkpoints, args.mini, args.amp, args.tta, args.submit, args.draw,
         parse_options(args.cfg_options), args.launcher, args.save, parse_members(args.ensemble), args.metrics,
         args.predictions, args.compile)


if __name__ == '__main__':
    main()
