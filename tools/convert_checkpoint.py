#!/usr/bin/env python
"""Convert published weights."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this tool, installed or not

from perception.apis.cli import run_command
from perception.apis.listing import add_options, converters


def main() -> None:
    """Parse the command line and convert."""
    found = converters()
    known = found.values()
    parser = argparse.ArgumentParser(
        description='Convert published weights to weights of this project:\n  '
                    + '\n  '.join(one.summary for one in known),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='examples:\n  python tools/convert_checkpoint.py cyl_sem_1.0x_71_8.pt work_dirs/cylinder3d_pvkd.pth\n'
               '  python tools/convert_checkpoint.py enet_baseline_culane.pt work_dirs/enet_culane.pth\n'
               '  python tools/convert_checkpoint.py vgg_SCNN_DULR_w9.pth work_dirs/scnn_culane.pth')
    parser.add_argument('source', metavar='SOURCE', help='checkpoint to read; nothing in it is executed')
    parser.add_argument('target', metavar='TARGET', help='file to write')
    parser.add_argument('--room', choices=sorted({name.split('/')[-3] for name in found}),
                        help="of which room's nets the weights are to be, where several take them, such as prune for "
                             "torchvision's ResNets with their classifier")
    options = {}
    for one in known:
        options.update(one.options)  # nets of one project share theirs
    add_options(parser, options)
    run_command(convert, parser.parse_args())


def convert(args: argparse.Namespace) -> None:
    """Convert and say how to use the weights; imported only now, since importing torch takes seconds."""
    from perception.apis.convert import convert
    print(convert(args))


if __name__ == '__main__':
    main()
