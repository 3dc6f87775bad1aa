"""The report on trainings with and without distillation methods: gains over the student alone, losses, costs."""
import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.special import stdtrit

from perception.apis.benchmarks import cost
from perception.apis.benchmarks.trainings import Job, mean_and_spread, read_run, to_text

TITLES = dict(student='student alone')  # other arms have their names
CONFIDENCE = 0.95  # with which a gain that counts is not 0


@dataclass
class Comparison:
    """What a report is about.

    Attributes:
        title: what is compared, such as the student's name.
        data: what it was trained on.
        groups: title of each table -> names of the settings whose runs it counts together.
        rule: 'less' where less of the metric is better.
        scores: further results to compare -> 'greater' or 'less'.
        reference: the arm that gains are over.
    """
    title: str
    data: str
    groups: Mapping[str, list[str]]
    rule: str | None
    scores: Mapping[str, str]
    reference: str = 'student'


def write_report(jobs: list[Job], comparison: Comparison, folder: Path) -> dict:
    """Write report.json, .md and .csv from the runs that are finished and efficiency.json, where it is there.

    Args:
        jobs: all trainings.
        comparison: what the report is about.
        folder: where the files go.

    Returns:
        what report.json holds.
    """
    measured = folder / 'efficiency.json'
    runs = [dict(arm=job.arm, seed=job.seed, setting=job.setting, folder=str(job.work_dir.relative_to(folder)),
                 **result) for job in jobs if (result := read_run(job)) is not None]
    metric = next((run['metric'] for run in runs), 'score')
    tables = {title: table(runs, names, metric, comparison) for title, names in comparison.groups.items()}
    report = dict(title=comparison.title, data=comparison.data, metric=metric, reference=comparison.reference,
                  arms=list(dict.fromkeys(job.arm for job in jobs)), finished=len(runs), planned=len(jobs),
                  torch=torch.__version__, tables=tables, runs=runs,
                  tested_over={title: 'place' if len(names) > 1 else 'seed'
                               for title, names in comparison.groups.items()},
                  efficiency=json.loads(measured.read_text()) if measured.is_file() else {})
    (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
    (folder / 'report.md').write_text(to_markdown(report))
    names = [metric, *comparison.scores]
    with open(folder / 'report.csv', 'w', newline='') as file:
        rows = csv.writer(file)
        parts = [f'{name}_{kind}_{part}' for name in names for kind in ('last', 'gain') for part in ('mean', 'spread')]
        rows.writerow(['table', 'arm', 'runs', 'n', *parts, 'verdict'])
        for title, arms in tables.items():
            for arm, row in arms.items():
                cells = [cell for name in names for kind in ('last', 'gain')
                         for cell in mean_and_spread(row['scores'].get(name, {}).get(kind, []))]
                rows.writerow([title, arm, row['runs'], len(row['scores'][metric]['tested']),
                               *('' if cell is None else f'{cell:.6f}' for cell in cells), row['verdict']])
    return report


def table(runs: list[dict], settings: list[str], metric: str, comparison: Comparison) -> dict[str, dict]:
    """What each arm reached in some settings.

    Args:
        runs: all finished ones.
        settings: names of those that count.
        metric: the first score.
        comparison: what the report is about.

    Returns:
        arm -> `runs`, their number; `scores`, for each score the values of the last epoch (`last`), their change since
        the validation before (`rise`, of the metric alone), their gain over the reference of the same setting and seed
        (`gain`) and the gains that a test may take for independent (`tested`); and `verdict`. Those are the gains of
        the seeds, or of several settings, each scored on a place of its own, the mean over the seeds of each.
    """
    rules = {metric: comparison.rule or 'greater', **comparison.scores}
    runs = [run for run in runs if run['setting'] in settings]
    alone = {(run['setting'], run['seed']): run for run in runs if run['arm'] == comparison.reference}
    rows = {}
    for arm in dict.fromkeys(run['arm'] for run in runs):
        members = [run for run in runs if run['arm'] == arm]
        scores = {}
        for name in rules:
            values = [(run['setting'], _score(run, name), _score(alone.get((run['setting'], run['seed']), {}), name))
                      for run in members]
            gains = [(place, value - base) for place, value, base in values if None not in (value, base)
                     and arm not in ('teacher', comparison.reference)]
            means = [mean_and_spread([gain for of, gain in gains if of == place])[0] for place in settings]
            scores[name] = dict(last=[value for _, value, _ in values if value is not None],
                                gain=[gain for _, gain in gains],
                                tested=[mean for mean in means if mean is not None] if len(settings) > 1 else
                                [gain for _, gain in gains if gain == gain])
        scores[metric]['rise'] = [run['scores'][-1] - run['scores'][-2] for run in members if len(run['scores']) > 1]
        verdict = judge({name: found['tested'] for name, found in scores.items()}, rules)
        rows[arm] = dict(runs=len(members), scores=scores,
                         verdict=verdict if arm not in ('teacher', comparison.reference) else '')
    return rows


def _score(run: Mapping, name: str) -> float | None:
    """A score of the last epoch."""
    return run.get('last') if name == run.get('metric') else run.get('results', {}).get(name)


def judge(gains: Mapping[str, list[float]], rules: Mapping[str, str]) -> str:
    """What gains say: which scores they better or worsen, by a paired t-test with CONFIDENCE, two-sided.

    Each score is tested alone, without a correction for their number.

    Args:
        gains: of each score, paired by seed or place; NaN, a gain of nothing, does not count.
        rules: score -> 'greater' or 'less', which is better.
    """
    words = dict(helps=[], harms=[])
    gains = {name: [value for value in values if value == value] for name, values in gains.items()}
    for name, values in gains.items():
        mean, spread = mean_and_spread(values)
        if spread is not None and mean and abs(mean) >= _least(len(values)) * spread / math.sqrt(len(values)):
            words['helps' if (mean > 0) == (rules[name] == 'greater') else 'harms'].append(name)
    said = '; '.join(f'{word} {", ".join(names)}' for word, names in words.items() if names)
    return said or ('no difference seen' if any(len(values) > 1 for values in gains.values()) else '')


def _least(runs: int) -> float:
    """Standard errors from which on the mean of so many runs counts: 12.7 for two, 4.3 for three, 3.2 for four."""
    return float(stdtrit(runs - 1, (1 + CONFIDENCE) / 2))


def to_markdown(report: dict) -> str:
    """The report as tables."""
    runs, metric = report['runs'], report['metric']
    reference = report['reference']
    base = 'the student alone' if reference == 'student' else reference
    about = (f'Validation scores of the last epoch, mean and standard deviation over runs. Gains are over {base} of '
             'the same seed: same start, same samples in the same order. `rise`: change of the score since the '
             f'validation before. A gain counts where a paired t-test gives it {CONFIDENCE:.0%} confidence: '
             f'{_least(2):.1f} standard errors of two runs, {_least(3):.1f} of three, {_least(4):.1f} of four. '
             'Seeds change start, order and augmentation alone: a verdict is on these data, these scored samples and '
             'this teacher.')
    lines = [f'# {report["title"]} on {report["data"]}: {report["finished"]} of {report["planned"]} runs finished', '',
             about]
    lines += _in_short(report)
    for title, arms in report['tables'].items():
        names = list(next(iter(arms.values()))['scores']) if arms else [metric]
        lines += ['', f'## {title[:1].upper()}{title[1:]}', '', '| arm | runs | ' + ' | '.join(
            f'{name} | gain' + (' | rise' if name == metric else '') for name in names) + ' | |',
            '|---' * (3 + 2 * len(names) + 1) + '|']
        for arm, row in arms.items():
            cells = []
            for name in names:
                found = row['scores'][name]
                cells += [to_text(found['last']), to_text(found['gain'], sign='+')]
                cells += [to_text(found['rise'], sign='+')] if name == metric else []
            lines.append(f'| {TITLES.get(arm, arm)} | {row["runs"]} | {" | ".join(cells)} | {row["verdict"]} |')
        counts = {len(row['scores'][metric]['tested']) for row in arms.values() if row['scores'][metric]['tested']}
        if counts:
            lines += ['', _tested(counts, report['tested_over'][title], metric)]
    lines += ['', '| run | seed | ' + metric + ' at each validation |', '|---|---|---|']
    lines += [f'| {run["folder"]} | {run["seed"]} | {" ".join(f"{score:.4f}" for score in run["scores"])} |'
              for run in {run['folder']: run for run in runs}.values()]
    for setting in dict.fromkeys(run['setting'] for run in runs):
        lines += _details([run for run in runs if run['setting'] == setting], setting)
    for scale, title in (('mini', 'mini scale'), ('full', 'published size')):
        if scale in report['efficiency']:
            lines += ['', f'One simulated sample, batch size 1, nets of the {title}, random weights.', '',
                      *cost.tables(report['efficiency'][scale])]
    return '\n'.join([*lines, '', report['efficiency'].get('machine', '')]).rstrip() + '\n'


def _tested(counts: set[int], unit: str, metric: str) -> str:
    """A line below a table: what n is, which score decides, and how often no effect comes out as one."""
    numbers = ' or '.join(map(str, sorted(counts)))
    places = (' The seeds of a place are averaged first, for they share its samples; trainings of two places still '
              'share most of their data, which makes the test too sure.') if unit == 'place' else ''
    return (f'Tested over {unit}s, n = {numbers}.{places} {metric} decides; any other score is tested alone, and of '
            f'many comparisons without an effect about one in {1 / (1 - CONFIDENCE):.0f} comes out as one, more often '
            'where seeds are added until one does.')


def _in_short(report: dict) -> list[str]:
    """A few lines on each table: the scores of the nets beside what they cost, and what that means."""
    costs = {row['config']: row for row in report['efficiency'].get('mini', [])}
    reference = report['reference']
    student = 'student with ' if reference == 'student' else ''
    base = 'the student alone' if reference == 'student' else reference
    own = {'teacher', reference, *costs}  # nets
    costs |= {arm: costs['student'] for arm in report['arms'] if arm not in costs and 'student' in costs}
    lines = []
    for title, arms in report['tables'].items() if costs else ():
        if not arms:
            continue  # nothing is trained yet
        names = list(next(iter(arms.values()))['scores'])
        rows = [dict(net=TITLES.get(arm, arm if arm in own else f'{student}{arm}'),
                     **{name: to_text(row['scores'][name]['last'], 3) for name in names},
                     **{key: costs[arm][key] for key in ('parameters', 'gmac', 'cpu_ms')})
                for arm, row in arms.items() if arm in costs]
        columns = {'net': ('net', str), **{name: (name, str) for name in names},
                   **{key: cost.COLUMNS[key] for key in ('parameters', 'gmac', 'cpu_ms')}}
        lines += ['', f'**In short, {title}:**', '', *cost.table(rows, columns), '']
        for arm, row in arms.items():
            if arm in ('teacher', reference):
                continue
            gains = ', '.join(f'{name} {to_text(row["scores"][name]["gain"], 3, "+")}' for name in names)
            count = max(sum(gain == gain for gain in row['scores'][name]['gain']) for name in names)
            unit, tested = report['tested_over'][title], max(len(row['scores'][name]['tested']) for name in names)
            of = f' at {tested} place{"s" * (tested != 1)}' if unit == 'place' else ''
            verdict = row['verdict'] or f'one {unit} shows no spread'
            lines.append(f'* {arm} changes {base} of the same seed by: {gains} ({count} pair'
                         f'{"s" * (count != 1)} of runs{of}); {"it " * verdict.startswith("h")}{verdict}.')
    kind = 'Simulated data' if 'simulated' in report['data'] else 'Nets of the mini scale'
    return [*lines, '', f'{kind} say nothing about the scores of a benchmark.'] if lines else []


def _details(runs: list[dict], setting: str) -> list[str]:
    """Losses and all results of a setting's runs, an arm a column."""
    lines, arms = [], list(dict.fromkeys(run['arm'] for run in runs))
    of_setting = f' ({setting})' if setting else ''
    for key, title in (('losses', 'loss, mean over the last epoch, without epochs over all'),
                       ('results', 'result of the last epoch')):
        head = ' | '.join(TITLES.get(arm, arm) for arm in arms)
        lines += ['', f'| {title}{of_setting} | {head} |', '|---' * (1 + len(arms)) + '|']
        for name in dict.fromkeys(name for run in runs for name in run[key]):
            cells = [to_text([run[key][name] for run in runs if run['arm'] == arm and name in run[key]])
                     for arm in arms]
            lines.append(f'| {name} | {" | ".join(cells)} |')
    return lines
