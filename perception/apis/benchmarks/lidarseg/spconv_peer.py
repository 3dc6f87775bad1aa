"""The same net on spconv's own layers, as its users would run it; the peer of the speed benchmarks."""
import copy
from types import ModuleType

from torch import nn

from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.optional import import_optional


class PeerTensor:
    """A SparseConvTensor with the two attributes by which our nets use a sparse tensor."""

    def __init__(self, inner) -> None:
        self.inner = inner

    @property
    def feats(self):
        """(V, C) features."""
        return self.inner.features

    def replace(self, feats) -> 'PeerTensor':
        """The same voxels with other features."""
        return PeerTensor(self.inner.replace_feature(feats))


class PeerConv(nn.Module):
    """One of spconv's layers in the place of one of ours; the bias is added outside, which spconv's CPU path cannot."""

    def __init__(self, layer: nn.Module, bias: nn.Parameter | None, spconv: ModuleType) -> None:
        super().__init__()
        self.spconv = spconv
        self.layer = layer
        self.bias = bias

    def forward(self, x: SparseTensor | PeerTensor) -> PeerTensor:
        """Convert the net's input once, then stay in spconv's tensor."""
        if isinstance(x, SparseTensor):
            if 'spconv' not in x.names:
                x.names['spconv'] = self.spconv.SparseConvTensor(x.feats, x.voxel_coords.int(), list(x.grid_shape),
                                                                 x.batch_size)
            x = PeerTensor(x.names['spconv'].replace_feature(x.feats))
        out = PeerTensor(self.layer(x.inner))
        return out if self.bias is None else out.replace(out.feats + self.bias)


def spconv_twin(model: nn.Module) -> nn.Module:
    """A copy of the net with the same weights on spconv's layers; layers of one kernel and level share their pairs.

    Raises:
        MissingDependency: spconv is not installed.
    """
    spconv = import_optional('spconv.pytorch', 'the benchmark against spconv', 'pip install spconv==2.3.8')
    twin = copy.deepcopy(model)
    on_cuda = next(model.parameters()).is_cuda
    options = dict(bias=False, algo=None if on_cuda else spconv.ConvAlgo.Native)  # a CPU has no other algorithm
    level, levels = 0, {None: 0}
    for name, module in list(twin.named_modules()):
        if isinstance(module, SubMConv3d):
            key = f'level{level}_{"x".join(map(str, module.kernel_size))}'
            layer = spconv.SubMConv3d(module.in_channels, module.out_channels, module.kernel_size,
                                      dilation=module.dilation, indice_key=key, **options)
        elif isinstance(module, SparseConv3d):
            levels[module.name], level = level, level + 1
            layer = spconv.SparseConv3d(module.in_channels, module.out_channels, module.kernel_size,
                                        module.geometry.stride, module.geometry.padding, module.geometry.dilation,
                                        indice_key=module.name, **options)
        elif isinstance(module, SparseInverseConv3d):
            level = levels[module.name]
            layer = spconv.SparseInverseConv3d(module.in_channels, module.out_channels, module.kernel_size,
                                               indice_key=module.name, **options)
        else:
            continue
        weight = module.weight.detach().clone()
        if layer.conv1x1:  # spconv reads kernels of one cell as a plain (in, out) buffer, whatever their shape says
            weight = weight.flatten(1).t().contiguous().view(weight.shape)
        layer.weight = nn.Parameter(weight)  # set, since mmdet3d turns weights that spconv loads
        parent, _, child = name.rpartition('.')
        setattr(twin.get_submodule(parent), child, PeerConv(layer, module.bias, spconv))
    return twin.train(model.training)
