"""Any number of lanes: the agnostic net against one of six fixed slots, on wide roads and during lane changes.

Both nets are trained on the same simulated TuSimple (`streets='many_lanes'`): motorways and boulevards of up to seven
boundaries, many of them seen while the ego crosses one, with every boundary labelled. A net of slots is taught and can
answer six lanes, three on each side of the vanishing point; the report says which share of the true lanes have a slot
at all. What counts is the test split, by the weights that were best on the validation split. Finished runs are kept
and a run that was cut off is resumed, so the same command continues after any interruption.
"""
import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log

from perception.apis.benchmarks.trainings import (
    Job,
    check_settings,
    make_jobs,
    read_run,
    to_text,
    train_jobs,
    write_json,
)
from perception.apis.config import load_config, parse_options
from perception.apis.runner import write_mini_data
from perception.lanes.datasets.culane import metric as culane
from perception.lanes.datasets.tusimple import metric as tusimple
from perception.lanes.datasets.tusimple.reader import tusimple_slots
from perception.registry import DATASETS, MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.checks import check_positive
from perception.utils.paths import from_root, make_folder

CONFIGS = dict(slots='configs/lanes/enet_tusimple.py', agnostic='configs/lanes/agnostic_tusimple.py')
TITLES = dict(slots='six slots', agnostic='agnostic')
ROOT = 'data/mini/tusimple_many_lanes'
DATA = [f'mini_data.root={ROOT}', 'mini_data.streets=many_lanes', 'mini_data.train=54', 'mini_data.val=12',
        'mini_data.test=36', *(f'{part}_dataloader.dataset.data_root={ROOT}' for part in ('train', 'val', 'test'))]
SCHEDULE = ['train_cfg.max_epochs=60', 'param_scheduler.0.end=60']  # twice as long as usual: both nets still learn
IMAGE_SIZE = (720, 1280)
STRADDLE = .25  # of the width: a lane that meets the lower edge so near to its middle is being crossed
GROUPS: dict[str, Callable[[dict], bool]] = {
    'all images': lambda image: True, 'up to 4 lanes': lambda image: image['lanes'] <= 4,
    '5 lanes': lambda image: image['lanes'] == 5, '6 lanes and more': lambda image: image['lanes'] >= 6,
    'lane changes': lambda image: image['change'], 'no lane changes': lambda image: not image['change']}
EXPLANATION = (
    'Test images of streets that no training saw, mean and standard deviation over seeds. F1, precision and recall: '
    'lanes of 30 pixels at IoU 0.5. Accuracy, FP and FN: those of TuSimple, which asks for four lanes and forgives one '
    'more, so that accuracy and FN may exceed 1 where there are six. A lane change: a boundary meets the lower edge of '
    'the image near its middle.')
COLUMNS = dict(f1='F1@50', precision='precision', recall='recall', accuracy='accuracy', fp='FP', fn='FN')
OPTIONS = {
    '--seeds': {'type': 'int', 'default': 3, 'help': 'trainings of each net (default: 3)'},
    '--jobs': {'type': 'int', 'default': 1, 'help': 'trainings side by side (default: 1)'},
    '--work-dir': {'metavar': 'DIR', 'help': 'default: work_dirs/evidence/many_lanes'},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides for all trainings'},
    '--slots-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE',
                        'help': 'overrides for the net of six slots alone'},
    '--agnostic-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE',
                           'help': 'overrides for the agnostic net alone'},
    '--report-only': {'action': 'store_true', 'help': 'train nothing, report the runs that are finished'}}


def run(args: argparse.Namespace) -> dict:
    """Train what is missing and report.

    Returns:
        the report, as written to <work dir>/report.json.

    Raises:
        ConfigError: no seeds or jobs, or a work dir with runs of other settings.
    """
    check_positive('many_lanes', seeds=args.seeds, jobs=args.jobs)
    folder = make_folder(args.work_dir or from_root('work_dirs/evidence/many_lanes')).absolute()
    options = [*DATA, *SCHEDULE, *args.cfg_options]
    arms = {arm: [path, *getattr(args, f'{arm}_options')] for arm, path in CONFIGS.items()}
    check_settings(folder, dict(arms, cfg_options=sorted(options)))
    jobs = make_jobs(arms, args.seeds, folder, options)
    if not args.report_only:
        write_mini_data(load_config(CONFIGS['slots'], mini=True, options=parse_options(options)))
        train_jobs([job for job in jobs if read_run(job) is None], args.jobs, partial(write_report, jobs, folder))
    report = write_report(jobs, folder)
    print_log('\n' + (folder / 'report.md').read_text(), 'current')
    return report


# ------------------------------------------------------------------------------------------------------- one training

