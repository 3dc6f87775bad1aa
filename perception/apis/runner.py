"""Everything around mmengine's Runner that training and testing share."""
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import barrier, init_dist, is_distributed, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, convert_sync_batchnorm
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from mmengine.runner import Runner as MMEngineRunner
from mmengine.visualization import LocalVisBackend, MLflowVisBackend, TensorboardVisBackend, Visualizer, WandbVisBackend
from torch import nn
from torch.utils.data import DataLoader

from perception.apis.config import called, leaves
from perception.apis.loops import EpochLoop, IterLoop, check_steps
from perception.apis.resume import facts, resume
from perception.common.amp import BFloat16OptimWrapper, has_bfloat16
from perception.common.formats.stamped import is_simulated
from perception.registry import RUNNERS
from perception.utils.checkpoint import load_checkpoint, start_from, structure_in, unwrap
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError
from perception.utils.optional import import_optional
from perception.utils.paths import data_path, from_root, make_folder
from perception.utils.structure import apply_structure, read_structure

_count = itertools.count()  # Runners built in this process
_NOISE = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias',
          'Distributed training is not used, all SyncBatchNorm',
          'Hooks will be executed in the following order', 'Checkpoints will be saved to',
          '`save_param_scheduler` is True but')


@RUNNERS.register_module()
class Runner(MMEngineRunner):
    """mmengine's Runner with a start of the log that fits a screen; the resolved config is dumped to the work dir.

    It resumes inside an epoch and with other settings, see `apis/resume.py`, and executes nothing that a checkpoint
    holds.

    Attributes:
        allow_nan: how many training steps with a loss that is not finite may be skipped.
        options: names of the config that the command line gave; on resume they count before the checkpoint's.
    """

    allow_nan = 0
    options: Iterable[str] = ()

    def setup_env(self, env_cfg: dict) -> None:
        """mmengine's, with a name of its own for each Runner of a process: those of one second would share a log."""
        super().setup_env(env_cfg)
        count = next(_count)
        self._timestamp += f'_{count}' if count else ''

    def _log_env(self, env_cfg: dict) -> None:
        cuda = torch.cuda.is_available()
        device = torch.cuda.get_device_name() if cuda else f'CPU with {torch.get_num_threads()} threads'
        self.logger.info(f'perception {version("perception")}, torch {torch.__version__}, mmengine '
                         f'{mmengine.__version__}, mmdet3d {version("mmdet3d")}')
        self.logger.info(f'{device}, {self.world_size} process(es), seed {self.seed}, work dir {self.work_dir}')

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """mmengine's, pruned where the config or the checkpoint to go on from holds a structure."""
        model, path = super().build_model(model), self.cfg.get('structure')
        net = getattr(model, 'student', model)
        if path:
            apply_structure(net, read_structure(from_root(path)), str(path))
        elif self._load_from and from_root(self._load_from).is_file():
            structure = structure_in(load_checkpoint(from_root(self._load_from), mmap=True), str(self._load_from))
            if structure is not None:
                apply_structure(net, structure, str(self._load_from))
        return model

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """mmengine's; where CUDA is, batches come in pinned memory, unless the config says otherwise."""
        if isinstance(dataloader, dict) and torch.cuda.is_available():
            dataloader = dict(pin_memory=True) | dataloader
        return MMEngineRunner.build_dataloader(dataloader, *args, **kwargs)

    def build_visualizer(self, visualizer: dict | None = None) -> Visualizer:
        """mmengine's default with a class for the backend: names would import every room to find them."""
        return super().build_visualizer(visualizer or dict(
            type=Visualizer, name=self._experiment_name, vis_backends=[dict(type=LocalVisBackend)]))

    def build_optim_wrapper(self, optim_wrapper: dict | OptimWrapper) -> OptimWrapper:
        """mmengine's, with a class for the constructor."""
        if isinstance(optim_wrapper, dict):
            optim_wrapper.setdefault('constructor', DefaultOptimWrapperConstructor)
        return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """mmengine's, without those that are shorter than a step, such as a warm-up of half an epoch of one batch."""
        if isinstance(scheduler, list):
            steps = len(self.train_dataloader)
            short = [part for part in scheduler if isinstance(part, dict) and part.get('convert_to_iter_based')
                     and int(part.get('end', 1e9) * steps) <= int((part.get('begin') or 0) * steps)]
            for part in short:
                self.logger.warning(f'{getattr(part["type"], "__name__", part["type"])} from epoch '
                                    f'{part.get("begin") or 0} to {part["end"]} is shorter than a step ({steps} an '
                                    'epoch) and is left out.')
            scheduler = [part for part in scheduler if not any(part is other for other in short)]
        return super().build_param_scheduler(scheduler)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """mmengine's, with our loops in place of its own.

        Raises:
            ConfigError: the training would take no step.
        """
        if isinstance(loop, dict):
            loop = dict(loop)
            kind = loop.pop('type', EpochBasedTrainLoop if loop.pop('by_epoch', True) else IterBasedTrainLoop)
            ours = {EpochBasedTrainLoop: EpochLoop, IterBasedTrainLoop: IterLoop}
            ours.update({kind.__name__: loop for kind, loop in ours.items()})
            loop['type'] = ours.get(kind, kind)
        loop = super().build_train_loop(loop)
        check_steps(loop)
        return loop

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """mmengine's; a sample is read, so that what is wrong with them shows before the first epoch, not after it.

        Raises:
            ConfigError: a metric asks for what the model does not give, or a step of the pipeline for what it cannot.
            DataError: there is nothing to validate with.
        """
        loop, model = super().build_val_loop(loop), unwrap(self.model)
        for metric in loop.evaluator.metrics:
            if hasattr(metric, 'check_model'):
                metric.check_model(getattr(model, 'student', model))
        if not len(loop.dataloader):
            raise DataError(f'val_dataloader: {len(loop.dataloader.dataset)} samples in batches of '
                            f'{loop.dataloader.batch_size} came, expected one batch or more. Correct the split, or '
                            'train without validation (val_dataloader=None val_cfg=None val_evaluator=None).')
        _ = loop.dataloader.dataset[0]
        return loop

    def load_or_resume(self) -> None:
        """Go on with a training, or start from weights: what fits is loaded, and said.

        Raises:
            CheckpointError: see `resume` and `start_from`.
        """
        if self._has_loaded or self._load_from is None:
            return
        if self._resume:
            self.resume(self._load_from)
        else:
            model, path = unwrap(self.model), Path(self._load_from).expanduser()
            said = start_from(model, path if path.is_file() or not from_root(path).is_file() else from_root(path))
            self.logger.info(f'load_from: {said}')
            self.call_hook('after_load_checkpoint', checkpoint=dict(state_dict=model.state_dict(), meta={}))
        self._has_loaded = True

    def train(self) -> nn.Module:
        """mmengine's, with numbers below 1.2e-38 taken as zero on the CPU while it lasts.

        A CPU computes with such denormal numbers ten times slower, and tiny losses, or the optimiser's squares of small
        gradients, are full of them. Results change by no more than these numbers; GPUs are not concerned.
        """
        for kind in (np.float32, np.float64):
            np.finfo(kind)  # which is kept; first asked for without denormal numbers it warns of that
        torch.set_flush_denormal(True)
        try:
            return super().train()
        finally:
            torch.set_flush_denormal(False)

    def resume(self, filename: str, resume_optimizer: bool = True, resume_param_scheduler: bool = True,
               map_location: str | Callable = 'default') -> None:
        """Go on with a training, see `apis/resume.py`; optimiser and schedule belong to it."""
        resume(self, filename, self.options, None if map_location == 'default' else map_location)
        self._has_loaded = True

    def save_checkpoint(self, *args, meta: dict | None = None, **kwargs) -> None:
        """mmengine's, with what a run of other settings needs to find its place."""
        model = unwrap(self.model)
        structure = getattr(getattr(model, 'student', model), 'structure', None)
        more = {} if structure is None else dict(structure=structure)
        super().save_checkpoint(*args, meta=dict(meta or {}, training=facts(self), **more), **kwargs)

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        """mmengine's, with results of several processes exchanged in the work dir, not in the current directory."""
        evaluator = super().build_evaluator(evaluator)
        for metric in evaluator.metrics if self.distributed else []:
            if metric.collect_device == 'cpu' and metric.collect_dir is None:
                metric.collect_dir = os.path.join(self.work_dir, '.collect')
        return evaluator

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """mmengine's, which asks for a device index that models on a CPU must not have, and for parameters."""
        if next(model.parameters(), None) is None:  # it hands out stored predictions
            return model
        if self.distributed and model_wrapper_cfg is None and not torch.cuda.is_available():
            return MMDistributedDataParallel(
                model, broadcast_buffers=False, find_unused_parameters=self.cfg.get('find_unused_parameters', False))
        if self.distributed and isinstance((model_wrapper_cfg or {}).get('type'), type):  # mmengine knows names alone
            model, devices = model.to(get_device()), None
            if torch.cuda.is_available():
                devices = [int(os.environ['LOCAL_RANK'])]
                model = convert_sync_batchnorm(model, self.cfg.sync_bn) if self.cfg.get('sync_bn') else model
            return called(model_wrapper_cfg, module=model, device_ids=devices)
        return super().wrap_model(model_wrapper_cfg, model)

    def build_logger(self, *args, **kwargs) -> logging.Logger:
        """mmengine's, without lines that no user can act on."""
        logger, named = super().build_logger(*args, **kwargs), set()

        def is_useful(record: logging.LogRecord) -> bool:
            text = str(record.msg)
            if text.startswith('Exp name: '):  # comes with every epoch
                return not (text in named or named.add(text))
            return not text.startswith(_NOISE)

        logger.addFilter(is_useful)
        return logger

    def dump_config(self) -> None:
        """mmengine's.

        Raises:
            DataError: there is no room for it.
        """
        try:
            super().dump_config()
        except OSError as error:
            raise DataError(f'{self.work_dir}: {error.strerror} where the config of the run is to be written, expected '
                            'room for the results. Free some, or name another folder with --work-dir.') from error


