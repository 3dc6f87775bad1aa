"""Damaged files of every data set: each must be read well or be refused in one sentence, soon and in bounded memory.

The data sets and predictors are those of `configs/_base_`, on tiny simulated sets (`tiny` in each base). Each round
damages one file and reads what depends on it in a process of its own, which has a limit of time and memory.
"""
import argparse
import contextlib
import copy
import faulthandler
import importlib
import json
import os
import random
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.apis.config import called, load_config, merge
from perception.apis.inference import dataset_type
from perception.apis.listing import BASES, mini_sets
from perception.common.measure import forget_peak
from perception.common.structures import PER_BOX
from perception.registry import DATASETS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import DataError, PerceptionError

SECONDS, MEMORY = 10.0, 3 << 30  # limits of a round: wall clock, bytes beyond what the process has before
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader', 'submit_dataloader')
TEXTS = ('.json', '.txt', '.csv', '.xml', '.yaml')
WORDS = [b'-2', b'1e999', b'NaN', b'null', b'{}', b'[]', b'""', b'"\\ud800"', b'-1', b'99999999999999999999', b'\x00',
         b'\xff\xfe', b'\xef\xbb\xbf', b'\n', b'\r', b' ', b'.jpg', b'/', b'../', b'true', b',', b'"', b'0.5', b'1e20',
         b'\xc3\xa9', b'[' * 3000, b'9' * 5000]
FLOATS = [float('nan'), float('inf'), -float('inf'), 3e38, -3e38, 1e20, 1e9, 1e-40, 0.0, -0.0]
HEADS = [b'PK\x03\x04', b'PK\x05\x06', b'\x93NUMPY', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff\xe0', b'\xff\xd8\xff\xc0',
         b'GIF89a', b'RIFF', b'BM', b'II*\x00', b'\x80\x04', b'\x1f\x8b']
OPTIONS = {
    '--minutes': {'type': 'float', 'default': 5.0, 'help': 'of damaging, shared by all sets (default: 5)'},
    '--seed': {'type': 'int', 'default': 0, 'help': 'the same seed damages in the same way (default: 0)'},
    '--sets': {'nargs': '+', 'default': [], 'metavar': 'NAME',
               'help': 'bases of configs, such as culane (default: all)'},
    '--keep': {'metavar': 'DIR', 'help': 'keep the files that were read wrongly or ended their reader'}}


# --- damage ----------------------------------------------------------------------------------------------------------
def damage(data: bytes, rng: random.Random, other: bytes = b'') -> bytes:
    """The bytes of a file with one kind of damage.

    Args:
        data: of the file.
        rng: decides which and where.
        other: bytes of another file, which may take its place.
    """
    return rng.choice(KINDS)(data, rng, other)


