"""Checkpoints that cannot execute code and cannot be half-written.

Loading compares the checksums of the file and goes through `torch.load(weights_only=True)` everywhere: importing this
module replaces every scheme of mmengine's `CheckpointLoader`. Writing goes to a temporary file that is synced to disk
and renamed.
"""
import errno
import os
import pickle
import re
import secrets
import shutil
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from perception.utils.errors import CheckpointError, PerceptionError
from perception.utils.structure import apply_structure, checked, same_widths, slice_weights

_FOREIGN = re.compile(r'^(module\.)?cylinder_3d_(generator|spconv_seg)\.')  # names in Cylinder3D and PVKD releases
_PLAIN = (str, bytes, bool, int, float, complex, type(None), Tensor, torch.Size, torch.dtype, torch.device)


def to_plain(value: Any, where: str = 'checkpoint') -> Any:
    """Copy of nested containers in which every leaf is a tensor or a plain Python value.

    NumPy scalars become Python numbers, arrays become lists, paths become strings; dict and tuple subclasses become
    `dict` and `tuple`, except `OrderedDict` (state dicts keep their version metadata) and `Counter`.

    Args:
        value: what to convert.
        where: name of `value` in the error message.

    Raises:
        CheckpointError: something in `value` has no plain form.
    """
    if isinstance(value, Tensor):
        return value.data if type(value) is torch.nn.Parameter else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist(), where)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        kind = next((kind for kind in (OrderedDict, Counter) if isinstance(value, kind)), dict)
        plain = kind({to_plain(k, where): to_plain(v, f'{where}.{k}') for k, v in value.items()})
        if hasattr(value, '_metadata'):
            plain._metadata = value._metadata
        return plain
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = next(kind for kind in (list, tuple, set, frozenset) if isinstance(value, kind))
        return kind(to_plain(v, f'{where}[{i}]') for i, v in enumerate(value))
    raise CheckpointError(f'{where}: a {type(value).__module__}.{type(value).__qualname__} came, expected tensors and '
                          f'plain Python values. Store it as numbers, strings, lists or dicts.')


# --- writing ---------------------------------------------------------------------------------------------------------
def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: str | Path, error_type: type[PerceptionError] = CheckpointError) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends well, its file replaces `path` in one step.

    At every moment `path` is either the old file or the complete new one, also after a power cut. Several processes may
    write the same file at once: each has a temporary file of its own, which is made anew and is never a link.

    Args:
        path: the file to be written; its folder must exist.
        error_type: what to raise.

    Raises:
        PerceptionError: of the given type, the file cannot be written, such as on a full disk; the old file is intact.
    """
    path = Path(path)
    part = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.part')
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield part
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        advice = f'Check the folder {path.parent}'
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f'Free some space ({shutil.disk_usage(path.parent).free // 2**20} MiB are left there)'
        raise error_type(f'{path}: writing failed ({error.strerror or error}), expected room for the whole file. '
                         f'{advice}; files written before are intact.') from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def save_atomic(obj: Any, path: str | Path) -> None:
    """Write tensors and plain values with `torch.save`, wholly or not at all.

    Args:
        obj: nested containers of tensors and plain values; made plain first, see `to_plain`.
        path: the file to be written; its folder is made.

    Raises:
        CheckpointError: `obj` holds something that has no plain form, or the file cannot be written.
    """
    path, plain = Path(path), to_plain(obj, Path(path).name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f'{path}: no folder can be made for it ({error.strerror}), expected a place for the '
                              'file. Choose another one.') from error
    with atomic_path(path) as part, open(part, 'wb') as file:
        try:
            torch.save(plain, file)
        except RuntimeError as error:  # torch's zip writer hides the OSError of a full disk
            cause = error.__context__ or error.__cause__
            if str(error).startswith('DataLoader worker'):  # which died meanwhile
                raise
            raise cause if isinstance(cause, OSError) else OSError(errno.EIO, str(error)) from error
        file.flush()


# --- reading ---------------------------------------------------------------------------------------------------------
def load_checkpoint(path: str | Path, map_location: Any = 'cpu', mmap: bool = False) -> dict:
    """Read a checkpoint without executing anything that it may contain.

    Args:
        path: a local file.
        map_location: as in `torch.load`.
        mmap: read tensors from the file only when they are used.

    Returns:
        the dict in the file: a training checkpoint (`state_dict`, `optimizer`, ...) or a plain state dict.

    Raises:
        CheckpointError: no such file, a remote address, a damaged file, or one that holds more than plain data.
    """
    if re.match(r'[\w-]{2,}:/', str(path)):  # of a URL, also one that a Path has shortened
        raise CheckpointError(f'{path}: a remote address came, expected a local file. Download it first, then give '
                              f'its path.')
    path = Path(path).expanduser()
    if not path.is_file():
        folder, came = (path, 'a folder came') if path.is_dir() else (path.parent, 'no such file')
        near = sorted(p.name for p in folder.glob('*.pth')) if folder.is_dir() else []
        there = f'That folder holds {", ".join(near[:8])}' if near else 'Check the path, or train the model first'
        raise CheckpointError(f'{path}: {came}, expected a checkpoint. {there}.')
    try:
        _check_sums(path)
        checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap or None)
    except pickle.UnpicklingError as error:
        names = re.findall(r'GLOBAL ([\w.]+)', str(error))
        with open(path, 'rb') as file:
            came = names[0] if names else 'a plain pickle' if file.read(1) == b'\x80' else None
        if came:
            raise CheckpointError(
                f'{path}: it holds {came}, expected tensors and plain values only; it was refused, for it could '
                f'execute code. If you trust its origin, save its plain weights once: torch.save(torch.load(FILE, '
                f"weights_only=False)['state_dict'], NEW_FILE).") from error
        raise CheckpointError(f'{path}: unreadable (no weights in it), expected a file of torch.save. Fetch or write '
                              f'it again.') from error
    except OSError as error:
        raise CheckpointError(f'{path}: unreadable ({error.strerror or error}), expected a file of torch.save. Check '
                              f'the disk and the permissions.') from error
    except CheckpointError:
        raise
    except Exception as error:  # a truncated or foreign file meets torch.load in many ways
        raise CheckpointError(f'{path}: unreadable ({type(error).__name__}: {_first_line(error)}), expected a file of '
                              f'torch.save. It is probably truncated or not a checkpoint; fetch or write it '
                              f'again.') from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{path}: a {type(checkpoint).__name__} came, expected a dict of weights. Give a '
                              f'checkpoint of this project or a plain state dict.')
    return checkpoint


def _check_sums(path: Path) -> None:
    """Compare the checksum of each part of a file of torch.save with its bytes, which `torch.load` does not.

    Files of torch before 1.6 have none.

    Raises:
        CheckpointError: one differs.
        OSError, BadZipFile: the file cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise CheckpointError(f'{path}: a compressed archive came, expected a file of torch.save. Unpack it first.')
        for part in parts:
            try:
                with archive.open(part) as file:
                    while file.read(1 << 22):
                        pass
            except (zipfile.BadZipFile, zlib.error) as error:
                raise CheckpointError(f'{path}: damaged ({_first_line(error)}), expected the bytes that were written. '
                                      f'Fetch or copy it again, or use an earlier checkpoint.') from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def load_from_file(filename: str, map_location: Any = None) -> dict:
    """The one loader behind mmengine's `CheckpointLoader`; see `load_checkpoint`."""
    return load_checkpoint(filename, map_location)