def evaluate(job: Job) -> list[dict]:
    """What the best weights of a training answer to the test images, kept in the run's folder.

    Returns:
        for each image `lanes` and `preds`, their numbers; `change`, whether the ego crosses a lane; `slots`, how many
        true lanes have one; `ious` of the lanes that are matched by CULane's rule; `accuracy`, `fp` and `fn` by
        TuSimple's.
    """
    weights, kept = job.work_dir / 'model.pth', job.work_dir / 'test_lanes.json'
    if kept.is_file() and kept.stat().st_mtime_ns > weights.stat().st_mtime_ns:
        return json.loads(kept.read_text())
    cfg = load_config(job.config, mini=True, options=parse_options(job.options))
    model = MODELS.build(cfg.model).eval()
    load_weights(model, weights)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    images = []
    with torch.no_grad():
        for i in range(len(dataset)):
            sample = model.test_step(pseudo_collate([dataset[i]]))[0]
            images.append(compare_lanes(sample.lanes, sample.pred_lanes, sample.h_samples))
    write_json(kept, images)
    return images


def compare_lanes(lanes: Sequence[np.ndarray], pred_lanes: Sequence[np.ndarray], rows: Sequence[float]) -> dict:
    """One image, as `evaluate` lists it.

    Args:
        lanes: (P, 2) true lanes u, v, bottom to top.
        pred_lanes: (P, 2) predicted lanes.
        rows: v of TuSimple's points.
    """
    found = culane.compare_image(lanes, pred_lanes, IMAGE_SIZE)
    official = tusimple.compare_image(*([tusimple.at_rows(lane, rows) for lane in group]
                                        for group in (lanes, pred_lanes)), rows)
    return dict(lanes=len(lanes), preds=len(pred_lanes), change=crosses_lane(lanes), slots=len(tusimple_slots(lanes)),
                ious=found.ious, **official._asdict())


def crosses_lane(lanes: Sequence[np.ndarray], size: Sequence[int] = IMAGE_SIZE) -> bool:
    """Whether a lane passes under the ego: it meets the image's lower edge near its middle.

    Args:
        lanes: (P, 2) u, v, bottom to top.
        size: (rows, columns) of the image.
    """
    for lane in lanes:
        lowest = np.asarray(lane)[:5]
        if len(lowest) > 1 and lowest[0, 1] > .8 * size[0]:
            at_edge = np.polyval(np.polyfit(lowest[:, 1] - size[0], lowest[:, 0], 1), 0)
            if abs(at_edge - size[1] / 2) < STRADDLE * size[1]:
                return True
    return False


def group_scores(images: Sequence[dict]) -> dict[str, float]:
    """Scores of some images: lanes found by CULane's rule (IoU above 0.5), and TuSimple's three numbers.

    Args:
        images: of `evaluate`, one at least.
    """
    counts = culane.count([culane.ImageResult(image['lanes'], image['preds'], image['ious']) for image in images])
    means = {key: statistics.fmean(image[key] for image in images) for key in ('accuracy', 'fp', 'fn')}
    return dict(f1=counts.f1, precision=max(counts.precision, 0.0), recall=max(counts.recall, 0.0), **means)


# -------------------------------------------------------------------------------------------------------- the report

def write_report(jobs: list[Job], folder: Path) -> dict:
    """Write report.json and report.md from the runs that are finished."""
    runs, groups = {}, {}
    for job in jobs:
        if read_run(job) is not None:
            images = evaluate(job)
            parts = {name: [image for image in images if belongs(image)] for name, belongs in GROUPS.items()}
            groups = {name: dict(images=len(part), lanes=sum(image['lanes'] for image in part),
                                 slots=sum(image['slots'] for image in part)) for name, part in parts.items()}
            runs[job.work_dir.name] = dict(arm=job.arm, seed=job.seed, scores={
                name: group_scores(part) for name, part in parts.items() if part})
    report = dict(finished=len(runs), planned=len(jobs), torch=torch.__version__, configs=CONFIGS, groups=groups,
                  runs=runs)
    (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
    (folder / 'report.md').write_text(to_markdown(report))
    return report


def to_markdown(report: dict) -> str:
    """The report as tables."""
    state = f'{report["finished"]} of {report["planned"]} runs finished'
    lines = [f'# Agnostic net against six slots on simulated mini data: {state}', '', EXPLANATION, '',
             '| images | number | lanes | with a slot |', '|---|---|---|---|']
    lines += [f'| {name} | {group["images"]} | {group["lanes"]} | {group["slots"]} ({_share(group)}) |'
              for name, group in report['groups'].items()]
    lines += ['', f'| images | net | seeds | {" | ".join(COLUMNS.values())} |', '|---' * (3 + len(COLUMNS)) + '|']
    for name in report['groups']:
        for arm, title in TITLES.items():
            members = [run['scores'][name] for run in report['runs'].values()
                       if run['arm'] == arm and name in run['scores']]
            cells = [to_text([scores[key] for scores in members], digits=3) for key in COLUMNS]
            lines.append(f'| {name} | {title} | {len(members)} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def _share(group: dict) -> str:
    return f'{100 * group["slots"] / group["lanes"]:.0f} %' if group['lanes'] else '-'
