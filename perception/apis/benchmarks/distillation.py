"""Does a distillation method help? One teacher, if any, then per seed the student alone and with each method.

The first config is the student's own, the others are of methods that teach it; the teacher is the one that they name.
All students of a seed start from the same weights and see the same samples in the same order. Every run is a call of
tools/train.py --mini in its own folder; finished runs are kept and a run that was cut off is resumed, so the same
command continues after any interruption. The tables say what came out, also where a method did not help.

What a comparison needs beside that stands in a config's `evidence = dict(...)`:
    options = ['KEY=VALUE', ...]        overrides of its training
    scores = dict(NAME='greater')       results to compare beside the metric, or 'less' where less is better
    teacher_predictions = ['KEY', ...]  overrides that are given the folder of the teacher's saved predictions
    arms = dict(NAME=[CONFIG, 'KEY=VALUE', ...])    what tools/benchmark.py arms compares
    settings = dict(NAME=dict(title=..., teacher=['KEY=VALUE', ...], students=[...]))    for --setting NAME
"""
import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from perception.apis.benchmarks import cost
from perception.apis.benchmarks.distillation_report import Comparison, write_report
from perception.apis.benchmarks.trainings import (
    Job,
    Setting,
    check_settings,
    has_costs,
    make_jobs,
    read_run,
    save_predictions,
    train_jobs,
    with_overrides,
    write_json,
)
from perception.apis.config import load_config, parse_options
from perception.apis.inference import student_of
from perception.common.measure import machine
from perception.distill.teachers import EMATeacher
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError
from perception.utils.paths import data_path, from_root, make_folder

OPTIONS = {
    'student': {'metavar': 'STUDENT', 'help': 'config of the student alone, such as '
                'configs/lidarseg/minkunet_half_kitti.py'},
    'methods': {'nargs': '*', 'metavar': 'CONFIG', 'help': 'configs of methods that teach it, such as '
                'configs/pvd/minkunet_kitti.py; their folders name the arms'},
    '--arm': {'nargs': '+', 'action': 'append', 'default': [], 'metavar': ('NAME', 'CONFIG'),
              'help': 'a further arm with a config of any net, and overrides KEY=VALUE'},
    '--variant': {'nargs': '+', 'action': 'append', 'default': [], 'metavar': ('NAME', 'KEY=VALUE'),
                  'help': 'an arm of the first method with overrides, such as strong model.losses.pvd.weight=20'},
    '--setting': {'nargs': '+', 'default': ['equal'], 'metavar': 'NAME',
                  'help': "what teacher and students are given: equal, or names of the student's config, such as few "
                  'or semi; a table each (default: equal)'},
    '--data': {'metavar': 'ROOT', 'help': 'train the mini nets on another data set in the same layout, such as real '
               'scans'},
    '--sequences': {'nargs': '+', 'metavar': 'SEQ', 'help': 'the sequences of --data to use, with --leave-out'},
    '--leave-out': {'nargs': '+', 'default': [], 'metavar': 'SEQ',
                    'help': 'train on all --sequences but one and score that one, for each that is named'},
    '--seeds': {'type': 'int', 'default': 3, 'help': 'students per arm (default: 3)'},
    '--jobs': {'type': 'int', 'help': 'students trained side by side (default: 2, on a GPU 1)'},
    '--work-dir': {'metavar': 'DIR', 'help': "default: work_dirs/evidence/ and the student's name"},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides for all trainings'},
    '--background': {'action': 'store_true', 'help': 'return at once; the log goes to <work dir>/log.txt'},
    '--report-only': {'action': 'store_true', 'help': 'train nothing, report the runs that are finished'}}


def run(args: argparse.Namespace) -> dict:
    """Train what is missing and report.

    Returns:
        the report, as written to <work dir>/report.json.

    Raises:
        ConfigError: no seeds, configs that do not belong together, a name that is taken, or a work dir with runs of
            other settings.
    """
    jobs = args.jobs
    if jobs is None:
        jobs = 1 if torch.cuda.is_available() else min(2, torch.get_num_threads())
    check_positive('distillation', seeds=args.seeds, jobs=jobs)
    arms = add_arms(find_arms(args.student, args.methods), args.arm, args.variant)
    title, cfg = Path(args.student).stem, load_config(args.student, mini=True)
    settings, groups = find_settings(cfg, args)
    folder = make_folder(args.work_dir or from_root(f'work_dirs/evidence/{title}')).absolute()
    check_settings(folder, dict(arms, cfg_options=sorted(args.cfg_options), **{
        f'setting {s.name or "equal"}': [list(s.teacher), list(s.students)] for s in settings}))
    if args.background:
        return start_in_background(folder)
    runs = make_jobs(arms, args.seeds, folder, args.cfg_options, settings)
    comparison = Comparison(title, args.data or 'simulated mini data', groups, cfg.default_hooks.export.get('rule'),
                            dict(cfg.get('evidence', {}).get('scores', {})))
    nets = different_nets(with_overrides(arms, args.cfg_options))
    if not has_costs(folder, nets):  # before any report, which takes nets without costs for the student's
        write_json(folder / 'efficiency.json', measure_efficiency(nets))
    if not args.report_only:
        train_all(runs, jobs, bool(cfg.get('evidence', {}).get('teacher_predictions')),
                  lambda: write_report(runs, comparison, folder))
    report = write_report(runs, comparison, folder)
    print_log('\n' + (folder / 'report.md').read_text(), 'current')
    return report


