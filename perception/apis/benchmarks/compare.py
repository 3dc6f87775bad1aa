"""Trained models side by side: score, parameters, MACs, latency and where their weights are."""
import argparse
from pathlib import Path

from mmengine.logging import print_log

from perception.apis.benchmarks.distillation import describe_input, measure_pair
from perception.apis.config import load_config
from perception.apis.runner import write_mini_data
from perception.utils.checkpoint import load_checkpoint, newest_checkpoint
from perception.utils.errors import CheckpointError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tools/benchmark.py compare`."""
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='trained configs, each in its default work dir')
    parser.add_argument('--mini', action='store_true', help='their mini sections, on simulated data')
    parser.add_argument('--repeats', type=int, default=10, help='timed runs of each net (default: 10)')


def run(args: argparse.Namespace) -> list[dict]:
    """Measure every config on the first validation scan and log a table.

    Returns:
        per config `config`, `score`, `parameters`, `macs`, `latency` [s], `weights` (path).

    Raises:
        CheckpointError: a config was not trained in its default work dir.
    """
    cfgs = {config: load_config(config, args.mini) for config in args.configs}
    scores = {config: best_score(Path(cfg.work_dir), config, args.mini) for config, cfg in cfgs.items()}
    if args.mini:
        write_mini_data(cfgs[args.configs[0]])
    measured = measure_pair(cfgs, args.repeats)
    rows = [dict(config=config, score=scores[config], weights=str(Path(cfg.work_dir, 'model.pth')), **measured[config])
            for config, cfg in cfgs.items()]
    print_log('\n' + to_table(rows, measured, 'simulated mini data' if args.mini else 'validation data'), 'current')
    return rows


def best_score(work_dir: Path, config: str, mini: bool) -> float:
    """Score of the best epoch, whose weights are `model.pth`.

    Raises:
        CheckpointError: the work dir holds no finished training.
    """
    path, _ = newest_checkpoint(work_dir)
    if path is None or not (work_dir / 'model.pth').is_file():
        raise CheckpointError(f'{work_dir}: no weights here, expected those of a training. Run `tools/train.py {config}'
                              f'{" --mini" if mini else ""}`.')
    return float(load_checkpoint(path, mmap=True)['message_hub']['runtime_info'].get('best_score', float('nan')))


def to_table(rows: list[dict], measured: dict, data: str) -> str:
    """The rows as text, latency and MACs as ratios to the first one too.

    Args:
        rows: what `run` measured.
        measured: what `measure_pair` returned.
        data: what the scores were measured on.
    """
    lines = [f'{"config":<44}{"score":>8}{"parameters":>13}{"GMAC":>9}{"ms":>8}  weights']
    for row in rows:
        lines.append(f'{row["config"]:<44}{row["score"]:>8.4f}{row["parameters"]:>13,}{row["macs"] / 1e9:>9.2f}'
                     f'{row["latency"] * 1e3:>8.0f}  {row["weights"]}')
    first, last = rows[0], rows[-1]
    if len(rows) > 1:
        lines.append(f'last against first: {1 - last["parameters"] / first["parameters"]:.0%} fewer parameters, '
                     f'{1 - last["macs"] / first["macs"]:.0%} fewer MACs, '
                     f'{first["latency"] / last["latency"]:.2f}x as fast')
    lines.append(f'score: best epoch on {data}; MACs and ms (median): {describe_input(measured)}, '
                 f'{measured["threads"]} CPU threads, without the preprocessing, whose time is in brackets')
    return '\n'.join(lines)
