"""Compare the logs of runs: curves of losses, scores and time; the body of tools/look.py logs."""
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from perception.common.visual.fonts import families, writable
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError, DataError
from perception.utils.outputs import result_path

_PLACE = ('epoch', 'iter', 'step')
_COST = ('time', 'data_time', 'memory_gb', 'memory')
SUFFIXES = ('.png', '.svg', '.pdf')


@dataclass
class Log:
    """What a run wrote.

    Attributes:
        name: of the run, `<folder>/<name>`.
        train: values at each log line of the training, in order.
        val: values of each validation, in order.
        unit: of the horizontal axis, 'epoch' or 'iteration'.
    """

    name: str
    train: list[dict]
    val: list[dict]
    unit: str

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """(K,) places and (K,) values of a quantity; those of a score come from validations."""
        scored = any(key in row for row in self.val) and key not in _COST
        rows = [row for row in (self.val if scored else self.train) if isinstance(row.get(key), (int, float))]
        return np.array([row['x'] for row in rows], float), np.array([row[key] for row in rows], float)


def read_log(run: str | Path) -> Log:
    """The log of a run, those parts that were continued by --resume together.

    Args:
        run: its work dir, or one `scalars.json`.

    Raises:
        DataError: no log is there, or it is damaged.
    """
    path = Path(run).expanduser()
    files = [path] if path.is_file() else sorted(path.glob('*/vis_data/scalars.json')) or sorted(
        path.glob('**/scalars.json'))
    rows: list[dict] = []
    for file in files:
        more = _rows(file)
        first = next((row['step'] for row in more if _is_train(row)), math.inf)  # a repeated validation counts epochs
        again = [i for i, row in enumerate(rows) if _is_train(row) and row['step'] >= first]
        rows = rows[:again[0]] + more if again else rows + more  # a run that begins anew replaces the earlier one
    train = [row for row in rows if _is_train(row)]
    if not train:
        raise DataError(f'{path}: no line of a training in any vis_data/scalars.json, expected the work dir of a run. '
                        'Give one, such as work_dirs/lanes/enet_culane.')
    val = [row for row in rows if not _is_train(row)]
    by_epoch = all('epoch' in row for row in train)
    length = max(math.ceil(row['iter'] / row['epoch']) for row in train) if by_epoch else 1
    for row in train:
        row['x'] = row.get('iter', row['step']) / length
    for row in val:
        row['x'] = row['step']
    place = (path.parents[2] if path.is_file() else path).absolute()
    return Log(f'{place.parent.name}/{place.name}', train, val, 'epoch' if by_epoch else 'iteration')


def _is_train(row: dict) -> bool:
    return 'lr' in row or 'loss' in row


def _rows(file: Path) -> list[dict]:
    """Lines of a scalars.json; the last one may be cut off."""
    try:
        lines = [line for line in file.read_text(encoding='utf-8').splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{file}: cannot be read ({error}), expected the log of a run. Leave this run out.') from error
    rows = []
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get('step'), (int, float)):
                raise ValueError('no step')
            rows.append(row)
        except ValueError as error:
            if i < len(lines) - 1:
                raise DataError(f'{file}: line {i + 1} is no JSON with a step ({error}), expected the log of a run. '
                                'Delete that line, or leave this run out.') from error
    return rows


def compare(runs: Sequence[str | Path], out: str | Path, keys: Sequence[str] = ()) -> list[str]:
    """Draw the curves of several runs, a panel for each quantity and a colour for each run.

    Args:
        runs: their work dirs.
        out: the picture, `.png`, `.svg` or `.pdf`.
        keys: quantities to draw; by default the loss, the main scores, the rate and the time of a step.

    Returns:
        a line on each run, then the file.

    Raises:
        ConfigError: another kind of picture, or a quantity that no run has.
        DataError: a run that cannot be read, or a picture that cannot be written.
    """
    out = Path(out).expanduser()
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f'--out {out}: a picture of kind {out.suffix!r}, expected one of {", ".join(SUFFIXES)}. '
                          'Name it so.')
    logs = [read_log(run) for run in runs]
    names = [log.name for log in logs]
    for log, run in zip(logs, runs):
        log.name = log.name if names.count(log.name) == 1 else str(run)
    known = dict.fromkeys(key for log in logs for row in (*log.train, *log.val) for key in row
                          if key not in (*_PLACE, 'x'))
    for key in keys:
        if key not in known:
            raise ConfigError(f'--keys {key}: no run has it, expected a quantity of their logs. '
                              f'{close_matches(key, known)}')
    scores = _scores(logs)
    keys = list(keys) or [key for key in ('loss', *scores, 'lr', 'time') if key in known]
    _draw(logs, keys, out)
    return [*(_summary(log, _scores([log])) for log in logs), str(out)]


def _scores(logs: Sequence[Log]) -> list[str]:
    """What validations measured; the first few where they also measured each class."""
    found = list(dict.fromkeys(key for log in logs for row in log.val for key in row
                               if key not in (*_PLACE, *_COST, 'x')))
    return found if len(found) <= 6 else found[:3]


def _summary(log: Log, scores: Sequence[str]) -> str:
    """What a run came to, in a line."""
    last, (_, times) = log.train[-1], log.curve('time')
    parts = [f'{log.name}: {log.unit} {last.get("epoch", last.get("iter", last["step"]))}']
    if 'loss' in last:
        parts.append(f'loss {last["loss"]:.4f}')
    if scores:
        x, values = log.curve(scores[0])
        if np.isfinite(values).any():  # of some scores less is better
            ends = (f'{values[i]:.4f} ({log.unit} {x[i]:g})' for i in (np.nanargmin(values), np.nanargmax(values)))
            parts.append(f'{scores[0]} {values[-1]:.4f} at last, {" to ".join(ends)}')
    if len(times):
        parts.append(f'{times.mean():.3f} s a step')
    return ', '.join(parts)


def _draw(logs: Sequence[Log], keys: Sequence[str], out: Path) -> None:
    """The panels of `compare`."""
    names = [log.name for log in logs]
    with matplotlib.rc_context({'font.family': families(names), 'text.parse_math': False}):
        columns = min(len(keys), 3)
        rows = math.ceil(len(keys) / columns)
        figure = Figure(figsize=(4.6 * columns, 3.2 * rows + 0.3 * len(logs) + 0.2), layout='constrained')
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, key in zip(panels, keys):
            for i, log in enumerate(logs):
                x, values = log.curve(key)
                panel.plot(x, values, color=f'C{i % 10}', linewidth=1.4, marker='o' if len(x) < 30 else None,
                           markersize=3)
            panel.set_title('seconds a step' if key == 'time' else key, fontsize=11)
            panel.set_xlabel(' or '.join(dict.fromkeys(log.unit for log in logs)))
            panel.grid(alpha=0.3)
        for panel in panels[len(keys):]:
            panel.set_axis_off()
        lines = [panels[0].plot([], [], color=f'C{i % 10}', linewidth=2)[0] for i in range(len(logs))]
        figure.legend(lines, writable(names), loc='outside upper left', ncols=1, frameon=False)
    with result_path(out) as part:
        figure.savefig(part, dpi=130, format=out.suffix[1:].lower())
