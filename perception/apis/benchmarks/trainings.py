"""Trainings that are compared: arms and seeds, each a call of tools/train.py on mini data in a folder of its own.

Finished trainings are kept and one that was cut off is resumed, so the same command continues after any interruption.
"""
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger, print_log

from perception.apis.config import load_config, parse_options
from perception.utils.checkpoint import atomic_path, load_checkpoint, newest_checkpoint
from perception.utils.errors import ConfigError, TrainingError
from perception.utils.paths import PROJECT_ROOT, from_root


@dataclass(frozen=True)
class Setting:
    """What teacher and students of a comparison are given, such as how many labels.

    Attributes:
        name: one word; folder of its trainings below that of the comparison, which the plain setting '' uses itself.
        title: said in the report.
        teacher, students: overrides `KEY=VALUE` of their trainings.
    """
    name: str = ''
    title: str = 'all data and labels for teacher and students'
    teacher: tuple[str, ...] = ()
    students: tuple[str, ...] = ()


@dataclass
class Job:
    """One training: an arm of the comparison with a seed.

    Attributes:
        arm: 'teacher', 'student', or the name of a method, an arm or a variant.
        seed: of everything random, as the options say.
        config: config file.
        work_dir: its folder.
        options: overrides for --cfg-options, `KEY=VALUE` each.
        setting: name of the setting it belongs to.
        mini: train the mini scale.
    """
    arm: str
    seed: int
    config: str
    work_dir: Path
    options: list[str] = field(default_factory=list)
    setting: str = ''
    mini: bool = True

    @property
    def command(self) -> list[str]:
        """The training as a user would type it."""
        return [sys.executable, str(from_root('tools/train.py')), self.config, *['--mini'] * self.mini, '--resume',
                '--work-dir', str(self.work_dir), '--cfg-options', *self.options]


def make_jobs(arms: Mapping[str, Sequence[str]], seeds: int, folder: Path, options: Sequence[str] = (),
              settings: Sequence[Setting] = (Setting(),)) -> list[Job]:
    """The trainings in their order: of each setting the teacher, if there is one, then all other arms of each seed.

    The overrides of a training are those of its config's `evidence`, then `options`, then those of its setting and of
    its arm. Equal trainings of two settings share a work dir; so does a teacher that the folder holds by a setting of
    an earlier command.

    Args:
        arms: name -> config file and overrides.
        seeds: trainings of each arm; of the arm 'teacher' one.
        folder: where their work dirs go.
        options: overrides for all of them.
        settings: what teacher and students are given.
    """
    cfgs = {arm: load_config(config, mini=True) for arm, (config, *_) in arms.items()}
    places: dict[tuple, Path] = {}
    taught = {s.teacher: folder / s.name / 'teacher' for s in known_settings(folder) if
              (folder / s.name / 'teacher').is_dir()}  # by what teachers are given
    check_settings(folder, {config: list(cfgs[arm].get('evidence', {}).get('options', []))
                            for arm, (config, *_) in arms.items()})

    def job(setting: Setting, arm: str, seed: int, name: str, teacher: Path | None) -> Job:
        cfg, (config, *overrides) = cfgs[arm], arms[arm]
        evidence = cfg.get('evidence', {})
        words = [*seeded(cfg, seed), *evidence.get('options', []), *options,
                 *(setting.teacher if arm == 'teacher' else setting.students)]
        if teacher is not None:
            words += [f'model.teachers.{name}.checkpoint={teacher / "model.pth"}'
                      for name in cfg.model.get('teachers') or {}]
            words += [f'{key}={predictions_of(teacher)}' for key in evidence.get('teacher_predictions', [])]
        words += overrides
        own = folder / setting.name / name
        if arm == 'teacher' and not own.is_dir():
            own = taught.get(setting.teacher, own)
        place = places.setdefault((config, *words), own)
        return Job(arm, seed, config, place, words, setting.name)

    jobs = []
    for setting in settings:
        teachers = [job(setting, arm, 0, arm, None) for arm in arms if arm == 'teacher']
        place = teachers[0].work_dir if teachers else None
        jobs += teachers + [job(setting, arm, seed, f'{arm}_{seed}', place)
                            for seed in range(seeds) for arm in arms if arm != 'teacher']
    return jobs


