"""How far does a net's score fall when its input is disturbed? One test for each disturbance that the config names.

`robustness = dict(NAME=[dict(type=...), ...])` in the config: steps behind those of the test pipeline. The samples, and
what is drawn for each, are the same in every test; the first line is the undisturbed one.
"""
import argparse
from pathlib import Path

from mmengine.logging import print_log

from perception.apis.config import load_config, need, parse_options
from perception.apis.test import test
from perception.utils.checks import check_choice, check_positive
from perception.utils.paths import make_folder

OPTIONS = {
    'config': {'metavar': 'CONFIG', 'help': 'such as configs/bev/bevdet_r50_nuscenes.py'},
    'checkpoint': {'metavar': 'CKPT', 'help': 'its weights'},
    '--mini': {'action': 'store_true', 'help': 'CKPT was trained with --mini'},
    '--arms': {'metavar': 'NAME,NAME', 'help': 'some of the disturbances (default: all)'},
    '--scores': {'type': 'int', 'default': 7, 'metavar': 'N', 'help': 'columns of the table (default: %(default)s)'},
    '--out': {'metavar': 'DIR', 'help': 'for robustness.md (default: the work dir of the config)'},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides for all tests'}}
PLAIN = 'undisturbed'


def run(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Test with each disturbance, log a table and write it as Markdown.

    Returns:
        name of the disturbance -> the results of the metrics; the first one is 'undisturbed'.

    Raises:
        ConfigError: the config names no disturbances, or not one that was asked for.
        CheckpointError: weights that do not fit.
        DataError: the data cannot be read.
    """
    check_positive('robustness', scores=args.scores)
    options = parse_options(args.cfg_options)
    cfg = load_config(args.config, args.mini, options)
    need(cfg, 'robustness', 'robustness', 'test_dataloader')
    known, pipeline = cfg.robustness, list(cfg.test_dataloader.dataset.get('pipeline', ()))
    names = list(known) if args.arms is None else list(dict.fromkeys(filter(None, args.arms.split(','))))
    for name in names:
        check_choice('--arms', name, known)
    results = {}
    for name in (PLAIN, *names):
        print_log(f'robustness: {name}', 'current')
        steps = {'test_dataloader.dataset.pipeline': [*pipeline, *known[name]]} if name != PLAIN else {}
        results[name] = test(args.config, args.checkpoint, args.mini, options=dict(options, **steps))
    text = table(results, args.scores)
    folder = make_folder(args.out or cfg.work_dir)
    (Path(folder) / 'robustness.md').write_text(text, 'utf-8')
    print_log(f'{text}\n{Path(folder) / "robustness.md"}', 'current')
    return results


def table(results: dict[str, dict[str, float]], count: int) -> str:
    """A table in Markdown: a line for each disturbance, its first scores, and what of the first one is left.

    Args:
        results: of `run`.
        count: of the scores.
    """
    scores = list(results[PLAIN])[:count]
    rows = [['input', *(name.rpartition('/')[2] for name in scores), 'of the first']]
    first = results[PLAIN][scores[0]]
    for name, found in results.items():
        left = f'{100 * found[scores[0]] / first:.0f} %' if first else '-'
        rows.append([name, *(f'{found[score]:.4f}' for score in scores), left])
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join([lines[0], '|---' * len(rows[0]) + '|', *lines[1:]]) + '\n'
