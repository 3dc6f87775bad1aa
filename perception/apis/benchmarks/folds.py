"""Cross-validation by one command: trains a config once for each of its folds and reports the means over them.

It is for configs whose data sets have the argument `fold`. Of each training the scores are the means of its last
validations, as published where no further images are left to choose an epoch by; then the mean and the standard
deviation over folds. Every training is a call of tools/train.py in its own folder; finished ones are kept and one that
was cut off is resumed, so the same command continues after any interruption.
"""
import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from perception.apis.benchmarks.trainings import Job, check_settings, mean_and_spread, read_run, to_text, train_jobs
from perception.apis.config import load_config
from perception.common.log import last_means
from perception.utils.checkpoint import load_checkpoint, newest_checkpoint
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError
from perception.utils.paths import from_root, make_folder

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
OPTIONS = {
    'config': {'metavar': 'CONFIG', 'help': 'such as configs/crckd/densenet121_aptos.py'},
    '--mini': {'action': 'store_true', 'help': 'the mini scale, on simulated data'},
    '--folds': {'default': '0,1,2,3,4', 'metavar': 'N,N', 'help': 'which ones (default: %(default)s)'},
    '--last': {'type': 'int', 'default': 10, 'help': 'validations that are averaged (default: %(default)s)'},
    '--jobs': {'type': 'int', 'default': 1, 'help': 'trained side by side (default: 1)'},
    '--work-dir': {'metavar': 'DIR', 'help': 'default: work_dirs/folds/ and the names of folder and config'},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides for all trainings'},
    '--report-only': {'action': 'store_true', 'help': 'train nothing, report the folds that are finished'}}


def run(args: argparse.Namespace) -> dict:
    """Train what is missing and report.

    Returns:
        the report, as written to <work dir>/report.json.

    Raises:
        ConfigError: a config without folds, folds that it does not have, a work dir with runs of other settings, or
            no finished fold to report.
    """
    check_positive('folds', last=args.last, jobs=args.jobs)
    folds, cfg = parse_folds(args.folds), load_config(args.config, args.mini)
    check_config(cfg, args.config, folds)
    path = Path(args.config)
    name = f'{path.parent.name}_{path.stem}{"_mini" if args.mini else ""}'
    folder = make_folder(args.work_dir or from_root(f'work_dirs/folds/{name}')).absolute()
    check_settings(folder, dict(config=args.config, mini=args.mini, cfg_options=sorted(args.cfg_options)))
    jobs = [Job('fold', fold, args.config, folder / f'fold_{fold}',
                [*(f'{loader}.dataset.fold={fold}' for loader in LOADERS), *args.cfg_options], mini=args.mini)
            for fold in folds]
    if not args.report_only:
        train_jobs([job for job in jobs if read_run(job) is None], args.jobs, lambda: None)
    elif not any(map(read_run, jobs)):
        raise ConfigError(f'--report-only: no fold of {args.folds} is finished in {folder}, expected one or more. '
                          'Train them by the same command without --report-only.')
    report = make_report(jobs, args.last, name)
    (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
    text = to_markdown(report)
    (folder / 'report.md').write_text(text)
    print_log(f'\n{text}', 'current')
    return report


def parse_folds(text: str) -> list[int]:
    """Numbers of folds.

    Raises:
        ConfigError: others.
    """
    words = [word.strip() for word in text.split(',')]
    if not all(word.isdecimal() for word in words):
        raise ConfigError(f'--folds: {text!r}, expected numbers such as 0,1,2. Correct it.')
    return sorted({int(word) for word in words})


def check_config(cfg: Config, name: str, folds: Sequence[int]) -> None:
    """See that all data sets of a config take a fold, and have these.

    Raises:
        ConfigError: one does not.
    """
    without = [loader for loader in LOADERS if 'fold' not in (cfg.get(loader) or {}).get('dataset', {})]
    if without:
        raise ConfigError(f'{name}: {without[0]}.dataset has no fold, expected a data set that is split into folds. '
                          'Choose such a config, or set the fold there.')
    count = min(getattr(cfg[loader].dataset['type'], 'num_folds', math.inf) for loader in LOADERS)
    if folds[-1] >= count:
        raise ConfigError(f'--folds: {folds[-1]} came, expected 0..{count - 1} of {name}. Correct it.')


def make_report(jobs: Sequence[Job], last: int, title: str) -> dict:
    """Scores of each finished fold and over them.

    Args:
        jobs: of the folds.
        last: validations that are averaged, or as many as each fold had.
        title: of the report.

    Returns:
        `title`, `last`, `planned`, `folds` (fold -> scores) and `scores` (name -> mean and spread).
    """
    runs = {job.seed: (job.work_dir, run) for job in jobs if (run := read_run(job)) is not None}
    last = min([last, *(len(run['scores']) for _, run in runs.values())])
    folds = {fold: last_scores(work_dir, last) for fold, (work_dir, _) in runs.items()}
    names = list(dict.fromkeys(name for scores in folds.values() for name in scores))
    over = {name: mean_and_spread([scores[name] for scores in folds.values() if name in scores]) for name in names}
    return dict(title=title, last=last, torch=torch.__version__, planned=len(jobs), folds=folds, scores=over)


def last_scores(work_dir: Path, count: int) -> dict[str, float]:
    """Mean of each score over the last validations of a finished training, where they are numbers."""
    scalars = load_checkpoint(newest_checkpoint(work_dir)[0], mmap=True)['message_hub']['log_scalars']
    return last_means({name: values for name, (values, _) in scalars.items()}, count)


def to_markdown(report: dict) -> str:
    """The report as a table, a row for each fold."""
    names = list(report['scores'])
    rows = [[f'fold {fold}', *(f'{scores[name]:.4f}' if name in scores else '' for name in names)]
            for fold, scores in report['folds'].items()]
    rows.append(['all', *(to_text([scores[name] for scores in report['folds'].values() if name in scores])
                          for name in names)])
    said = (f'{len(report["folds"])} of {report["planned"]} folds; of each the mean of its last {report["last"]} '
            'validations, then mean ± standard deviation over folds.')
    lines = [f'# {report["title"]}', '', said, '', '| | ' + ' | '.join(names) + ' |', '|' + '---|' * (len(names) + 1)]
    return '\n'.join([*lines, *('| ' + ' | '.join(row) + ' |' for row in rows)]) + '\n'
