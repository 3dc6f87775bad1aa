"""Write a trained net as ONNX or as a program of torch.export and check it; the body of tools/export.py.

What is exported as ONNX is told by the model's method `deployable()`: a module in evaluation mode with its
normalisation inside, example inputs by name, and names of the outputs. The first dimension, the batch, stays free;
others do that the module names in `free`, by input.
A net of points has `traceable()` instead, since sparse convolutions have no ONNX operator: a module of points to
labels, example points, and what labels points eagerly. Their number stays free. The program is a `.pt2` file, which
`torch.export.load` reads without this project.
"""
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.apis.config import names_config
from perception.apis.exported import INSTALL, open_session
from perception.apis.inference import load
from perception.common.measure import interleave
from perception.utils.errors import ConfigError, DataError
from perception.utils.optional import import_optional
from perception.utils.outputs import check_free, result_path
from perception.utils.paths import make_folder

OPSET = 18
TOLERANCE = 1e-3  # of an output's largest value
DIFFERENT = 1e-3  # share of labels


@names_config
def export(config: str | Path, checkpoint: str | Path, out: str | Path | None = None, mini: bool = False,
           trials: int = 3, source: str | Path | None = None, options: dict[str, Any] | None = None) -> Path:
    """Export the deployable net of a config with the weights of a checkpoint.

    Args:
        config: the config file; of a distillation config the student is exported.
        checkpoint: `model.pth`, `student.pth` or a training checkpoint.
        out: the file to write; the checkpoint's name with `.onnx`, of a net of points `.pt2`, by default.
        mini: the checkpoint was trained with `--mini`.
        trials: batches of random inputs, of 1, 2, ... samples, on which ONNX Runtime and PyTorch are compared.
        source: what a predictor takes, such as a folder of images with `rig.json`; a net whose graph holds the
            calibration of its cameras takes that of this source.
        options: overrides of single values of the config.

    Returns:
        path of the file; it appears only if both agree.

    Raises:
        ConfigError: a net that cannot be exported, or no trials.
        DataError: both disagree, or the file cannot be written, or is one that no command of this project wrote.
        MissingDependency: onnx, onnxscript or onnxruntime is missing.
    """
    if trials < 1:
        raise ConfigError(f'--trials: {trials} came, expected at least 1. Each compares one random batch.')
    out = None if out is None else Path(out).expanduser()
    if out is not None and out.is_dir():
        raise DataError(f'{out}: a folder came, expected the name of the file to write. Add a file name.')
    make_folder(Path(checkpoint if out is None else out).parent)
    predictor = load(config, checkpoint, device='cpu', mini=mini, options=options)
    program = hasattr(predictor.model, 'traceable')
    out = out or Path(checkpoint).expanduser().with_suffix('.pt2' if program else '.onnx')
    check_free(out)
    if program:
        write_program(*predictor.model.traceable(), out, trials)
        steps = ', '.join(type(step).__name__ for step in predictor.pipeline)
        if steps:
            print_log(f'{out}: the net is tested on points after {steps}, which is not in the file. Give it such points'
                      ' too: of others it labels worse.', 'current', logging.WARNING)
        return out
    if not hasattr(predictor.model, 'deployable'):
        raise ConfigError(f'{config}: {type(predictor.model).__name__} has no deployable(), expected a net that can be '
                          'exported. Write it as LaneNet does; sparse convolutions have no ONNX operator.')
    if source is not None:
        predictor(source)
    module, inputs, outputs = predictor.model.deployable()
    notes = dict(config=Path(config).name, classes=predictor.meta.get('classes', ()))
    with result_path(out) as part:
        to_onnx(module, inputs, outputs, part, notes)
        worst = compare(module, inputs, part, trials)
    print_log(f'{out}: {sum(p.numel() for p in module.parameters()):,} parameters, {out.stat().st_size / 2**20:.1f} '
              f'MiB; inputs {_shapes(module, inputs)}, outputs {", ".join(outputs)}. ONNX Runtime and PyTorch agree on '
              f'{trials} random batches: largest difference {worst:.1e} of the largest value.', 'current')
    return out