def with_overrides(arms: Mapping[str, Sequence[str]], options: Sequence[str]) -> dict[str, list[str]]:
    """Arms with all that their nets are trained with: config, overrides of its `evidence`, `options`, their own."""
    evidence = {config: load_config(config, mini=True).get('evidence', {}) for config, *_ in arms.values()}
    return {arm: [config, *evidence[config].get('options', []), *options, *overrides]
            for arm, (config, *overrides) in arms.items()}


def has_costs(folder: Path, arms: Collection[str]) -> bool:
    """Whether `efficiency.json` in a work dir holds what the nets of some arms cost."""
    path = folder / 'efficiency.json'
    return path.is_file() and {*arms} <= {row['config'] for row in json.loads(path.read_text())['mini']}


def seeded(cfg: Config, seed: int) -> list[str]:
    """Overrides that give a training its seed, of the augmentation too."""
    keys = ['randomness.seed', *['train_dataloader.dataset.seed'] * ('seed' in cfg.train_dataloader.dataset)]
    return [f'{key}={seed}' for key in keys]


def predictions_of(teacher: Path) -> Path:
    """Folder, in a teacher's work dir, of what it says of the tested samples; students are compared with that."""
    return teacher / 'predictions'


def save_predictions(job: Job) -> None:
    """Let a trained teacher predict the tested samples, for metrics that compare a student with it.

    Raises:
        TrainingError: it failed.
    """
    command = [sys.executable, str(from_root('tools/test.py')), job.config, str(job.work_dir / 'model.pth'), '--mini',
               '--save', str(predictions_of(job.work_dir)), '--cfg-options', f'work_dir={job.work_dir}', *job.options]
    code = subprocess.run(command, cwd=PROJECT_ROOT, env=dict(os.environ)).returncode
    if code:
        raise TrainingError(f'{job.work_dir}: the test of the teacher ended with code {code}, expected 0. Its output '
                            'is above; the same command tries again.')


def check_settings(folder: Path, settings: dict) -> None:
    """Refuse to mix runs of different settings in one folder; arms may be added.

    Args:
        folder: the work dir, where settings.json keeps what was seen so far.
        settings: config and overrides of each arm, `cfg_options`, those for all, and those of each setting.

    Raises:
        ConfigError: the folder was made with others.
    """
    path = folder / 'settings.json'
    known = json.loads(path.read_text()) if path.is_file() else {}
    for key, value in settings.items():
        if known.get(key, value) != value:
            raise ConfigError(f'{folder}: it holds runs with {key}={known[key]}, expected {value} as in this command. '
                              f'Give another --work-dir.')
    write_json(path, {**known, **settings})


def known_settings(folder: Path) -> list[Setting]:
    """Those whose trainings a work dir may hold, by its settings.json; without their titles."""
    path = folder / 'settings.json'
    known = json.loads(path.read_text()) if path.is_file() else {}
    return [Setting('' if key == 'setting equal' else key.removeprefix('setting '), teacher=tuple(value[0]),
                    students=tuple(value[1])) for key, value in known.items() if key.startswith('setting ')]


def write_json(path: Path, content: Any) -> None:
    """Write a file that a later call reads again: all of it or, where this one is cut off, nothing.

    Raises:
        ConfigError: it cannot be written.
    """
    with atomic_path(path, ConfigError) as part:
        part.write_text(json.dumps(content, indent=1) + '\n')


def train_jobs(jobs: list[Job], side_by_side: int, after_each: Callable[[], object]) -> None:
    """Train jobs, a few at a time; after a failure no further one starts.

    Args:
        jobs: the trainings in their order.
        side_by_side: how many run at once.
        after_each: called whenever one is finished.

    Raises:
        TrainingError: a training failed.
    """
    failed, seconds = Event(), []
    logger = MMLogger.get_current_instance()  # found here: its lock stays with a thread in which that once failed

    def train(job: Job) -> None:
        if not failed.is_set():
            left = statistics.fmean(seconds) * (len(jobs) - len(seconds)) / side_by_side / 60 if seconds else None
            print_log(f'training {jobs.index(job) + 1} of {len(jobs)}'
                      + ('' if left is None else f', about {math.ceil(left)} minutes to go'), logger)
            start = time.perf_counter()
            try:
                train_job(job, side_by_side, logger)
                seconds.append(time.perf_counter() - start)
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(side_by_side) as pool:
        for done in as_completed([pool.submit(train, job) for job in jobs]):
            done.result()
            after_each()


