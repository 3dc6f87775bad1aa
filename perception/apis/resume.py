"""Going on with a training: what the checkpoint overrules, what config and command line change, and where it goes on.

    setting                                    which one counts
    weights, optimiser's state, seed           the checkpoint
    learning rate and the like, schedule       the checkpoint; the config where the command line names one of them
                                               (`--cfg-options optim_wrapper... param_scheduler... train_cfg...`);
                                               the schedule is the config's where the training has another length
    everything else                            the config

With another batch size or number of processes the schedule stays where it was by samples seen: epochs are epochs, and
iterations are counted again in batches of the new size. Every difference is said at the start. The text of a config in
a checkpoint is compared, never run.
"""
import ast
import contextlib
import copy
import inspect
import logging
import math
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner import Runner as MMEngineRunner
from torch import Tensor
from torch.optim import Optimizer

from perception.apis.config import is_read
from perception.distill.cache import weights_digest
from perception.distill.teachers import FrozenTeacher
from perception.utils.checkpoint import check_weights, load_checkpoint, to_plain, unwrap, weights_of
from perception.utils.errors import CheckpointError, PerceptionError

OVERRULED = ('optim_wrapper', 'param_scheduler')  # parts of a config that a checkpoint overrules
RESCHEDULE = (*OVERRULED, 'train_cfg')  # on the command line they make the config count
MOVING = ('last_step', '_global_step', '_last_value', 'base_values', 'verbose', 'end')  # no settings of a scheduler
PLACES = ('work_dir', 'resume', 'load_from', 'experiment_name')  # they differ in any resumed run
SHOWN = 12  # differences in the log
NOTES = dict(keep_ckpt_ids=list, best_score=(int, float), best_epoch=int, best_by=str, step_validated=int,
             step_stopped=int, last_ckpt=str, steps_skipped=int)  # what our hooks keep in the message hub


def facts(runner: MMEngineRunner) -> dict[str, Any]:
    """What a checkpoint notes of how it was trained, so that a run with other settings finds its place."""
    loader, teachers = runner.train_dataloader, getattr(unwrap(runner.model), 'teachers', {})
    return dict(batch_size=loader.batch_size, processes=get_world_size(), steps=len(loader),
                optimizer=_kind(runner.optim_wrapper),
                teachers={name: weights_digest(teacher.model) for name, teacher in teachers.items()
                          if isinstance(teacher, FrozenTeacher)})  # they are in no checkpoint


def _kind(wrapper: OptimWrapper | OptimWrapperDict) -> str | None:
    return None if isinstance(wrapper, OptimWrapperDict) else type(wrapper.optimizer).__name__


def resume(runner: MMEngineRunner, file: str, options: Iterable[str] = (), map_location: Any = None) -> None:
    """Put a runner where a checkpoint was written.

    Args:
        runner: before its training; what it needs is built.
        file: a training checkpoint.
        options: names of the config that the command line gave.
        map_location: as in `torch.load`; the model's device by default.

    Raises:
        CheckpointError: unreadable, no training checkpoint, or of another model or optimiser.
    """
    checkpoint = load_checkpoint(file, map_location or get_device())
    meta = training_meta(checkpoint, file)
    model = unwrap(runner.model)
    check_weights(model, weights_of(checkpoint, file), file)
    with _plainly(file, 'its message hub or what a hook keeps in it'):
        runner.call_hook('after_load_checkpoint', checkpoint=checkpoint)
    model.load_state_dict(weights_of(checkpoint, file), strict=False)  # a hook may have exchanged them
    _take_seed(runner, meta)
    _compare_teachers(runner, meta)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if runner.param_schedulers is not None:
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    differences = compare(meta.get('cfg'), runner.cfg.pretty_text)
    if differences is not None:
        differences = {**_in_use(runner, checkpoint), **differences}
    named = {name for name in options if name.split('.')[0] in RESCHEDULE
             and (differences is None or any(_covers(name, key) for key in differences))}
    moved = _take_place(runner, meta, file)
    if 'message_hub' in checkpoint:
        with _plainly(file, 'its message hub'):
            runner.message_hub.load_state_dict(checkpoint['message_hub'])
    base = [name for name in named if name.split('.')[0] == 'optim_wrapper']
    if 'optimizer' in checkpoint:
        _load_optimizer(runner, checkpoint['optimizer'], meta, file, bool(base))
    else:
        runner.logger.warning('--resume: the checkpoint holds no optimiser; it begins anew.')
        moved = True
    _take_gradients(runner, checkpoint.get('gradients'), file)
    longer = any(name.startswith('train_cfg.max_') for name in differences or ())
    stays = _load_schedule(runner, checkpoint.get('param_schedulers'), bool(named) or moved or longer, file)
    _say(runner, differences or {}, named, stays)
    runner.logger.info(f'resumed epoch: {runner.epoch}, iter: {runner.iter}')


