#!/usr/bin/env python
"""Convert published Cylinder3D weights."""
import argparse

from perception.apis.cli import run_command
from perception.lidarseg.convert import convert_cylinder3d, matching_config
from perception.utils.checkpoint import load_checkpoint, save_atomic


def convert(source: str, target: str, indice_sharing: str) -> None:
    """Convert one file and say how to use it."""
    weights, arguments = convert_cylinder3d(load_checkpoint(source), indice_sharing)
    save_atomic(weights, target)
    print(f'{target}: {len(weights)} tensors, {sum(value.numel() for value in weights.values()):,} numbers')
    print(f'use with: {matching_config(arguments)}')


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(
        description='Convert published Cylinder3D weights (Cylinder3D, PVKD, mmdet3d 1.4) to weights of this project.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/convert_checkpoint.py cyl_sem_1.0x_71_8.pt work_dirs/cylinder3d_pvkd.pth')
    parser.add_argument('source', metavar='SOURCE', help='checkpoint to read; nothing in it is executed')
    parser.add_argument('target', metavar='TARGET', help='file to write')
    parser.add_argument('--indice-sharing', choices=['legacy', 'correct'], default='legacy',
                        help='legacy: published weights; correct: trained with a key for each kernel')
    args = parser.parse_args()
    run_command(lambda: convert(args.source, args.target, args.indice_sharing))


if __name__ == '__main__':
    main()