@torch.no_grad()
def write_program(module: nn.Module, points: Tensor, eager: Callable[[Tensor], Tensor], out: Path,
                  trials: int = 3) -> Path:
    """Write points to labels as a program, and see that it labels as the net does.

    Args:
        module: (N, C) points to (N,) labels, in evaluation mode.
        points: an example.
        eager: the net itself.
        out: the file, which ends with .pt2.
        trials: random parts of the example to compare on, and runs on all of it that are timed.

    Raises:
        ConfigError: another ending.
        DataError: more than one label of a thousand differs, or the file cannot be written.
    """
    if out.suffix != '.pt2':
        raise ConfigError(f'--out: {out.name} came, expected a name that ends with .pt2. Programs have no other.')
    with _quiet():
        program = torch.export.export(module, (points,), strict=False,
                                      dynamic_shapes=({0: torch.export.Dim('points', min=2, max=2**31 - 1)},))
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:  # the writer wants the ending
        part = str(Path(folder, 'program.pt2'))
        torch.export.save(program, part)
        run = torch.export.load(part).module()
        worst = 0.
        for trial in range(trials):
            kept = points[torch.randperm(len(points))[:len(points) // (trial + 1)].sort()[0]]
            worst = max(worst, float((eager(kept) != run(kept)).double().mean()))
        if worst > DIFFERENT:
            raise DataError(f'{out}: {worst:.2%} of the labels are other than the net gives, expected at most '
                            f'{DIFFERENT:.1%}. Report it with the version of torch.')
        seconds = interleave({'net': partial(eager, points), 'program': partial(run, points)}, trials)
        with result_path(out) as whole:
            shutil.copyfile(part, whole)
    print_log(f'{out}: {out.stat().st_size / 2**20:.1f} MiB; points (N, '
              f'{points.shape[1]}) to labels (N,). It labels as the net does but for {worst:.2%} of the points of '
              f'{trials} random scans; {len(points):,} points take {1e3 * min(seconds["program"]):.0f} ms, the net '
              f'{1e3 * min(seconds["net"]):.0f} ms.', 'current')
    return out


def to_onnx(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], path: str | Path,
            notes: Mapping | None = None) -> None:
    """Write a module as one ONNX file.

    Args:
        module: in evaluation mode; takes the inputs in their order and returns a tuple of the outputs.
        inputs: example of each input, by name; the first dimension is the batch.
        outputs: their names.
        path: the file to write.
        notes: kept in the file as metadata, JSON each.

    Raises:
        MissingDependency: onnx or onnxscript is missing.
    """
    onnx = import_optional('onnx', 'ONNX export', INSTALL)
    import_optional('onnxscript', 'ONNX export', INSTALL)
    batch = torch.export.Dim.DYNAMIC
    # torch.export takes a batch of one for a constant
    examples = tuple(torch.cat([value, value]) if len(value) == 1 else value for value in inputs.values())
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(module.eval(), examples, input_names=list(inputs), output_names=list(outputs),
                                    dynamic_shapes=[dict.fromkeys(free_of(module, name), batch) for name in inputs],
                                    opset_version=OPSET, dynamo=True, verbose=False)
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in (notes or {}).items()})
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))


def free_of(module: nn.Module, name: str) -> tuple[int, ...]:
    """Dimensions of an input that stay free: the batch, and those that a module names in `free`."""
    return getattr(module, 'free', {}).get(name, (0,))


@torch.no_grad()
def compare(module: nn.Module, inputs: Mapping[str, Tensor], path: str | Path, trials: int = 3, seed: int = 0) -> float:
    """Run a module and its ONNX file on random inputs between the examples' least and largest value; where more than
    the batch stays free, on random parts of the examples.

    Args:
        module: in evaluation mode.
        inputs: examples, by name.
        path: the ONNX file.
        trials: batches of 1, 2, ... samples.
        seed: of the random inputs.

    Returns:
        the largest difference, relative to the largest value of its output.

    Raises:
        DataError: it is larger than `TOLERANCE`, or an output has another shape.
    """
    session, generator, worst = open_session(path), torch.Generator().manual_seed(seed), 0.
    for trial in range(trials):
        batch = {name: _part(value, free_of(module, name), trial, generator) for name, value in inputs.items()}
        expected = [value.numpy() for value in module(*batch.values())]
        found = session.run(None, {name: value.numpy() for name, value in batch.items()})
        for output, theirs, ours in zip(session.get_outputs(), found, expected):
            difference = np.inf
            if theirs.shape == ours.shape:
                difference = float(np.abs(theirs - ours).max() / max(np.abs(ours).max(), 1e-6))
            if not difference <= TOLERANCE:
                raise DataError(f'{path}: output {output.name} of ONNX Runtime, {theirs.shape}, differs from '
                                f"PyTorch's, {ours.shape}, by {difference:.1e} of its largest value, expected at most "
                                f'{TOLERANCE:.0e}. Report it with the versions of torch and onnxruntime.')
            worst = max(worst, difference)
    return worst


def _part(value: Tensor, free: Sequence[int], trial: int, generator: torch.Generator) -> Tensor:
    """An input of a batch of `trial + 1`, see `compare`."""
    if len(free) == 1:
        return torch.rand(trial + 1, *value.shape[1:], generator=generator) * (value.max() - value.min()) + value.min()
    value = torch.cat([value] * (trial + 1))
    for place in free[1:]:
        rows = torch.randperm(value.shape[place], generator=generator)[:-(-value.shape[place] // (trial + 1))]
        value = value.index_select(place, rows)
    return value


@contextmanager
def _quiet():
    """Keep back what torch's exporter says about packages that are not needed and about its own insides."""
    logger = logging.getLogger('torch.onnx._internal.exporter._registration')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', '.*LeafSpec', FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _shapes(module: nn.Module, inputs: Mapping[str, Tensor]) -> str:
    """Such as `points (B, N, 4)`."""
    free = {name: dict(zip(free_of(module, name), 'BNM')) for name in inputs}
    return ', '.join(f'{name} ({", ".join(str(free[name].get(k, n)) for k, n in enumerate(value.shape))})'
                     for name, value in inputs.items())
