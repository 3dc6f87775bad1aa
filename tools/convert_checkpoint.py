"""Convert published Cylinder3D weights (Cylinder3D, PVKD, mmdet3d 1.4) to weights of this project.

example: python tools/convert_checkpoint.py cyl_sem_1.0x_71_8.pt work_dirs/cylinder3d_pvkd.pth
"""
import argparse

from perception.lidarseg.convert import convert_cylinder3d, matching_config
from perception.utils.checkpoint import load_checkpoint, save_atomic


def main() -> None:
    """Convert one file and say how to use it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help='checkpoint to read; nothing in it is executed')
    parser.add_argument('target', help='file to write')
    parser.add_argument('--indice-sharing', choices=('legacy', 'correct'), default='legacy',
                        help="'legacy' for published weights (default), 'correct' for nets trained with separate keys")
    args = parser.parse_args()
    weights, arguments = convert_cylinder3d(load_checkpoint(args.source), args.indice_sharing)
    save_atomic(weights, args.target)
    count = sum(value.numel() for value in weights.values())
    print(f'{args.target}: {len(weights)} tensors, {count:,} numbers, {arguments}')
    print(f'use with: {matching_config(arguments)}')


if __name__ == '__main__':
    main()
