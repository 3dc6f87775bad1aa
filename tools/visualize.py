#!/usr/bin/env python
"""Draw scans, images or videos with predictions, labels, or both."""
import argparse

from perception.apis.cli import run_command
from perception.apis.config import parse_options
from perception.apis.inference import parse_members, visualize


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s [CONFIG CKPT ...] INPUT --out DIR [options]',
        description='Draw a scan, an image, all of a folder, or a video. With CONFIG and CKPT the prediction is drawn, '
                    'with --labels the ground truth, with both they stand side by side. --camera makes a film of a '
                    'drive.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples, after the same config was trained with --mini:\n'
               '  python tools/visualize.py configs/lidarseg/cylinder3d_half_kitti.py '
               'work_dirs/cylinder3d_half_kitti_mini/model.pth \\\n'
               '      data/mini/semantickitti/sequences/08/velodyne --mini --out work_dirs/pictures\n'
               '  python tools/visualize.py configs/lanes/enet_culane.py work_dirs/enet_culane_mini/model.pth \\\n'
               '      drive.mp4 --mini --out work_dirs/lanes.mp4\n'
               '  python tools/visualize.py configs/lidarseg/cylinder3d_half_kitti.py '
               'work_dirs/cylinder3d_half_kitti_mini/model.pth \\\n'
               '      data/mini/semantickitti/sequences/08/velodyne --mini --camera follow --out work_dirs/drive.mp4\n'
               '  python tools/visualize.py data/mini/semantickitti/sequences/08/velodyne/000000.bin \\\n'
               '      --labels data/mini/semantickitti/sequences/08/labels/000000.label --out work_dirs/pictures')
    parser.add_argument('inputs', nargs='+', metavar='INPUT',
                        help='config file and checkpoint (several vote), if predictions are wanted, then a .bin file, '
                             'an image, a video, or a folder of scans or images')
    parser.add_argument('--out', required=True, metavar='DIR|VIDEO',
                        help='folder of the pictures, one PNG each, or a film (.mp4, .avi, .gif)')
    parser.add_argument('--labels', metavar='FILE',
                        help='the truth: .label of a scan, .lines.txt of an image, or the folder of all')
    parser.add_argument('--camera', metavar='KIND',
                        help='one large view of each scan: follow (behind the car) or fixed (beside the road, where '
                             'poses.txt and calib.txt lie beside the folder of scans)')
    parser.add_argument('--tta', metavar='MODE', help='test-time augmentation of scans: flip4 or grid36')
    parser.add_argument('--ensemble', nargs='+', default=[], metavar='CONFIG:CKPT',
                        help='further models that vote, of other configs with the same classes')
    parser.add_argument('--attention', nargs='?', const=True, default=False, metavar='CKPT',
                        help='draw where the stages of an image net look, beside those of an earlier CKPT if given')
    parser.add_argument('--show', action='store_true', help='also open a window for each, if there is a display')
    parser.add_argument('--mini', action='store_true', help='CKPT was trained with --mini')
    parser.add_argument('--colors', type=int, metavar='N', help='reduce each PNG to N colours, for small files')
    parser.add_argument('--fps', type=float, help='frames per second of a film (default: as the input, else 10)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help='override single values of CONFIG, as tools/train.py does')
    args = parser.parse_args()
    if len(args.inputs) == 2:
        parser.error('2 paths came, expected INPUT or CONFIG CKPT INPUT')
    run_command(draw_all, args)


def draw_all(args: argparse.Namespace) -> None:
    """Draw everything and print where the pictures are."""
    config, *checkpoints = args.inputs[:-1] or [None]
    for path in visualize(args.inputs[-1], args.out, config, checkpoints or None, args.labels, args.mini, args.show,
                          args.colors, args.fps, args.attention, args.camera, args.tta, parse_members(args.ensemble),
                          parse_options(args.cfg_options)):
        print(path, flush=True)


if __name__ == '__main__':
    main()
