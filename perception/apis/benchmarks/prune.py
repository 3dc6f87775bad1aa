"""Does reallocation help? Whole nets, and slim ones by PEEL, uniform widths, shuffled importance and one threshold.

For each config and seed the whole net is trained, its structure is searched by each method at each budget, and the slim
nets are trained with the same schedule. A gain of PEEL is called one where its mean betters uniform widths and shuffled
importance both, by more than the spread of the seeds. Finished runs are kept and a run that was cut off is resumed, so
the same command continues after any interruption. Times are medians of single inputs on this machine's CPU, whole and
slim nets in turn. ImageNet's configs train on real digits at the mini scale, all others on simulated data.
"""
import argparse
import copy
import gc
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from perception.apis.config import load_config, parse_options
from perception.apis.export import open_session, to_onnx
from perception.apis.inference import student_of
from perception.apis.prune.search import find, runs_of, settings
from perception.apis.test import test
from perception.apis.train import train
from perception.common.measure import interleave, machine
from perception.registry import MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, MissingDependency
from perception.utils.paths import from_root, make_folder
from perception.utils.structure import apply_structure, read_structure

OPTIONS = {
    'configs': {'nargs': '*', 'metavar': 'CONFIG',
                'help': 'default: configs/peel/ resnet18_imagenet (digits), minkunet_kitti and erfnet_culane'},
    '--methods': {'default': 'peel,uniform,shuffled,slimming', 'metavar': 'NAME,NAME',
                  'help': 'default: %(default)s'},
    '--ratios': {'default': '0.5,0.25', 'metavar': 'R,R',
                 'help': 'budgets, of the multiply-accumulates of the whole net (default: %(default)s)'},
    '--seeds': {'type': 'int', 'default': 3, 'help': 'trainings of each (default: 3)'},
    '--init': {'default': 'scratch', 'choices': ['scratch', 'inherit'],
               'help': 'begin slim nets anew or with the weights that stay (default: %(default)s)'},
    '--rounds': {'type': 'int', 'default': 20, 'help': 'runs of each net that are timed (default: 20)'},
    '--work-dir': {'metavar': 'DIR', 'help': 'default: work_dirs/evidence/prune'},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides for all trainings'},
    '--report-only': {'action': 'store_true', 'help': 'train nothing, report the runs that are finished'}}
