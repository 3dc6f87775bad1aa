"""Does reallocation help? Whole nets, and slim ones by PEEL, uniform widths, shuffled importance and one threshold.

For each config and seed the whole net is trained, each method searches a structure in it at each budget, and the slim
nets are trained by the same schedule. A gain of PEEL is called one where it betters both uniform widths and shuffled
importance of the same seeds by a paired t-test with 95 % confidence; one seed tells nothing. Finished trainings are
kept and one that was cut off is resumed, so the same command continues after any interruption. Times are medians of
single inputs, all nets of the first seed in turn. ImageNet's configs train on real digits at the mini scale, all others
on simulated data.
"""
import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from perception.apis.benchmarks import cost
from perception.apis.benchmarks.distillation_report import CONFIDENCE, judge
from perception.apis.benchmarks.trainings import Job, check_settings, read_run, seeded, to_text, train_jobs, write_json
from perception.apis.config import load_config, parse_options
from perception.apis.inference import student_of
from perception.apis.prune.search import find, settings
from perception.common.measure import machine
from perception.registry import MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError
from perception.utils.paths import from_root, make_folder
from perception.utils.structure import read_structure

OPTIONS = {
    'configs': {'nargs': '*', 'metavar': 'CONFIG',
                'help': 'default: configs/peel/ resnet18_imagenet (digits), minkunet_kitti and resnet18_culane'},
    '--methods': {'default': 'peel,uniform,shuffled,slimming', 'metavar': 'NAME,NAME', 'help': 'default: %(default)s'},
    '--ratios': {'default': '0.25,0.1', 'metavar': 'R,R',
                 'help': 'budgets, of the multiply-accumulates of the whole net (default: %(default)s)'},
    '--seeds': {'type': 'int', 'help': 'trainings of each (default: 3; of the two default nets on simulated data 1)'},
    '--init': {'default': 'scratch', 'choices': ['scratch', 'inherit'],
               'help': 'begin slim nets anew or with the weights that stay (default: %(default)s)'},
    '--sparsity': {'type': 'float', 'metavar': 'FACTOR', 'help': 'train whole nets with the sum of their scales in the '
                   'loss, times this (default: without)'},
    '--rounds': {'type': 'int', 'default': 20, 'help': 'runs of each net that are timed (default: 20)'},
    '--jobs': {'type': 'int', 'help': 'trained side by side (default: 2, on a GPU 1)'},
    '--work-dir': {'metavar': 'DIR', 'help': 'default: work_dirs/evidence/prune'},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides for all trainings'},
    '--report-only': {'action': 'store_true', 'help': 'train nothing, report the runs that are finished'}}
DEFAULT = {'configs/peel/resnet18_imagenet.py': 3, 'configs/peel/minkunet_kitti.py': 1,
           'configs/peel/resnet18_culane.py': 1}  # config -> seeds