def train_all(runs: Sequence[Job], side_by_side: int, compare: bool, after_each: Callable[[], object]) -> None:
    """Train what is not finished: teachers first, then their students.

    Args:
        runs: all trainings.
        side_by_side: trained at once.
        compare: whether metrics compare students with what their teacher predicts.
        after_each: called whenever a training is finished.
    """
    different = list({run.work_dir: run for run in runs}.values())  # settings share equal trainings
    unfinished = [run for run in different if read_run(run) is None]
    teachers = [run for run in unfinished if run.arm == 'teacher']
    train_jobs(teachers, max(min(side_by_side, len(teachers)), 1), after_each)  # one has all threads
    students = [run for run in unfinished if run.arm != 'teacher']
    for teacher in (run for run in different if run.arm == 'teacher' and compare and students):
        save_predictions(teacher)
    train_jobs(students, side_by_side, after_each)


def find_settings(cfg: Config, args: argparse.Namespace) -> tuple[list[Setting], dict[str, list[str]]]:
    """What teachers and students are given, by --setting, --data and --leave-out.

    Args:
        cfg: of the student.
        args: of the command.

    Returns:
        the settings, and the tables of the report: title -> names of the settings whose runs it counts together.

    Raises:
        ConfigError: a name that the config does not have, or options that do not belong together.
    """
    known = dict(equal={}, **cfg.get('evidence', {}).get('settings', {}))
    for name in args.setting:
        check_choice('--setting', name, known)
    chosen = [Setting('' if name == 'equal' else name, known[name].get('title', Setting.title),
                      tuple(known[name].get('teacher', ())), tuple(known[name].get('students', ())))
              for name in dict.fromkeys(args.setting)]
    if bool(args.leave_out) != bool(args.sequences) or (args.leave_out and not args.data):
        raise ConfigError('--leave-out: it came without --sequences or --data, or these without it, expected all three.'
                          ' Write for example --data data/semantickitti --sequences 0 1 2 --leave-out 2.')
    odd = sorted(set(args.leave_out) - set(args.sequences or ()))
    if odd or (args.leave_out and len(set(args.sequences)) < 2):
        raise ConfigError(f'--leave-out: {" ".join(odd or args.leave_out)} of the sequences '
                          f'{" ".join(args.sequences)}, expected some of at least two. Name others.')
    if not args.data:
        return chosen, {setting.title: [setting.name] for setting in chosen}
    loaders = [f'{split}_dataloader.dataset' for split in ('train', 'val', 'test')]
    data = tuple(f'{loader}.data_root={data_path(args.data)}' for loader in loaders)
    if not args.leave_out:
        chosen = [replace(s, teacher=data + s.teacher, students=data + s.students) for s in chosen]
        return chosen, {setting.title: [setting.name] for setting in chosen}
    settings, groups = [], {}
    for setting in chosen:
        folds = []
        for left in args.leave_out:
            words = data + (f'{loaders[0]}.sequences={_listed([s for s in args.sequences if s != left])}',
                            *(f'{loader}.sequences={_listed([left])}' for loader in loaders[1:]))
            folds.append(replace(setting, name='_'.join(filter(None, (setting.name, f'without_{left}'))),
                                 teacher=words + setting.teacher, students=words + setting.students))
            groups[f'{setting.title}; scored on {left}'] = [folds[-1].name]
        if len(folds) > 1:
            groups[f'{setting.title}; scored on each of {" ".join(args.leave_out)}'] = [fold.name for fold in folds]
        settings += folds
    return settings, groups


def _listed(sequences: Sequence[str]) -> str:
    """Numbers or names as a list on the command line."""
    return '[' + ','.join(str(int(s)) if s.isdigit() else repr(s) for s in sequences) + ']'


