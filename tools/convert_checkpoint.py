#!/usr/bin/env python
"""Convert published weights: LiDAR segmentation, and the networks of lanes and road markings."""
import argparse
import json
from pathlib import Path

from perception.apis.cli import run_command
from perception.lanes.convert import CONVERTERS, convert_lanes, lane_converter, model_line
from perception.lidarseg.convert.cylinder3d import convert_cylinder3d, is_cylinder3d, matching_config
from perception.lidarseg.convert.minkunet import NETS, convert_minkunet, minkunet_project
from perception.lidarseg.convert.spvnas import convert_spvnas, is_spvnas, spvnas_usage
from perception.utils.checkpoint import atomic_path, load_checkpoint, save_atomic, weights_of
from perception.utils.errors import CheckpointError

PROJECTS = ['Cylinder3D (Cylinder3D, PVKD, mmdet3d 1.4)', 'MinkUNet, SPVCNN (mit-han-lab, mmdet3d 1.4)',
            'SPVNAS, specialised nets and super-net (mit-han-lab)', *(known.project for known in CONVERTERS)]


def convert(args: argparse.Namespace) -> None:
    """Convert one file and say how to use it."""
    target, settings = Path(args.target).expanduser(), None
    if target.is_dir():
        raise CheckpointError(f'{target}: a folder came, expected the name of the file to write. Add a file name.')
    checkpoint = load_checkpoint(args.source)
    inner = checkpoint.get('model', checkpoint.get('net'))  # two habits
    weights = weights_of(inner if isinstance(inner, dict) else checkpoint, args.source)
    if lane_converter(weights) is not None:
        weights, net, arguments = convert_lanes(weights, args.input_size)
        usage = model_line(net, arguments)
    elif minkunet_project(weights) is not None:
        weights, usage = convert_minkunet(weights, args.net)
    elif is_spvnas(weights):
        weights, arguments = convert_spvnas(weights, args.net_config)
        settings = target.with_suffix('.net.config')
        usage = spvnas_usage(arguments, settings)
        settings = None if isinstance(arguments['net'], str) else (settings, arguments['net'])
    elif not is_cylinder3d(weights):
        raise CheckpointError(f'{args.source}: names such as {", ".join(list(weights)[:3])}, expected weights of '
                              f'{"; ".join(PROJECTS)}. Give a file of one of them; weights of this project need no '
                              'conversion.')
    else:
        weights, arguments = convert_cylinder3d(weights, args.indice_sharing)
        usage = matching_config(arguments)
    save_atomic(weights, target)
    if settings:
        with atomic_path(settings[0]) as part:
            part.write_text(json.dumps(settings[1], indent=1))
    print(f'{target}: {len(weights)} tensors, {sum(value.numel() for value in weights.values()):,} numbers')
    print(f'use with: {usage}')


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(
        description='Convert published weights to weights of this project:\n  ' + '\n  '.join(PROJECTS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  python tools/convert_checkpoint.py cyl_sem_1.0x_71_8.pt work_dirs/cylinder3d_pvkd.pth\n'
               '  python tools/convert_checkpoint.py enet_baseline_culane.pt work_dirs/enet_culane.pth\n'
               '  python tools/convert_checkpoint.py vgg_SCNN_DULR_w9.pth work_dirs/scnn_culane.pth')
    parser.add_argument('source', metavar='SOURCE', help='checkpoint to read; nothing in it is executed')
    parser.add_argument('target', metavar='TARGET', help='file to write')
    parser.add_argument('--indice-sharing', choices=['legacy', 'correct'], default='legacy',
                        help='Cylinder3D; legacy: published weights; correct: trained with a key for each kernel')
    parser.add_argument('--net', choices=NETS, default='auto',
                        help="mit-han-lab; minkunet: leave out point transforms that the file holds unused")
    parser.add_argument('--net-config', metavar='FILE',
                        help='SPVNAS; the net.config beside the weights, which only the super-net needs')
    parser.add_argument('--input-size', type=int, nargs=2, metavar=('H', 'W'),
                        help='lanes; the size of the images where the existence head does not tell it')
    run_command(convert, parser.parse_args())


if __name__ == '__main__':
    main()