def train_job(job: Job, shares: int, logger: logging.Logger) -> None:
    """Train, or continue where a run was cut off.

    Args:
        job: the training.
        shares: trainings that run at once; each gets as many of the CPU's threads.
        logger: gets the command.

    Raises:
        TrainingError: the training failed, or ended without what a report needs.
    """
    print_log(f'{job.work_dir.name}, seed {job.seed}: {" ".join(job.command)}', logger)
    threads = max(torch.get_num_threads() // shares, 1)
    code = subprocess.run(job.command, cwd=PROJECT_ROOT, env=dict(os.environ, OMP_NUM_THREADS=str(threads))).returncode
    if code:
        raise TrainingError(f'{job.work_dir.name}: the training ended with code {code}, expected 0. Its output is '
                            'above; the same command continues where it stopped.')
    if read_run(job) is None:  # it would be trained again and again
        raise TrainingError(f'{job.work_dir}: the training ended, but not with a checkpoint of a validated last step, '
                            'expected one to report. Correct train_cfg.val_begin, val_interval or '
                            'default_hooks.checkpoint.')


def read_run(job: Job) -> dict | None:
    """What a finished training left in its newest checkpoint; None while it is not finished.

    One that a hook ended early is finished.

    Returns:
        `metric`, its `scores` (one a validation), `last` and `best`; `results`, all other results of the last
        validation; `losses` (mean of each loss over the last epoch, without epochs over the training).
    """
    path, _ = newest_checkpoint(job.work_dir)
    if path is None or not (job.work_dir / 'model.pth').is_file():
        return None
    cfg = load_config(job.config, mini=job.mini, options=parse_options(job.options))
    checkpoint = load_checkpoint(path, mmap=True)
    meta, hub = checkpoint['meta'], checkpoint['message_hub']
    unit = 'epoch' if 'max_epochs' in cfg.train_cfg else 'iter'
    notes, step = hub['runtime_info'], meta[unit]
    ended = step >= cfg.train_cfg[f'max_{unit}s'] or notes.get('step_stopped') == step  # the latter by a hook, early
    if not ended or notes.get('step_validated') != step:
        return None
    scalars = {name: values.tolist() for name, (values, _) in hub['log_scalars'].items()}
    results = {name.removeprefix('val/'): values for name, values in scalars.items()
               if name.startswith('val/') and name not in ('val/time', 'val/data_time')}
    metric = cfg.default_hooks.export.get('metric') or next(iter(results))
    best = min if cfg.default_hooks.export.get('rule') == 'less' else max
    scores = results.pop(metric)
    epoch_length = max(meta['iter'] // max(meta['epoch'], 1), 1)
    losses = {name.removeprefix('train/'): statistics.fmean(values[-epoch_length:])
              for name, values in scalars.items() if name.startswith('train/loss')}
    return dict(metric=metric, scores=scores, last=scores[-1], losses=losses,
                best=best((score for score in scores if score == score), default=math.nan),
                results={name: values[-1] for name, values in results.items()})


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation of at least two; None where there are too few, or none, as of an infinite score.

    NaN, a score of nothing, is none.
    """
    values = [value for value in values if value == value]
    known = len(values) > 1 and all(map(math.isfinite, values))
    return statistics.fmean(values) if values else None, statistics.stdev(values) if known else None


def to_text(values: Sequence[float], digits: int = 4, sign: str = '') -> str:
    """`mean ± spread`, of no values an empty text.

    Args:
        values: over seeds.
        digits: behind the point.
        sign: '+' writes it before positive means too.
    """
    mean, spread = mean_and_spread(values)
    return '' if mean is None else f'{mean:{sign}.{digits}f}' + ('' if spread is None else f' ± {spread:.{digits}f}')
