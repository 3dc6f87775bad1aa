"""What nets cost at batch 1: parameters, MACs, milliseconds on CPU and GPU, memory; of any configs of any room.

Nets have random weights. Samples are the first ones of each config's validation data, which are simulated unless
--official is given. Runs take turns, so that a busy machine slows all alike; medians are reported, with the kernel maps
of sparse nets, without preprocessing (voxels, normalisation), which has a column of its own, and without decoding.
Students are compared with their teachers; where no config of the list teaches another, all are compared with the first.
"""
import argparse
import copy
import csv
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor

from perception.apis.config import find_config, load_config
from perception.apis.export import open_session, to_onnx
from perception.apis.inference import student_of
from perception.apis.prune.search import batch_of
from perception.apis.runner import write_mini_data
from perception.common.measure import (
    count_model_macs,
    count_parameters,
    gpu_seconds,
    interleave,
    is_sparse,
    machine,
    process_memory,
)
from perception.ops.sparse.maps import VoxelSet
from perception.registry import DATASETS, MODELS
from perception.utils.checkpoint import load_checkpoint, newest_checkpoint
from perception.utils.checks import check_positive
from perception.utils.errors import CheckpointError, ConfigError
from perception.utils.paths import PROJECT_ROOT, from_root, make_folder
from perception.utils.structure import apply_structure, read_structure

OPTIONS = {
    'configs': {'nargs': '+', 'metavar': 'CONFIG', 'help': 'such as configs/lidarseg/*.py'},
    '--mini': {'action': 'store_true', 'help': 'the small nets of their mini sections'},
    '--official': {'action': 'store_true', 'help': "samples of the configs' own data sets, not simulated ones"},
    '--source': {'metavar': 'FILE', 'help': 'measure on this file, such as a scan, not on samples of a data set'},
    '--structure': {'metavar': 'JSON', 'help': 'also measure the net of one config made as slim as tools/prune.py '
                    'search found'},
    '--trained': {'action': 'store_true', 'help': 'also the best score that each reached in its default work dir'},
    '--samples': {'type': 'int', 'default': 10, 'metavar': 'N',
                  'help': 'samples that the MACs of a sparse net are a mean over (default: 10)'},
    '--rounds': {'type': 'int', 'default': 5, 'help': 'timed runs of each net on one sample (default: 5)'},
    '--threads': {'type': 'int', 'help': 'CPU threads (default: as torch has)'},
    '--no-onnx': {'action': 'store_true', 'help': 'without ONNX Runtime for the nets that can be exported'},
    '--out': {'metavar': 'DIR', 'help': 'for cost.md and cost.csv (default: work_dirs/cost)'}}
NUMBER = '{:,.1f}'.format
COLUMNS = {  # what is measured: its heading, its text
    'config': ('config', str), 'score': ('score', '{:.4f}'.format), 'input': ('input', str),
    'parameters': ('parameters', '{:,}'.format), 'gmac': ('GMAC', '{:,.2f}'.format),
    'cpu_ms': ('CPU [ms]', NUMBER), 'onnx_ms': ('ONNX Runtime [ms]', NUMBER), 'gpu_ms': ('GPU [ms]', NUMBER),
    'preprocess_ms': ('preprocessing [ms]', NUMBER), 'memory_mib': ('process memory [MiB]', '{:,.0f}'.format),
    'gpu_memory_mib': ('GPU memory [MiB]', '{:,.0f}'.format),
    'published_parameters': ('published parameters', '{:,}'.format), 'published_gmac': ('published GMAC', str),
    'published_ms': ('published [ms]', str)}


def _fewer(share: float) -> str:
    return f'{100 * abs(share):,.1f} % {"more" if share < 0 else "fewer"}'


def _faster(ratio: float) -> str:
    return f'{ratio:.2f}x as fast'


COMPARED = {'config': ('config', str), 'against': ('against', str), 'parameters_saved': ('parameters', _fewer),
            'gmac_saved': ('GMAC', _fewer), 'cpu_speedup': ('CPU', _faster), 'onnx_speedup': ('ONNX Runtime', _faster),
            'gpu_speedup': ('GPU', _faster)}