def find_arms(student: str, methods: Sequence[str]) -> dict[str, list[str]]:
    """Arms of a student alone and with methods.

    Args:
        student: its own config.
        methods: configs of methods.

    Returns:
        name -> [config]: 'teacher' (if a method has one), 'student', and each method by its config's folder.

    Raises:
        ConfigError: no such config, a student's config that is a method's, a method that teaches another net, two of
            one folder, or methods with different teachers.
    """
    arms, teachers = dict(student=[cost.config_name(student)]), {}
    alone = load_config(student, mini=True).model.to_dict()
    if 'student' in alone:
        raise ConfigError(f'{student}: it is the config of a method, expected that of the student alone first. Write '
                          'for example configs/lidarseg/minkunet_half_kitti.py configs/pvd/minkunet_kitti.py.')
    for method in methods:
        name, model = Path(cost.config_name(method)).parent.name, load_config(method, mini=True).model
        if model.to_dict().get('student') != alone:
            raise ConfigError(f'{method}: it trains another net than {student}, expected a method that teaches the '
                              f'same. Give such a net as --arm NAME {method}.')
        if name in arms:
            raise ConfigError(f'{method}: there is an arm {name} already, {arms[name][0]}, expected methods of '
                              f'different folders. Give it as --arm NAME {method}.')
        arms[name] = [cost.config_name(method)]
        teachers.update({teacher.get('trained_by'): method for teacher in (model.get('teachers') or {}).values()
                         if teacher.get('type') is not EMATeacher})  # a running mean is trained with its student
    if len(teachers) > 1 or None in teachers:
        raise ConfigError(f'{", ".join(teachers.values())}: their teachers are trained by '
                          f'{", ".join(map(str, teachers))}, expected one config. Compare these methods apart.')
    return {**({'teacher': list(teachers)} if teachers else {}), **arms}


def add_arms(arms: Mapping[str, list[str]], further: Sequence[Sequence[str]],
             variants: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """The arms with variants of the first method and with arms of other configs.

    Args:
        arms: of `find_arms`.
        further: name, config and overrides of each.
        variants: name and overrides of each.

    Raises:
        ConfigError: a name that is taken or no word, an arm without a config, a variant without overrides or method.
    """
    arms, first = dict(arms), next((path for name, (path,) in arms.items() if name not in ('teacher', 'student')), None)
    for name, *options in variants:
        if name in (*arms, 'teacher') or not name.isidentifier() or not options or first is None:
            raise ConfigError(f'--variant: {name!r} with {len(options)} overrides of {first or "no method"} came, '
                              'expected a new word, a method and at least one KEY=VALUE. Write for example --variant '
                              'strong model.losses.pvd.weight=20.')
        arms[name] = [first, *options]
    for name, *rest in further:
        if name in (*arms, 'teacher') or not name.isidentifier() or not rest:
            raise ConfigError(f'--arm: {name!r} with {" ".join(rest) or "no config"} came, expected a new word and a '
                              'config. Write for example --arm agnostic configs/lanes/agnostic_culane.py.')
        arms[name] = [cost.config_name(rest[0]), *rest[1:]]
    return arms


def start_in_background(folder: Path) -> dict:
    """Start the same command without --background, detached from the terminal."""
    command = [sys.executable, *(word for word in sys.argv if word != '--background')]
    with open(folder / 'log.txt', 'a') as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                   start_new_session=True)
    print_log(f'Running in the background as process {process.pid}; log: {folder / "log.txt"}, report so far: '
              f'{folder / "report.md"}', 'current')
    return dict(pid=process.pid)


def net_of(config: str, *words: str) -> dict:
    """Config of the net that a training with overrides gives, of a distillation its student."""
    return student_of(load_config(config, mini=True, options=parse_options(words))).to_dict()


def different_nets(arms: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Teacher, student, and those of the other arms, config and overrides each, whose net is not the student's."""
    alone = net_of(*arms['student'])
    return {arm: words for arm, words in arms.items() if arm in ('teacher', 'student') or net_of(*words) != alone}


def measure_efficiency(nets: Mapping[str, list[str]], rounds: int = 5) -> dict:
    """What some nets cost at the mini and at the published scale, students against teachers, see `cost.measure`.

    Args:
        nets: arm -> config file and overrides of its mini section; nets that they change have no published scale.
        rounds: timed runs of each net.

    Returns:
        `machine`, and `mini` and, if there is one, `full`: a row for each net.
    """
    result = dict(machine=machine())
    for scale in ('mini', 'full'):
        cfgs = {arm: cost.config_of(path, scale == 'mini', options=parse_options(words))
                for arm, (path, *words) in nets.items() if scale == 'mini' or net_of(path, *words) == net_of(path)}
        if cfgs:
            result[scale] = cost.measure(cfgs, rounds)
        if {'teacher', 'student'} <= cfgs.keys():
            cost.compare(result[scale], dict(student='teacher'))
    return result
