"""What a net costs at any widths of its groups, by arithmetic alone.

Multiply-accumulates are those of convolutions and linear layers, one input, without biases, norms and activations: for
each layer the places where its kernel stands times its weights. A sparse convolution has as many places as its kernel
map has pairs per offset, measured on real samples. So a layer costs M * out * in, or M * out where it is depth-wise,
and out and in are sums of the widths of groups and of what is never pruned. Convolutions with bare parameters, such as
SCNN's messages, count as they ran.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from perception.common.measure import SPARSE
from perception.ops.sparse.functional import count_macs
from perception.prune.graph import CONVS, LAYERS, Group, Run
from perception.utils.structure import axis_of, is_depthwise

KINDS = ('macs', 'params', 'activations')
Cost = Callable[[np.ndarray], float]  # (K,) widths of the groups to a number


@dataclass
class Places:
    """What the layers of a net did in some runs.

    Attributes:
        kernels: name of a layer -> multiply-accumulates for each pair of a channel that goes in and one that comes out.
        rows: name of a layer -> elements of one channel that comes out.
        loose: multiply-accumulates of convolutions outside the layers, whose bare parameters keep their widths.
        samples: how many inputs ran.
    """

    kernels: dict[str, int]
    rows: dict[str, int]
    loose: int
    samples: int


@torch.no_grad()
def measure_places(model: nn.Module, runs: Sequence[Run]) -> Places:
    """Run a net on some inputs and note where its layers compute.

    Args:
        model: the net.
        runs: each runs it on one input.
    """
    kernels: dict[str, int] = {}
    rows: dict[str, int] = {}
    inside, handles = [], []

    def convolved() -> int:
        return flops.get_flop_counts().get('Global', {}).get(torch.ops.aten.convolution, 0) // 2

    def note(name: str, module: nn.Module, inputs: tuple, output: object) -> None:
        inside.append(convolved())
        if isinstance(module, SPARSE):
            kernel, row = counter.layers[-1][0], len(output.feats)
        elif isinstance(module, nn.Linear):
            kernel = row = output.numel() // module.out_features
        else:
            row = output.numel() // module.out_channels
            stands = inputs[0].numel() // module.in_channels if getattr(module, 'transposed', False) else row
            kernel = stands * math.prod(module.kernel_size)
        kernels[name], rows[name] = kernels.get(name, 0) + kernel, rows.get(name, 0) + row

    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            handles.append(module.register_forward_pre_hook(lambda *_: inside.append(-convolved())))
            handles.append(module.register_forward_hook(
                lambda module, inputs, output, name=name: note(name, module, inputs, output)))
    training = model.training
    model.eval()
    try:
        with count_macs() as counter, FlopCounterMode(display=False) as flops:
            for run in runs:
                run(model)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return Places(kernels, rows, convolved() - sum(inside), len(runs))


class CostModel:
    """Numbers of a net for any widths of its groups.

    Args:
        model: unpruned.
        groups: of its graph.
        places: of its layers.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], places: Places):
        self.groups, self.full = list(groups), np.array([group.width for group in groups], np.int64)
        self.samples, self.loose = places.samples, places.loose
        numbers, rows, base = {}, [], []
        named = {group.name: i for i, group in enumerate(groups)}
        self.follow = [(i, named[group.follows]) for i, group in enumerate(groups) if group.follows in named]
        counts: dict[tuple[str, str], dict[int, int]] = {}
        for i, group in enumerate(groups):
            for member in group.members:
                side = counts.setdefault((member.module, member.side), {})
                side[i] = side.get(i, 0) + member.count

        def width(module: str, side: str, full: int) -> int:
            """Number of an affine function of the widths."""
            key = (module, side)
            if key not in counts:
                key = full
            if key not in numbers:
                row = np.zeros(len(groups), np.int64)
                for i, count in counts.get(key, {}).items():
                    row[i] = count
                numbers[key] = len(rows)
                rows.append(row)
                base.append(full - int(row @ self.full))
            return numbers[key]

        one = width('', '', 1)
        terms: dict[str, list[tuple[int, int, int]]] = {kind: [] for kind in KINDS}
        self.layers: dict[str, tuple[int, int]] = {}
        seen: set[int] = set()
        for name, module in model.named_modules():
            own = {key: p for key, p in module._parameters.items() if p is not None and id(p) not in seen}
            seen.update(map(id, own.values()))
            weight = own.get('weight')
            if isinstance(module, LAYERS) and weight is not None:
                sizes = {side: weight.shape[axis_of(module, side)] for side in ('out', 'in')}
                if getattr(module, 'transposed', False) or getattr(module, 'groups', 1) == 1:
                    sizes['out'] *= getattr(module, 'groups', 1) if isinstance(module, CONVS) else 1
                out = width(name, 'out', sizes['out'])
                into = one if is_depthwise(module) else width(name, 'in', sizes['in'])
                if getattr(module, 'transposed', False) and module.groups > 1 and not is_depthwise(module):
                    out, into = width('', '', weight.shape[1]), width('', '', weight.shape[0])
                self.layers[name] = (out, into)
                terms['params'].append((weight.numel() // (sizes['out'] * (1 if into == one else sizes['in'])), out,
                                        into))
                if name in places.kernels:
                    terms['macs'].append((places.kernels[name], out, into))
                    terms['activations'].append((places.rows[name], out, one))
            for key, parameter in own.items():
                if isinstance(module, LAYERS) and key == 'weight':
                    continue
                side = width(name, 'out', len(parameter)) if parameter.dim() == 1 and (name, 'out') in counts and \
                    len(parameter) > 1 else width('', '', parameter.numel())
                terms['params'].append((1, side, one))
        self.rows, self.base = np.stack(rows), np.array(base, np.int64)
        self.terms = {kind: tuple(np.array(column, np.int64) for column in zip(*some)) for kind, some in terms.items()}

    def expand(self, widths: np.ndarray) -> np.ndarray:
        """(K,) widths with those of groups that follow others put in: max(8, multiples of 8 nearest to the share)."""
        widths = np.asarray(widths, np.int64)
        if self.follow:
            widths = widths.copy()
            for i, parent in self.follow:
                wanted = self.full[i] * widths[parent] / self.full[parent]
                whole = widths[parent] == self.full[parent]
                widths[i] = self.full[i] if whole else min(self.full[i], max(8, int(wanted / 8 + 0.5) * 8))
        return widths

    def number(self, kind: str, widths: np.ndarray) -> int:
        """`'macs'`, `'params'` or `'activations'` at (K,) widths; all but parameters as a sum over the samples."""
        sides = self.base + self.rows @ self.expand(widths)
        factor, out, into = self.terms[kind]
        return int((factor * sides[out] * sides[into]).sum()) + (self.loose if kind == 'macs' else 0)

    def cost(self, kind: str) -> Cost:
        """One of the numbers as a function of the widths, per sample."""
        share = 1 if kind == 'params' else self.samples
        return lambda widths: self.number(kind, widths) / share if share > 1 else self.number(kind, widths)
