"""What DHA's head costs beside the plain head of stride 4, and beside itself with box branches over the whole map.

Each runs from the neck's features to boxes, at batch 1 with random weights and features at the configs' full scale.
Runs take turns, medians are reported; time is that of the CPU, which a busy machine changes least. Memory is what a
process of its own holds at most beyond one that stops before the first run. That all box values of DHA's two forms
agree is checked first.
"""
import argparse
import statistics
import time
from functools import partial

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception.apis.config import load_config
from perception.common.measure import count_parameters, interleave, machine, process_memory
from perception.registry import MODELS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError, DataError

GOALS = dict(plain=1.0, dense=0.7)  # times of the others
OPTIONS = {
    '--config': {'default': 'configs/crowd/dha_voxel_stcrowd.py', 'help': 'of a DHA (default: %(default)s)'},
    '--plain': {'default': 'configs/crowd/centerpoint_voxel_stride4_stcrowd.py',
                'help': 'of the plain head on the same features (default: %(default)s)'},
    '--mini': {'action': 'store_true', 'help': 'the small nets of their mini sections'},
    '--rounds': {'type': 'int', 'default': 5, 'help': 'timed runs of each (default: 5)'},
    '--threads': {'type': 'int', 'default': 1, 'help': 'CPU threads (default: 1)'}}


def run(args: argparse.Namespace) -> list[dict]:
    """Measure and log a table.

    Returns:
        per form of a head `name`, `parameters`, `gmac`, `ms`, `memory_mib`, and `ratio`, its time over that of the
        first row, DHA at its peaks.

    Raises:
        ConfigError: a number below 1, or heads that do not take the same features.
        DataError: the two forms of DHA disagree.
    """
    check_positive('crowd_head', rounds=args.rounds, threads=args.threads)
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        return _measure(args)
    finally:
        torch.set_num_threads(before)


def _measure(args: argparse.Namespace) -> list[dict]:
    forms = {'DHA, boxes at its peaks': (args.config, False), 'DHA, dense': (args.config, True),
             'plain head, stride 4': (args.plain, True)}
    heads = {name: build_head(config, args.mini, dense) for name, (config, dense) in forms.items()}
    features = make_features(heads['DHA, dense'])
    for name, head in heads.items():
        if head.shared_conv.conv.in_channels != features.shape[1] or make_features(head).shape != features.shape:
            raise ConfigError(f'crowd_head: {name} takes other features than {tuple(features.shape)}, expected heads '
                              'on equal ones. Choose configs with one backbone and neck.')
    check_forms(heads['DHA, boxes at its peaks'], features)
    seconds = interleave({name: partial(find, head, features) for name, head in heads.items()}, args.rounds,
                         time.process_time)
    rows = []
    for name, (config, dense) in forms.items():
        with FlopCounterMode(display=False) as counter:
            find(heads[name], features)
        memory = [process_memory(run_alone, config, args.mini, dense, times) for times in (0, 1)]
        rows.append(dict(name=name, parameters=count_parameters(heads[name]), gmac=counter.get_total_flops() / 2e9,
                         ms=1e3 * statistics.median(seconds[name]), memory_mib=memory[1] - memory[0]))
    for row in rows:
        row['ratio'] = rows[0]['ms'] / row['ms']
    lines = [f'{"":<26}{"parameters":>12}{"GMAC":>8}{"ms":>9}{"MiB":>8}{"peaks":>9}']
    lines += [f'{row["name"]:<26}{row["parameters"]:>12,}{row["gmac"]:>8.1f}{row["ms"]:>9.1f}{row["memory_mib"]:>8.0f}'
              f'{row["ratio"]:>8.2f}x' for row in rows]
    met = rows[1]['ratio'] <= GOALS['dense'] and rows[2]['ratio'] <= GOALS['plain']
    lines.append(f'features {" x ".join(map(str, features.shape))}; CPU milliseconds, medians of {args.rounds}; peaks: '
                 f'time of the first row over that of the row; {machine()}; goals: {GOALS["dense"]}x of the dense '
                 f'form, {GOALS["plain"]}x of the plain head, {"met" if met else "missed"}')
    print_log('\n' + '\n'.join(lines), 'current')
    return rows


def build_head(config: str, mini: bool, dense: bool) -> nn.Module:
    """The head of a config with random weights, in evaluation mode.

    Raises:
        ConfigError: its model has no head that can be dense.
    """
    torch.manual_seed(0)
    head = getattr(MODELS.build(load_config(config, mini).model), 'head', None)
    if not hasattr(head, 'dense'):
        raise ConfigError(f'crowd_head: {config} has a head of {type(head).__name__}, expected one that may leave out '
                          'whole maps of boxes. Choose the config of a DHAHead.')
    head.dense = dense
    return head.eval()


def make_features(head: nn.Module) -> Tensor:
    """Random features as its neck would give them."""
    height, width = (n >> head.base_level for n in head.grid.shape)
    return torch.randn(1, head.shared_conv.conv.in_channels, height, width,
                       generator=torch.Generator().manual_seed(0)).relu()


@torch.no_grad()
def find(head: nn.Module, features: Tensor) -> list:
    """Boxes from features."""
    return head.predict(head(features))


@torch.no_grad()
def check_forms(head: nn.Module, features: Tensor) -> None:
    """See that box values at the peaks are those of whole maps, to 1e-5 of the largest one.

    Raises:
        DataError: they are not.
    """
    found = head(features)
    cells = found[0]['heatmap'].flatten(1).topk(head.max_detections).indices % found[0]['heatmap'][0, 0].numel()
    ours, whole = head.rows_at(found[0], cells, 0), head.rows_at(head.complete(found)[0], cells, 0)
    away = float((ours - whole).abs().max() / whole.abs().max().clamp(min=1))
    if not away <= 1e-5:
        raise DataError(f'crowd_head: box values at the peaks that differ by {away:.1e} from those of whole maps, '
                        'expected at most 1e-05. Report it.')


def run_alone(config: str, mini: bool, dense: bool, times: int) -> None:
    """Run a head so many times in a process of its own."""
    head = build_head(config, mini, dense)
    features = make_features(head)
    for _ in range(times):
        find(head, features)
