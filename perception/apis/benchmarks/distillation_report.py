"""The report on trainings with and without distillation methods: gains over the student alone, losses, costs."""
import csv
import json
from pathlib import Path

import torch

from perception.apis.benchmarks import cost
from perception.apis.benchmarks.trainings import Job, mean_and_spread, read_run, to_text

COLUMNS = ('last', 'best', 'gain_last', 'gain_best')  # score of the last and the best epoch
TITLES = dict(student='student alone')  # other arms have their names


def write_report(jobs: list[Job], title: str, folder: Path) -> dict:
    """Write report.json, .md and .csv from the runs that are finished and efficiency.json, where it is there.

    Args:
        jobs: all trainings.
        title: what is compared, such as the student's name.
        folder: where the files go.

    Returns:
        what report.json holds.
    """
    measured = folder / 'efficiency.json'
    runs = {job.work_dir.name: dict(arm=job.arm, seed=job.seed, **result) for job in jobs
            if (result := read_run(job)) is not None}
    report = dict(title=title, arms=list(dict.fromkeys(job.arm for job in jobs)), finished=len(runs),
                  planned=len(jobs), torch=torch.__version__, runs=runs,
                  efficiency=json.loads(measured.read_text()) if measured.is_file() else {})
    (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
    (folder / 'report.md').write_text(to_markdown(report))
    with open(folder / 'report.csv', 'w', newline='') as file:
        rows = csv.writer(file)
        rows.writerow(['arm', 'seeds', *(f'{name}_{kind}' for name in COLUMNS for kind in ('mean', 'spread'))])
        for arm, members in runs_of_arms(report).items():
            cells = [cell for values in columns_of(arm, members, report) for cell in mean_and_spread(values)]
            rows.writerow([arm, len(members), *('' if cell is None else f'{cell:.6f}' for cell in cells)])
    return report


def runs_of_arms(report: dict) -> dict[str, list[dict]]:
    """The finished runs of each arm."""
    return {arm: [run for run in report['runs'].values() if run['arm'] == arm] for arm in report['arms']}


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
    lines = [f'# {report["title"]} on simulated mini data: {state}', '',
             f'Validation {metric}, mean and standard deviation over seeds; gains: over the student alone, same seed.',
             '',
             '| arm | seeds | last epoch | best epoch | gain, last epoch | gain, best epoch |',
             '|---|---|---|---|---|---|']
    arms = runs_of_arms(report)
    for arm, members in arms.items():
        cells = [to_text(values, sign=sign) for values, sign in zip(columns_of(arm, members, report), ('', '', *'++'))]
        lines.append(f'| {TITLES.get(arm, arm)} | {len(members)} | {" | ".join(cells)} |')
    lines += ['', '| run | seed | last epoch | best epoch |', '|---|---|---|---|']
    lines += [f'| {TITLES.get(r["arm"], r["arm"])} | {r["seed"]} | {r["last"]:.4f} | {r["best"]:.4f} |'
              for r in runs.values()]
    for key, title in (('losses', 'loss, mean over the last epoch'), ('classes', 'result of the last epoch')):
        names = ' | '.join(TITLES.get(arm, arm) for arm in arms)
        lines += ['', f'| {title} | {names} |', '|---' * (1 + len(arms)) + '|']
        for name in dict.fromkeys(name for r in runs.values() for name in r[key]):
            cells = [to_text([r[key][name] for r in members if name in r[key]]) for members in arms.values()]
            lines.append(f'| {name} | {" | ".join(cells)} |')
    for scale, title in (('mini', 'mini scale'), ('full', 'published size')):
        if scale in report['efficiency']:
            lines += ['', f'One simulated sample, batch size 1, nets of the {title}, random weights.', '',
                      *cost.tables(report['efficiency'][scale])]
    return '\n'.join([*lines, '', report['efficiency'].get('machine', '')]).rstrip() + '\n'
