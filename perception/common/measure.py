"""Measure nets: parameters, arithmetic, time of runs that take turns, time on a GPU, memory of a process of its own."""
import gc
import multiprocessing
import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from perception.ops.sparse.functional import count_macs
from perception.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SubMConv3d
from perception.utils.errors import DataError

SPARSE = (SubMConv3d, SparseConv3d, SparseInverseConv3d)


# --------------------------------------------------------------------------------------------- parameters, arithmetic

def count_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def is_sparse(model: nn.Module) -> bool:
    """Whether a net has sparse convolutions, whose arithmetic depends on the sample."""
    return any(isinstance(module, SPARSE) for module in model.modules())


@torch.no_grad()
def count_model_macs(model: nn.Module, run: Callable[[nn.Module], object]) -> int:
    """Multiply-accumulates of one forward.

    Sparse convolutions count by their kernel maps (see `count_macs`), all other convolutions and matrix products as
    they run, those without a module of their own too.

    Args:
        model: any.
        run: runs it.
    """
    inside: list[int] = []  # products by which a backend computes sparse convolutions
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    model.requires_grad_(False)  # PyTorch's counter fails at views of weights, which no_grad leaves without a gradient
    with count_macs() as sparse, FlopCounterMode(display=False) as counter:
        handles = [handle for module in model.modules() if isinstance(module, SPARSE) for handle in (
            module.register_forward_pre_hook(lambda *_: inside.append(-counter.get_total_flops())),
            module.register_forward_hook(lambda *_: inside.append(counter.get_total_flops())))]
        try:
            run(model)
        finally:
            for handle in handles:
                handle.remove()
            for weight in learned:
                weight.requires_grad_()
    return sparse.total + (counter.get_total_flops() - sum(inside)) // 2


# --------------------------------------------------------------------------------------------------------------- time

def interleave(runs: dict[str, Callable[[], object]], rounds: int,
               clock: Callable[[], float] = time.perf_counter) -> dict[str, list[float]]:
    """Seconds of each run, A B A B ..., after one round that is not counted; of any clock."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            gc.collect()
            start = clock()
            run()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def best_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of some runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def gpu_seconds(run: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each run on the GPU, after three that are not counted."""
    times = []
    for turn in range(rounds + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if turn >= 3:
            times.append(start.elapsed_time(end) / 1e3)
    return times


def summary(seconds: list[float]) -> str:
    """`median (min)` in seconds."""
    return f'{statistics.median(seconds):.3f} s (min {min(seconds):.3f})'


# ------------------------------------------------------------------------------------------------- memory and machine

def peak_memory() -> float:
    """Largest resident memory [MiB] of this process so far, or since `forget_peak`."""
    try:  # Linux hands a parent's ru_maxrss down to its children
        return int(re.search(r'VmHWM:\s*(\d+) kB', Path('/proc/self/status').read_text())[1]) / 2 ** 10
    except (OSError, TypeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2 ** 20 if sys.platform == 'darwin' else 2 ** 10)


def forget_peak() -> None:
    """Let `peak_memory` begin anew with what this process holds now, where the system can: Linux."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return


def process_memory(function: Callable, *args) -> float:
    """Largest resident memory [MiB] of a fresh process that calls a function, Python and PyTorch included.

    Args:
        function: of a module, not a lambda; the process has as many threads as this one.
        *args: its arguments, plain values.

    Raises:
        DataError: the process was killed, most likely for want of memory.
    """
    context = multiprocessing.get_context('spawn')
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(there, torch.get_num_threads(), function, args), daemon=True)
    process.start()
    there.close()  # else its end would not be noticed
    try:
        peak = here.recv()
    except EOFError as error:
        raise DataError(f'{function.__name__}: its process was killed, expected enough memory for one sample. Measure '
                        'on a machine with more, or a smaller net.') from error
    finally:
        process.join()
    if isinstance(peak, Exception):
        raise peak
    return peak


def _report_peak(answer: Connection, threads: int, function: Callable, args: tuple) -> None:
    torch.set_num_threads(threads)
    try:
        function(*args)
        answer.send(peak_memory())
    except Exception as error:
        answer.send(error)


def processor() -> str:
    """Name of the CPU, such as `AMD EPYC 7B13`, or of its kind where the system knows no more."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    name = next((line.partition(':')[2] for line in lines if line.startswith('model name')), platform.processor())
    return ' '.join(name.split()) or platform.machine()


def machine() -> str:
    """Processor, version of torch, threads, instruction sets that matter and load, for the head of a report."""
    flags = getattr(torch.cpu, 'get_capabilities', dict)()
    sets = [name for name in ('avx2', 'avx512_f', 'avx512_bf16', 'amx_bf16') if flags.get(name)]
    return (f'{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads, '
            f'{" ".join(sets) or "unknown CPU"}, load '
            f'{" ".join(f"{load:.1f}" for load in os.getloadavg())}')
