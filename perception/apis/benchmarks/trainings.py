"""Trainings that are compared: arms and seeds, each a call of tools/train.py on mini data in a folder of its own.

Finished trainings are kept and one that was cut off is resumed, so the same command continues after any interruption.
"""
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import torch
from mmengine.logging import print_log

from perception.apis.config import load_config, parse_options
from perception.utils.checkpoint import load_checkpoint, newest_checkpoint
from perception.utils.errors import ConfigError
from perception.utils.paths import PROJECT_ROOT, from_root


@dataclass
class Job:
    """One training: an arm of the comparison with a seed.

    Attributes:
        arm: 'teacher', 'student', or the name of a method, an arm or a variant.
        seed: of everything random, as the options say.
        config: config file.
        work_dir: its folder.
        options: overrides for --cfg-options, `KEY=VALUE` each.
    """
    arm: str
    seed: int
    config: str
    work_dir: Path
    options: list[str] = field(default_factory=list)

    @property
    def command(self) -> list[str]:
        """The training as a user would type it."""
        return [sys.executable, str(from_root('tools/train.py')), self.config, '--mini', '--resume', '--work-dir',
                str(self.work_dir), '--cfg-options', *self.options]


def make_jobs(arms: Mapping[str, Sequence[str]], seeds: int, folder: Path, options: Sequence[str] = ()) -> list[Job]:
    """The trainings in their order: the teacher, if there is one, then all other arms of each seed.

    The overrides of a training are those of its config's `evidence`, then `options`, then those of its arm.

    Args:
        arms: name -> config file and overrides.
        seeds: trainings of each arm; of the arm 'teacher' one.
        folder: where their work dirs go. `teacher/model.pth` in it are the weights of all teachers.
        options: overrides for all of them.
    """
    cfgs = {arm: load_config(config, mini=True) for arm, (config, *_) in arms.items()}

    def job(arm: str, seed: int, name: str) -> Job:
        cfg, (config, *overrides) = cfgs[arm], arms[arm]
        seeded = ['randomness.seed']
        if 'seed' in cfg.train_dataloader.dataset:  # of the augmentation
            seeded.append('train_dataloader.dataset.seed')
        checkpoints = [f'model.teachers.{teacher}.checkpoint={folder / "teacher" / "model.pth"}'
                       for teacher in cfg.model.get('teachers') or {}]
        return Job(arm, seed, config, folder / name, [*(f'{key}={seed}' for key in seeded), *cfg.get('evidence', []),
                                                      *options, *checkpoints, *overrides])

    return [job(arm, 0, arm) for arm in arms if arm == 'teacher'] + [
        job(arm, seed, f'{arm}_{seed}') for seed in range(seeds) for arm in arms if arm != 'teacher']


def check_settings(folder: Path, settings: dict) -> None:
    """Refuse to mix runs of different settings in one folder; arms may be added.

    Args:
        folder: the work dir, where settings.json keeps what was seen so far.
        settings: config and overrides of each arm, and `cfg_options`, those for all.

    Raises:
        ConfigError: the folder was made with others.
    """
    path = folder / 'settings.json'
    known = json.loads(path.read_text()) if path.is_file() else {}
    for key, value in settings.items():
        if known.get(key, value) != value:
            raise ConfigError(f'{folder}: it holds runs with {key}={known[key]}, expected {value} as in this command. '
                              f'Give another --work-dir.')
    path.write_text(json.dumps({**known, **settings}, indent=1) + '\n')


def train_jobs(jobs: list[Job], side_by_side: int, after_each: Callable[[], object]) -> None:
    """Train jobs, a few at a time; after a failure no further one starts.

    Args:
        jobs: the trainings in their order.
        side_by_side: how many run at once.
        after_each: called whenever one is finished.

    Raises:
        RuntimeError: a training failed.
    """
    failed, seconds = Event(), []

    def train(job: Job) -> None:
        if not failed.is_set():
            left = statistics.fmean(seconds) * (len(jobs) - len(seconds)) / side_by_side / 60 if seconds else None
            print_log(f'training {jobs.index(job) + 1} of {len(jobs)}'
                      + ('' if left is None else f', about {math.ceil(left)} minutes to go'), 'current')
            start = time.perf_counter()
            try:
                train_job(job, side_by_side)
                seconds.append(time.perf_counter() - start)
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(side_by_side) as pool:
        for done in as_completed([pool.submit(train, job) for job in jobs]):
            done.result()
            after_each()


def train_job(job: Job, shares: int = 1) -> None:
    """Train, or continue where a run was cut off.

    Args:
        job: the training.
        shares: trainings that run at once; each gets as many of the CPU's threads.

    Raises:
        RuntimeError: the training failed.
    """
    print_log(f'{job.work_dir.name}, seed {job.seed}: {" ".join(job.command)}', 'current')
    threads = max(torch.get_num_threads() // shares, 1)
    code = subprocess.run(job.command, cwd=PROJECT_ROOT, env=dict(os.environ, OMP_NUM_THREADS=str(threads))).returncode
    if code:
        raise RuntimeError(f'{job.work_dir.name}: the training ended with code {code}, expected 0. Its output is '
                           f'above; the same command continues where it stopped.')


def read_run(job: Job) -> dict | None:
    """What a finished training left in its newest checkpoint; None while it is not finished.

    Returns:
        `scores` (one a validation), `last`, `best`, `classes` (last scores by class) and `losses` (mean of each loss
        over the last epoch).
    """
    path, _ = newest_checkpoint(job.work_dir)
    if path is None or not (job.work_dir / 'model.pth').is_file():
        return None
    cfg = load_config(job.config, mini=True, options=parse_options(job.options))
    checkpoint = load_checkpoint(path, mmap=True)
    meta, hub = checkpoint['meta'], checkpoint['message_hub']
    if meta['epoch'] < cfg.train_cfg.max_epochs or hub['runtime_info'].get('step_validated') != meta['epoch']:
        return None
    scalars = {name: values.tolist() for name, (values, _) in hub['log_scalars'].items()}
    results = {name.removeprefix('val/'): values for name, values in scalars.items()
               if name.startswith('val/') and name not in ('val/time', 'val/data_time')}
    metric = cfg.default_hooks.export.get('metric') or next(iter(results))
    best = min if cfg.default_hooks.export.get('rule') == 'less' else max
    scores = results.pop(metric)
    epoch_length = max(meta['iter'] // meta['epoch'], 1)
    losses = {name.removeprefix('train/'): statistics.fmean(values[-epoch_length:])
              for name, values in scalars.items() if name.startswith('train/loss')}
    return dict(metric=metric, scores=scores, last=scores[-1], best=best(scores), losses=losses,
                classes={name: values[-1] for name, values in results.items()})


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation of at least two; None where there are too few."""
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None


def to_text(values: Sequence[float], digits: int = 4, sign: str = '') -> str:
    """`mean ± spread`, of no values an empty text.

    Args:
        values: over seeds.
        digits: behind the point.
        sign: '+' writes it before positive means too.
    """
    mean, spread = mean_and_spread(values)
    return '' if mean is None else f'{mean:{sign}.{digits}f}' + ('' if spread is None else f' ± {spread:.{digits}f}')