@contextlib.contextmanager
def _plainly(file: str, part: str) -> Iterator[None]:
    """Turns what damaged or forged parts of a checkpoint cause into one sentence."""
    try:
        yield
    except PerceptionError:
        raise
    except Exception as error:
        what = (str(error).splitlines() or [''])[0][:120]
        raise CheckpointError(
            f'{file}: {part} does not fit ({type(error).__name__}: {what}), expected that of this training. Start from '
            f'its weights with --cfg-options load_from={file}.') from error


def training_meta(checkpoint: dict, file: str | Path) -> dict:
    """What a training checkpoint says of itself, checked.

    Args:
        checkpoint: from `load_checkpoint`.
        file: its name in messages.

    Raises:
        CheckpointError: it is none, or its epoch, iteration or seed is no number that can be.
    """
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict) or 'iter' not in meta or 'epoch' not in meta:
        raise CheckpointError(f'{file}: weights alone came, expected a training checkpoint (epoch_N.pth). Start from '
                              f'these weights with --cfg-options load_from={file}.')
    for name in ('epoch', 'iter', 'seed'):
        value = meta.get(name)
        most = 2**32 if name == 'seed' else 2**63
        if not (type(value) is int and 0 <= value < most) and not (name == 'seed' and value is None):
            raise CheckpointError(f'{file}: its {name} is {str(value)[:60]!r}, expected a whole number of 0 or more'
                                  f'{" below 2**32" if name == "seed" else ""}. Use another checkpoint.')
    for name, kind in (('message_hub', dict), ('optimizer', dict), ('param_schedulers', (list, dict))):
        if name in checkpoint and not isinstance(checkpoint[name], kind):
            raise CheckpointError(f'{file}: its {name} is a {type(checkpoint[name]).__name__}, expected a dict or list '
                                  'of a training. Use another checkpoint.')
    notes = (checkpoint.get('message_hub') or {}).get('runtime_info')
    for name, kind in NOTES.items():
        value = notes.get(name) if isinstance(notes, dict) else None
        if value is not None and (not isinstance(value, kind) or (
                kind is list and not all(isinstance(step, int) for step in value))):
            raise CheckpointError(f'{file}: its {name} is {str(value)[:60]!r}, expected what a training notes there. '
                                  'Use another checkpoint.')
    return meta


# --- where it goes on ---
def _take_seed(runner: MMEngineRunner, meta: dict) -> None:
    seed = meta.get('seed')
    if seed is not None and seed != runner.seed:
        runner.logger.warning(f'--resume: the seed stays {seed}, as in the checkpoint (the config says {runner.seed}).')
        runner._randomness_cfg.update(seed=seed)
        runner.set_randomness(**runner._randomness_cfg)
    own = getattr(runner.train_dataloader.dataset, 'metainfo', None)
    stored = meta.get('dataset_meta')
    if stored is not None and to_plain(stored) != to_plain(own):
        runner.logger.warning('--resume: the training data describe themselves otherwise (classes, palette) than those '
                              'of the checkpoint; see that they are the same classes.')


def _compare_teachers(runner: MMEngineRunner, meta: dict) -> None:
    then = meta['training'].get('teachers') if isinstance(meta.get('training'), dict) else None
    for name, weights in facts(runner)['teachers'].items():
        if isinstance(then, dict) and then.get(name, weights) != weights:
            runner.logger.warning(f'--resume: the teacher {name!r} has other weights than before: it was trained '
                                  'again, or is another file. The student goes on with these; for those put the old '
                                  'file back.')


