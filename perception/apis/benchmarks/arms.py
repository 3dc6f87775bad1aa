"""Which part of a method helps? The arms that a config names are trained with some seeds and compared.

A config names them in `evidence = dict(arms=...)`, such as CenterPoint and DHA with one part more in each arm. All arms
of a seed see the same samples in the same order, and what they have in common starts from the same weights. Every run
is a call of tools/train.py --mini in its own folder; finished runs are kept and a run that was cut off is resumed, so
the same command continues after any interruption. Gains are over the first arm. The data are simulated where
`evidence.data` names no others. An arm `teacher` is trained first, once, and is never what gains are
over; other teachers are trained by their own configs before.
"""
import argparse
from pathlib import Path

import torch
from mmengine.logging import print_log

from perception.apis.benchmarks import cost
from perception.apis.benchmarks.distillation import start_in_background, train_all
from perception.apis.benchmarks.distillation_report import Comparison, write_report
from perception.apis.benchmarks.trainings import (
    Setting,
    check_settings,
    has_costs,
    make_jobs,
    with_overrides,
    write_json,
)
from perception.apis.config import load_config, parse_options
from perception.common.measure import machine
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError
from perception.utils.paths import from_root, make_folder

OPTIONS = {
    'config': {'metavar': 'CONFIG', 'help': 'whose evidence names the arms, such as '
               'configs/crowd/dha_pillar_stcrowd.py or configs/fm/resnet50_lstm_udacity.py'},
    '--arms': {'metavar': 'NAME,NAME', 'help': 'some of them, the first one is the reference (default: all)'},
    '--seeds': {'type': 'int', 'default': 3, 'help': 'trainings of each arm (default: 3)'},
    '--jobs': {'type': 'int', 'help': 'trained side by side (default: 2, on a GPU 1)'},
    '--work-dir': {'metavar': 'DIR', 'help': "default: work_dirs/evidence/ and the config's name"},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides for all trainings'},
    '--background': {'action': 'store_true', 'help': 'return at once; the log goes to <work dir>/log.txt'},
    '--report-only': {'action': 'store_true', 'help': 'train nothing, report the runs that are finished'}}


def run(args: argparse.Namespace) -> dict:
    """Train what is missing and report.

    Returns:
        the report, as written to <work dir>/report.json.

    Raises:
        ConfigError: no seeds, arms that the config does not name, or a work dir with runs of other settings.
    """
    jobs = args.jobs
    if jobs is None:
        jobs = 1 if torch.cuda.is_available() else min(2, torch.get_num_threads())
    check_positive('arms', seeds=args.seeds, jobs=jobs)
    cfg = load_config(args.config, mini=True)
    arms = find_arms(cfg.get('evidence', {}).to_dict().get('arms', {}), args)
    folder = make_folder(args.work_dir or from_root(f'work_dirs/evidence/{Path(args.config).stem}')).absolute()
    check_settings(folder, dict(arms, cfg_options=sorted(args.cfg_options)))
    if args.background:
        return start_in_background(folder)
    runs = make_jobs(arms, args.seeds, folder, args.cfg_options)
    title = 'same data and labels for all'
    comparison = Comparison(' and '.join(dict.fromkeys(Path(config).stem for config, *_ in arms.values())),
                            cfg.evidence.get('data', 'simulated mini data'), {title: [Setting().name]},
                            cfg.default_hooks.export.get('rule'), dict(cfg.evidence.get('scores', {})),
                            next((arm for arm in arms if arm != 'teacher'), 'teacher'))
    if not has_costs(folder, arms):
        write_json(folder / 'efficiency.json', measure_costs(with_overrides(arms, args.cfg_options)))
    if not args.report_only:
        train_all(runs, jobs, bool(cfg.evidence.get('teacher_predictions')),
                  lambda: write_report(runs, comparison, folder))
    report = write_report(runs, comparison, folder)
    print_log('\n' + (folder / 'report.md').read_text(), 'current')
    return report


def find_arms(known: dict[str, list[str]], args: argparse.Namespace) -> dict[str, list[str]]:
    """Name -> config and overrides of the arms that were asked for.

    Args:
        known: those of the config.
        args: of the command.

    Raises:
        ConfigError: the config names none, or not one that was asked for.
    """
    if not known:
        raise ConfigError(f'arms: {args.config} names no arms, expected evidence = dict(arms=...). Choose another '
                          'config, or compare two with `tools/benchmark.py distillation CONFIG --arm NAME CONFIG`.')
    names = list(known) if args.arms is None else list(dict.fromkeys(filter(None, args.arms.split(','))))
    for name in names:
        check_choice('--arms', name, known)
    if not names:
        raise ConfigError(f'--arms: {args.arms!r} names none, expected some of {", ".join(known)}. Leave it out for '
                          'all of them.')
    return {name: list(known[name]) for name in names}


def measure_costs(arms: dict[str, list[str]]) -> dict:
    """What the nets of the mini scale cost: `machine`, and `mini` with a row for each, see `cost.measure`."""
    cfgs = {arm: cost.config_of(path, True, options=parse_options(words)) for arm, (path, *words) in arms.items()}
    return dict(machine=machine(), mini=cost.measure(cfgs, 5))
