"""What the speed benchmarks of LiDAR nets share: a scan, its layers, the matrix-product rate, where time goes."""
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from perception.common.formats.kitti import read_points
from perception.common.measure import SPARSE, best_seconds
from perception.lidarseg.preprocessor import CylinderVoxelizer
from perception.ops.sparse.maps import Geometry, KernelMap, VoxelSet
from perception.ops.sparse.modules import SparseConv3d, SubMConv3d
from perception.utils.errors import DataError
from perception.utils.paths import from_root

SCANS = ('../shared/real/semantickitti/sequences/08/velodyne/000700.bin',
         'data/semantickitti/sequences/08/velodyne/000700.bin',
         'data/mini/semantickitti/sequences/08/velodyne/000000.bin')  # the first that exists is measured
PARTS = dict(products=('aten::mm', 'aten::addmm'), gather=('aten::index_select',),
             scatter=('aten::index_add_', 'aten::scatter_add_', 'aten::_embedding_bag_forward_only'),
             norm=('aten::native_batch_norm', 'aten::native_batch_norm_backward'),
             activation=('aten::leaky_relu_', 'aten::leaky_relu_backward', 'aten::sigmoid', 'aten::relu',
                         'aten::relu_'))


def find_scan(path: str | None) -> Path:
    """The scan to measure: the given one, else the real scan, else a simulated one.

    Raises:
        DataError: no such file.
    """
    candidates = [Path(path)] if path else [from_root(name) for name in SCANS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise DataError(f'benchmark: none of {", ".join(map(str, candidates))} exists, expected a scan. Pass --scan FILE '
                    'or run `tools/make_mini.py semantickitti`.')


def voxelise(path: Path, grid_shape: tuple[int, int, int] = (480, 360, 32)) -> dict:
    """The batch of one scan, see `CylinderVoxelizer`."""
    points = torch.from_numpy(read_points(path))
    return CylinderVoxelizer(grid_shape)(dict(inputs=dict(points=[points]), data_samples=None))['inputs']


def anew(inputs: dict) -> dict:
    """A batch as the voxeliser leaves it, without the kernel maps that nets have left with it since."""
    voxels = VoxelSet(inputs['voxel_coords'], inputs['grid_shape'], inputs['batch_size'], checked=True)
    return dict(inputs, voxels=voxels)


def autocast(dtype: torch.dtype):
    """bfloat16 autocast on the CPU, or nothing for float32."""
    return torch.autocast('cpu', dtype) if dtype != torch.float32 else nullcontext()


@dataclass
class Layer:
    """One convolution as it ran.

    Attributes:
        name: path of the module.
        kernel_map: its map.
        weight: (Cout, k0, k1, k2, Cin).
        voxels: of the finer level.
        geometry: by which these voxels have the map: kernel and dilation of a sub-manifold convolution, else that of
            the strided one.
    """
    name: str
    kernel_map: KernelMap
    weight: Tensor
    voxels: VoxelSet
    geometry: tuple | Geometry

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Cells of the finer grid."""
        return self.voxels.grid_shape

    @property
    def macs(self) -> int:
        """Exact pairs times channels."""
        return self.kernel_map.num_pairs * self.weight.shape[0] * self.weight.shape[4]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows of an average offset, Cin and Cout: the matrix product behind the layer."""
        rows = self.kernel_map.num_pairs // self.kernel_map.volume
        return max(rows, 1), self.weight.shape[4], self.weight.shape[0]


@contextmanager
def record_layers(model: nn.Module):
    """List the sparse convolutions that run inside the block, as `Layer`s."""
    layers: list[Layer] = []

    def add(name: str, module: nn.Module, x) -> None:
        if isinstance(module, SubMConv3d):
            voxels, geometry = x.voxels, (module.kernel_size, module.dilation)
            kernel_map = voxels.subm_map(*geometry)
        elif isinstance(module, SparseConv3d):
            voxels, geometry = x.voxels, module.geometry
            kernel_map = voxels.strided_map(geometry)[1]
        else:
            named = x.recall(module.name)
            kernel_map, voxels, geometry = named.kernel_map.transposed(), named.source, named.geometry
        layers.append(Layer(name, kernel_map, module.weight, voxels, geometry))

    hooks = [module.register_forward_pre_hook(lambda module, args, name=name: add(name, module, args[0]))
             for name, module in model.named_modules() if isinstance(module, SPARSE)]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def product_seconds(layers: list[Layer], dtype: torch.dtype) -> list[float]:
    """Seconds of the bare matrix products of each layer: K products of the average number of rows."""
    known: dict[tuple[int, int, int], float] = {}
    for layer in layers:
        if layer.shape not in known:
            rows, cin, cout = layer.shape
            a, b = torch.randn(rows, cin).to(dtype), torch.randn(cin, cout).to(dtype)
            out = torch.empty(rows, cout, dtype=dtype)
            known[layer.shape] = best_seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), repeats=7)
    return [known[layer.shape] * layer.kernel_map.volume for layer in layers]


def parts_of(run: Callable[[], object]) -> dict[str, float]:
    """Seconds of one run by kind of operation; 'maps and the rest' is what is in no other part."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        run()
    events = record.key_averages()
    total = sum(event.self_cpu_time_total for event in events) / 1e6
    parts = {name: sum(event.self_cpu_time_total for event in events if event.key in keys) / 1e6
             for name, keys in PARTS.items()}
    return dict(parts, rest=total - sum(parts.values()))
