"""Does a distillation method help? One teacher, then per seed the student alone and the student taught by it.

Both students of a seed start from the same weights and see the same samples in the same order. Every run is a call of
tools/train.py on the mini data in its own folder; finished runs are kept and a run that was cut off is resumed, so the
same command continues after any interruption. The table says what came out, also where the method did not help.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from torch import nn

from perception.apis.benchmarks.measure import interleave, machine
from perception.apis.config import load_config, parse_options
from perception.apis.runner import write_mini_data
from perception.ops.sparse.functional import count_macs
from perception.registry import DATASETS, MODELS
from perception.utils.checkpoint import load_checkpoint, newest_checkpoint
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError
from perception.utils.paths import PROJECT_ROOT, from_root

METHODS = dict(pvd=dict(teacher='configs/lidarseg/cylinder3d_kitti.py',
                        student='configs/lidarseg/cylinder3d_half_kitti.py',
                        distilled='configs/pvd/cylinder3d_kitti.py'))
ARMS = dict(teacher='teacher', student='student alone', distilled='student distilled')  # then the variants by name


@dataclass
class Job:
    """One training: an arm of the comparison with a seed.

    Attributes:
        arm: 'teacher', 'student', 'distilled' or the name of a variant.
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tools/benchmark.py distillation`."""
    parser.add_argument('--method', default='pvd', help=f'one of {", ".join(METHODS)} (default: pvd)')
    parser.add_argument('--seeds', type=int, default=3, help='students per arm (default: 3)')
    parser.add_argument('--work-dir', metavar='DIR', help='default: work_dirs/evidence_<method>')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='overrides for all trainings')
    parser.add_argument('--variant', nargs='+', action='append', default=[], metavar=('NAME', 'KEY=VALUE'),
                        help='a further distilled arm with overrides, such as strong model.losses.pvd.weight=20')
    parser.add_argument('--jobs', type=int, default=1, help='students trained side by side (default: 1)')
    parser.add_argument('--background', action='store_true', help='return at once; the log goes to <work dir>/log.txt')
    parser.add_argument('--report-only', action='store_true', help='train nothing, report the runs that are finished')


def run(args: argparse.Namespace) -> dict:
    """Train what is missing and report.

    Returns:
        the report, as written to <work dir>/report.json.

    Raises:
        ConfigError: an unknown method, no seeds, a variant without overrides or with the name of an arm, or a work dir
            with runs of other settings.
    """
    if args.method not in METHODS:
        raise ConfigError(f'--method: {args.method!r} came, expected one of {", ".join(METHODS)}. '
                          f'{close_matches(args.method, METHODS)}')
    if args.seeds < 1:
        raise ConfigError(f'--seeds: {args.seeds} came, expected at least 1. Three give a first idea of the spread.')
    variants = {name: options for name, *options in args.variant}
    for name, options in variants.items():
        if name in ARMS or not name.isidentifier() or not options:
            raise ConfigError(f'--variant: {name!r} with {len(options)} overrides came, expected a new word and at '
                              f'least one KEY=VALUE. Write for example --variant strong model.losses.pvd.weight=20.')
    folder = Path(args.work_dir).absolute() if args.work_dir else from_root(f'work_dirs/evidence_{args.method}')
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder, dict(METHODS[args.method], cfg_options=sorted(args.cfg_options), **variants))
    if args.background:
        return start_in_background(folder)
    jobs = make_jobs(METHODS[args.method], args.seeds, folder, args.cfg_options, variants)
    if not args.report_only:
        unfinished = [job for job in jobs if read_run(job) is None]
        for side_by_side, of_teacher in ((1, True), (max(args.jobs, 1), False)):  # the teacher before its students
            train_jobs([job for job in unfinished if (job.arm == 'teacher') == of_teacher], side_by_side,
                       lambda: write_report(jobs, args.method, folder))
    if not (folder / 'efficiency.json').is_file():
        efficiency = measure_efficiency(METHODS[args.method])
        (folder / 'efficiency.json').write_text(json.dumps(efficiency, indent=1) + '\n')
    report = write_report(jobs, args.method, folder)
    print_log('\n' + (folder / 'report.md').read_text(), 'current')
    return report


def check_settings(folder: Path, settings: dict) -> None:
    """Refuse to mix runs of different settings in one folder; arms may be added.

    Args:
        folder: the work dir, where settings.json keeps what was seen so far.
        settings: configs, overrides for all arms, and those of each variant.

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


def start_in_background(folder: Path) -> dict:
    """Start the same command without --background, detached from the terminal."""
    command = [sys.executable, *(word for word in sys.argv if word != '--background')]
    with open(folder / 'log.txt', 'a') as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                   start_new_session=True)
    print_log(f'Running in the background as process {process.pid}; log: {folder / "log.txt"}, report so far: '
              f'{folder / "report.md"}', 'current')
    return dict(pid=process.pid)


def make_jobs(configs: dict[str, str], seeds: int, folder: Path, options: list[str],
              variants: dict[str, list[str]]) -> list[Job]:
    """The trainings in their order: the teacher, then all students of each seed.

    Args:
        configs: config file of each arm.
        seeds: students per arm.
        folder: where their work dirs go.
        options: overrides for all of them.
        variants: name -> further overrides of the distilled student.
    """
    distilled = load_config(configs['distilled'], mini=True)
    seeded = ['randomness.seed']
    if 'seed' in distilled.train_dataloader.dataset:  # of the augmentation
        seeded.append('train_dataloader.dataset.seed')

    def job(arm: str, seed: int, name: str, more: Sequence[str] = ()) -> Job:
        config = configs.get(arm, configs['distilled'])
        return Job(arm, seed, config, folder / name, [*(f'{key}={seed}' for key in seeded), *options, *more])

    jobs = [job('teacher', 0, 'teacher')]
    checkpoints = [f'model.teachers.{name}.checkpoint={jobs[0].work_dir / "model.pth"}'
                   for name in distilled.model.teachers]
    for seed in range(seeds):
        jobs.append(job('student', seed, f'student_{seed}'))
        for arm, more in dict(distilled=[], **variants).items():
            jobs.append(job(arm, seed, f'{arm}_{seed}', [*checkpoints, *more]))
    return jobs


def train_jobs(jobs: list[Job], side_by_side: int, after_each: Callable[[], object]) -> None:
    """Train jobs, a few at a time; after a failure no further one starts.

    Args:
        jobs: the trainings in their order.
        side_by_side: how many run at once.
        after_each: called whenever one is finished.

    Raises:
        RuntimeError: a training failed.
    """
    failed = Event()

    def train(job: Job) -> None:
        if not failed.is_set():
            try:
                train_job(job, side_by_side)
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
    scores = results.pop(metric)
    epoch_length = max(meta['iter'] // meta['epoch'], 1)
    losses = {name.removeprefix('train/'): statistics.fmean(values[-epoch_length:])
              for name, values in scalars.items() if name.startswith('train/loss')}
    return dict(metric=metric, scores=scores, last=scores[-1], best=max(scores), losses=losses,
                classes={name: values[-1] for name, values in results.items()})


def measure_efficiency(configs: dict[str, str], repeats: int = 5) -> dict:
    """Parameters, MACs and CPU latency of teacher and student, at the published and at the mini scale.

    Both see the first validation scan of the mini data. Latency is the median over interleaved runs with batch size 1,
    without the voxelisation, which is timed apart.

    Args:
        configs: config file of each arm.
        repeats: timed runs of each net.
    """
    minis = {arm: load_config(configs[arm], mini=True) for arm in ('teacher', 'student')}
    write_mini_data(minis['student'])
    sample = DATASETS.build(minis['student'].val_dataloader.dataset)[0]
    scales = dict(mini=minis, full={arm: load_config(configs[arm]) for arm in minis})
    return {scale: measure_pair(pair, sample, repeats) for scale, pair in scales.items()}


@torch.no_grad()
def measure_pair(cfgs: dict[str, Config], sample: dict, repeats: int) -> dict:
    """Efficiency of some nets on one scan.

    Args:
        cfgs: config of each net, by name; the first one's data preprocessor serves all.
        sample: a scan of the data set.
        repeats: timed runs of each.

    Returns:
        per net `parameters`, `macs`, `latency` [s]; and `voxelisation` [s], `points`, `voxels`, `threads`, `machine`.
    """
    models = {name: MODELS.build(cfg.model).eval() for name, cfg in cfgs.items()}
    preprocessor = next(iter(models.values())).data_preprocessor

    def voxelise() -> dict:
        return preprocessor(pseudo_collate([sample]))

    batch = voxelise()
    report = {name: dict(parameters=sum(p.numel() for p in model.parameters()), macs=count_model_macs(model, batch))
              for name, model in models.items()}
    runs = {name: partial(model, **batch, mode='predict') for name, model in models.items()}
    seconds = interleave(dict(runs, voxelisation=voxelise), repeats)
    for name in models:
        report[name]['latency'] = statistics.median(seconds[name])
    inputs = batch['inputs']
    return dict(report, voxelisation=statistics.median(seconds['voxelisation']), points=len(inputs['points']),
                voxels=len(inputs['voxel_coords']), threads=torch.get_num_threads(), machine=machine())


def count_model_macs(model: nn.Module, batch: dict) -> int:
    """Multiply-accumulates of one forward: sparse convolutions by their kernel maps, linear layers by their rows."""
    linear = []
    handles = [m.register_forward_hook(lambda m, args, out: linear.append(out.numel() * m.in_features))
               for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        with count_macs() as sparse:
            model(**batch, mode='tensor')
    finally:
        for handle in handles:
            handle.remove()
    return sparse.total + sum(linear)


def write_report(jobs: list[Job], method: str, folder: Path) -> dict:
    """Write report.json and report.md from the runs that are finished and efficiency.json, where it is there."""
    measured = folder / 'efficiency.json'
    runs = {job.work_dir.name: dict(arm=job.arm, seed=job.seed, **result) for job in jobs
            if (result := read_run(job)) is not None}
    report = dict(method=method, finished=len(runs), planned=len(jobs), torch=torch.__version__,
                  runs=runs, efficiency=json.loads(measured.read_text()) if measured.is_file() else {})
    (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
    (folder / 'report.md').write_text(to_markdown(report))
    return report


def to_markdown(report: dict) -> str:
    """The report as tables."""
    runs = report['runs']
    metric = next((r['metric'] for r in runs.values()), 'score')
    state = f'{report["finished"]} of {report["planned"]} runs finished'
    lines = [f'# {report["method"].upper()} on simulated mini data: {state}', '',
             f'Validation {metric}, mean and standard deviation over seeds; gains: over the student alone, same seed.',
             '',
             '| arm | seeds | last epoch | best epoch | gain, last epoch | gain, best epoch |',
             '|---|---|---|---|---|---|']
    arms = {arm: [r for r in runs.values() if r['arm'] == arm] for arm in
            dict.fromkeys([*ARMS, *(r['arm'] for r in runs.values())])}
    alone = {r['seed']: r for r in arms['student']}
    for arm, members in arms.items():
        pairs = [(r, alone[r['seed']]) for r in members if arm not in ('teacher', 'student') and r['seed'] in alone]
        cells = [_spread([r[key] for r in members]) for key in ('last', 'best')]
        cells += [_spread([r[key] - base[key] for r, base in pairs], '+') for key in ('last', 'best')]
        lines.append(f'| {ARMS.get(arm, arm)} | {len(members)} | {" | ".join(cells)} |')
    lines += ['', '| run | seed | last epoch | best epoch |', '|---|---|---|---|']
    lines += [f'| {ARMS.get(r["arm"], r["arm"])} | {r["seed"]} | {r["last"]:.4f} | {r["best"]:.4f} |'
              for r in runs.values()]
    for key, title in (('losses', 'loss, mean over the last epoch'), ('classes', 'result of the last epoch')):
        lines += ['', f'| {title} | {" | ".join(ARMS.get(arm, arm) for arm in arms)} |', '|---' * (1 + len(arms)) + '|']
        for name in dict.fromkeys(name for r in runs.values() for name in r[key]):
            cells = [_spread([r[key][name] for r in members if name in r[key]]) for members in arms.values()]
            lines.append(f'| {name} | {" | ".join(cells)} |')
    machines = dict.fromkeys(pair['machine'] for pair in report['efficiency'].values())
    lines += ['', 'One simulated scan, batch size 1, on a CPU, random weights.', *machines, '',
              '| scale | net | parameters | GMAC | latency [s] |', '|---|---|---|---|---|']
    for scale, pair in report['efficiency'].items():
        teacher, student = pair['teacher'], pair['student']
        lines += [f'| {scale} | {name} | {net["parameters"]:,} | {net["macs"] / 1e9:.2f} | {net["latency"]:.3f} |'
                  for name, net in (('teacher', teacher), ('student', student))]
        lines.append(f'| {scale} | student against teacher | {_less(student, teacher, "parameters")} | '
                     f'{_less(student, teacher, "macs")} | {teacher["latency"] / student["latency"]:.2f}x faster |')
        lines.append(f'| {scale} | voxelisation, {pair["points"]:,} points to {pair["voxels"]:,} voxels | | | '
                     f'{pair["voxelisation"]:.3f} |')
    return '\n'.join(lines) + '\n'


def _less(student: dict, teacher: dict, key: str) -> str:
    return f'{100 * (1 - student[key] / teacher[key]):.1f} % fewer'


def _spread(values: list[float], sign: str = '') -> str:
    if not values:
        return ''
    spread = f' ± {statistics.stdev(values):.4f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):{sign}.4f}{spread}'
