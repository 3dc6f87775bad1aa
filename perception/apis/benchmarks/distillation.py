"""Does a distillation method help? One teacher, if any, then per seed the student alone and with each method.

The configs are found by their names: `configs/<task>/<student>.py` alone, `configs/<method>/<student>.py` with a
method; the teacher is the one that the method's config names. All students of a seed start from the same weights and
see the same samples in the same order. Every run is a call of tools/train.py on the mini data in its own folder;
finished runs are kept and a run that was cut off is resumed, so the same command continues after any interruption. The
table says what came out, also where a method did not help.
"""
import argparse
import csv
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

from perception.apis.benchmarks.measure import count_model_macs, interleave, machine
from perception.apis.config import find_config, load_config, parse_options
from perception.apis.runner import write_mini_data
from perception.registry import DATASETS, MODELS
from perception.utils.checkpoint import load_checkpoint, newest_checkpoint
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError
from perception.utils.paths import PROJECT_ROOT, from_root

STUDENTS = dict(lidarseg='cylinder3d_half_kitti', lanes='enet_culane')  # of each task, where none is named
METHODS = dict(lidarseg=['pvd'], lanes=['sad'])
# further overrides of a data set's or a backbone's trainings. CULane: three times the training images of --mini, each
# seen less often, more images to score, a longer lesson; Cylinder3D: 22 epochs instead of 30, a quarter of an hour less
EVIDENCE = dict(cylinder3d=['train_cfg.max_epochs=22', 'param_scheduler.1.T_max=19'], culane=[
    'mini_data.root=data/mini/culane_evidence', 'mini_data.train=126', 'mini_data.val=60',
    'train_dataloader.dataset.data_root=data/mini/culane_evidence',
    'val_dataloader.dataset.data_root=data/mini/culane_evidence',
    'train_cfg.max_epochs=12', 'train_cfg.val_interval=6', 'param_scheduler.0.end=12'])
TEACHER = dict(culane=['train_cfg.max_epochs=24', 'param_scheduler.0.end=24'])
COLUMNS = ('last', 'best', 'gain_last', 'gain_best')  # score of the last and the best epoch
TITLES = dict(teacher='teacher', student='student alone', distilled='student distilled')  # other arms have their names


