"""Test a checkpoint with the official metric, write a submission, draw scans; the body of tools/test.py.

What --tta, --submit and --draw do is named by the config, so that this file knows no task:

* `tta_model = dict(type=TTASegmentor)`: called with `model` (the built model) and `mode` (the word after --tta);
* `submit_dataloader`: a data loader over the official test split; `submission = dict(type=...)`: a metric that takes
  `out_dir` and writes there instead of scoring;
* `draw = dict(type=...)`: a metric or a hook that takes `out_dir` and draws every scan it sees.
"""
import inspect
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook

from perception.apis.config import load_config
from perception.apis.runner import Runner, start_processes, use_amp, write_mini_data
from perception.utils.checkpoint import load_weights, unwrap
from perception.utils.errors import ConfigError


def test(config: str | Path, checkpoint: str | Path, mini: bool = False, amp: bool = False, tta: str | None = None,
         submit: str | None = None, draw: str | None = None, options: dict[str, Any] | None = None,
         launcher: str = 'none') -> dict[str, float]:
    """Test weights with the data and metric of a config.

    Args:
        config: the config file; of a distillation config the student is tested.
        checkpoint: `model.pth`, `student.pth` or a training checkpoint.
        mini: its mini section, on simulated data.
        amp: mixed precision.
        tta: mode of test-time augmentation, None for none.
        submit: folder for a submission, made from the test split; None scores the validation split.
        draw: folder for pictures of each scan.
        options: dotted overrides of the config.
        launcher: `'none'`, `'pytorch'` or `'slurm'`.

    Returns:
        the results of the metrics.

    Raises:
        PerceptionError: input that cannot work, see the subclasses.
    """
    cfg = load_config(config, mini, options)
    start_processes(launcher, cfg)
    if mini:
        write_mini_data(cfg)
    if amp:
        use_amp(cfg)
    prepare(cfg, submit, draw)
    if tta:
        _need(cfg, '--tta', 'tta_model')
    runner = Runner.from_cfg(cfg)
    load_weights(runner.model, checkpoint)
    if tta:
        runner.model = cfg.tta_model.type(model=unwrap(runner.model), mode=tta,
                                          **{k: v for k, v in cfg.tta_model.items() if k != 'type'})
    runner.logger.info(f'Testing {checkpoint}' + (f' with {tta}' if tta else ''))
    return runner.test()


def prepare(cfg: Config, submit: str | None = None, draw: str | None = None) -> None:
    """Reduce a config to what a test needs, and wire in a submission and pictures.

    Args:
        cfg: the config, changed in place.
        submit: folder of the submission.
        draw: folder of the pictures.

    Raises:
        ConfigError: the config does not name what is needed.
    """
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'val_dataloader', 'val_cfg',
                 'val_evaluator', 'custom_hooks', 'load_from'):
        cfg[part] = None
    cfg.resume = False
    cfg.work_dir = str(Path(cfg.work_dir, 'test'))  # the config dumped by the training stays as it is
    if 'student' in cfg.model:
        cfg.model = cfg.model.student
    if submit:
        _need(cfg, '--submit', 'submission', 'submit_dataloader')
        cfg.test_dataloader = cfg.submit_dataloader
        cfg.test_evaluator = [dict(cfg.submission, out_dir=str(Path(submit).absolute()))]
    _need(cfg, 'test', 'test_dataloader', 'test_evaluator', 'test_cfg')
    if draw:
        _need(cfg, '--draw', 'draw')
        drawing = dict(cfg.draw, out_dir=str(Path(draw).absolute()))
        if inspect.isclass(drawing['type']) and issubclass(drawing['type'], Hook):
            cfg.custom_hooks = [drawing]
        else:
            evaluators = cfg.test_evaluator
            cfg.test_evaluator = [*(evaluators if isinstance(evaluators, list) else [evaluators]), drawing]


def _need(cfg: Config, what: str, *keys: str) -> None:
    absent = [key for key in keys if cfg.get(key) is None]
    if absent:
        raise ConfigError(f'{cfg.filename}: {what} was asked for, expected the config to define '
                          f'{" and ".join(absent)}. See perception/apis/test.py for what they hold.')