def run(args: argparse.Namespace) -> list[dict]:
    """Measure the nets, log a table and write it as Markdown and CSV.

    Returns:
        for each config a dict with the keys of COLUMNS and COMPARED; None where something was not measured.

    Raises:
        ConfigError: no samples, rounds or threads, or no such config.
        CheckpointError: --trained of a config that was not trained in its default work dir.
        DataError: --official without the data.
        MissingDependency: a package for ONNX is missing.
    """
    if args.samples < 1 or args.rounds < 1:
        raise ConfigError(f'cost: --samples {args.samples} --rounds {args.rounds} came, expected at least 1 of each. '
                          'Leave them out for ten samples and five rounds.')
    if args.structure and len(args.configs) > 1:
        raise ConfigError(f'cost: --structure with {len(args.configs)} configs, expected the one that it was searched '
                          'for. Measure the others apart.')
    folder = make_folder(args.out or from_root('work_dirs/cost'))
    if args.threads is not None:
        check_positive('cost', threads=args.threads)
        torch.set_num_threads(args.threads)
    real = args.official or args.source is not None
    cfgs = {config_name(path): config_of(path, args.mini, real) for path in args.configs}
    scores = {name: best_score(Path(cfg.work_dir), name, args.mini) for name, cfg in cfgs.items() if args.trained}
    for cfg in cfgs.values():
        cfg.source = args.source
    if args.structure:
        name, cfg = next(iter(cfgs.items()))
        cfgs[f'{name}, slim'] = copy.deepcopy(cfg)
        cfgs[f'{name}, slim'].structure = str(Path(args.structure).absolute())
    rows = measure(cfgs, args.rounds, args.samples, onnx=not args.no_onnx, memory=True)
    for row in rows:
        row['score'] = scores.get(row['config'])
        published = {} if args.mini else cfgs[row['config']].get('published') or {}
        row.update({f'published_{key}': value for key, value in published.items()})
    compare(rows, references(cfgs))
    text = to_markdown(rows, args)
    (folder / 'cost.md').write_text(text)
    with open(folder / 'cost.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, dict.fromkeys([*COLUMNS, *COMPARED]))
        writer.writeheader()
        writer.writerows(rows)
    print_log('\n' + text, 'current')
    return rows


# --------------------------------------------------------------------------------------------------- nets and samples

def config_name(path: str | Path) -> str:
    """A config file as it is written in a command: relative to the project where it lies there.

    Raises:
        ConfigError: no such file.
    """
    path = find_config(path)
    return path.relative_to(PROJECT_ROOT).as_posix() if path.is_relative_to(PROJECT_ROOT) else str(path)


def config_of(path: str | Path, mini: bool, official: bool = False, options: Mapping[str, Any] | None = None) -> Config:
    """The config of a net with the validation data to measure it on.

    Of the simulated data set's arguments those that are names (its root, its split) replace those of the config; sizes
    stay, for they belong to the net.

    Args:
        path: the config file.
        mini: the net of its mini section.
        official: the data of the config itself, not the simulated ones of its mini section, which are else written.
        options: overrides of the mini section.
    """
    full = load_config(path)
    if official and not mini:
        return full
    small = load_config(path, mini=True, options=options)
    cfg, data = small if mini else full, full if official else small
    if not official:
        write_mini_data(small)
    cfg.val_dataloader.dataset.update(
        {key: value for key, value in data.val_dataloader.dataset.items() if isinstance(value, str)})
    return cfg


def build(cfg: Config, samples: int) -> tuple[BaseModel, list[Callable[[], dict]]]:
    """A net for evaluation, and for each of the first validation samples what preprocesses it.

    Args:
        cfg: its config; of a distillation the student is what runs, as slim as its `structure` says. Its `source` is a
            file in place of the samples.
        samples: how many, if there are so many.
    """
    model = MODELS.build(student_of(cfg))
    if cfg.get('structure'):
        apply_structure(model, read_structure(cfg.structure), cfg.structure)
    if cfg.get('source'):
        return model.eval(), [lambda: dict(inputs=batch_of(cfg, model, cfg.source), data_samples=None)]
    data = DATASETS.build(cfg.val_dataloader.dataset)
    items = (data[index] for index in range(min(samples, len(data))))
    return model.eval(), [partial(model.data_preprocessor, pseudo_collate([item])) for item in items]


def describe_input(inputs: Any) -> str:
    """Size of a batch of one sample, such as `288 x 800` (height, width), of six cameras `6 times 256 x 704`, or
    `120,000 points, 79,663 voxels`.

    Args:
        inputs: a tensor, a list of tensors, or a dict of both.
    """
    inputs = inputs if isinstance(inputs, Mapping) else dict(inputs=inputs)
    tensors = {key: value[0] if isinstance(value, (list, tuple)) and value else value for key, value in inputs.items()}
    tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    matrices = any('cam' in key for key in tensors)  # of several cameras
    parts = [f'{f"{value.shape[1]} times " if matrices and value.ndim > 4 else ""}'
             f'{" x ".join(map(str, value.shape[-2:]))}' for value in tensors.values()
             if value.ndim > 3 and min(value.shape[-2:]) > 4]
    parts += [f'{len(tensors[key]):,} {name}' for key, name in (('points', 'points'), ('voxel_coords', 'voxels'))
              if key in tensors]
    return ', '.join(parts or [f'{key} {" x ".join(map(str, value.shape))}' for key, value in tensors.items()])


def best_score(work_dir: Path, config: str, mini: bool) -> float:
    """Score of the best epoch, whose weights are `model.pth`; NaN of a training without validation.

    Raises:
        CheckpointError: the work dir holds no finished training.
    """
    path, _ = newest_checkpoint(work_dir)
    if path is None or not (work_dir / 'model.pth').is_file():
        raise CheckpointError(f'{work_dir}: no weights here, expected those of a training. Run `tools/train.py {config}'
                              f'{" --mini" if mini else ""}`.')
    score = load_checkpoint(path, mmap=True)['message_hub']['runtime_info'].get('best_score')
    return float('nan' if score is None else score)


# ---------------------------------------------------------------------------------------------------------- measuring

@torch.no_grad()
def forward(model: BaseModel, batch: dict) -> Any:
    """What the net computes of a batch, without decoding; sparse nets make their kernel maps, as of a new batch."""
    inputs = batch['inputs']
    if isinstance(inputs, Mapping) and isinstance(inputs.get('voxels'), VoxelSet):  # which keeps those of a run before
        batch = dict(batch, inputs=dict(inputs, voxels=inputs['voxels'].anew()))
    return model(**batch, mode='tensor')


def measure(cfgs: Mapping[str, Config], rounds: int, samples: int = 1, onnx: bool = False,
            memory: bool = False) -> list[dict]:
    """Measure nets side by side.

    Args:
        cfgs: name -> config with the data to measure on, see `config_of`.
        rounds: timed runs of each.
        samples: that the MACs of a sparse net are a mean over.
        onnx: also time by ONNX Runtime what a net's `deployable` returns, normalisation included.
        memory: also ask a fresh process for its peak memory.

    Returns:
        for each a dict with the keys of COLUMNS but the score and published figures, None where not measured.
    """
    rows, runs, prepare = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, cfg in cfgs.items():
            model, batches = build(cfg, samples)
            batch = batches[0]()
            counted = batches if is_sparse(model) else batches[:1]  # dense nets: all samples have one size
            row = rows[name] = dict(
                dict.fromkeys(COLUMNS), config=name, input=describe_input(batch['inputs']),
                parameters=count_parameters(model),
                gmac=statistics.fmean(count_model_macs(model, lambda net, batch=batch: forward(net, batch))
                                      for batch in (call() for call in counted)) / 1e9)
            if memory:
                row['memory_mib'] = process_memory(_run_once, cfg)
            prepare[name], runs[name, 'cpu_ms'] = batches[0], partial(forward, model, batch)
            if not cfg.get('source'):  # which is read each time
                runs[name, 'preprocess_ms'] = prepare[name]
            run = in_onnx_runtime(model, Path(folder, f'{len(rows)}.onnx')) if onnx else None
            runs.update({(name, 'onnx_ms'): run} if run else {})
            print_log(f'{name}: {row["parameters"]:,} parameters, {row["gmac"]:.2f} GMAC', 'current')
        for (name, key), seconds in interleave(runs, rounds).items():
            rows[name][key] = 1e3 * statistics.median(seconds)
    for name, row in rows.items() if torch.cuda.is_available() else ():
        row['gpu_ms'], row['gpu_memory_mib'] = on_gpu(runs[name, 'cpu_ms'].args[0], prepare[name], rounds)
    return list(rows.values())


def _run_once(cfg: Config) -> None:
    model, (prepare,) = build(cfg, 1)
    forward(model, prepare())


def in_onnx_runtime(model: BaseModel, path: Path) -> Callable[[], list] | None:
    """What runs a whole net on its example inputs; None of one that has no method `deployable`, or that it refuses.

    Args:
        model: the net.
        path: of the ONNX file to write.
    """
    if not hasattr(model, 'deployable'):
        return None
    try:
        module, inputs, outputs = model.deployable()
    except ConfigError as error:
        print_log(f'ONNX Runtime is left out: {error}', 'current')
        return None
    to_onnx(module, inputs, outputs, path)
    return partial(open_session(path).run, None, {name: value.numpy() for name, value in inputs.items()})


def on_gpu(model: BaseModel, prepare: Callable[[], dict], rounds: int) -> tuple[float, float]:
    """Median milliseconds and peak memory [MiB] on the GPU; the net returns to the CPU.

    Args:
        model: a net.
        prepare: its data preprocessor with a sample.
        rounds: timed runs.
    """
    model.cuda()
    batch = prepare()  # its preprocessor went along
    torch.cuda.reset_peak_memory_stats()
    seconds = gpu_seconds(partial(forward, model, batch), rounds)
    memory = torch.cuda.max_memory_allocated() / 2 ** 20
    model.cpu()
    return 1e3 * statistics.median(seconds), memory


# ---------------------------------------------------------------------------------------------------------- comparing

def references(cfgs: Mapping[str, Config]) -> dict[str, str]:
    """Whom each config is compared with: its teacher, else its full-width sibling; the first one if there are none."""
    found = {}
    for name, cfg in cfgs.items():
        teachers = [teacher.get('trained_by') for teacher in (cfg.model.get('teachers') or {}).values()]
        near = [other for other in (*teachers, name.replace('_half', '')) if other in cfgs and other != name]
        found.update({name: near[0]} if near else {})
    first, *others = cfgs
    return found or dict.fromkeys(others, first)


def compare(rows: Iterable[dict], pairs: Mapping[str, str]) -> None:
    """Add what each row saves of the one it is compared with.

    Args:
        rows: of `measure`.
        pairs: name -> name of the other, see `references`.
    """
    by_name = {row['config']: row for row in rows}
    for name, against in pairs.items():
        row, other = by_name[name], by_name[against]
        row['against'] = against
        row.update({f'{key}_saved': 1 - row[key] / other[key] for key in ('parameters', 'gmac')})
        row.update({f'{key}_speedup': other[f'{key}_ms'] / row[f'{key}_ms'] for key in ('cpu', 'onnx', 'gpu')
                    if row[f'{key}_ms'] and other[f'{key}_ms']})


def to_markdown(rows: list[dict], args: argparse.Namespace) -> str:
    """What the nets cost and what they save, with a sentence on how it was measured."""
    source = Path(args.source).name if args.source else "the configs' own data" if args.official else 'simulated data'
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'none here'
    score = 'Score: best epoch of the training. ' if args.trained else ''
    how = (f'{score}Nets of the {"mini scale" if args.mini else "published size"}, random weights, {source}. MACs '
           f'of sparse nets: mean over up to {args.samples} samples. Time: median of {args.rounds} runs on the first '
           f'sample, without preprocessing. CPU: {machine()}. GPU: {gpu}.')
    return '\n'.join(['# What nets cost, batch size 1', '', *tables(rows), '', how, ''])


def tables(rows: list[dict]) -> list[str]:
    """Lines of a table of what nets cost and, where some are compared, of another one of what they save."""
    pairs = [row for row in rows if row.get('against')]
    return [*table(rows, COLUMNS), *(['', *table(pairs, COMPARED)] if pairs else [])]


def table(rows: list[dict], columns: Mapping[str, tuple[str, Callable[[Any], str]]]) -> list[str]:
    """Lines of a Markdown table whose columns stand below each other in a terminal too; empty columns are left out."""
    cells = [[heading, *('' if row.get(key) is None else to_text(row[key]) for row in rows)]
             for key, (heading, to_text) in columns.items() if any(row.get(key) is not None for row in rows)]
    widths = [max(map(len, column)) for column in cells]
    lines = ['| ' + ' | '.join(text.rjust(width) if i else text.ljust(width)
                               for i, (text, width) in enumerate(zip(line, widths))) + ' |' for line in zip(*cells)]
    rule = '|' + '|'.join('-' * (width + 1) + (':' if i else '-') for i, width in enumerate(widths)) + '|'
    return [lines[0], rule, *lines[1:]]