def _part(data: bytes, rng: random.Random) -> tuple[int, int]:
    """Two places in order, half of the time near the beginning, where headers are."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 64)
    first, last = sorted(rng.randrange(end + 1) for _ in range(2))
    return first, last


def _cut(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data[:rng.randrange(len(data) + 1)]


def _leave_out(data: bytes, rng: random.Random, other: bytes) -> bytes:
    first, last = _part(data, rng)
    whole = rng.choice((1, 4, 16, 20))  # whole records, as in a copy that was cut
    return data[:first // whole * whole] + data[last // whole * whole:]


def _repeat(data: bytes, rng: random.Random, other: bytes) -> bytes:
    first, last = _part(data, rng)
    return data[:last] + data[first:]


def _zero(data: bytes, rng: random.Random, other: bytes) -> bytes:
    first, last = _part(data, rng)
    return data[:first] + bytes(last - first) + data[last:]


def _swap(data: bytes, rng: random.Random, other: bytes) -> bytes:
    first, last = _part(data, rng)
    middle = (first + last) // 2
    return data[:first] + data[middle:last] + data[first:middle] + data[last:]


def _swap_bytes(data: bytes, rng: random.Random, other: bytes) -> bytes:
    width = rng.choice((2, 4, 8))
    whole = len(data) // width * width
    return np.frombuffer(data[:whole], f'u{width}').byteswap().tobytes() + data[whole:]


def _flip_bits(data: bytes, rng: random.Random, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if data else 0):
        changed[rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 64))] ^= (
            1 << rng.randrange(8))
    return bytes(changed)


def _change_letters(data: bytes, rng: random.Random, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5) if data else 0):
        changed[rng.randrange(len(data))] = rng.choice(b'0123456789-.,"[]{} \nx')
    return bytes(changed)


def _change_word(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start = data.rfind(b' ', 0, rng.randrange(len(data) + 1)) + 1
    end = data.find(b' ', start)
    return data[:start] + rng.choice(WORDS) + (data[end:] if end >= 0 else b'')


def _insert_word(data: bytes, rng: random.Random, other: bytes) -> bytes:
    first, _ = _part(data, rng)
    return data[:first] + rng.choice(WORDS) + data[first:]


def _insert_bytes(data: bytes, rng: random.Random, other: bytes) -> bytes:
    first, _ = _part(data, rng)
    return data[:first] + rng.randbytes(rng.choice((1, 2, 4, 16, 1000))) + data[first:]


def _change_float(data: bytes, rng: random.Random, other: bytes) -> bytes:
    place = 4 * rng.randrange(len(data) // 4 + 1)
    return data[:place] + struct.pack('<f', rng.choice(FLOATS)) + data[place + 4:]


def _change_number(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """A size in a header becomes huge, or nothing."""
    place = rng.randrange(min(len(data), 96) + 1)
    value = rng.choice((0, 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1))
    number = value.to_bytes(8, rng.choice(('little', 'big')))
    number = rng.choice((number[:2], number[:4], number[4:], number))
    return data[:place] + number + data[place + len(number):]


def _change_head(data: bytes, rng: random.Random, other: bytes) -> bytes:
    head = rng.choice(HEADS)
    return head + data[rng.choice((0, len(head))):]


def _line_ends(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data.replace(b'\n', rng.choice((b'\r\n', b'\r', b'\n\n', b' ', b'\x00')))


def _exchange(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return other


KINDS = (_cut, _leave_out, _repeat, _zero, _swap, _swap_bytes, _flip_bits, _flip_bits, _change_letters, _change_word,
         _insert_word, _insert_bytes, _change_float, _change_number, _change_head, _line_ends, _exchange)


# --- what is read ----------------------------------------------------------------------------------------------------
@dataclass
class Reader:
    """Something that reads a folder.

    Attributes:
        name: such as `culane train`.
        open: builds what gives items by their number, and has a length.
        check: what is wrong with an item, a sentence each.
    """

    name: str
    open: Callable[[], Any]
    check: Callable[[Any], list[str]]


class Sources:
    """What a predictor finds in some folders; an item is the batch that its net would be given."""

    def __init__(self, predictor: Any, folders: Iterable[Path]) -> None:
        self.predictor, self.found = predictor, []
        for folder in folders:
            try:
                self.found += [source for _, source in predictor.sources(folder)]
            except PerceptionError:  # no sources in there
                continue

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> dict:
        self.predictor.predict([self.found[index]])
        return self.predictor.model.seen


class Echo(nn.Module):
    """A net that predicts nothing and keeps what it was given."""

    def test_step(self, data: dict) -> list:
        """The samples as they came."""
        self.seen = data
        return data['data_samples']


def readers_of(name: str, cfg: Config, root: Path) -> list[Reader]:
    """The data sets of a base and its predictor, unless that needs a net of its own.

    Args:
        name: of the base.
        cfg: its config.
        root: folder of its data.
    """
    parts = {loader.partition('_')[0]: dict(cfg[loader].dataset, data_root=str(root)) for loader in LOADERS
             if cfg.get(loader)}
    readers = [Reader(f'{name} {split}', lambda part=part: _build(part), check_item) for split, part in parts.items()]
    data = dict(cfg.test_dataloader.dataset, data_root=str(root), type=dataset_type(cfg))
    if cfg.get('predictor') and not called(cfg.predictor, model=None, data=data).needs_net:
        readers.append(predictor_of(name, cfg, root))
    return readers


def predictor_of(name: str, cfg: Config, root: Path) -> Reader:
    """The predictor of a base, which reads what it finds below a folder that is not damaged yet.

    Folders of files that only end like sources, such as the labels of nuScenes, are left out.
    """
    data = dict(cfg.test_dataloader.dataset, data_root=str(root), type=dataset_type(cfg))
    predictor, folders = called(cfg.predictor, model=Echo(), data=data), []
    for folder in sorted({path.parent for path in root.rglob('*') if path.is_file()}):
        with contextlib.suppress(PerceptionError):
            found = Sources(predictor, [folder])
            folders += [folder] if len(found) and found[0] else []
    return Reader(f'{name} predictor', lambda: Sources(called(cfg.predictor, model=Echo(), data=data), folders),
                  check_batch)


def _build(part: dict) -> Any:
    part = copy.deepcopy(part)
    dataset = DATASETS.build(part) if isinstance(part['type'], str) else part.pop('type')(**part)
    dataset.num_classes = len(dataset.metainfo.get('classes', ()))
    return dataset


def check_item(item: dict, num_classes: int | None = None) -> list[str]:
    """What is wrong with an item of a data set: values that are not finite, labels out of range or of another size.

    Velocities of boxes and targets of driving may be NaN, which stands for unknown.

    Args:
        item: `inputs` and `data_samples`.
        num_classes: labels are below it, or 255.
    """
    problems, sample = [], item['data_samples']
    inputs = {name: value for name, value in item['inputs'].items() if isinstance(value, Tensor)}
    boxes = sample.get('boxes')
    for name, value in [*inputs.items(), *_arrays(sample)]:
        if name == 'boxes':  # velocities may be unknown
            value = torch.cat([value[:, :7], value[:, 7:].nan_to_num(0, torch.inf, -torch.inf)], dim=1)
        if name == 'targets':  # so may torque and speed
            value = value.nan_to_num(0, torch.inf, -torch.inf)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            problems.append(f'{name} is not finite')
    if boxes is not None:
        problems += _check_boxes(sample)
    pad = sample.get('origin_len') or 0
    for name in ('labels', 'full_labels'):
        labels = sample.get(name)
        if not isinstance(labels, Tensor):
            continue
        in_range = (labels >= 0) & (labels < (num_classes or 255)) | (labels == 255)
        if not bool(in_range.all()):
            problems.append(f'{name} are out of range')
        sizes = [shape for value in inputs.values() for shape in (value.shape[:1], value.shape[-2:])]
        if name == 'labels' and boxes is None and tuple(labels.shape) not in [*map(tuple, sizes), (pad,)]:
            shapes = ', '.join(str(tuple(value.shape)) for value in inputs.values())
            problems.append(f'labels of shape {tuple(labels.shape)} for inputs of {shapes}')
    return problems


def check_batch(batch: dict, num_classes: int | None = None) -> list[str]:
    """What is wrong with a batch that a net would be given; see `check_item`."""
    return [problem for i, sample in enumerate(batch['data_samples']) for problem in check_item(
        dict(inputs={name: values[i] for name, values in batch['inputs'].items()}, data_samples=sample), num_classes)]


def _check_boxes(sample: Any) -> list[str]:
    """What is wrong with boxes: sizes that are none, or another number of something that there is one of a box."""
    boxes = sample.boxes
    problems = [] if bool((boxes[:, 3:6] > 0).all()) else ['boxes without a size']
    return problems + [f'{len(sample.get(name))} {name} of {len(boxes)} boxes'
                       for name in PER_BOX
                       if sample.get(name) is not None and len(sample.get(name)) != len(boxes)]


def _arrays(sample: Any) -> list[tuple[str, Tensor]]:
    """Tensors and arrays of numbers in a sample."""
    return [(name, torch.as_tensor(value)) for name, value in sample.all_items()
            if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in 'fiub')]


# --- one set ---------------------------------------------------------------------------------------------------------
@dataclass
class Tally:
    """What came of the damaged files of one format.

    Attributes:
        outcomes: how many were 'read', 'refused', 'wrong' or a 'crash'.
        seconds, memory: of the slowest and of the largest round.
        examples: text of each distinct wrong result and crash -> round.
    """

    outcomes: Counter = field(default_factory=Counter)
    seconds: float = 0.0
    memory: int = 0
    examples: dict[str, str] = field(default_factory=dict)


class Fuzzer:
    """Damages the files of one set, one a round.

    Args:
        name: of the set.
        root: a copy of it, which is damaged and mended again.
        readers: that read it.
        seed: of the damage.
        keep: folder for the files that were not read well, if any.

    Raises:
        DataError: the set itself is not read well.
    """

    def __init__(self, name: str, root: Path, readers: Sequence[Reader], seed: int = 0,
                 keep: str | Path | None = None) -> None:
        self.name, self.root, self.readers, self.seed, self.keep = name, root, readers, seed, keep
        self.tallies: dict[str, Tally] = defaultdict(Tally)
        self.round = 0
        found = _in_child(self._find_uses)
        if found['outcome'] != 'read':
            raise DataError(f'{root}: the set without damage is not read well ({found["text"]}), expected good '
                            'samples. Write it again, or mend its reader.')
        for module in found['modules']:  # so that not every round imports them again; files are read anew
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        self.uses = {Path(path): [tuple(use) for use in uses] for path, uses in found['uses'].items()}
        if not self.uses:
            raise DataError(f'{root}: the readers open no file of it, expected some. See what they read.')
        self.files = sorted(self.uses)
        self.texts = [path for path in self.files if path.suffix in TEXTS] or self.files

    def _find_uses(self) -> dict:
        """Which readers and items open each file; item -1 is the reader's own beginning."""
        opened, uses, root, modules = [], defaultdict(list), str(self.root), set(sys.modules)
        sys.addaudithook(lambda event, args: opened.append(args[0]) if event == 'open' else None)
        problems = []
        for number, reader in enumerate(self.readers):
            opened.clear()
            dataset = reader.open()
            for item in range(-1, len(dataset)):
                if item >= 0:
                    opened.clear()
                    problems += reader.check(dataset[item], getattr(dataset, 'num_classes', None))
                for path in {os.path.abspath(path) for path in opened if isinstance(path, (str, os.PathLike))}:
                    if path.startswith(root) and os.path.isfile(path):
                        uses[path].append((number, item))
        return dict(outcome='wrong' if problems else 'read', text='; '.join(problems[:3]), uses=uses,
                    modules=sorted(set(sys.modules) - modules))

    def step(self) -> str:
        """Damage a file, read what depends on it, mend it; returns the outcome."""
        rng = random.Random(f'{self.seed} {self.name} {self.round}')
        path = rng.choice(self.texts if rng.random() < 0.5 else self.files)
        good = path.read_bytes()
        bad = damage(good, rng, rng.choice(self.files).read_bytes())
        uses = self.uses[path]
        uses = [use for use in uses if use[1] < 0] + rng.sample([use for use in uses if use[1] >= 0],
                                                               min(2, sum(use[1] >= 0 for use in uses)))
        path.write_bytes(bad)
        try:
            found = _in_child(lambda: self._read(uses))
        finally:
            path.write_bytes(good)
        ending = ''.join(part for part in path.suffixes[-2:] if not part[1:].isdigit())  # a time of day is none
        tally = self.tallies[f'{self.name} {ending}']
        tally.outcomes[found['outcome']] += 1
        tally.seconds, tally.memory = max(tally.seconds, found['seconds']), max(tally.memory, found['memory'])
        if found['outcome'] in ('wrong', 'crash'):
            where = f'round {self.round}, {path.relative_to(self.root)}'
            if tally.examples.setdefault(found['text'], where) == where and self.keep:
                kept = Path(self.keep, f'{self.name}_{self.round}_{path.name}')
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(bad)
        self.round += 1
        return found['outcome']

    def _read(self, uses: Sequence[tuple[int, int]]) -> dict:
        """Read some items; runs in a process of its own."""
        problems, refusal = [], None
        for number in sorted({number for number, _ in uses}):
            reader = self.readers[number]
            try:
                dataset = reader.open()
                items = [item for other, item in uses if other == number and item >= 0] or range(min(len(dataset), 2))
                for item in items:
                    if item < len(dataset):
                        problems += [f'{reader.name}: {problem}' for problem in
                                     reader.check(dataset[item], getattr(dataset, 'num_classes', None))]
            except PerceptionError as error:
                refusal = str(error)
                if str(self.root) not in refusal:
                    problems.append(f'{reader.name}: a refusal that names no file: {refusal[:200]}')
                if len(refusal) > 3000:
                    problems.append(f'{reader.name}: a refusal of {len(refusal):,} letters')
        if problems:
            return dict(outcome='wrong', text=problems[0])
        return dict(outcome='read' if refusal is None else 'refused')


