"""Each sparse convolution of Cylinder3D on one scan: chosen algorithm, time, rate, share of the matrix-product rate."""
import argparse

import torch
from mmengine.logging import print_log

from perception.apis.benchmarks.lidarseg.scan import Layer, find_scan, product_seconds, record_layers, voxelise
from perception.common.measure import best_seconds, machine
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.ops.sparse.backends import torch as backend
from perception.ops.sparse.functional import sparse_conv

DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16)
OPTIONS = {
    '--scan': {'metavar': 'FILE', 'help': 'a .bin file; default: the real scan, else a mini scan'},
    '--base-channels': {'type': 'int', 'default': 32, 'help': 'width of the net (default: 32)'},
    '--dtype': {'choices': ['float32', 'bfloat16'], 'default': 'float32', 'help': 'default: float32'},
    '--all': {'action': 'store_true', 'help': 'time every algorithm, not only the chosen one'},
    '--repeats': {'type': 'int', 'default': 5, 'help': 'runs per layer; the shortest counts (default: 5)'}}


def run(args: argparse.Namespace) -> list[dict]:
    """Time every kind of layer and log a table.

    Returns:
        per kind of layer `layer`, `count` (in the net), `pairs`, `macs`, `algorithm`, `milliseconds` (by algorithm),
        `product_milliseconds`.

    Raises:
        DataError: no scan.
    """
    path, dtype = find_scan(args.scan), DTYPES[args.dtype]
    inputs = voxelise(path)
    model = Cylinder3D(base_channels=args.base_channels, compression=args.base_channels).eval()
    with torch.no_grad(), record_layers(model) as layers:
        model(inputs)
    kinds: dict[tuple, list[Layer]] = {}
    for layer in layers:
        kinds.setdefault((id(layer.kernel_map), layer.weight.shape), []).append(layer)
    print_log(f'{path}: {len(inputs["voxel_coords"]):,} voxels, {len(layers)} layers, '
              f'{sum(layer.macs for layer in layers) / 1e9:.1f} GMAC, {args.dtype}; {machine()}')
    products = product_seconds([group[0] for group in kinds.values()], dtype)
    rows = []
    for group, seconds in zip(kinds.values(), products):
        rows.append(measure(group, dtype, args, seconds))
        if len(rows) == 1:
            print_log(f'{"layer":<44}{"x":>3}{"pairs":>9}{"algorithm":>18}{"ms":>8}{"GMAC/s":>8}{"products":>9}{"share":>7}',
                      )
        print_log(to_line(rows[-1]))
    total = sum(row['count'] * row['milliseconds'][row['algorithm']] for row in rows) / 1e3
    share = sum(row['count'] * row['product_milliseconds'] for row in rows) / 1e3 / total
    rate = sum(layer.macs for layer in layers) / total / 1e9
    print_log(f'all {len(layers)} layers: {total:.3f} s, {rate:.0f} GMAC/s, '
              f'{share:.2f} of the bare matrix products\' rate')
    return rows


def measure(group: list[Layer], dtype: torch.dtype, args: argparse.Namespace, product: float) -> dict:
    """Times of one kind of layer."""
    layer = group[0]
    kernel_map = layer.kernel_map
    x = torch.randn(kernel_map.num_in, layer.weight.shape[4]).to(dtype)
    chosen = backend.choose(x, len(layer.weight), kernel_map)
    names = [name for name in backend.ALGORITHMS if name != 'classes' or kernel_map.kind == 'inverse']
    with torch.no_grad():
        times = {name: best_seconds(lambda name=name: sparse_conv(x, layer.weight, kernel_map, algorithm=name),
                                    args.repeats) * 1e3 for name in (names if args.all else [chosen])}
    kernel = 'x'.join(map(str, layer.weight.shape[1:4]))
    cells = 'x'.join(map(str, layer.grid_shape))
    return dict(layer=f'{cells} {kernel_map.kind} {kernel} {layer.weight.shape[4]}>{layer.weight.shape[0]}',
                count=len(group), pairs=kernel_map.num_pairs, macs=layer.macs, algorithm=chosen, milliseconds=times,
                product_milliseconds=product * 1e3)


def to_line(row: dict) -> str:
    """A row of the table."""
    time = row['milliseconds'][row['algorithm']]
    line = (f'{row["layer"]:<44}{row["count"]:>3}{row["pairs"]:>9,}{row["algorithm"]:>18}{time:>8.1f}'
            f'{row["macs"] / time / 1e6:>8.0f}{row["product_milliseconds"]:>9.1f}'
            f'{row["product_milliseconds"] / time:>7.2f}')
    others = [f'{name} {value:.1f}' for name, value in row['milliseconds'].items() if name != row['algorithm']]
    return line + (f'  | {", ".join(others)}' if others else '')
