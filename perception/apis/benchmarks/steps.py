"""What a training step costs: of any configs, in turns, beside the first, such as methods beside the student alone.

All see the same samples, which are read before. Weights stay as they are: they are random, and the learning rate is 0.
A loss that begins later is taken as if it had begun, and teachers need not be trained. Time is that of the CPU, which a
busy machine changes least, or of a GPU where there is one.
"""
import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import build_optim_wrapper

from perception.apis.benchmarks import cost
from perception.apis.config import load_config, parse_options
from perception.apis.runner import Runner, use_amp, write_mini_data
from perception.common.hooks.training_set import tell_training_set
from perception.common.measure import interleave, machine
from perception.distill.distiller import Distiller
from perception.registry import MODELS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError

OPTIONS = {
    'configs': {'nargs': '+', 'metavar': 'CONFIG', 'help': 'such as configs/lidarseg/minkunet_half_kitti.py '
                'configs/pvd/minkunet_kitti.py; ratios are to the first'},
    '--mini': {'action': 'store_true', 'help': 'the small nets and simulated data of their mini sections'},
    '--batch': {'type': 'int', 'help': "samples of a step (default: the config's)"},
    '--rounds': {'type': 'int', 'default': 7, 'help': 'timed steps of each (default: 7)'},
    '--threads': {'type': 'int', 'default': 1, 'help': 'CPU threads (default: 1)'},
    '--amp': {'action': 'store_true', 'help': 'mixed precision'},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides of all configs'}}
COLUMNS = {
    'config': ('config', str), 'batch': ('batch', str), 'step_ms': ('step [ms]', '{:,.1f}'.format),
    'ratio': ('of the first', '{:.2f}x'.format), 'memory_mib': ('GPU memory that a step adds [MiB]', '{:,.0f}'.format)}


def run(args: argparse.Namespace) -> list[dict]:
    """Measure and log a table.

    Returns:
        rows with the keys of COLUMNS.

    Raises:
        ConfigError: a number below 1, a batch larger than the data, or a config that cannot train.
        DataError: the training data are not there.
    """
    check_positive('steps', rounds=args.rounds, threads=args.threads,
                   **({} if args.batch is None else dict(batch=args.batch)))
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        rows = measure(args)
    finally:
        torch.set_num_threads(before)
    clock = 'GPU' if torch.cuda.is_available() else f'CPU time, {args.threads} threads'
    print_log('\n' + '\n'.join(cost.table(rows, COLUMNS)) + f'\ntraining steps, medians of {args.rounds} in turns, '
              f'{clock}; {machine()}', 'current')
    return rows


def measure(args: argparse.Namespace) -> list[dict]:
    """Steps of all configs in turns: a row for each, with the keys of COLUMNS."""
    options, rows, steps = parse_options(args.cfg_options), [], {}
    for config in dict.fromkeys(map(cost.config_name, args.configs)):
        cfg = load_config(config, args.mini, options)
        if args.amp:
            use_amp(cfg)
        if args.mini:
            write_mini_data(cfg)
        if args.batch is not None:
            cfg.train_dataloader.batch_size = args.batch
        rows.append(dict.fromkeys(COLUMNS) | dict(config=config, batch=cfg.train_dataloader.batch_size))
        steps[config] = make_step(cfg, args.rounds + 2)
    cuda = torch.cuda.is_available()
    seconds = interleave(steps, args.rounds, time.perf_counter if cuda else time.process_time)
    first = statistics.median(seconds[rows[0]['config']])
    for row in rows:
        median = statistics.median(seconds[row['config']])
        row.update(step_ms=1e3 * median, ratio=median / first)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()  # by all nets
            steps[row['config']]()
            row['memory_mib'] = (torch.cuda.max_memory_allocated() - held) / 2 ** 20
    return rows


def make_step(cfg: Config, count: int) -> Callable[[], object]:
    """A function that trains a step and waits for it, on one batch after the other.

    Args:
        cfg: of a training.
        count: batches to read; after the last one the first comes again.
    """
    for teacher in (cfg.model.get('teachers') or {}).values():
        if 'trained_by' in teacher:
            teacher.trained_by = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).to('cuda' if torch.cuda.is_available() else 'cpu').train()
    if isinstance(model, Distiller):
        for loss in model.losses.values():
            loss.end = None
        model.iteration.fill_(max((loss.teaches_from for loss in model.losses.values()), default=0))
    loader = Runner.build_dataloader(dict(cfg.train_dataloader, num_workers=0, persistent_workers=False), seed=0)
    if any(hasattr(module, 'know_training_set') for module in model.modules()):
        tell_training_set(model, loader.dataset)
    batches = [batch for batch, _ in zip(loader, range(count))]
    if not batches:
        raise ConfigError(f'steps: {len(loader.dataset):,} samples, expected a whole batch of {loader.batch_size}, as '
                          f'{cfg.filename} leaves smaller ones out. Lower --batch.')
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for group in wrapper.optimizer.param_groups:
        group['lr'] = 0.0
    return partial(_step, model, wrapper, batches)


def _step(model: torch.nn.Module, wrapper, batches: list[dict]) -> None:
    batches.append(batches.pop(0))
    model.train_step(batches[-1], wrapper)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
