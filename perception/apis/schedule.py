"""Whether the schedule of a rate fits the length of a training, and its scaling to another length."""
import logging
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from perception.common.dataset import parts
from perception.utils.errors import ConfigError

_PARTS = ('begin', 'end', 'T_max')  # may be parts of an epoch where they are converted to iterations
_WHOLE = ('milestones', 'periods', 'step_size', 'total_steps')
_ENDLESS = 10 ** 9  # mmengine's end of a schedule that has none


def _schedulers(cfg: Config) -> Iterator[tuple[str, dict]]:
    """Dotted name and section of each scheduler."""
    found = cfg.get('param_scheduler') or []
    if isinstance(found, dict) and 'type' in found:
        yield 'param_scheduler', found
        return
    for name, group in found.items() if isinstance(found, dict) else [('', found)]:
        for i, scheduler in enumerate([group] if isinstance(group, dict) else group):
            yield '.'.join(['param_scheduler', *([name] if name else []), str(i)]), scheduler


def length_of(cfg: Config) -> tuple[str, int] | None:
    """`('max_epochs', N)` or `('max_iters', N)` of a training, None where there is none."""
    loop = cfg.get('train_cfg') or {}
    return next(((unit, loop[unit]) for unit in ('max_epochs', 'max_iters') if loop.get(unit) is not None), None)


def scale_schedule(cfg: Config, before: tuple[str, int] | None) -> None:
    """Stretch or shorten the schedule with the training.

    Begins, ends and lengths keep their share of the training; those that are counted in whole steps are rounded.

    Args:
        cfg: the config with its new length, changed in place.
        before: `length_of` the config that the schedule was written for.
    """
    after = length_of(cfg)
    if before is None or after is None or before[0] != after[0] or before[1] == after[1] or before[1] < 1:
        return
    ratio, changed = after[1] / before[1], []
    for name, scheduler in _schedulers(cfg):
        for key in (*_PARTS, *_WHOLE):
            old = scheduler.get(key)
            if not old or (isinstance(old, (int, float)) and old >= _ENDLESS):
                continue
            whole = key in _WHOLE or not scheduler.get('convert_to_iter_based')
            scheduler[key] = type(old)(_scaled(v, ratio, whole) for v in old) if isinstance(old, (list, tuple)) else (
                _scaled(old, ratio, whole))
            if scheduler[key] != old:
                changed.append(f'{name}.{key}={scheduler[key]}')
    if changed:
        print_log(f'train_cfg.{after[0]}={after[1]} instead of {before[1]}: the schedule is scaled with it, '
                  f'{", ".join(changed)}. Options of param_scheduler beside it set another one.', 'current')


def lengthen_pipeline(cfg: Config, before: tuple[str, int] | None) -> None:
    """Tell the new length of a training to augmentation that ends before it does, which knew the old one as `epochs`.

    Args:
        cfg: the config with its new length, changed in place.
        before: `length_of` the config that the pipeline was written for.
    """
    after = length_of(cfg)
    if before is None or after is None or before[0] != 'max_epochs' or after[0] != before[0] or after == before:
        return
    for place, data in parts((cfg.get('train_dataloader') or {}).get('dataset') or {}):
        for i, step in enumerate(data.get('pipeline') or ()):
            if isinstance(step, dict) and step.get('epochs') == before[1]:
                step['epochs'] = after[1]
                print_log(f'train_cfg.max_epochs={after[1]} instead of {before[1]}: {place}.pipeline.{i}.epochs='
                          f'{after[1]} too.', 'current')


def _scaled(value: float, ratio: float, whole: bool) -> float:
    value *= ratio
    return max(round(value), 1) if whole or abs(value - round(value)) < 1e-9 else round(value, 6)


def check_schedule(cfg: Config, where: str) -> None:
    """See that every scheduler begins before the training ends, and that none leaves it a rate of 0 or lets it rise
    again, such as after overriding `train_cfg.max_epochs`; warn of one that the training does not reach the end of.

    Args:
        cfg: the config.
        where: start of an error message.

    Raises:
        ConfigError: one does not fit.
    """
    found, length = list(_schedulers(cfg)), dict([length_of(cfg) or ('', 0)])
    for name, scheduler in found:
        by_epoch = scheduler.get('by_epoch', True)
        unit = 'max_epochs' if by_epoch else 'max_iters'
        kind = scheduler.get('type')
        called = f'{where}: {name}, {getattr(kind, "__name__", kind)},'
        for key in ('T_max', 'step_size', 'total_steps'):
            if isinstance(scheduler.get(key), (int, float)) and scheduler[key] <= 0:
                raise ConfigError(f'{called} has {key}={scheduler[key]}, expected more than 0. Correct it.')
        begin, end, whole = scheduler.get('begin') or 0, scheduler.get('end'), length.get(unit)
        end = whole if end is None or end >= _ENDLESS else end
        if end is not None and end <= begin:
            raise ConfigError(
                f'{called} begins at {begin} and ends at {end}, expected an end behind its beginning. Give train_cfg.'
                f'{unit} more than {begin}, or shorten the schedule too; --cfg-options "param_scheduler=[]" leaves the '
                'rate as it is.')
        if whole is None:
            continue
        last = min(end, whole)
        followed = any(other is not scheduler and (other.get('begin') or 0) >= end
                       and other.get('by_epoch', True) == by_epoch for _, other in found)
        if last < whole and not followed and _falls_to_nothing(scheduler, cfg):
            raise ConfigError(
                f'{called} ends at {end} with a rate near 0 in a training of {whole}, expected it to end with the '
                f'training. Give {name}.end={whole} too, or --cfg-options train_cfg.{unit} alone, with which the '
                'schedule is scaled.')
        covered = next((total for total in (scheduler.get('T_max'), scheduler.get('total_steps'),
                                            sum(scheduler.get('periods') or [])) if total), None)
        reach = max(scheduler.get('milestones') or [covered or end])
        if reach > whole:
            print_log(f'{called} reaches to {reach} in a training of {whole}, so the rate ends elsewhere than planned. '
                      f'Shorten it too, or give --cfg-options train_cfg.{unit} instead, with which the schedule is '
                      'scaled.', 'current', logging.WARNING)
        if covered is not None and covered < last - begin:
            raise ConfigError(
                f'{called} is {covered} long and runs from {begin} to {last}, expected a length of {last - begin}: the '
                f'rate would rise again. Give it that length, or --cfg-options train_cfg.{unit} alone, with which the '
                'schedule is scaled.')


def _falls_to_nothing(scheduler: dict, cfg: Config) -> bool:
    """Whether a scheduler ends near a rate of 0."""
    kind = getattr(scheduler.get('type'), '__name__', str(scheduler.get('type')))
    if kind.startswith('Linear'):
        return scheduler.get('end_factor', 1.0) <= 1e-3
    if not kind.startswith(('Poly', 'CosineAnnealing')):
        return False
    rate: Any = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')
    least = scheduler.get('eta_min') or 0
    return least <= 1e-3 * rate if isinstance(rate, (int, float)) else least == 0
