"""Train a config; the body of tools/train.py."""
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor

from perception.apis.config import load_config, names_config, need
from perception.apis.resume import training_meta
from perception.apis.runner import Runner, add_logs, start_processes, use_amp, write_mini_data
from perception.common.hooks.recalibrate import RecalibrateHook
from perception.common.hooks.sparsity import SparsityHook
from perception.common.hooks.teacher_score import TeacherScoreHook
from perception.distill.distiller import Distiller
from perception.distill.shares import report
from perception.distill.teachers import trained_weights
from perception.utils.checkpoint import load_checkpoint, newest_checkpoint, unwrap
from perception.utils.errors import CheckpointError, ConfigError
from perception.utils.lock import locked
from perception.utils.paths import make_folder


@names_config
def train(config: str | Path, mini: bool = False, work_dir: str | None = None, resume: str | bool = False,
          amp: bool = False, options: dict[str, Any] | None = None, launcher: str = 'none',
          check: bool = False, allow_nan: int = 0, log: Sequence[str] = (), structure: str | None = None) -> Runner:
    """Train a config from its file.

    Args:
        config: the config file.
        mini: train its mini section on simulated data, written at first use.
        work_dir: folder for checkpoints and logs, relative to the current directory; default
            `work_dirs/<folder>/<config>[_mini]` in the project.
        resume: True continues from the newest readable checkpoint in the work dir, a path from that file.
        amp: mixed precision.
        options: dotted overrides of the config.
        launcher: `'none'`, `'pytorch'` or `'slurm'`.
        check: build everything, run two iterations, log taps, shapes, losses and each distillation term's share of the
            gradient, write nothing.
        allow_nan: how many steps with a loss that is not finite are skipped before such a step ends the training.
        log: further places to log to, of `perception.apis.runner.LOGS`.
        structure: file of `tools/prune.py search`; the net is built as slim as it says. With `load_from`, whose weights
            it takes its part of, the batch norms first see some batches.

    Returns:
        the Runner after training; its model is trained.

    Raises:
        PerceptionError: input that cannot work, see the subclasses.
    """
    if work_dir == '':
        raise ConfigError('--work-dir: an empty name came, expected a folder. Name one, or leave the option out.')
    if allow_nan < 0:
        raise ConfigError(f'--allow-nan: {allow_nan} came, expected 0 or more steps. Correct it.')
    if check and resume:
        raise ConfigError('--check: came with --resume, expected one of both: a check begins with weights as they are '
                          'built, or with those of --cfg-options load_from=FILE. Leave one out.')
    cfg = load_config(config, mini, options)
    need(cfg, 'a training', 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    if work_dir is not None:
        cfg.work_dir = str(Path(work_dir).expanduser().absolute())
    if structure is not None:
        cfg.structure = str(Path(structure).expanduser().absolute())
    hooks = list(cfg.get('custom_hooks') or [])
    if cfg.get('structure'):
        hooks.append(dict(type=RecalibrateHook))
    if sparsity := (cfg.get('prune') or {}).get('sparsity'):
        hooks.append(dict(type=SparsityHook, strength=sparsity))
    cfg.custom_hooks = hooks
    add_logs(cfg, log)
    start_processes(launcher, cfg)
    if mini:
        write_mini_data(cfg)
    if amp:
        use_amp(cfg)
    if check:
        return check_run(cfg)
    resume = resume or (cfg.get('resume') and (cfg.get('load_from') or True))
    make_folder(cfg.work_dir)
    with locked(cfg.work_dir):
        earlier = resume_from(cfg, resume) if resume else set_aside(cfg)
        try:
            runner = Runner.from_cfg(cfg)
            runner.allow_nan, runner.options = allow_nan, list(options or {})
            runner.train()
        except BaseException as error:
            error.resumable = not put_back(cfg, earlier)  # --resume would go on with the earlier run
            raise
    return runner


def resume_from(cfg: Config, resume: str | bool) -> Path | None:
    """Point a config at the checkpoint to continue from, and at its seed; one of another folder sets this one's aside.

    Args:
        cfg: the config, changed in place.
        resume: True for the newest readable checkpoint of the work dir, or a path.

    Returns:
        where what lay here is now, None where nothing moved.

    Raises:
        CheckpointError: the file cannot be read or is no training checkpoint, or all those in the work dir are damaged.
    """
    path, problems = (Path(resume).expanduser().absolute(), []) if isinstance(resume, str) else newest_checkpoint(
        cfg.work_dir)
    for problem in problems:
        print_log(f'--resume: skipped {problem}', 'current', logging.WARNING)
    if path is None:
        if problems:
            raise CheckpointError(f'{cfg.work_dir}: none of {len(problems)} checkpoints can be read, expected one to '
                                  f'resume from. {problems[0]}')
        print_log(f'--resume: {cfg.work_dir} holds no checkpoint yet; starting from the beginning.', 'current')
        cfg.resume = False
        return None
    meta, seed = training_meta(load_checkpoint(path, mmap=True), path), (cfg.get('randomness') or {}).get('seed')
    if seed not in (None, meta.get('seed')):
        print_log(f'--resume: the seed stays {meta.get("seed")}, as in the checkpoint (the config says {seed}).',
                  'current', logging.WARNING)
    cfg.load_from, cfg.resume = str(path), True
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=meta.get('seed'))
    of_another_run = path.parent.resolve() != Path(cfg.work_dir).resolve()
    return set_aside(cfg) if of_another_run else None


