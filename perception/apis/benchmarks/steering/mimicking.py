"""What a training step of a net that mimics others costs: alone, beside the live teachers, and from their cache.

Nets have random weights and see the same random clips. Runs take turns, medians are reported; time is that of the CPU,
which a busy machine changes least. That the cache gives the losses of the live teachers, to the precision of float16,
is checked first.
"""
import argparse
import copy
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn

from perception.apis.config import load_config
from perception.common.measure import interleave, machine
from perception.common.structures import SteeringSample
from perception.registry import MODELS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError, DataError

GOAL = 1.15  # of a step from the cache, over one of the net alone
OPTIONS = {
    'config': {'metavar': 'CONFIG', 'help': 'such as configs/fm/resnet50_lstm_udacity.py'},
    '--mini': {'action': 'store_true', 'help': 'the small nets of its mini section'},
    '--clips': {'type': 'int', 'default': 4, 'help': 'of 10 frames in a batch (default: 4)'},
    '--rounds': {'type': 'int', 'default': 5, 'help': 'timed steps of each (default: 5)'},
    '--threads': {'type': 'int', 'default': 1, 'help': 'CPU threads (default: 1)'}}


def run(args: argparse.Namespace) -> list[dict]:
    """Measure and log a table.

    Returns:
        for the net alone, with live teachers and with their cache `name`, `ms` of a step, and `ratio` to the first.

    Raises:
        ConfigError: a number below 1, or a config without teachers of clips.
        DataError: the cache gives other losses.
    """
    check_positive('mimicking', clips=args.clips, rounds=args.rounds, threads=args.threads)
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = _measure(args, Path(folder))
    finally:
        torch.set_num_threads(before)
    met = 'met' if rows[2]['ratio'] <= GOAL else 'missed'
    lines = [f'{row["name"]:<16}{row["ms"]:>10.1f} ms{row["ratio"]:>8.2f}x' for row in rows]
    lines.append(f'training steps of {args.clips} clips of 10 frames, CPU milliseconds, medians of {args.rounds}; '
                 f'goal of the cache: {GOAL}x, {met}; {machine()}')
    print_log('\n' + '\n'.join(lines), 'current')
    return rows


def _measure(args: argparse.Namespace, folder: Path) -> list[dict]:
    models = build_models(args.config, args.mini, folder)
    batch = random_clips(args.clips, models['alone'].input_size)
    check_losses(models['live teachers'], models['cached'], batch)
    runs = {}
    for name, model in models.items():
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 1e-6))
        runs[name] = partial(model.train().train_step, batch, wrapper)
    seconds = interleave(runs, args.rounds, time.process_time)
    medians = {name: 1e3 * statistics.median(times) for name, times in seconds.items()}
    return [dict(name=name, ms=ms, ratio=ms / medians['alone']) for name, ms in medians.items()]


def build_models(config: str, mini: bool, folder: Path) -> dict[str, nn.Module]:
    """The student alone, with live teachers, and with the same ones from a cache in a folder.

    Raises:
        ConfigError: no teachers whose features can be kept.
    """
    cfg = load_config(config, mini).model
    for teacher in (cfg.get('teachers') or {}).values():
        teacher.trained_by, teacher.cache_gb = None, 0.0
    if not cfg.get('teachers') or not all('paths' in teacher for teacher in cfg.teachers.values()):
        raise ConfigError(f'mimicking: {config} has no teachers of clips, expected some. Choose one of configs/fm.')
    torch.manual_seed(0)
    live = MODELS.build(cfg)
    cached = copy.deepcopy(live)
    for teacher in cached.teachers.values():
        teacher.cache_gb, teacher.cache_root = 100.0, folder
    return {'alone': copy.deepcopy(live.student), 'live teachers': live, 'cached': cached}


def random_clips(count: int, size: tuple[int, int]) -> dict:
    """A batch as a data loader gives it: clips of 10 frames, with all that nets learn from."""
    generator = torch.Generator().manual_seed(0)
    samples = [SteeringSample(targets=torch.randn(10, 3, generator=generator), first=torch.zeros(10, dtype=torch.bool),
                              actions=torch.randint(4, (10,), generator=generator)) for _ in range(count)]
    clips = [torch.randint(256, (10, 3, *size), generator=generator, dtype=torch.uint8) for _ in range(count)]
    return dict(inputs=dict(clip=clips), data_samples=samples)


@torch.no_grad()
def check_losses(live: nn.Module, cached: nn.Module, batch: dict) -> None:
    """See that both give the same losses, with an empty cache and with a filled one, to 1e-2.

    Raises:
        DataError: they do not.
    """
    data = live.data_preprocessor(batch)
    for model in (live, cached):
        model.eval()  # without dropout, and nothing is learned
    expected = live(**data, mode='loss')
    for _ in range(2):
        found = cached(**data, mode='loss')
        for name, value in expected.items():
            away = float((found[name] - value).abs() / value.abs().clamp(min=1e-3))
            if not away <= 1e-2:
                raise DataError(f'mimicking: {name} from the cache differs by {away:.1e}, expected at most 1e-02. '
                                'Report it.')