CheckpointLoader.register_scheme(prefixes=list(CheckpointLoader._schemes), loader=load_from_file, force=True)


def newest_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The training checkpoint to resume from: that of the last step that is whole and holds numbers only.

    Args:
        work_dir: folder of a run.

    Returns:
        its path (None where there is none), and a sentence for each newer file that is unreadable.
    """
    problems, found = [], []
    for kind in ('epoch', 'iter'):
        steps = [p for p in Path(work_dir).glob(f'{kind}_*.pth') if re.fullmatch(rf'{kind}_\d+', p.stem)]
        for path in sorted(steps, key=lambda p: int(p.stem.split('_')[1]), reverse=True):  # copied folders: other times
            try:
                checkpoint = load_checkpoint(path, mmap=True)
                weights = checkpoint.get('state_dict')
                weights = weights.items() if isinstance(weights, dict) else ()
                check_finite({k: v for k, v in weights if isinstance(v, Tensor)}, str(path))
            except CheckpointError as error:
                problems.append(str(error))
            else:
                meta = checkpoint.get('meta')
                step = meta.get('iter', 0) if isinstance(meta, dict) else 0
                found.append((step if isinstance(step, int) else 0, path))
                break
    return max(found)[1] if found else None, problems


# --- weights into models ---------------------------------------------------------------------------------------------
def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside mmengine's or torch's data-parallel wrappers."""
    while isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model = model.module
    return model


