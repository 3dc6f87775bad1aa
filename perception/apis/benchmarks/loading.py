"""Milliseconds of a sample until the net gets it, by parts: reading its files, each step of the pipeline, packing.

Samples take turns, in this process, augmentation drawn anew in each round. Times are CPU seconds, the shortest round's
mean over the samples; files are in the memory of the machine after the first round, which is not counted.
"""
import argparse
import time
from collections import defaultdict

import cv2
import torch
from mmengine.logging import print_log

from perception.apis.config import load_config, need, parse_options
from perception.apis.runner import write_mini_data
from perception.common.dataset import SeededDataset
from perception.common.measure import machine
from perception.registry import DATASETS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError

OPTIONS = {
    'config': {'metavar': 'CONFIG', 'help': 'such as configs/bev/bevdet_r50_nuscenes.py'},
    '--mini': {'action': 'store_true', 'help': 'the simulated data and small samples of its mini section'},
    '--loader': {'default': 'train', 'choices': ['train', 'val', 'test'], 'help': 'whose data (default: %(default)s)'},
    '--samples': {'type': 'int', 'default': 10, 'metavar': 'N', 'help': 'the first ones (default: %(default)s)'},
    '--rounds': {'type': 'int', 'default': 5, 'help': 'measured rounds (default: %(default)s)'},
    '--threads': {'type': 'int', 'default': 1, 'help': 'of OpenCV and PyTorch (default: %(default)s)'},
    '--cfg-options': {'nargs': '+', 'default': [], 'metavar': 'KEY=VALUE', 'help': 'overrides, such as of data_root'}}
ALL = 'all'


def run(args: argparse.Namespace) -> dict[str, float]:
    """Time the parts and log a line for each.

    Returns:
        part -> milliseconds a sample; the last one, 'all', is the least sum of a round.

    Raises:
        ConfigError: a number below 1, or a data set without parts.
        DataError: the data cannot be read.
    """
    check_positive('loading', samples=args.samples, rounds=args.rounds, threads=args.threads)
    cfg, name = load_config(args.config, args.mini, parse_options(args.cfg_options)), f'{args.loader}_dataloader'
    need(cfg, 'loading', name)
    if args.mini:
        write_mini_data(cfg)
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(args.threads)
    torch.set_num_threads(args.threads)
    try:
        data = DATASETS.build(cfg[name].dataset)
        if not isinstance(data, SeededDataset):
            raise ConfigError(f'loading: {type(data).__name__} came, expected a data set that reads, augments and '
                              'packs its samples. Choose another config or loader.')
        count = min(args.samples, len(data))
        rounds = [parts_of(data, count, turn) for turn in range(args.rounds + 1)][1:]
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
    found = {part: 1e3 * min(row[part] for row in rounds) for part in rounds[0]}
    found[ALL] = 1e3 * min(sum(row.values()) for row in rounds)
    print_log(f'{args.config}, {name}: {count:,} samples, CPU milliseconds each; {machine()}', 'current')
    for part, value in found.items():
        print_log(f'{part:<20}{value:8.1f}', 'current')
    return found


def parts_of(data: SeededDataset, count: int, epoch: int) -> dict[str, float]:
    """CPU seconds of the parts of `data[epoch, i]`, the mean over the first samples.

    Args:
        data: a data set.
        count: of the samples.
        epoch: that augmentation is drawn for.
    """
    found: dict[str, float] = defaultdict(float)

    def timed(part: str, call: object, *args: object) -> object:
        start = time.process_time()
        value = call(*args)
        found[part] += (time.process_time() - start) / count
        return value

    for index in range(count):
        sample = data.begin(timed('read', data.read, index), epoch, index)
        for number, step in enumerate(data.pipeline, 1):
            sample = timed(f'{number} {type(step).__name__}', step, sample)
        timed('pack', data.pack, sample, index)
    return dict(found)