def start_processes(launcher: str, cfg: Config) -> None:
    """Join the other processes, over NCCL where there is CUDA, else over gloo.

    Args:
        launcher: `'none'`, `'pytorch'` (torchrun) or `'slurm'`.
        cfg: told the launcher.

    Raises:
        ConfigError: the launcher's environment variables are missing.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return
    cuda = torch.cuda.is_available()
    if launcher == 'pytorch' and not is_distributed():
        if 'LOCAL_RANK' not in os.environ:
            raise ConfigError('--launcher pytorch: no LOCAL_RANK in the environment, expected torchrun to set it. Run '
                              '`torchrun --nproc_per_node=2 tools/train.py ... --launcher pytorch`.')
        if cuda:
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        torch.distributed.init_process_group('nccl' if cuda else 'gloo')
    elif not is_distributed():
        if launcher == 'slurm' and 'SLURM_PROCID' not in os.environ:
            raise ConfigError('--launcher slurm: no SLURM_PROCID in the environment, expected srun to set it. Run '
                              '`srun --ntasks=2 python tools/train.py ... --launcher slurm`.')
        init_dist(launcher, backend='nccl' if cuda else 'gloo')


def write_mini_data(cfg: Config) -> None:
    """Call the config's `mini_data` writer, on the first process alone; others wait.

    The writer finds out itself whether the folder is complete. Nothing is written where the splits that the run reads
    lie elsewhere.

    Args:
        cfg: the config, of a test without its training part.

    Raises:
        ConfigError: the config names no writer.
    """
    if not cfg.get('mini_data'):
        raise ConfigError(f'{cfg.filename}: --mini was given, expected mini_data = dict(type=WRITER, root=...). Add it '
                          f'beside the mini section.')
    arguments = cfg.mini_data.to_dict() | dict(root=data_path(cfg.mini_data.root))
    arguments.pop('type')
    root = arguments['root']
    names = ('train_dataloader', 'val_dataloader') if cfg.get('train_dataloader') else ('test_dataloader',)
    read = {data_path(value) for name in names for place, value in leaves(cfg.get(name))
            if place.split('.')[-1] == 'data_root' and value}
    other = sorted(str(path) for path in read if path != root and root not in path.parents)
    if other:
        print_log(f'--mini: the data in {" and ".join(other)} are not those that --mini writes; only the small model '
                  'and the short schedule come from it.', 'current', logging.WARNING)
    if other and len(other) == len(read):
        return
    if is_main_process():
        cfg.mini_data.type(**arguments)
    barrier()
    if is_simulated(root):
        print_log(f'--mini: the data in {root} are simulated; scores on them say nothing about real ones.', 'current',
                  logging.WARNING)


def _tensorboard(name: str) -> dict:
    import_optional('tensorboard', '--log tensorboard', 'pip install tensorboard')
    return dict(type=TensorboardVisBackend)


def _wandb(name: str) -> dict:
    import_optional('wandb', '--log wandb', 'pip install wandb')
    return dict(type=WandbVisBackend, init_kwargs=dict(project='perception', name=name))


def _mlflow(name: str) -> dict:
    import_optional('mlflow', '--log mlflow', 'pip install mlflow')
    place = from_root('work_dirs')  # shared, so that runs are compared: mlflow ui --backend-store-uri sqlite:///...
    return dict(type=MLflowVisBackend, exp_name='perception', run_name=name,
                tracking_uri=os.environ.get('MLFLOW_TRACKING_URI', f'sqlite:///{make_folder(place)}/mlflow.db'),
                artifact_location=(place / 'mlflow').as_uri())


LOGS = dict(tensorboard=_tensorboard, wandb=_wandb, mlflow=_mlflow)  # each called with the name of the run


def add_logs(cfg: Config, names: Sequence[str]) -> None:
    """Send what is logged to further places, beside the files of the work dir.

    Args:
        cfg: the config, changed in place.
        names: of LOGS.

    Raises:
        ConfigError: an unknown name.
        MissingDependency: its package is not installed.
    """
    for name in names:
        check_choice('--log', name, LOGS)
    if names:
        cfg.visualizer = ConfigDict(cfg.get('visualizer') or dict(type=Visualizer))
        cfg.visualizer.vis_backends = [*(cfg.visualizer.get('vis_backends') or [dict(type=LocalVisBackend)]),
                                       *(LOGS[name](cfg.experiment_name) for name in dict.fromkeys(names))]


def use_amp(cfg: Config) -> None:
    """Mixed precision: bfloat16 on a CPU and on GPUs that have it, float16 with scaled losses on older GPUs.

    A CPU without instructions for bfloat16 computes in float32, and that is said.

    Raises:
        ConfigError: the config has another optimiser wrapper than `OptimWrapper`.
    """
    half = torch.bfloat16
    if not torch.cuda.is_available() and not has_bfloat16():
        print_log('--amp: this CPU has no instructions for bfloat16, in which it would be many times slower; it '
                  'computes in float32.', 'current', logging.WARNING)
        return
    if torch.cuda.is_available():
        half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        torch.set_autocast_dtype('cuda', half)  # mmengine's loops take the default
    if cfg.get('optim_wrapper'):
        if cfg.optim_wrapper.get('type', OptimWrapper) not in (OptimWrapper, 'OptimWrapper'):
            raise ConfigError(f'--amp: optim_wrapper is a {cfg.optim_wrapper.type}, expected OptimWrapper. Leave out '
                              f'--amp, or set the wrapper in the config.')
        cfg.optim_wrapper.type = BFloat16OptimWrapper if half is torch.bfloat16 else AmpOptimWrapper
    for loop in ('val_cfg', 'test_cfg'):
        if cfg.get(loop) is not None:
            cfg[loop].fp16 = True