def weights_of(checkpoint: dict, where: str = 'checkpoint') -> dict[str, Tensor]:
    """The state dict in a training checkpoint, or the plain state dict itself.

    Raises:
        CheckpointError: the dict holds no weights.
    """
    weights = checkpoint.get('state_dict', checkpoint.get('ema_state_dict', checkpoint))
    weights = weights if isinstance(weights, dict) else checkpoint
    if 'steps' in weights and all(str(k).startswith('module.') for k in weights if k != 'steps'):
        weights = {k: v for k, v in weights.items() if k != 'steps'}  # of a running mean of weights
    tensors = {re.sub(r'^module\.', '', str(k)): v for k, v in weights.items() if isinstance(v, Tensor)}
    foreign = any(not isinstance(k, str) or not isinstance(v, Tensor | None) for k, v in weights.items())
    if not tensors or foreign:
        raise CheckpointError(f'{where}: no weights among its keys ({", ".join(map(str, list(weights)[:8]))}), '
                              f"expected a state dict or a training checkpoint with the key 'state_dict'. Give such a "
                              f'file.')
    odd = [k for k, v in tensors.items() if v.layout is not torch.strided or v.is_meta or v.is_quantized
           or v.is_complex()]
    if odd:
        raise CheckpointError(f'{where}: {len(odd)} weights are sparse, complex, quantised or without values '
                              f'({_some(odd)}), expected plain tensors. Save them as such.')
    return tensors


def load_weights(model: torch.nn.Module, checkpoint: dict | str | Path) -> None:
    """Load weights into a model, completely or not at all.

    Takes training checkpoints and plain state dicts, for the model itself, for the student of a distiller (a bare model
    takes `student.*` of a distiller's checkpoint; a distiller takes the student's plain weights).

    Args:
        model: any module; the student of a distiller is its attribute `student`.
        checkpoint: a loaded checkpoint or the path of one.

    Raises:
        CheckpointError: unreadable, or names or shapes differ; all of them are counted, the first ones named; or
            weights that are not finite.
    """
    model, weights, where = _pair(model, checkpoint)
    check_weights(model, weights, where)
    model.load_state_dict(weights, strict=False)


def load_part(net: torch.nn.Module, path: str | Path) -> None:
    """Load all weights of a net, such as an image net without its classifier, from a file that may hold more.

    Args:
        net: any module.
        path: the file.

    Raises:
        CheckpointError: unreadable, or the net's weights are not all in it.
    """
    own = net.state_dict()
    weights = {name: value for name, value in weights_of(load_checkpoint(path), path).items() if name in own}
    check_weights(net, weights, path)
    net.load_state_dict(weights, strict=False)


def start_from(model: torch.nn.Module, checkpoint: dict | str | Path) -> str:
    """Begin a training with the weights that fit, such as all but the head where the classes are others.

    Takes what `load_weights` takes; of a distiller's own checkpoint its count of iterations is left out. A model whose
    student alone was loaded and that has more of its weights is told by its method `after_student_loaded()`.

    Args:
        model: any module; what does not fit keeps the weights that it has.
        checkpoint: a loaded checkpoint or the path of one.

    Returns:
        what was loaded, a sentence such as `x.pth: 296 of 298 weights loaded; new: head.weight, head.bias.`

    Raises:
        CheckpointError: unreadable, weights that are not finite, or less than half of the model's weights fit.
    """
    whole, student = unwrap(model), getattr(unwrap(model), 'student', None)
    model, weights, where = _pair(model, checkpoint)
    own = {k: v for k, v in model.state_dict().items() if not (student is not None and k == 'iteration')}
    fit = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    wanted = [k for k in own if k in weights or not k.endswith('num_batches_tracked')]
    new = [k for k in wanted if k not in fit]
    if 2 * sum(not k.endswith('num_batches_tracked') for k in new) > sum(
            not k.endswith('num_batches_tracked') for k in wanted):
        check_weights(model, weights, where)
    check_finite(fit, where, model)
    model.load_state_dict(fit, strict=False)
    if model is student and hasattr(whole, 'after_student_loaded'):
        whole.after_student_loaded()
    unused = [k for k in weights if k not in own and k != 'iteration']
    return (f'{where}: {len(wanted) - len(new)} of {len(wanted)} weights{" of the student" * (model is student)} loaded'
            + f'; new: {_some(new)}' * bool(new) + f'; not used: {_some(unused)}' * bool(unused) + '.')


def _pair(model: torch.nn.Module, checkpoint: dict | str | Path) -> tuple[torch.nn.Module, dict[str, Tensor], str]:
    """What takes the weights of a checkpoint, a distiller or its student; the weights; their name in messages."""
    where = 'checkpoint'
    if not isinstance(checkpoint, dict):
        where, checkpoint = str(checkpoint), load_checkpoint(checkpoint)
    model, weights = unwrap(model), weights_of(checkpoint, where)
    of_distiller = any(k.startswith('student.') for k in weights)
    student = getattr(model, 'student', None)
    if of_distiller and student is None:
        weights = {k.removeprefix('student.'): v for k, v in weights.items() if k.startswith('student.')}
    elif student is not None and not of_distiller:
        model = student
    return model, _pruned(model, checkpoint, weights, where), where