@dataclass
class Job:
    """One training: an arm of the comparison with a seed.

    Attributes:
        arm: 'teacher', 'student', 'distilled', or the name of a method, an arm or a variant.
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
    parser.add_argument('--task', default='lidarseg', choices=list(STUDENTS), help='room (default: lidarseg)')
    parser.add_argument('--method', nargs='+', metavar='METHOD',
                        help='folders of configs with the student (default: pvd; for lanes: sad)')
    parser.add_argument('--methods', dest='method', type=lambda names: names.split(','), metavar='METHOD,METHOD',
                        help='the same in one word; none, the student alone, is always trained')
    parser.add_argument('--backbone', metavar='NAME', help='a net of configs/lidarseg such as minkunet: its student is '
                        'NAME_half_kitti, its methods are configs/<method>/NAME_kitti.py')
    parser.add_argument('--student', metavar='NAME',
                        help=f'config of the student in configs/<task> (default: {" or ".join(STUDENTS.values())})')
    parser.add_argument('--arm', nargs='+', action='append', default=[], metavar=('NAME', 'CONFIG'),
                        help='a further arm with a config of its own, and overrides KEY=VALUE')
    parser.add_argument('--seeds', type=int, default=3, help='students per arm (default: 3)')
    parser.add_argument('--work-dir', metavar='DIR',
                        help='default: work_dirs/evidence_<methods>, of a backbone evidence_<backbone>, of other '
                             'students evidence_<student>_<methods>')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='overrides for all trainings')
    parser.add_argument('--variant', nargs='+', action='append', default=[], metavar=('NAME', 'KEY=VALUE'),
                        help='an arm of the first method with overrides, such as strong model.losses.pvd.weight=20')
    jobs = 1 if torch.cuda.is_available() else min(2, torch.get_num_threads())
    parser.add_argument('--jobs', type=int, default=jobs, help=f'students trained side by side (default here: {jobs})')
    parser.add_argument('--background', action='store_true', help='return at once; the log goes to <work dir>/log.txt')
    parser.add_argument('--report-only', action='store_true', help='train nothing, report the runs that are finished')


def run(args: argparse.Namespace) -> dict:
    """Train what is missing and report.

    Returns:
        the report, as written to <work dir>/report.json.

    Raises:
        ConfigError: an unknown method, no seeds, a variant without overrides or with the name of an arm, a backbone
            beside a student or of another task, or a work dir with runs of other settings.
    """
    methods = [name for name in args.method or METHODS[args.task] if name != 'none']
    if args.backbone and (args.student or args.task != 'lidarseg'):
        raise ConfigError(f'--backbone: {args.backbone} with --task {args.task} and --student {args.student} came, '
                          'expected a backbone of lidarseg alone. Name either a backbone or a student.')
    student = f'{args.backbone}_half_kitti' if args.backbone else args.student
    configs = find_configs(args.task, methods, student, named=bool(args.backbone))
    if args.seeds < 1:
        raise ConfigError(f'--seeds: {args.seeds} came, expected at least 1. Three give a first idea of the spread.')
    arms, variants = further_arms(args, configs)
    own = args.task == 'lidarseg' and not student
    title = args.backbone or '_'.join(methods if own else [student or STUDENTS[args.task], *methods])
    folder = Path(args.work_dir).absolute() if args.work_dir else from_root(f'work_dirs/evidence_{title}')
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder, dict(configs, cfg_options=sorted(args.cfg_options), **variants, **arms))
    if args.background:
        return start_in_background(folder)
    data = configs['student'].removesuffix('.py').rsplit('_', 1)[-1]
    options = EVIDENCE.get(args.backbone or data, []) + args.cfg_options
    jobs = make_jobs(configs, args.seeds, folder, options, variants, arms, TEACHER.get(data, ()))
    if not args.report_only:
        unfinished = [job for job in jobs if read_run(job) is None]
        for side_by_side, of_teacher in ((1, True), (max(args.jobs, 1), False)):  # the teacher before its students
            train_jobs([job for job in unfinished if (job.arm == 'teacher') == of_teacher], side_by_side,
                       lambda: write_report(jobs, title, folder))
    if not (folder / 'efficiency.json').is_file():
        nets = {arm: path for arm, path in configs.items() if arm in ('teacher', 'student')}
        efficiency = measure_efficiency(dict(nets, **{name: path for name, (path, *_) in arms.items()}))
        (folder / 'efficiency.json').write_text(json.dumps(efficiency, indent=1) + '\n')
    report = write_report(jobs, title, folder)
    print_log('\n' + (folder / 'report.md').read_text(), 'current')
    return report


def find_configs(task: str, methods: Sequence[str], student: str | None = None, named: bool = False) -> dict[str, str]:
    """Config file of each arm, by the names of the folders.

    A teacher's half-width student shares the method's config of the teacher's name: `cylinder3d_half_kitti` alone,
    `pvd/cylinder3d_kitti` distilled.

    Args:
        task: folder of the student alone.
        methods: folders of the distilled students.
        student: name of the config; the task's own by default.
        named: a single method keeps its name, so that others can be added to its folder.

    Returns:
        'teacher' (if a method has one), 'student', and each method; a single method with a teacher is 'distilled'.

    Raises:
        ConfigError: no such student, a method without it, or methods with different teachers.
    """
    student = student or STUDENTS[task]
    configs, folder = dict(student=f'configs/{task}/{student}.py'), PROJECT_ROOT / 'configs'
    find_config(configs['student'])
    names = (student, student.replace('_half', ''))
    known = {p.parent.name: p for name in names[::-1] for p in folder.glob(f'*/{name}.py') if p.parent.name != task}
    for method in methods:
        if method not in known:
            raise ConfigError(f'--method: {method!r} came, expected one of {", ".join(sorted(known))}. '
                              f'{close_matches(method, known)}')
        configs[method] = known[method].relative_to(PROJECT_ROOT).as_posix()
    teachers = [teacher.get('trained_by') for method in methods
                for teacher in load_config(configs[method], mini=True).model.get('teachers', {}).values()]
    if len(set(teachers)) > 1 or None in teachers:
        raise ConfigError(f'--method: the teachers of {", ".join(methods)} are trained by {set(teachers)}, expected '
                          'one config. Compare these methods apart.')
    if teachers and len(methods) == 1 and not named:
        configs['distilled'] = configs.pop(methods[0])
    return dict(teacher=teachers[0], **configs) if teachers else configs


def further_arms(args: argparse.Namespace, configs: dict[str, str]) -> tuple[dict, dict]:
    """Arms with configs of their own (name -> [config, override, ...]) and variants (name -> [override, ...]).

    Raises:
        ConfigError: a name that is taken or no word, an arm without a config, a variant without overrides.
    """
    arms, variants = {}, {}
    for name, *rest in args.arm:
        if name in (*TITLES, *configs, *arms) or not name.isidentifier() or not rest:
            raise ConfigError(f'--arm: {name!r} with {" ".join(rest) or "no config"} came, expected a new word and a '
                              'config. Write for example --arm agnostic configs/lanes/agnostic_culane.py.')
        arms[name] = [find_config(rest[0]).relative_to(PROJECT_ROOT).as_posix(), *rest[1:]]
    for name, *options in args.variant:
        if name in (*TITLES, *configs, *arms) or not name.isidentifier() or not options:
            raise ConfigError(f'--variant: {name!r} with {len(options)} overrides came, expected a new word and at '
                              f'least one KEY=VALUE. Write for example --variant strong model.losses.pvd.weight=20.')
        variants[name] = options
    return arms, variants


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


def make_jobs(configs: dict[str, str], seeds: int, folder: Path, options: list[str], variants: dict[str, list[str]],
              arms: dict[str, list[str]] | None = None, teacher: Sequence[str] = ()) -> list[Job]:
    """The trainings in their order: the teacher, if there is one, then all students of each seed.

    Args:
        configs: config file of each arm, see `find_configs`.
        seeds: students per arm.
        folder: where their work dirs go.
        options: overrides for all of them.
        variants: name -> further overrides of the first method's student.
        arms: name -> config file and further overrides.
        teacher: further overrides of the teacher.
    """
    runs = {arm: (path, []) for arm, path in configs.items() if arm != 'teacher'}
    first = next((path for arm, (path, _) in runs.items() if arm != 'student'), None)
    runs.update({name: (first, more) for name, more in variants.items()})
    runs.update({name: (path, more) for name, (path, *more) in (arms or {}).items()})

    def job(arm: str, seed: int, name: str, config: str, more: Sequence[str] = ()) -> Job:
        cfg = load_config(config, mini=True)
        seeded = ['randomness.seed']
        if 'seed' in cfg.train_dataloader.dataset:  # of the augmentation
            seeded.append('train_dataloader.dataset.seed')
        checkpoints = [f'model.teachers.{name}.checkpoint={folder / "teacher" / "model.pth"}'
                       for name in cfg.model.get('teachers', {})]
        return Job(arm, seed, config, folder / name,
                   [*(f'{key}={seed}' for key in seeded), *options, *checkpoints, *more])

    jobs = [job('teacher', 0, 'teacher', configs['teacher'], teacher)] if 'teacher' in configs else []
    return jobs + [job(arm, seed, f'{arm}_{seed}', path, more)
                   for seed in range(seeds) for arm, (path, more) in runs.items()]


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
    best = min if cfg.default_hooks.export.get('rule') == 'less' else max
    scores = results.pop(metric)
    epoch_length = max(meta['iter'] // meta['epoch'], 1)
    losses = {name.removeprefix('train/'): statistics.fmean(values[-epoch_length:])
              for name, values in scalars.items() if name.startswith('train/loss')}
    return dict(metric=metric, scores=scores, last=scores[-1], best=best(scores), losses=losses,
                classes={name: values[-1] for name, values in results.items()})


def measure_efficiency(configs: dict[str, str], repeats: int = 5) -> dict:
    """Parameters, MACs and CPU latency of some nets, at the published and at the mini scale, see `measure_pair`.

    All see the first validation sample of the mini data, as their own data preprocessing gives it.

    Args:
        configs: config file of each net, by name.
        repeats: timed runs of each net.
    """
    minis = {name: load_config(path, mini=True) for name, path in configs.items()}
    full = {name: load_config(path) for name, path in configs.items()}
    for name, cfg in minis.items():
        write_mini_data(cfg)
        full[name].val_dataloader.dataset.data_root = cfg.val_dataloader.dataset.data_root
    return dict(mini=measure_pair(minis, repeats), full=measure_pair(full, repeats))


@torch.no_grad()
def measure_pair(cfgs: dict[str, Config], repeats: int) -> dict:
    """Efficiency of some nets on the first validation sample; of a distillation the student is what runs.

    Latency is the median over interleaved runs with batch size 1, without the data preprocessing (voxelisation of a
    scan, normalisation of an image), which is timed apart.

    Args:
        cfgs: config of each net, by name.
        repeats: timed runs of each.

    Returns:
        per net `parameters`, `macs`, `latency` [s]; of the first one's input `points` and `voxels`, or `image`
        [height, width]; `preprocessing` [s], `threads`, `machine`.
    """
    report, runs, inputs = {}, {}, {}
    for name, cfg in cfgs.items():
        model = MODELS.build(cfg.model.get('student') or cfg.model).eval()
        prepare = partial(model.data_preprocessor, pseudo_collate([DATASETS.build(cfg.val_dataloader.dataset)[0]]))
        batch = prepare()
        report[name] = dict(parameters=sum(p.numel() for p in model.parameters()), macs=count_model_macs(model, batch))
        runs[name] = partial(model, **batch, mode='predict')
        if not inputs:
            inputs, first = batch['inputs'], prepare
    seconds = interleave(dict(runs, preprocessing=first), repeats)
    for name in cfgs:
        report[name]['latency'] = statistics.median(seconds[name])
    size = dict(image=list(inputs['images'].shape[2:])) if 'images' in inputs else dict(
        points=len(inputs['points']), voxels=len(inputs['voxel_coords']))
    return dict(report, preprocessing=statistics.median(seconds['preprocessing']), **size,
                threads=torch.get_num_threads(), machine=machine())


def describe_input(measured: dict) -> str:
    """What was measured on, in words, and the time of its preprocessing, from what `measure_pair` returns."""
    seconds = measured.get('preprocessing', measured.get('voxelisation', 0.))  # its name in earlier reports
    if 'image' in measured:
        return f'one image of {measured["image"][0]} x {measured["image"][1]} pixels ({1e3 * seconds:.0f} ms)'
    return f'one scan of {measured["points"]:,} points in {measured["voxels"]:,} voxels ({1e3 * seconds:.0f} ms)'


def write_report(jobs: list[Job], method: str, folder: Path) -> dict:
    """Write report.json, .md and .csv from the runs that are finished and efficiency.json, where it is there."""
    measured = folder / 'efficiency.json'
    runs = {job.work_dir.name: dict(arm=job.arm, seed=job.seed, **result) for job in jobs
            if (result := read_run(job)) is not None}
    report = dict(method=method, teacher=any(job.arm == 'teacher' for job in jobs), finished=len(runs),
                  planned=len(jobs), torch=torch.__version__, runs=runs,
                  efficiency=json.loads(measured.read_text()) if measured.is_file() else {})
    (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
    (folder / 'report.md').write_text(to_markdown(report))
    with open(folder / 'report.csv', 'w', newline='') as file:
        rows = csv.writer(file)
        rows.writerow(['arm', 'seeds', *(f'{name}_{kind}' for name in COLUMNS for kind in ('mean', 'spread'))])
        for arm, members in runs_of_arms(report).items():
            cells = [cell for values in columns_of(arm, members, report) for cell in _mean_and_spread(values)]
            rows.writerow([arm, len(members), *('' if cell is None else f'{cell:.6f}' for cell in cells)])
    return report


def runs_of_arms(report: dict) -> dict[str, list[dict]]:
    """The finished runs of each arm, first those that every comparison has."""
    runs = report['runs'].values()
    known = [arm for arm in TITLES if arm == 'student' or report.get('teacher', True)]
    known = [arm for arm in known if arm != 'distilled' or any(r['arm'] == arm for r in runs)]
    return {arm: [r for r in runs if r['arm'] == arm] for arm in dict.fromkeys([*known, *(r['arm'] for r in runs)])}


def columns_of(arm: str, members: list[dict], report: dict) -> list[list[float]]:
    """Values over the seeds of an arm for each of COLUMNS; gains are over the student of the same seed."""
    alone = {r['seed']: r for r in report['runs'].values() if r['arm'] == 'student'}
    pairs = [(r, alone[r['seed']]) for r in members if arm not in ('teacher', 'student') and r['seed'] in alone]
    return ([[r[key] for r in members] for key in ('last', 'best')]
            + [[r[key] - base[key] for r, base in pairs] for key in ('last', 'best')])


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
    arms = runs_of_arms(report)
    for arm, members in arms.items():
        cells = [_spread(values, sign) for values, sign in zip(columns_of(arm, members, report), ('', '', '+', '+'))]
        lines.append(f'| {TITLES.get(arm, arm)} | {len(members)} | {" | ".join(cells)} |')
    lines += ['', '| run | seed | last epoch | best epoch |', '|---|---|---|---|']
    lines += [f'| {TITLES.get(r["arm"], r["arm"])} | {r["seed"]} | {r["last"]:.4f} | {r["best"]:.4f} |'
              for r in runs.values()]
    for key, title in (('losses', 'loss, mean over the last epoch'), ('classes', 'result of the last epoch')):
        names = ' | '.join(TITLES.get(arm, arm) for arm in arms)
        lines += ['', f'| {title} | {names} |', '|---' * (1 + len(arms)) + '|']
        for name in dict.fromkeys(name for r in runs.values() for name in r[key]):
            cells = [_spread([r[key][name] for r in members if name in r[key]]) for members in arms.values()]
            lines.append(f'| {name} | {" | ".join(cells)} |')
    machines = dict.fromkeys(pair['machine'] for pair in report['efficiency'].values())
    lines += ['', 'One simulated sample, batch size 1, on a CPU, random weights, without preprocessing.', *machines, '',
              '| scale | net | parameters | GMAC | latency [s] |', '|---|---|---|---|---|']
    for scale, measured in report['efficiency'].items():
        nets = {name: net for name, net in measured.items() if isinstance(net, dict)}
        lines += [f'| {scale} | {name} | {net["parameters"]:,} | {net["macs"] / 1e9:.2f} | {net["latency"]:.3f} |'
                  for name, net in nets.items()]
        if {'teacher', 'student'} <= set(nets):
            teacher, student = nets['teacher'], nets['student']
            lines.append(f'| {scale} | student against teacher | {_less(student, teacher, "parameters")} | '
                         f'{_less(student, teacher, "macs")} | {teacher["latency"] / student["latency"]:.2f}x faster |')
        lines.append(f'| {scale} | preprocessing of {describe_input(measured)} | | | |')
    return '\n'.join(lines) + '\n'


def _less(student: dict, teacher: dict, key: str) -> str:
    return f'{100 * (1 - student[key] / teacher[key]):.1f} % fewer'


def _spread(values: list[float], sign: str = '') -> str:
    mean, spread = _mean_and_spread(values)
    return '' if mean is None else f'{mean:{sign}.4f}' + ('' if spread is None else f' ± {spread:.4f}')


def _mean_and_spread(values: list[float]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation of at least two."""
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None
