#!/usr/bin/env python
"""Export a trained net as ONNX, one of points as a program of torch.export."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this tool, installed or not

from perception.apis.cli import run_command


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(
        description='Write the net of a checkpoint as ONNX, of a distilled one the student alone, and check that ONNX '
                    'Runtime and PyTorch agree on random inputs. MinkUNet and Cylinder3D are '
                    'written as a program of torch.export, points in, labels out.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example, after the same config was trained with --mini:\n'
               '  python tools/export.py configs/lanes/enet_culane.py work_dirs/lanes/enet_culane_mini/model.pth '
               '--mini')
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('checkpoint', metavar='CKPT', help='model.pth, student.pth or a training checkpoint')
    parser.add_argument('--out', metavar='FILE', help="default: the checkpoint's name with .onnx or .pt2")
    parser.add_argument('--mini', action='store_true', help='CKPT was trained with --mini')
    parser.add_argument('--trials', type=int, default=3, help='random batches to compare on (default: 3)')
    parser.add_argument('--source', metavar='PATH', help='whose cameras the graph is for, such as a folder of images '
                        'with rig.json; nets that see a map from several cameras need one')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='override single values of the config, those that CKPT was trained with')
    args = parser.parse_args()
    run_command(run, args)


def run(args: argparse.Namespace) -> None:
    """Export; imported only now, since importing torch takes seconds."""
    from perception.apis.config import parse_options
    from perception.apis.export import export
    export(args.config, args.checkpoint, args.out, args.mini, args.trials, args.source,
           parse_options(args.cfg_options))


if __name__ == '__main__':
    main()