def _pruned(model: torch.nn.Module, checkpoint: dict, weights: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Weights that fit a net, which becomes as slim as they are; one that is slim already takes its part of whole ones.

    Raises:
        CheckpointError: net and weights are pruned otherwise.
    """
    structure, net = structure_in(checkpoint, where), getattr(model, 'student', model)
    own = getattr(net, 'structure', None)
    if structure is None:
        return weights if own is None else slice_weights(net, weights, where, '' if net is model else 'student.')
    if own is None:
        apply_structure(net, structure, where)
    elif not same_widths(own, structure):
        raise CheckpointError(f'{where}: pruned to other widths than the net, expected the same structure. Leave '
                              '--structure out, or give the one that it was trained with.')
    return weights


def structure_in(checkpoint: dict, where: str = 'checkpoint') -> dict[str, Any] | None:
    """The structure of the pruned net whose weights a checkpoint holds, None of any other net.

    Raises:
        ConfigError: it is of another version.
    """
    meta = checkpoint.get('meta')
    structure = meta.get('structure') if isinstance(meta, dict) else None
    return None if structure is None else checked(structure, where)


def check_finite(weights: dict[str, Tensor], where: str, model: torch.nn.Module | None = None) -> None:
    """See that weights are numbers.

    Args:
        weights: by name.
        where: start of an error message.
        model: they are for; of its buffers only batch statistics need be finite, others may hold an infinity. None
            allows that of everything.

    Raises:
        CheckpointError: some are not, which a training leaves that diverged.
    """
    strict = set() if model is None else {name for name, _ in model.named_parameters()}

    def is_bad(name: str, value: Tensor) -> bool:
        if not value.is_floating_point() or not value.numel():
            return False
        low, high = value.detach().aminmax()  # both are NaN where one value is; nothing is allocated
        if name in strict or name.endswith(('running_mean', 'running_var')):
            return not bool(torch.isfinite(low) & torch.isfinite(high))
        return bool(torch.isnan(low))

    bad = [name for name, value in weights.items() if is_bad(name, value)]
    if bad:
        raise CheckpointError(f'{where}: {len(bad)} of {len(weights)} weights are not finite ({_some(bad)}), expected '
                              'numbers. The training diverged; use a checkpoint from before that.')


def _some(names: list[str]) -> str:
    """The first names of some."""
    return f'{", ".join(names[:4])}{", ..." if len(names) > 4 else ""}'


def check_weights(model: torch.nn.Module, weights: dict[str, Tensor], where: str = 'checkpoint') -> None:
    """Compare the names and shapes of weights with those of a model, and see that they are finite.

    A module that knows more, such as whose memories it holds, has a method `check_saved(weights, where)`.

    Raises:
        CheckpointError: they differ; the message counts and names what is missing, unexpected and mis-shaped.
    """
    for name, module in model.named_modules():
        if hasattr(module, 'check_saved'):
            start = f'{name}.' if name else ''
            module.check_saved({k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}, where)
    own = model.state_dict()
    missing = [k for k in own if k not in weights and not k.endswith('num_batches_tracked')]
    unexpected = [k for k in weights if k not in own]
    shapes = {k: (tuple(v.shape), tuple(own[k].shape)) for k, v in weights.items() if k in own}
    shapes = {k: pair for k, pair in shapes.items() if pair[0] != pair[1]}
    if not (missing or unexpected or shapes):
        return check_finite(weights, where, model)
    parts = [f'{len(names)} {what} ({_some(names)})' for what, names in (
        ('missing', missing), ('unexpected', unexpected),
        ('mis-shaped', [f'{k} {a} for {b}' for k, (a, b) in shapes.items()])) if names]
    raise CheckpointError(f'{where}: {", ".join(parts)} of {len(own)} weights of {type(model).__name__}, expected the '
                          f'same names and shapes. {_advice(weights, missing or unexpected, shapes)}')


def _advice(weights: dict[str, Tensor], names_differ: list, shapes: dict) -> str:
    """What to do about weights that do not fit."""
    if any(_FOREIGN.match(k) for k in weights):
        return ('This looks like a spconv 1 / PVKD checkpoint: convert it with '
                'tools/convert_checkpoint.py.')
    outputs = {(a[0], b[0]) for a, b in shapes.values() if a and b and a[1:] == b[1:]}
    if shapes and not names_differ and len(outputs) == 1 and all(a[1:] == b[1:] for a, b in shapes.values()):
        theirs, ours = outputs.pop()
        layers = _some(list(dict.fromkeys(k.rpartition('.')[0] or k for k in shapes)))
        return (f'{layers} of it has {theirs} outputs, that of the model {ours}: use the config it was trained with, '
                'or set what they count, such as num_classes.')
    if any(sorted(a) == sorted(b) for a, b in shapes.values()):
        return 'The axes of kernels are ordered otherwise: convert it with tools/convert_checkpoint.py.'
    if shapes and not names_differ:
        return 'The widths differ: use the config it was trained with (--mini for a mini run).'
    return 'Use the config it was trained with.'
