#!/usr/bin/env python
"""Draw scans, images or videos with predictions, labels, or both, and save predictions as files."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this tool, installed or not

from perception.apis.cli import run_command, split_flags


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s CONFIG [CKPT ...] INPUT --out DIR [--save DIR] [options]',
        description='Draw a scan, an image, all of a folder, or a video. With CKPT the prediction is drawn, with '
                    '--labels the ground truth, with both they stand side by side. CONFIG says what INPUT and its '
                    'labels are. --save writes predictions as files. Files of other origin are never replaced.',
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        epilog='options of prediction, as the predictor of CONFIG has them, are flags too; its docstring tells all of '
               'them:\n'
               '  of scans, --columns x,y,z,i,ring (what a file holds), --intensity-scale 255, --invalid drop ...\n'
               '  of images, --crop, --horizon ...\n'
               '  of people in scans, as of scans, and --forward y, --images DIR, --camera FILE, --min-score 0.5, '
               '--side 20, --interval 0.1 (s, of --view tracks) ...\n'
               '  of cameras around a car, --scene scene-0103, --cameras NAME,NAME, --min-score 0.3, --min-map 0.5, '
               '--reach 40 ...\n'
               '  of drives, --every 6, --frames 900 (of a capture device), --window 10, --live\n'
               '  of seeds, --walk 24, --columns 8, --truncation 0.7, --show-teacher, --beside CKPT,CKPT\n'
               '  of a classifier, --teacher epoch_N.pth (the mean teacher, in --view cam)\n\n'
               'examples, after the same config was trained with --mini:\n'
               '  python tools/visualize.py configs/lidarseg/cylinder3d_half_kitti.py '
               'work_dirs/lidarseg/cylinder3d_half_kitti_mini/model.pth \\\n'
               '      data/mini/semantickitti/sequences/08/velodyne --mini --out work_dirs/pictures\n'
               '  python tools/visualize.py configs/lanes/enet_culane.py work_dirs/lanes/enet_culane_mini/model.pth '
               '\\\n'
               '      drive.mp4 --mini --out work_dirs/lanes.mp4\n'
               '  python tools/visualize.py configs/lidarseg/cylinder3d_half_kitti.py '
               'work_dirs/lidarseg/cylinder3d_half_kitti_mini/model.pth \\\n'
               '      data/mini/semantickitti/sequences/08/velodyne --mini --view follow --out work_dirs/drive.mp4\n'
               '  python tools/visualize.py configs/lidarseg/cylinder3d_half_kitti.py '
               'work_dirs/lidarseg/cylinder3d_half_kitti_mini/model.pth \\\n'
               '      data/mini/semantickitti/sequences/08/velodyne --mini --save work_dirs/labels --batch 4\n'
               '  python tools/visualize.py configs/lidarseg/cylinder3d_kitti.py \\\n'
               '      data/mini/semantickitti/sequences/08/velodyne/000000.bin \\\n'
               '      --labels data/mini/semantickitti/sequences/08/labels/000000.label --out work_dirs/pictures')
    parser.add_argument('inputs', nargs='+', metavar='INPUT',
                        help='the config, a checkpoint (several vote) if predictions are wanted, then a file, a folder '
                             'of files or a video')
    parser.add_argument('--out', metavar='DIR|VIDEO',
                        help='folder of the pictures, one PNG each, or a film (.mp4, .mov, .mkv in H.264, .avi, .gif)')
    parser.add_argument('--save', metavar='DIR', help='folder of the predictions as files')
    parser.add_argument('--save-as', nargs='+', default=[], metavar='FORM',
                        help='kinds of these files: of scans label, npy, ply, probabilities; of images as the '
                             "predictor's `saves` names them (default: its first one)")
    parser.add_argument('--batch', type=int, default=1, metavar='N', help='predict so many at once (default: 1)')
    parser.add_argument('--device', default='auto', metavar='NAME',
                        help='cpu, cuda or cuda:1 (default: the GPU where there is one)')
    parser.add_argument('--labels', metavar='FILE',
                        help='the truth: .label of a scan, .lines.txt of an image, or the folder of all')
    parser.add_argument('--view', default='plain', metavar='KIND',
                        help='kind of picture: of scans plain, follow (a large view from behind the car, for a film) '
                             'or fixed (from beside the road, where the data set tells the poses of '
                             'scans); of images plain or attention (where the stages of the net look), or cam of a '
                             'classifier; of people plain, tracks, image, bev or 3d; of cameras around a car plain, '
                             'image, bev, depth, frustum, cell or map')
    parser.add_argument('--against', metavar='CKPT', help='an earlier checkpoint, whose picture is drawn above each')
    parser.add_argument('--tta', metavar='MODE', help='test-time augmentation of scans: flip4, grid36; '
                        "for people flip; for ApolloScape's marks scales")
    parser.add_argument('--ensemble', nargs='+', action='extend', default=[], metavar='CONFIG:CKPT',
                        help='further models that vote, of other configs with the same classes')
    parser.add_argument('--viewer', choices=['rerun'],
                        help='look at all in the viewer Rerun, on a time line; with --out FILE.rrd save a recording')
    parser.add_argument('--show', action='store_true', help='also open a window for each, if there is a display')
    parser.add_argument('--mini', action='store_true', help='CKPT was trained with --mini')
    parser.add_argument('--colors', type=int, metavar='N', help='reduce each PNG to N colours, for small files')
    parser.add_argument('--fps', type=float, help='frames per second of a film (default: of the input video, else as '
                        "CONFIG's data set was taken, such as 2 of nuScenes' key frames, else 10)")
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
                        help='override single values of CONFIG, as tools/train.py does')
    words, flags = split_flags(sys.argv[1:], parser)
    args = parser.parse_args(words, argparse.Namespace(flags=flags))
    if len(args.inputs) < 2:
        parser.error('1 path came, expected CONFIG INPUT or CONFIG CKPT INPUT')
    ending = Path(args.inputs[-1]).suffix.lower()
    more = [path for path in args.inputs[1:-1] if ending and path.lower().endswith(ending)]
    if more:
        parser.error(f'{more[0]} and {args.inputs[-1]} came, expected one file, folder or video to draw. Give the '
                     'folder that they lie in')
    if args.inputs[-1].endswith('.pth'):
        parser.error(f'{args.inputs[-1]} came last, expected what is to be drawn behind the checkpoint')
    run_command(draw, args, [name for name in vars(args) if name not in ('inputs', 'flags')])


def draw(args: argparse.Namespace, known: list[str]) -> None:
    """Draw everything and print where it is; imported only now, since importing torch takes seconds."""
    from perception.apis.config import parse_options
    from perception.apis.inference import flag_options, parse_members, visualize
    config, *checkpoints, source = args.inputs
    flags = [f'{name}={value}' for name, value in flag_options(config, args.flags, known).items()]
    for path in visualize(config, source, args.out, checkpoints or None, args.labels, args.view, args.against,
                          args.mini, args.show, args.colors, args.fps, args.tta, parse_members(args.ensemble),
                          parse_options([*args.cfg_options, *flags]), args.save, args.save_as, args.batch, args.device,
                          args.viewer, progress=True):
        print(path, flush=True)


if __name__ == '__main__':
    main()