def set_aside(cfg: Config) -> Path | None:
    """Move weights and config of an earlier run out of the way of a new one, so that neither is lost nor mistaken.

    Args:
        cfg: config of the new run; its `load_from` follows a file that is moved.

    Returns:
        the folder that holds them now, None where there were no weights.
    """
    work_dir, place = Path(cfg.work_dir), [None]
    old = sorted(work_dir.glob('*.pth')) if is_main_process() else []
    if old:
        place = [work_dir / f'before_{time.strftime("%Y%m%d_%H%M%S")}']
        place[0].mkdir()
        for path in [*old, *work_dir.glob('last_checkpoint'), *work_dir.glob('*.py')]:
            path.rename(place[0] / path.name)
        print_log(f'{work_dir} held an earlier run; its {len(old)} weight files are now in {place[0]}. Use --resume to '
                  f'continue a run.', 'current')
    broadcast_object_list(place)
    if place[0] and cfg.get('load_from') and Path(cfg.load_from).absolute().parent == work_dir:
        cfg.load_from = str(place[0] / Path(cfg.load_from).name)
    return place[0]


def put_back(cfg: Config, earlier: Path | None) -> bool:
    """Undo `set_aside` after a run that ended before it wrote weights.

    Args:
        cfg: config of that run.
        earlier: what `set_aside` returned.

    Returns:
        whether there was something to undo.
    """
    work_dir = Path(cfg.work_dir)
    if earlier is None or not is_main_process() or any(work_dir.glob('*.pth')):
        return False
    for dumped in work_dir.glob('*.py'):  # or it would be taken for the config of the earlier weights
        dumped.unlink()
    for path in earlier.iterdir():
        path.rename(work_dir / path.name)
    earlier.rmdir()
    print_log(f'The run ended before it wrote weights; those of the earlier run are back in {work_dir}.', 'current',
              logging.WARNING)
    return True


def check_run(cfg: Config) -> Runner:
    """Build all that training and validation need, train two iterations, log taps, shapes, losses, gradient shares.

    A teacher that was not trained yet takes part with weights as they are built. After the second iteration the share
    of each distillation term in the gradient of the student's own losses is measured on its batch.

    Args:
        cfg: the config, changed in place.

    Returns:
        the Runner.
    """
    cfg.default_hooks = dict(cfg.get('default_hooks') or {}, checkpoint=None)
    cfg.default_hooks.pop('export', None)
    for name, teacher in (cfg.model.get('teachers') or {}).items():
        config, weights = teacher.get('trained_by'), trained_weights(teacher)
        if config and not teacher.get('checkpoint') and not weights.is_file():
            teacher.trained_by = None
            print_log(f'--check: the teacher {name!r} is not trained yet (no {weights}) and takes part with weights as '
                      f'they are built. Train it first with `tools/train.py {config}'
                      f'{" --mini" if teacher.get("mini") else ""}`; until then shares of the gradient say little.',
                      'current', logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = Runner.from_cfg(cfg)
        runner.register_hook(CheckHook())
        for hook in runner.hooks:
            if isinstance(hook, TeacherScoreHook):
                hook.num_samples = min(hook.num_samples, 2)
        try:
            _ = runner.val_loop  # data of a test are no business of a training
            runner.train()
        except _CheckedEnough:
            runner.logger.info('--check: everything was built and two iterations ran.')
        finally:
            for handler in list(runner.logger.handlers):  # the log file goes away with the folder
                if isinstance(handler, logging.FileHandler):
                    handler.close()
                    runner.logger.removeHandler(handler)
    return runner


class _CheckedEnough(Exception):
    """Leaves the training loop."""


class CheckHook(Hook):
    """Logs after each iteration every loss, once every tap with its shape, and last the terms' gradient shares."""

    priority = 'VERY_LOW'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None):
        """Log what the step gave."""
        model = unwrap(runner.model)
        if runner.iter == 0:
            for who, taps in getattr(model, 'tap_shapes', {}).items():
                for name, shape in taps.items():
                    runner.logger.info(f'--check: tap {who}.{name}: {shape}')
        losses = {k: float(v.detach()) if isinstance(v, Tensor) else v for k, v in (outputs or {}).items()}
        text = ', '.join(f'{name} {value:.4f}' for name, value in losses.items())
        runner.logger.info(f'--check: iteration {runner.iter + 1}: {text}')
        if runner.iter == 1:
            if isinstance(model, Distiller):
                lines, warnings = report(model, data_batch)
                for level, texts in ((logging.INFO, lines), (logging.WARNING, warnings)):
                    for line in texts:
                        runner.logger.log(level, f'--check: {line}')
            raise _CheckedEnough('two iterations ran')
