#!/usr/bin/env python
"""Draw scans with predictions, labels, or both."""
import argparse

from perception.apis.cli import run_command
from perception.apis.inference import visualize


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s [CONFIG CKPT] INPUT --out DIR [options]',
        description='Draw a scan, or all scans of a folder, from behind the car and from above. With CONFIG and CKPT '
                    'the prediction is drawn, with --labels the ground truth, with both also the errors.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples, after the same config was trained with --mini:\n'
               '  python tools/visualize.py configs/lidarseg/cylinder3d_half_kitti.py '
               'work_dirs/cylinder3d_half_kitti_mini/model.pth \\\n'
               '      data/mini/semantickitti/sequences/08/velodyne --mini --out work_dirs/pictures\n'
               '  python tools/visualize.py data/mini/semantickitti/sequences/08/velodyne/000000.bin \\\n'
               '      --labels data/mini/semantickitti/sequences/08/labels/000000.label --out work_dirs/pictures')
    parser.add_argument('inputs', nargs='+', metavar='INPUT',
                        help='config file and checkpoint, if predictions are wanted, then a .bin file or a folder')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder of the pictures, one PNG per scan')
    parser.add_argument('--labels', metavar='FILE', help='.label file of the scan, or the folder of all')
    parser.add_argument('--show', action='store_true', help='also open a window for each scan, if there is a display')
    parser.add_argument('--mini', action='store_true', help='CKPT was trained with --mini')
    parser.add_argument('--colors', type=int, metavar='N', help='reduce each PNG to N colours, for small files')
    args = parser.parse_args()
    if len(args.inputs) not in (1, 3):
        parser.error(f'{len(args.inputs)} paths came, expected INPUT or CONFIG CKPT INPUT')
    run_command(draw_all, args)


def draw_all(args: argparse.Namespace) -> None:
    """Draw every scan and print where its picture is."""
    config, checkpoint = args.inputs[:-1] or (None, None)
    for path in visualize(args.inputs[-1], args.out, config, checkpoint, args.labels, args.mini, args.show,
                          args.colors):
        print(path, flush=True)


if __name__ == '__main__':
    main()