def _take_place(runner: MMEngineRunner, meta: dict, file: str) -> bool:
    """Set epoch and iteration; whether batches or steps of an epoch are others than before."""
    loop, now, epoch, step = runner.train_loop, facts(runner), meta['epoch'], meta['iter']
    then = meta.get('training')
    if not isinstance(then, dict) or any(type(then.get(name)) is not int or then[name] < 1
                                         for name in ('batch_size', 'processes', 'steps')):
        whole = epoch and step % epoch == 0 and not isinstance(loop, IterBasedTrainLoop)
        then = dict(now, steps=step // epoch if whole else now['steps'])  # of an older version, at the end of an epoch
    samples_then, samples = ((part['batch_size'] or 1) * part['processes'] for part in (then, now))
    moved = samples != samples_then or (now['steps'] != then['steps'])
    if isinstance(loop, IterBasedTrainLoop):
        loop._epoch, loop._iter = epoch, step if samples == samples_then else step * samples_then // samples
        position = f'iteration {step:,} becomes {loop._iter:,} of {runner.max_iters:,}'
    else:
        inside = step - epoch * then['steps']
        if not 0 <= inside <= then['steps'] or step and not then['steps']:
            raise CheckpointError(f'{file}: it says epoch {epoch}, iteration {step}, expected an iteration of that '
                                  f'epoch ({then["steps"]} steps each). Use another checkpoint.')
        if moved:
            inside = now['steps'] if inside == then['steps'] else min(inside * samples_then // samples, now['steps'])
        loop._epoch, loop.start, loop._iter = epoch, inside, epoch * now['steps'] + inside
        position = f'epoch {epoch} of {runner.max_epochs} goes on, iteration {step:,} becomes {loop._iter:,}'
    if moved:
        runner.logger.warning(
            f'--resume: batches of {now["batch_size"]} in {now["processes"]} process(es), {now["steps"]:,} steps an '
            f'epoch (before: {then["batch_size"]}, {then["processes"]}, {then["steps"]:,}). By samples seen {position}'
            '; the learning rate is not scaled, give another by --cfg-options optim_wrapper.optimizer.lr=...')
    last, where = ((runner.max_iters, loop._iter) if isinstance(loop, IterBasedTrainLoop) else
                   (runner.max_epochs, loop._epoch))
    if where >= last:
        runner.logger.warning(f'--resume: this training was complete ({where} of {last}); no further step is taken. '
                              'Give a larger train_cfg.max_epochs or max_iters to train on.')
    return moved


# --- optimiser and schedule ---
def _load_optimizer(runner: MMEngineRunner, stored: dict, meta: dict, file: str, config_counts: bool) -> None:
    """The optimiser's state, with the checkpoint's rate and the like, or the config's."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        own = {name: [{k: v for k, v in group.items() if k != 'params'} for group in one.param_groups]
               for name, one in wrapper.items()}
        with _plainly(file, 'its optimiser'):
            wrapper.load_state_dict(stored)
        for name, one in wrapper.items() if config_counts else ():
            for group, ours in zip(one.param_groups, own[name]):
                group.update(ours)
        return
    groups = stored.get('param_groups')
    training = meta.get('training')
    kind, theirs = _kind(wrapper), training.get('optimizer') if isinstance(training, dict) else None
    own = set(wrapper.optimizer.param_groups[0])
    with _plainly(file, 'its optimiser'):
        there = set(groups[0])
        rates = [float(group['lr']) for group in groups]
    if (theirs or kind) != kind or (not theirs and own - there and there - own - {'param_names'}):
        raise CheckpointError(f"{file}: its optimiser is {theirs or 'of another kind'}, the config's {kind}, expected "
                              f'the same to resume. Start from its weights with --cfg-options load_from={file}.')
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
        raise CheckpointError(f'{file}: its learning rate is {rates[0]}, expected a finite number. Use another '
                              'checkpoint.')
    _unschedule(wrapper)
    settings = [{k: v for k, v in group.items() if k != 'params'} for group in wrapper.param_groups]
    with _plainly(file, 'its optimiser'):
        wrapper.load_state_dict(stored)
        _check_optimizer(wrapper.optimizer, settings)
    if config_counts:
        for group, ours in zip(wrapper.param_groups, settings):
            for key in [key for key in group if key.startswith('initial_')]:
                del group[key]
            group.update(ours)


def _check_optimizer(optimizer: Optimizer, settings: list[dict]) -> None:
    """See that an optimiser's settings are of the kinds that the config's are, its state of the weights' shapes.

    Raises:
        ValueError: one is not.
    """
    for group, ours in zip(optimizer.param_groups, settings):
        for key, own in ours.items():
            now, parts = (value if isinstance(value, (list, tuple)) else (value,) for value in (group.get(key), own))
            numbers = [isinstance(part, (int, float, Tensor)) for part in parts]
            if all(numbers) and [isinstance(part, (int, float, Tensor)) for part in now] != numbers:
                raise ValueError(f'{key} is {group.get(key)!r}')
    for parameter, state in optimizer.state.items():
        for value in state.values():
            if isinstance(value, Tensor) and value.numel() > 1:
                torch.broadcast_shapes(value.shape, parameter.shape)


def _take_gradients(runner: MMEngineRunner, stored: Any, file: str) -> None:
    """Gradients that were accumulated for a step to come."""
    with _plainly(file, 'its accumulated gradients'):
        for name, parameter in unwrap(runner.model).named_parameters() if stored else ():
            if name in stored:
                parameter.grad = stored[name].to(parameter.device, copy=True)


def _unschedule(wrapper: OptimWrapper) -> None:
    """Give an optimiser the values back that a schedule started with."""
    for group in wrapper.param_groups:
        for key in [key for key in group if key.startswith('initial_')]:
            group[key.removeprefix('initial_')] = group.pop(key)


def _load_schedule(runner: MMEngineRunner, stored: Any, anew: bool, file: str) -> bool:
    """The schedulers' states, or those that the config's reach here; whether the checkpoint's count."""
    if runner.param_schedulers is None:
        if anew:
            _unschedule(runner.optim_wrapper)
        return not anew
    if isinstance(runner.param_schedulers, dict):
        with _plainly(file, 'its schedule'):
            for name, schedulers in runner.param_schedulers.items():
                for scheduler, state in zip(schedulers, stored[name], strict=True):
                    scheduler.load_state_dict(state)
        return True
    fit = isinstance(stored, list) and len(stored) == len(runner.param_schedulers) and all(
        isinstance(state, dict) and _settings(scheduler).keys() == state.keys()
        for scheduler, state in zip(runner.param_schedulers, stored))
    if anew or not fit:
        if not anew:
            runner.logger.warning('--resume: the checkpoint has a schedule of another kind; that of the config counts.')
        _reschedule(runner)
        return False
    with _plainly(file, 'its schedule'):
        for scheduler, state in zip(runner.param_schedulers, stored):
            own = to_plain({k: v for k, v in _settings(scheduler).items() if k not in MOVING})
            if any(type(own[k]) is not type(state[k]) for k in own if k in state and own[k] is not None
                   and not isinstance(own[k], (int, float))) or type(state['last_step']) is not int:
                raise ValueError('values of another type')
            scheduler.load_state_dict(state)
    return True


def _settings(scheduler: Any) -> dict:
    """State of a scheduler as a checkpoint holds it, without functions."""
    return {name: value for name, value in scheduler.state_dict().items() if not inspect.isroutine(value)}


def _reschedule(runner: MMEngineRunner) -> None:
    """Build the config's schedulers and step them to the runner's place."""
    _unschedule(runner.optim_wrapper)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of steps before the optimiser's
        runner.param_schedulers = schedulers = runner.build_param_scheduler(copy.deepcopy(runner.cfg.param_scheduler))
        moving = [scheduler for scheduler in schedulers if not getattr(scheduler, 'need_val_args', False)]
        by_step = [scheduler for scheduler in moving if not scheduler.by_epoch]
        steps = len(runner.train_dataloader)
        for step in range(1, runner.iter + 1):
            for scheduler in by_step:
                scheduler.step()
            if step % steps == 0 and step // steps <= runner.epoch:
                for scheduler in moving:
                    if scheduler.by_epoch:
                        scheduler.step()
    if len(moving) < len(schedulers):
        runner.logger.warning('--resume: a schedule that follows the score begins anew.')
    rate = runner.optim_wrapper.get_lr()
    runner.logger.info(f'--resume: the learning rate goes on at {next(iter(rate.values()))[0]:g}')


# --- what differs ---
def compare(then: Any, now: str) -> dict[str, tuple[str, str]] | None:
    """Values that differ between two configs, from their text alone, without helpers that nothing reads.

    Args:
        then: text of a checkpoint, or whatever stands there.
        now: text of the config.

    Returns:
        dotted name -> both values as text, `'-'` where there is none; None where the first is no config.
    """
    if not isinstance(then, str) or len(then) > 2**20:
        return None
    try:
        before = text_leaves(then)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    after = text_leaves(now)
    pairs = {name: (before.get(name, '-'), after.get(name, '-')) for name in sorted({*before, *after})}
    return {name: (then, now) for name, (then, now) in pairs.items()
            if _class(then) != _class(now) and is_read(name.split('.')[0]) and name.split('.')[0] not in PLACES}


def _class(text: str) -> Any:
    """The class or function that a value names, by whichever dotted name; else the text. Nothing is imported."""
    module, _, name = text.strip('\'"').rpartition('.')
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    return found if inspect.isclass(found) or inspect.isfunction(found) else text


def _in_use(runner: MMEngineRunner, checkpoint: dict) -> dict[str, tuple[str, str]]:
    """What optimiser and schedulers of a checkpoint have otherwise than the runner's, whatever its config says."""
    pairs = []
    if not isinstance(runner.optim_wrapper, OptimWrapperDict):
        pairs = [('optim_wrapper.optimizer', then, now) for then, now in zip(
            _dicts(checkpoint.get('optimizer', {}).get('param_groups')), runner.optim_wrapper.optimizer.param_groups)]
    if isinstance(runner.param_schedulers, list):
        pairs += [(f'param_scheduler.{i}', then, _settings(now)) for i, (then, now) in enumerate(zip(
            _dicts(checkpoint.get('param_schedulers')), runner.param_schedulers))]
    found = {}
    for part, then, now in pairs:
        for key in [k for k in now if k in then and k not in ('params', *MOVING) and not k.startswith('initial_')]:
            was, is_now = (group.get(f'initial_{key}', group[key]) for group in (then, now))
            if not isinstance(was, Tensor) and to_plain(is_now) != was:
                found.setdefault(f'{part}.{key}', (repr(was), repr(is_now)))
    return found


def _dicts(value: Any) -> list[dict]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_leaves(text: str) -> dict[str, str]:
    """Dotted name -> text of each value that the text of a config assigns; the text is not run.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: it is none.
    """
    found: dict[str, str] = {}

    def visit(name: str, node: ast.expr) -> None:
        if isinstance(node, ast.Call) and node.keywords:
            for keyword in node.keywords:
                visit(f'{name}.{keyword.arg}', keyword.value)
        elif isinstance(node, ast.Dict) and node.keys:
            for key, value in zip(node.keys, node.values):
                visit(f'{name}.{key.value if isinstance(key, ast.Constant) else "**"}', value)
        elif isinstance(node, ast.List) and any(isinstance(item, ast.Call) for item in node.elts):
            for i, item in enumerate(node.elts):
                visit(f'{name}.{i}', item)
        else:
            found[name] = ast.unparse(node)

    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            visit(statement.targets[0].id, statement.value)
    return found


def _covers(option: str, key: str) -> bool:
    return f'{key}.'.startswith(f'{option}.') or f'{option}.'.startswith(f'{key}.')


def _say(runner: MMEngineRunner, differences: dict[str, tuple[str, str]], named: set[str], stays: bool) -> None:
    """Log which of the differences count."""
    optim = any(name.startswith('optim_wrapper') for name in named)
    for i, (name, (then, now)) in enumerate(differences.items()):
        then, now = then[:80], now[:80]
        if i == SHOWN:
            runner.logger.warning(f'--resume: {len(differences) - SHOWN} more settings differ from the checkpoint\'s')
            break
        overruled = name.startswith(('optim_wrapper.optimizer', 'optim_wrapper.lr')) and not optim or (
            name.startswith('param_scheduler') and stays)
        runner.logger.log(logging.WARNING, f'--resume: {name} stays {then}, as in the checkpoint (the config says '
                          f'{now}); to change it, give it by --cfg-options' if overruled else
                          f'--resume: {name} is {now} from now on (before: {then})')