DEFAULT = ('configs/peel/resnet18_imagenet.py', 'configs/peel/minkunet_kitti.py', 'configs/peel/erfnet_culane.py')
METHODS = ('peel', 'uniform', 'shuffled', 'slimming')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing and report.

    Returns:
        the report, as written to <work dir>/report.json.

    Raises:
        ConfigError: no seeds, methods or budgets that there are not, or a work dir with runs of other settings.
    """
    check_positive('prune', seeds=args.seeds, rounds=args.rounds)
    methods = list(dict.fromkeys(filter(None, args.methods.split(','))))
    for name in methods:
        check_choice('--methods', name, METHODS)
    try:
        ratios = [float(ratio) for ratio in args.ratios.split(',') if ratio]
    except ValueError as error:
        raise ConfigError(f'--ratios {args.ratios}: no list of numbers, expected such as 0.5,0.25. Correct it.'
                          ) from error
    folder = make_folder(Path(args.work_dir or from_root('work_dirs/evidence/prune')).absolute())
    stamp, kept = folder / 'settings.json', dict(cfg_options=sorted(args.cfg_options), init=args.init)
    if stamp.is_file() and json.loads(stamp.read_text()) != kept:
        raise ConfigError(f'{folder}: holds runs with {json.loads(stamp.read_text())}, expected {kept}. Name another '
                          'folder with --work-dir.')
    stamp.write_text(json.dumps(kept))
    report = dict(machine=machine(), init=args.init, configs={})
    for config in args.configs or DEFAULT:
        task = Task(config, folder / f'{Path(config).parent.name}_{Path(config).stem}', args)
        report['configs'][config] = task.results(methods, ratios)
        (folder / 'report.json').write_text(json.dumps(report, indent=1))
        (folder / 'report.md').write_text('\n'.join(lines_of(report)) + '\n')
    print_log('\n' + (folder / 'report.md').read_text(), 'current')
    return report


class Task:
    """The trainings of one config.

    Args:
        config: its file.
        folder: of its runs.
        args: of the command.
    """

    def __init__(self, config: str, folder: Path, args: argparse.Namespace):
        self.config, self.folder, self.args = config, folder, args
        self.options = parse_options(args.cfg_options)

    def results(self, methods: list[str], ratios: list[float]) -> list[dict[str, Any]]:
        """A row for the whole net and for each method at each budget, with the scores of all seeds that are there."""
        rows = [self._row('whole', 1.0, [self._trained('whole', seed) for seed in range(self.args.seeds)])]
        for ratio in ratios:
            rows += [self._row(method, ratio, [self._trained(method, seed, ratio) for seed in range(self.args.seeds)])
                     for method in methods]
        self._time(rows)
        return rows

    def _place(self, method: str, seed: int, ratio: float = 1.0) -> Path:
        return self.folder / (f'whole_{seed}' if method == 'whole' else f'{method}_{ratio:g}_{seed}')

    def _trained(self, method: str, seed: int, ratio: float = 1.0) -> dict[str, Any] | None:
        """Scores and numbers of one run, trained if need be; None where it is not there and nothing may be trained."""
        place = self._place(method, seed, ratio)
        file = place / 'result.json'
        if file.is_file():
            return json.loads(file.read_text())
        if self.args.report_only:
            return None
        options = {**self.options, 'randomness.seed': seed}
        structure = None
        if method != 'whole':
            structure = make_folder(place) / 'structure.json'
            if not structure.is_file():
                structure.write_text(json.dumps(self._search(method, seed, ratio)))
            if self.args.init == 'inherit':
                options['load_from'] = str(self._place('whole', seed) / 'model.pth')
        resume = bool(list(place.glob('*.pth')))
        train(self.config, True, str(place), resume, options=options,
              structure=None if structure is None else str(structure))
        scores = test(self.config, str(place / 'model.pth'), mini=True, options=self.options)
        found = dict(scores=scores, structure=None)
        if structure is not None:
            kept = read_structure(structure)
            found['structure'] = {kind: kept[kind] for kind in ('macs', 'params', 'activations')}
        file.write_text(json.dumps(found))
        gc.collect()
        return found

    def _search(self, method: str, seed: int, ratio: float) -> dict[str, Any]:
        cfg = load_config(self.config, True, self.options)
        model = MODELS.build(student_of(cfg))
        load_weights(model, self._place('whole', seed) / 'model.pth')
        return find(cfg, model, settings(cfg, ratio=ratio), method=method, seed=seed).structure

    def _row(self, method: str, ratio: float, runs: list[dict[str, Any] | None]) -> dict[str, Any]:
        runs = [one for one in runs if one is not None]
        names = list(runs[0]['scores']) if runs else []
        row = dict(method=method, ratio=ratio, seeds=len(runs),
                   scores={name: [one['scores'][name] for one in runs] for name in names})
        if runs and runs[0]['structure']:
            for kind in ('macs', 'params'):
                row[kind] = statistics.mean(one['structure'][kind]['final'] for one in runs)
                row[f'whole_{kind}'] = runs[0]['structure'][kind]['full']
        return row

    def _time(self, rows: list[dict[str, Any]]) -> None:
        """Put milliseconds of one input into the rows, of the nets of the first seed, all in turn."""
        file = self.folder / 'times.json'
        times = json.loads(file.read_text()) if file.is_file() else {}
        names = [self._place(row['method'], 0, row['ratio']).name for row in rows if row['seeds']]
        if not set(names) <= set(times) and not self.args.report_only:
            times = self._measured(names)
            file.write_text(json.dumps(times))
        for row in rows:
            row['ms'] = times.get(self._place(row['method'], 0, row['ratio']).name, {})

    def _measured(self, names: list[str]) -> dict[str, dict[str, float]]:
        cfg = load_config(self.config, True, self.options)
        nets: dict[str, nn.Module] = {}
        for name in names:
            nets[name] = MODELS.build(student_of(cfg)).eval()
            structure = self.folder / name / 'structure.json'
            if structure.is_file():
                apply_structure(nets[name], read_structure(structure))
        whole = copy.deepcopy(nets[names[0]])
        go = runs_of(cfg, whole, settings(cfg))[0]
        found: dict[str, dict[str, float]] = {name: {} for name in names}
        with torch.no_grad():
            seconds = interleave({name: lambda net=net: go(net) for name, net in nets.items()}, self.args.rounds)
        for name, some in seconds.items():
            found[name]['pytorch'] = 1e3 * statistics.median(some)
        with tempfile.TemporaryDirectory() as folder:
            sessions = self._sessions(nets, Path(folder))
            for name, some in (interleave(sessions, self.args.rounds) if sessions else {}).items():
                found[name]['onnxruntime'] = 1e3 * statistics.median(some)
        return found

    def _sessions(self, nets: dict[str, nn.Module], folder: Path) -> dict[str, Any]:
        """What runs each net by ONNX Runtime on one input; none where that cannot be."""
        if not all(hasattr(net, 'deployable') for net in nets.values()):
            return {}
        sessions = {}
        try:
            for name, net in nets.items():
                module, inputs, outputs = net.deployable()
                to_onnx(module, inputs, outputs, folder / f'{name}.onnx')
                session, feed = open_session(folder / f'{name}.onnx'), {k: v.numpy() for k, v in inputs.items()}
                sessions[name] = lambda session=session, feed=feed: session.run(None, feed)
        except MissingDependency as error:
            print_log(str(error), 'current')
            return {}
        return sessions


def lines_of(report: dict[str, Any]) -> list[str]:
    """The report as a text of Markdown."""
    lines = [f'{report["machine"]}; slim nets trained from {report["init"]}', '']
    for config, rows in report['configs'].items():
        scores = list(dict.fromkeys(name for row in rows for name in row['scores']))[:3]
        clocks = list(dict.fromkeys(name for row in rows for name in row['ms']))
        lines += [f'{config}', '', '| net | budget | M macs | M parameters | '
                  + ' | '.join([*scores, *(f'ms, {clock}' for clock in clocks)]) + ' |',
                  '|' + '---|' * (4 + len(scores) + len(clocks))]
        numbers = next((row for row in rows if 'whole_macs' in row), {})
        for row in rows:
            macs, params = (row.get(kind, numbers.get(f'whole_{kind}', float('nan'))) / 1e6
                            for kind in ('macs', 'params'))
            cells = [row['method'], f'{row["ratio"]:g}', f'{macs:,.1f}', f'{params:.3f}',
                     *(spread(row['scores'].get(name, [])) for name in scores),
                     *(f'{row["ms"][clock]:.2f}' if clock in row['ms'] else '-' for clock in clocks)]
            lines.append('| ' + ' | '.join(cells) + ' |')
        lines += ['', *verdicts(rows, scores[:1]), '']
    return lines


def spread(values: list[float]) -> str:
    """Mean and, of several, the standard deviation."""
    if not values:
        return '-'
    text = f'{statistics.mean(values):.4f}'
    return text if len(values) == 1 else f'{text} ± {statistics.stdev(values):.4f}'


def verdicts(rows: list[dict[str, Any]], scores: list[str]) -> list[str]:
    """Whether PEEL betters both controls at each budget by more than the spread; and where it is not faster."""
    found = []
    for ratio in dict.fromkeys(row['ratio'] for row in rows if row['method'] == 'peel'):
        same = {row['method']: row for row in rows if row['ratio'] == ratio}
        for name in scores:
            controls = [same[method] for method in ('uniform', 'shuffled') if method in same]
            values = [row['scores'].get(name, []) for row in (same['peel'], *controls)]
            if len(controls) < 2 or not all(values):
                continue
            ours, best = statistics.mean(values[0]), max(statistics.mean(some) for some in values[1:])
            noise = max(statistics.stdev(some) if len(some) > 1 else float('inf') for some in values)
            said = 'a gain' if ours - best > noise else 'no gain' if ours <= best else 'not told from chance'
            found.append(f'{name} at {ratio:g}: PEEL {ours - best:+.4f} over the better of uniform and shuffled: '
                         f'{said}.')
        whole = next((row for row in rows if row['method'] == 'whole'), {'ms': {}})
        for clock, milliseconds in same['peel']['ms'].items():
            if clock in whole['ms'] and milliseconds > 0.95 * whole['ms'][clock]:
                found.append(f'{clock} at {ratio:g}: {milliseconds:.2f} ms for {whole["ms"][clock]:.2f}: fewer '
                             'multiply-accumulates are not less time here.')
    return found