METHODS = ('peel', 'uniform', 'shuffled', 'slimming')
CLOCKS = ('cpu_ms', 'onnx_ms', 'gpu_ms')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing and report.

    Returns:
        the report, as written to <work dir>/report.json.

    Raises:
        ConfigError: numbers, methods or budgets that cannot be, or a work dir with runs of other settings.
    """
    side_by_side = args.jobs
    if side_by_side is None:
        side_by_side = 1 if torch.cuda.is_available() else min(2, torch.get_num_threads())
    check_positive('prune', seeds=1 if args.seeds is None else args.seeds, rounds=args.rounds, jobs=side_by_side)
    methods = list(dict.fromkeys(filter(None, args.methods.split(','))))
    for name in methods:
        check_choice('--methods', name, METHODS)
    try:
        ratios = [float(ratio) for ratio in args.ratios.split(',') if ratio]
    except ValueError as error:
        raise ConfigError(f'--ratios {args.ratios}: no list of numbers, expected such as 0.25,0.1. Correct it.'
                          ) from error
    folder = make_folder(args.work_dir or from_root('work_dirs/evidence/prune')).absolute()
    check_settings(folder, dict(init=args.init, sparsity=args.sparsity, cfg_options=sorted(args.cfg_options)))
    report = dict(init=args.init, sparsity=args.sparsity, configs={})
    for config in args.configs or DEFAULT:
        seeds = args.seeds or DEFAULT.get(config, 3)
        task = Task(config, folder / Path(config).stem, methods, ratios, seeds, args)

        def write(config: str = config, task: Task = task) -> None:
            report['configs'][config] = task.report()
            (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
            (folder / 'report.md').write_text('\n'.join(lines_of(report)) + '\n')

        if not args.report_only:
            train_jobs([job for job in task.wholes if read_run(job) is None], side_by_side, write)
            for job in task.slims:
                task.search(job)
            train_jobs([job for job in task.slims if read_run(job) is None], side_by_side, write)
            task.measure(args.rounds)
        write()
    print_log('\n' + (folder / 'report.md').read_text(), 'current')
    return report


class Task:
    """The trainings of one config.

    Attributes:
        wholes: trainings of the whole net, one a seed.
        slims: trainings of slim nets; `arm` is the method, `setting` the budget.

    Args:
        config: its file.
        folder: of its runs.
        methods: names of `METHODS`.
        ratios: budgets.
        seeds: trainings of each.
        args: of the command.
    """

    def __init__(self, config: str, folder: Path, methods: list[str], ratios: list[float], seeds: int,
                 args: argparse.Namespace):
        evidence = load_config(config, True).get('evidence') or {}
        self.folder, self.words = folder, [*evidence.get('options', []), *args.cfg_options]
        self.cfg = load_config(config, True, parse_options(self.words))
        self.more = dict(evidence.get('scores', {}))
        check_settings(make_folder(folder), dict(config=cost.config_name(config),
                                                 options=list(evidence.get('options', []))))

        def job(arm: str, seed: int, ratio: str = '') -> Job:
            place = folder / '_'.join(filter(None, (arm, ratio, str(seed))))
            words = [*seeded(self.cfg, seed), *self.words]
            if ratio:
                words.append(f'structure={place / "structure.json"}')
            elif args.sparsity:
                words.append(f'prune.sparsity={args.sparsity}')
            if ratio and args.init == 'inherit':
                words.append(f'load_from={folder / f"whole_{seed}" / "model.pth"}')
            return Job(arm, seed, config, place, words, ratio)

        self.wholes = [job('whole', seed) for seed in range(seeds)]
        self.slims = [job(method, seed, f'{ratio:g}')
                      for seed, ratio, method in itertools.product(range(seeds), ratios, methods)]

    def search(self, job: Job) -> None:
        """Write the structure of a slim net, unless it is there."""
        path = job.work_dir / 'structure.json'
        if path.is_file():
            return
        model = MODELS.build(student_of(self.cfg))
        load_weights(model, self.folder / f'whole_{job.seed}' / 'model.pth')
        found = find(self.cfg, model, settings(self.cfg, ratio=float(job.setting)), method=job.arm, seed=job.seed)
        make_folder(job.work_dir)
        write_json(path, found.structure)

    def measure(self, rounds: int) -> None:
        """Write the milliseconds of one input of each net of the first seed, all in turn, unless they are there."""
        jobs = {job.work_dir.name: job for job in (*self.wholes, *self.slims) if job.seed == 0}
        if set(jobs) <= set(self.times()):
            return
        cfgs = {name: cost.config_of(job.config, True, options=parse_options(job.options))
                for name, job in jobs.items()}
        times = {row['config']: {cost.COLUMNS[key][0].removesuffix(' [ms]'): row[key] for key in CLOCKS if row[key]}
                 for row in cost.measure(cfgs, rounds, onnx=True)}
        write_json(self.folder / 'times.json', dict(times, machine=machine()))

    def times(self) -> dict[str, Any]:
        """What `measure` wrote: name of a run -> clock -> milliseconds, and `machine`, where it did."""
        path = self.folder / 'times.json'
        return json.loads(path.read_text()) if path.is_file() else {}

    def report(self) -> dict[str, Any]:
        """`rows` of the whole net and of each method at each budget, `rules` (score -> 'greater' or 'less'),
        `importance`, that of all groups in the whole net of each seed, and `machine`, where times were measured."""
        results = [(job, read_run(job)) for job in (*self.wholes, *self.slims)]
        metric = next((result['metric'] for _, result in results if result), 'score')
        rules = {metric: self.cfg.default_hooks.export.get('rule') or 'greater', **self.more}
        times = self.times()
        structures = {job.work_dir.name: read_structure(job.work_dir / 'structure.json') for job in self.slims
                      if (job.work_dir / 'structure.json').is_file()}
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for job, result in results:
            if result is None:
                continue
            row = rows.setdefault((job.arm, job.setting), dict(
                method=job.arm, ratio=float(job.setting or 1), scores={name: {} for name in rules}, macs=[], params=[],
                ms=times.get(job.work_dir.name, {})))
            for name in rules:
                row['scores'][name][job.seed] = result['last'] if name == metric else result['results'][name]
            structure = structures.get(job.work_dir.name)
            for kind in ('macs', 'params') if structure else ():
                row[kind].append(structure[kind]['final'])
        first = next(iter(structures.values()), None)
        for kind in ('macs', 'params') if first and ('whole', '') in rows else ():
            rows['whole', ''][kind] = [first[kind]['full']]
        importance = {name.rpartition('_')[2]: [group['importance'] for group in structure['groups']]
                      for name, structure in structures.items()}
        return dict(rows=list(rows.values()), rules=rules, importance=list(importance.values()),
                    machine=times.get('machine', ''))


# -------------------------------------------------------------------------------------------------------------- report

def lines_of(report: dict[str, Any]) -> list[str]:
    """The report as a text of Markdown."""
    sparse = f', whole ones with scales at {report["sparsity"]:g} in the loss' if report['sparsity'] else ''
    lines = [f'Slim nets trained from {report["init"]}{sparse}', '']
    for config, part in report['configs'].items():
        rows, rules = part['rows'], part['rules']
        clocks = list(dict.fromkeys(clock for row in rows for clock in row['ms']))
        head = ['net', 'budget', 'runs', 'M multiply-accumulates', 'M parameters', *rules,
                *(f'ms, {clock}' for clock in clocks)]
        lines += [config, '', f'| {" | ".join(head)} |', '|---' * len(head) + '|']
        for row in rows:
            numbers = [f'{statistics.mean(row[kind]) / 1e6:,.{digits}f}' if row[kind] else ''
                       for kind, digits in (('macs', 2), ('params', 3))]
            cells = [row['method'], f'{row["ratio"]:g}', str(len(next(iter(row['scores'].values())))), *numbers,
                     *(to_text(list(row['scores'][name].values())) for name in rules),
                     *(f'{row["ms"][clock]:.1f}' if clock in row['ms'] else '' for clock in clocks)]
            lines.append(f'| {" | ".join(cells)} |')
        times = [f'times: {part["machine"]}.'] if part['machine'] else []
        told = verdicts(rows, rules)
        if len(told) > 1:
            told.append(f'Each of these {len(told)} is tested alone, with {CONFIDENCE:.0%} confidence: the more there '
                        'are, the likelier one is a gain or a loss by chance.')
        lines += ['', *(f'* {line}' for line in [*told, *slower(rows), *times, *spread(part['importance'])]), '']
    return lines


def verdicts(rows: list[dict[str, Any]], rules: dict[str, str]) -> list[str]:
    """Whether PEEL betters both controls at each budget, for each score.

    Args:
        rows: of a report; scores by seed.
        rules: score -> 'greater' or 'less', which is better.
    """
    found = []
    for ratio in dict.fromkeys(row['ratio'] for row in rows if row['method'] == 'peel'):
        same = {row['method']: row['scores'] for row in rows if row['ratio'] == ratio}
        if not {'uniform', 'shuffled'} <= set(same):
            continue
        for name, rule in rules.items():
            gains = {control: [value - same[control][name][seed] for seed, value in same['peel'][name].items()
                               if seed in same[control][name]] for control in ('uniform', 'shuffled')}
            told = [judge({name: values}, {name: rule}).partition(' ')[0] for values in gains.values()]
            verdict = ('one seed tells nothing' if '' in told else 'a gain' if told == ['helps'] * 2 else
                       'a loss' if told == ['harms'] * 2 else 'no gain')
            found.append(f'{name} at {ratio:g}: PEEL '
                         + ', '.join(f'{to_text(values, sign="+")} over {control}' for control, values in gains.items())
                         + f': {verdict}.')
    return found


def slower(rows: list[dict[str, Any]]) -> list[str]:
    """Where a slim net of PEEL takes more than 95 % of the time of the whole one."""
    whole = next((row['ms'] for row in rows if row['method'] == 'whole'), {})
    return [f'{clock} at {row["ratio"]:g}: {milliseconds:.1f} ms for {whole[clock]:.1f}: fewer multiply-accumulates '
            'are not less time here.' for row in rows if row['method'] == 'peel'
            for clock, milliseconds in row['ms'].items() if milliseconds > 0.95 * whole.get(clock, float('inf'))]


def spread(importance: list[list[float]]) -> list[str]:
    """How far the importance tells groups apart, and whether the seeds agree on it.

    Args:
        importance: of the groups, for each seed.
    """
    if not importance:
        return []
    table = np.array(importance)
    text = (f'importance of {table.shape[1]} groups: {table.min():.2f} to {table.max():.2f}, standard deviation '
            f'{table.std(axis=1).mean():.3f}')
    pairs = list(itertools.combinations(range(len(table)), 2))
    if pairs and table.std(axis=1).min() > 0:
        text += f'; correlation between seeds {np.mean([np.corrcoef(table[a], table[b])[0, 1] for a, b in pairs]):.2f}'
    return [text + '.']