def _in_child(work: Callable[[], dict]) -> dict:
    """Do something in a forked process with limits of time and memory.

    Returns:
        what it returned, with `seconds` and `memory`; `outcome` 'crash' and `text` where it did not come to its end.
    """
    start, (reader, writer) = time.perf_counter(), os.pipe()
    child = os.fork()
    if not child:
        _serve(work, writer)
    os.close(writer)
    answer = b''
    while (left := start + SECONDS - time.perf_counter()) > 0 and select.select([reader], [], [], left)[0]:
        if not (block := os.read(reader, 1 << 16)):
            break
        answer += block
    os.close(reader)
    late = time.perf_counter() >= start + SECONDS
    if late:
        os.kill(child, signal.SIGKILL)
    status, seconds = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), time.perf_counter() - start
    if late:
        return dict(outcome='crash', text=f'no end within {SECONDS:g} s', seconds=seconds, memory=0)
    if status or not answer:
        reason = f'signal {signal.Signals(-status).name}' if status < 0 else f'exit code {status}'
        return dict(outcome='crash', text=f'the process ended with {reason}', seconds=seconds, memory=0)
    return dict(json.loads(answer), seconds=seconds)


def _serve(work: Callable[[], dict], writer: int) -> None:
    """The child of `_in_child`, which does not come back."""
    code = 1
    try:
        faulthandler.disable()
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)  # image libraries speak of damage
        before = _memory('VmRSS')
        limit = _memory('VmSize') + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        forget_peak()
        try:
            found = work()
        except BaseException as error:  # a crash is what is looked for
            last = traceback.extract_tb(error.__traceback__)[-1]
            found = dict(outcome='crash', text=f'{type(error).__name__}: {str(error)[:160]} '
                                               f'({Path(last.filename).name}:{last.lineno})')
        found['memory'] = max(_memory('VmHWM') - before, 0)
        with open(writer, 'wb') as file:
            file.write(json.dumps(found).encode())
        code = 0
    finally:
        os._exit(code)


