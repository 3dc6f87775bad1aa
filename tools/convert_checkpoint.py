#!/usr/bin/env python
"""Convert published weights: LiDAR segmentation, and the networks of lanes and road markings."""
import argparse
from collections.abc import Sequence

from perception.apis.cli import run_command
from perception.lanes.convert import CONVERTERS, convert_lanes, lane_converter, model_line
from perception.lidarseg.convert import convert_cylinder3d, matching_config
from perception.lidarseg.convert_minkunet import NETS, convert_minkunet, is_minkunet
from perception.utils.checkpoint import load_checkpoint, save_atomic, weights_of

PROJECTS = ['Cylinder3D (Cylinder3D, PVKD, mmdet3d 1.4)', 'MinkUNet, SPVCNN (mit-han-lab)',
            *(known.project for known in CONVERTERS)]


def convert(source: str, target: str, indice_sharing: str, input_size: Sequence[int] | None,
            net: str) -> None:
    """Convert one file and say how to use it."""
    checkpoint = load_checkpoint(source)
    weights = weights_of(checkpoint.get('model', checkpoint), source)
    if lane_converter(weights) is not None:
        weights, net, arguments = convert_lanes(weights, input_size)
        usage = model_line(net, arguments)
    elif is_minkunet(weights):
        weights, usage = convert_minkunet(weights, net)
    else:
        weights, arguments = convert_cylinder3d(weights, indice_sharing)
        usage = matching_config(arguments)
    save_atomic(weights, target)
    print(f'{target}: {len(weights)} tensors, {sum(value.numel() for value in weights.values()):,} numbers')
    print(f'use with: {usage}')


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(
        description='Convert published weights to weights of this project:\n  ' + '\n  '.join(PROJECTS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  python tools/convert_checkpoint.py cyl_sem_1.0x_71_8.pt work_dirs/cylinder3d_pvkd.pth\n'
               '  python tools/convert_checkpoint.py enet_baseline_culane.pt work_dirs/enet_culane.pth')
    parser.add_argument('source', metavar='SOURCE', help='checkpoint to read; nothing in it is executed')
    parser.add_argument('target', metavar='TARGET', help='file to write')
    parser.add_argument('--indice-sharing', choices=['legacy', 'correct'], default='legacy',
                        help='Cylinder3D; legacy: published weights; correct: trained with a key for each kernel')
    parser.add_argument('--net', choices=NETS, default='auto',
                        help="mit-han-lab; minkunet: leave out point transforms that the file holds unused")
    parser.add_argument('--input-size', type=int, nargs=2, metavar=('H', 'W'),
                        help='lanes; the size of the images where the existence head does not tell it')
    args = parser.parse_args()
    run_command(lambda: convert(args.source, args.target, args.indice_sharing, args.input_size,
                        args.net))


if __name__ == '__main__':
    main()
