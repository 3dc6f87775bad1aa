"""Milliseconds of a net at any widths, from a table of its layers that is measured once on this machine.

Each kind of layer is timed on the CPU at a quarter, half, three quarters and all of its inputs and outputs, on the map
that it sees; between these the time is interpolated. The table is kept in `work_dirs/latency.json`, by processor,
threads and version of PyTorch, for several machines may share the folder. What stands between the layers, such as norms
and sums, is not in it, so the sum is less than the time of the whole net.
"""
import copy
import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.common.measure import SPARSE, machine
from perception.prune.cost import CostModel
from perception.prune.graph import LAYERS, Run
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError
from perception.utils.paths import from_root, make_folder
from perception.utils.structure import axis_of, is_depthwise

SHARES = (0.25, 0.5, 0.75, 1.0)
FILE = 'work_dirs/latency.json'


class LatencyModel:
    """Milliseconds of the layers of a net, by widths of its groups.

    Args:
        model: unpruned.
        costs: its cost model.
        run: runs the net on one input.
    """

    def __init__(self, model: nn.Module, costs: CostModel, run: Run):
        self.costs = costs
        file = from_root(FILE)
        machine_name = machine().split(', load')[0]
        tables = _kept(file)
        known, new = tables.setdefault(machine_name, {}), 0
        self.layers: list[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]] = []
        for module, inputs, name in _inputs(model, run):
            key = _key(module, inputs)
            if key not in known:
                known[key], new = _measured(module, inputs), new + 1
            outs, ins, table = (np.array(part) for part in known[key])
            out, into = costs.layers[name]
            self.layers.append((out, into, outs, ins, table))
        if new:
            make_folder(file.parent)
            with atomic_path(file, DataError) as part:
                part.write_text(json.dumps(tables))
            print_log(f'prune: the times of {new} kinds of layers were measured on this machine and are kept in '
                      f'{file}.', 'current')

    def __call__(self, widths: np.ndarray) -> float:
        """Milliseconds at (K,) widths."""
        sides = self.costs.base + self.costs.rows @ self.costs.expand(widths)
        total = 0.0
        for out, into, outs, ins, table in self.layers:
            total += _between(table, _place(outs, sides[out]), _place(ins, sides[into]))
        return total


def _kept(file: Path) -> dict[str, dict]:
    """The tables by machine; a file that cannot be read, such as half of one, is measured anew."""
    try:
        tables = json.loads(file.read_text())
        return {name: table for name, table in tables.items() if isinstance(table, dict)}
    except (OSError, ValueError, AttributeError) as error:
        if file.exists():
            print_log(f'prune: {file} cannot be read ({error}); the times are measured again.', 'current',
                      logging.WARNING)
        return {}


def _place(grid: np.ndarray, value: float) -> tuple[int, float]:
    if len(grid) == 1:
        return 0, 0.0
    i = int(np.clip(np.searchsorted(grid, value) - 1, 0, len(grid) - 2))
    return i, float((value - grid[i]) / (grid[i + 1] - grid[i]))


def _between(table: np.ndarray, row: tuple[int, float], column: tuple[int, float]) -> float:
    (i, a), (j, b) = row, column
    i2, j2 = min(i + 1, table.shape[0] - 1), min(j + 1, table.shape[1] - 1)
    value = (1 - a) * ((1 - b) * table[i, j] + b * table[i, j2]) + a * ((1 - b) * table[i2, j] + b * table[i2, j2])
    return max(float(value), 0.0)


@torch.no_grad()
def _inputs(model: nn.Module, run: Run) -> list[tuple[nn.Module, Any, str]]:
    """Each layer that runs with its input."""
    found: dict[str, tuple[nn.Module, Any, str]] = {}

    def note(module: nn.Module, inputs: tuple, output: Any, name: str) -> None:  # what a hook returns is an output
        found.setdefault(name, (module, inputs[0], name))

    handles = [module.register_forward_hook(lambda *args, name=name: note(*args, name))
               for name, module in model.named_modules() if isinstance(module, LAYERS)]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def _key(module: nn.Module, inputs: Any) -> str:
    shape = list(inputs.shape) if isinstance(inputs, Tensor) else [*inputs.feats.shape, *inputs.grid_shape]
    text = f'{type(module).__name__} {module.extra_repr()} {shape} {list(module.weight.shape)}'
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@torch.no_grad()
def _measured(module: nn.Module, inputs: Any) -> tuple[list[int], list[int], list[list[float]]]:
    """Outputs, inputs and the milliseconds at each pair of them, the least of three."""
    out_full, in_full = (module.weight.shape[axis_of(module, side)] for side in ('out', 'in'))
    alone = is_depthwise(module)
    outs = sorted({max(1, round(share * out_full)) for share in SHARES})
    grouped = not alone and getattr(module, 'groups', 1) > 1
    ins = [1] if alone else sorted({max(1, round(share * in_full)) for share in SHARES})
    if grouped:
        outs, ins = [out_full], [in_full]
    table = []
    for out in outs:
        row = []
        for into in ins:
            small = module if grouped else _narrow(module, out, into, alone)
            x = inputs if grouped else _narrow_input(inputs, module, out if alone else into)
            small(x)
            times = []
            for _ in range(3):
                start = time.perf_counter()
                small(x)
                times.append(time.perf_counter() - start)
            row.append(min(times) * 1e3)
        table.append(row)
    return outs, ins, table


def _narrow(module: nn.Module, out: int, into: int, alone: bool) -> nn.Module:
    small = copy.deepcopy(module)
    weight = small.weight.data.narrow(axis_of(module, 'out'), 0, out)
    small.weight.data = (weight if alone else weight.narrow(axis_of(module, 'in'), 0, into)).contiguous()
    if getattr(small, 'bias', None) is not None:
        small.bias.data = small.bias.data[:out].contiguous()
    if alone:
        small.groups = small.in_channels = small.out_channels = out
    else:
        for name, value in (('in_channels', into), ('in_features', into), ('out_channels', out), ('out_features', out)):
            if hasattr(small, name):
                setattr(small, name, value)
    return small


def _narrow_input(inputs: Any, module: nn.Module, into: int) -> Any:
    if isinstance(module, SPARSE):
        return inputs.replace(inputs.feats[:, :into].contiguous())
    return inputs[..., :into].contiguous() if isinstance(module, nn.Linear) else inputs[:, :into].contiguous()