def _memory(name: str) -> int:
    """Bytes of this process, as Linux tells them; 0 elsewhere."""
    try:
        with open('/proc/self/status') as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
    except (OSError, StopIteration):
        return 0


# --- the command -----------------------------------------------------------------------------------------------------
def tiny_config(name: str) -> Config:
    """The config of a base as its `mini_loaders` and `tiny` want it."""
    cfg = load_config(BASES / f'{name}.py')
    for part in ('mini_loaders', 'tiny'):
        merge(cfg._cfg_dict, cfg.get(part) or {}, f'{name}.py: {part}')
    return cfg


def run(args: argparse.Namespace) -> dict[str, Tally]:
    """Damage files of each set in turn and log what came of it, a row for each format.

    Returns:
        format -> its tally.

    Raises:
        ConfigError: an unknown set, or no time.
        DataError: a set cannot be written, or is not read well without damage.
    """
    check_positive('fuzz', minutes=args.minutes)
    names = args.sets or [name for name in mini_sets() if load_config(BASES / f'{name}.py').get('tiny')]
    for name in names:
        check_choice('--sets', name, mini_sets())
    cv2.setNumThreads(0)  # threads do not live on in forked processes
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        fuzzers = []
        for name in names:
            cfg = tiny_config(name)
            written = called(dict(cfg.mini_data, root=f'data/mini/tiny/{name}'))
            root = Path(shutil.copytree(written, Path(folder, name)))
            fuzzers.append(Fuzzer(name, root, readers_of(name, cfg, root), args.seed, args.keep))
            if cfg.get('tiny_sources'):
                name, root = f'{name} sources', Path(folder, f'{name} sources')
                called(cfg.tiny_sources, folder=root)
                fuzzers.append(Fuzzer(name, root, [predictor_of(name, cfg, root)], args.seed, args.keep))
        end = time.perf_counter() + 60 * args.minutes
        while time.perf_counter() < end:
            for fuzzer in fuzzers:
                fuzzer.step()
    tallies = {name: tally for fuzzer in fuzzers for name, tally in sorted(fuzzer.tallies.items())}
    print_log('\n' + report(tallies, args.seed), 'current')
    return tallies


def report(tallies: dict[str, Tally], seed: int) -> str:
    """A Markdown table of all formats, and each distinct wrong result and crash below it."""
    lines = ['| format | files tried | refused | read | wrong results | crashes | slowest [s] | largest memory [MiB] |',
             '|---|---|---|---|---|---|---|---|']
    for name, tally in tallies.items():
        counts = [tally.outcomes[key] for key in ('refused', 'read', 'wrong', 'crash')]
        cells = [name, *(f'{count:,}' for count in (sum(counts), *counts)), f'{tally.seconds:.2f}',
                 f'{tally.memory / 2**20:,.0f}']
        lines.append(f'| {" | ".join(cells)} |')
    total = sum((tally.outcomes for tally in tallies.values()), Counter())
    lines.append(f'\n{sum(total.values()):,} files, seed {seed}: {total["wrong"]:,} wrong results, {total["crash"]:,} '
                 'crashes.')
    lines += [f'* {name}, {where}: {text}' for name, tally in tallies.items() for text, where in tally.examples.items()]
    return '\n'.join(lines)
