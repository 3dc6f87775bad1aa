"""Sparse convolution in plain PyTorch: the reference, on every device."""
import torch
from torch import Tensor

from perception.ops.sparse.maps import KernelMap


def forward(x: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """(num_in, Cin) features times (Cout, k0, k1, k2, Cin) weights to (num_out, Cout)."""
    return offset(x, weight.flatten(1, 3).permute(1, 2, 0), kernel_map)


def backward(x: Tensor, weight: Tensor, kernel_map: KernelMap, grad: Tensor, needs_x: bool,
             needs_weight: bool) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of features and weight, given that of the output (num_out, Cout)."""
    slices = weight.flatten(1, 3).permute(1, 0, 2)  # (K, Cout, Cin)
    grad_x = torch.zeros_like(x) if needs_x else None
    grad_weight = torch.zeros_like(slices) if needs_weight else None
    for k, (ins, outs) in enumerate(zip(kernel_map.in_rows, kernel_map.out_rows)):
        part = grad if k == kernel_map.centre else grad.index_select(0, outs)
        if needs_x:
            grad_x.index_add_(0, ins, part @ slices[k])
        if needs_weight:
            torch.mm(part.t(), x.index_select(0, ins), out=grad_weight[k])
    return grad_x, grad_weight.permute(1, 0, 2).reshape(weight.shape) if needs_weight else None


def offset(x: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """One offset at a time: gather, multiply, scatter-add; `weight` is (K, Cin, Cout)."""
    centre = kernel_map.centre
    out = x.new_zeros(kernel_map.num_out, weight.shape[2]) if centre is None else x @ weight[centre]
    for k, (ins, outs) in enumerate(zip(kernel_map.in_rows, kernel_map.out_rows)):
        if k != centre and len(ins):
            out.index_add_(0, outs, x.index_select(0, ins) @ weight[k])
    return out
