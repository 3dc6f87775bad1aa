"""Can a net learn a few samples by heart? Trains on the first validation samples as they are, and scores on the same.

A net that cannot is broken, or its labels lie elsewhere than what it sees; that it can shows that the path works, and
says nothing about other samples. Each step is one of AdamW whose rate rises and falls in one cycle; nothing is
augmented. Samples are kept in memory.
"""
import argparse
import time
from collections.abc import Mapping

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.model import BaseModel

from perception.apis.config import load_config, need, parse_options
from perception.apis.runner import write_mini_data
from perception.common.measure import forget_peak, machine, peak_memory
from perception.registry import DATASETS, MODELS
from perception.utils.checks import check_positive
from perception.utils.errors import DataError

OPTIONS = {
    'configs': {'nargs': '+', 'metavar': 'CONFIG', 'help': 'such as configs/bev/bevdet_r50_nuscenes.py'},
    '--mini': {'action': 'store_true', 'help': 'the small nets and simulated data of their mini sections'},
    '--samples': {'type': 'int', 'default': 8, 'metavar': 'N', 'help': 'how many (default: %(default)s)'},
    '--steps': {'type': 'int', 'default': 300, 'metavar': 'N', 'help': 'of training (default: %(default)s)'},
    '--batch': {'type': 'int', 'default': 2, 'metavar': 'N', 'help': 'samples a step (default: %(default)s)'},
    '--lr': {'type': 'float', 'default': 2e-3, 'help': 'greatest learning rate (default: %(default)s)'},
    '--scores': {'default': '', 'metavar': 'NAME,NAME', 'help': 'of the metrics (default: their first three)'},
    '--threads': {'type': 'int', 'help': 'CPU threads (default: as torch has)'},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides for all configs'}}


def run(args: argparse.Namespace) -> list[dict]:
    """Train each net and log a table.

    Returns:
        for each config `config`, `losses` (name -> means of the first and of the last round over all samples),
        `scores` (of the metrics, on the samples that were learned), `seconds` (all), `cpu` (processor seconds) and
        `memory` (largest of the process meanwhile) [MiB].

    Raises:
        ConfigError: numbers below 1, or a config without validation data.
        DataError: fewer samples, or scores that the metrics do not give.
    """
    check_positive('overfit', samples=args.samples, steps=args.steps, batch=args.batch, lr=args.lr)
    if args.threads is not None:
        check_positive('overfit', threads=args.threads)
        torch.set_num_threads(args.threads)
    rows, device = [], torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    print_log(f'overfit: {args.steps} steps on {args.samples} samples, {args.batch} a step; {machine()}', 'current')
    for path in args.configs:
        cfg = load_config(path, args.mini, parse_options(args.cfg_options))
        need(cfg, 'overfit', 'model', 'val_dataloader', 'val_evaluator')
        if args.mini:
            write_mini_data(cfg)
        forget_peak()  # that of the net before
        start, cpu = time.perf_counter(), time.process_time()
        row = dict(config=path, **overfit(cfg, args.samples, args.steps, args.batch, args.lr, device))
        row |= dict(seconds=time.perf_counter() - start, cpu=time.process_time() - cpu, memory=peak_memory())
        rows.append(row)
        print_log(to_line(row, [name for name in args.scores.split(',') if name]), 'current')
    return rows


def overfit(cfg: Config, samples: int, steps: int, batch: int, rate: float, device: torch.device) -> dict[str, dict]:
    """Train the net of a config on its first validation samples: `losses` and `scores`, see `run`."""
    data = DATASETS.build(cfg.val_dataloader.dataset)
    if len(data) < max(samples, batch):
        raise DataError(f'overfit: {len(data):,} validation samples, expected {max(samples, batch):,}. Ask for fewer.')
    items = [data[index] for index in range(samples)]
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.to(device)
    losses = train(model, items, steps, batch, rate)
    model.eval()
    evaluator = Evaluator(cfg.val_evaluator)
    evaluator.dataset_meta = data.metainfo
    for item in items:
        evaluator.process(data_samples=model.val_step(pseudo_collate([item])), data_batch=None)
    return dict(losses=losses, scores=evaluator.evaluate(samples))


def train(model: BaseModel, items: list[dict], steps: int, batch: int, rate: float) -> dict[str, tuple[float, float]]:
    """Train on samples in random order; means of the first and of the last round of each loss."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1)  # the last one counts too
    model.train()
    order, logged = [], []
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(items)).tolist()
        chosen, order = order[:batch], order[batch:]
        data = model.data_preprocessor(pseudo_collate([items[index] for index in chosen]), True)
        loss, named = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
        schedule.step()
        logged.append({name: float(value) for name, value in named.items()})
    once = max(1, len(items) // batch)
    return {name: tuple(sum(row[name] for row in rows) / len(rows) for rows in (logged[:once], logged[-once:]))
            for name in logged[0]}


def to_line(row: Mapping, scores: list[str]) -> str:
    """A row of `run` as text, with some scores.

    Raises:
        DataError: scores that the metrics do not give.
    """
    found = row['scores']
    names = {name: next((key for key in found if name in (key, key.rpartition('/')[2])), None) for name in scores}
    if None in names.values():
        raise DataError(f'overfit: no score {[name for name, key in names.items() if key is None]}, expected some of '
                        f'{", ".join(found)}. Correct --scores.')
    names = names or {key.rpartition('/')[2]: key for key in list(found)[:3]}
    losses = ', '.join(f'{name} {first:.3g} to {last:.3g} ({100 * last / first:.0f} %)' if first else f'{name} 0'
                       for name, (first, last) in row['losses'].items())
    return (f'{row["config"]}: {", ".join(f"{name} {found[key]:.4f}" for name, key in names.items())}; {losses}; '
            f'{row["seconds"]:.0f} s, {row["cpu"]:.0f} s of CPU, {row["memory"]:,.0f} MiB')
