"""Test checkpoints with the official metric, write a submission, draw scans; the body of tools/test.py.

What the options do is named by the config, see `configs/_base_/runtime.py`, so that this file knows no task.
"""
import ast
import contextlib
import copy
import hashlib
import inspect
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log

from perception.apis.compiled import compile_net
from perception.apis.config import called, load_config, names_config, need
from perception.apis.inference import Checkpoints, augment_data, check_vote, combine, student_of
from perception.apis.resume import text_leaves
from perception.apis.runner import Runner, start_processes, use_amp, write_mini_data
from perception.common.hooks.start import shared_samples
from perception.registry import DATASETS, TRANSFORMS
from perception.utils.checkpoint import load_checkpoint, unwrap
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, PerceptionError
from perception.utils.lock import locked
from perception.utils.outputs import own_folder
from perception.utils.paths import data_path, make_folder

UNFINISHED = '.unfinished'  # folder inside that of a submission, until it is whole


@names_config
def test(config: str | Path, checkpoint: Checkpoints = (), mini: bool = False, amp: bool = False,
         tta: str | None = None, submit: str | None = None, draw: str | None = None,
         options: dict[str, Any] | None = None, launcher: str = 'none', save: str | None = None,
         ensemble: Sequence[tuple[str | Path, str | Path]] = (), metrics: Sequence[str] = (),
         predictions: str | Path | None = None, compiled: bool = False) -> dict[str, float]:
    """Test weights, or the predictions of a file, with the data and metric of a config.

    Args:
        config: the config file; of a distillation config the student is tested.
        checkpoint: `model.pth`, `student.pth` or a training checkpoint; of several the mean of probabilities decides.
            None with `predictions`.
        mini: its mini section, on simulated data.
        amp: mixed precision.
        tta: mode of test-time augmentation, None for none.
        submit: folder for a submission and nothing else, made from the test split; None scores the validation split.
        draw: folder for pictures of each scan and of the scores.
        options: dotted overrides of the config.
        launcher: `'none'`, `'pytorch'` or `'slurm'`.
        save: folder for the predictions of each scan; a run that was cut off continues from it.
        ensemble: config and checkpoint of further models that vote; data and metric are those of `config`.
        metrics: names of further scores, of the config's `more_metrics`.
        predictions: a file or folder of anybody's results in the place of a net.
        compiled: compile nets of images first, or have those of LiDAR scans replay CUDA graphs, see `compile_net`.

    Returns:
        the results of the metrics.

    Raises:
        PerceptionError: input that cannot work, see the subclasses.
    """
    for name, folder in dict(save=save, submit=submit, draw=draw).items():
        if folder == '':
            raise ConfigError(f'--{name}: an empty name came, expected a folder. Name one, or leave the option out.')
    save, submit, draw = (folder and str(Path(folder).expanduser().absolute()) for folder in (save, submit, draw))
    cfg = load_config(config, mini, options)
    start_processes(launcher, cfg)
    if amp:
        use_amp(cfg)
    train_set, val_set = (copy.deepcopy((cfg.get(name) or {}).get('dataset'))
                          for name in ('train_dataloader', 'val_dataloader'))
    prepare(cfg, submit, draw, metrics)
    augment_data(cfg, tta)
    checkpoints = [checkpoint] if isinstance(checkpoint, (str, Path)) else list(checkpoint)
    if predictions is None:
        check_vote(cfg, checkpoints, ensemble, tta)
    else:
        _stand_in(cfg, predictions, checkpoints=checkpoints, ensemble=ensemble, tta=tta, save=save, amp=amp,
                  compiled=compiled)
    if save:
        need(cfg, '--save', 'saved_model', instead='Predictions of any net are written by `tools/visualize.py CONFIG '
             'CHECKPOINT FOLDER --save DIR`.')
    if mini:
        write_mini_data(cfg)
    for folder in filter(None, (cfg.work_dir, submit, draw, save)):
        make_folder(folder)
    parts = [(cfg.model, path) for path in checkpoints] + [(load_config(c, mini).model, path) for c, path in ensemble]
    with locked(submit, draw, save):
        if submit:
            own_folder(submit)
        settings = _settings(cfg, tta, amp, compiled)
        runner = Runner.from_cfg(cfg)
        saved = None
        if predictions is not None:
            unwrap(runner.model).check(len(runner.test_dataloader.dataset))
        else:
            device = next(runner.model.parameters()).device
            model = combine(cfg, unwrap(runner.model), checkpoints, ensemble, tta, mini)
            for _, path in parts if not submit else ():
                warn_of_trained_samples(train_set, path, runner.test_dataloader.dataset,
                                        val_set == cfg.test_dataloader.dataset)
            if save or (submit and cfg.get('saved_model')):
                stamp = dict(checkpoint=[_digest(path) for _, path in parts], net=[_hash(net) for net, _ in parts],
                             **settings)
                model = saved = called(cfg.saved_model, model=model, folder=save or Path(submit, UNFINISHED),
                                       stamp=stamp, replace=not save)
            if model is not unwrap(runner.model):
                runner.model = model.to(device)
            if compiled:
                compile_net(model)
            runner.logger.info('Testing ' + ' and '.join(str(path) for _, path in parts)
                               + (f' with {tta}' if tta else ''))
        results = runner.test()
        if saved is not None and not save:
            saved.remove()
    return results


def warn_of_trained_samples(config: dict | None, checkpoint: str | Path, tested: Any, validated: bool) -> None:
    """Warn where weights were trained with samples that are tested now, such as those of another fold.

    What they were trained with stands in the config in the checkpoint, or in the one that a training leaves beside its
    weights. Nothing is said where neither is there, or the data are not. The training data are not read where they are
    the config's and so are those of its validation, which the training has compared.

    Args:
        config: of the training set, as the config has it.
        checkpoint: the weights.
        tested: the data set.
        validated: it is the config's validation set.
    """
    config, start = copy.deepcopy(config) or {}, 'train_dataloader.dataset.'
    with contextlib.suppress(PerceptionError, OSError, SyntaxError, TypeError, ValueError, RecursionError,
                             MemoryError):
        stored = {name.removeprefix(start): text for name, text in text_leaves(_training_text(checkpoint)).items()
                  if name.startswith(start)}
        kind = DATASETS.get(config['type']) if isinstance(config.get('type'), str) else config.get('type')
        if kind is None or stored.pop('type', '').strip('\'"').rpartition('.')[2] != kind.__name__:
            return
        for name, text in stored.items():
            if '.' not in name and name != 'pipeline':
                value = ast.literal_eval(text)
                validated &= config.get(name) == value
                config[name] = value
        if validated:
            return
        said = shared_samples(DATASETS.build(config), tested, 'test')
        if said:
            print_log(f'{checkpoint}: {said} Test on what its training left out, by --cfg-options '
                      'test_dataloader.dataset....', 'current', logging.WARNING)


def _training_text(checkpoint: str | Path) -> str:
    """Text of the config that weights were trained by; empty where it is not known."""
    path = Path(checkpoint).expanduser()
    meta = load_checkpoint(path, mmap=True).get('meta')
    text = meta.get('cfg') if isinstance(meta, dict) else None
    if not isinstance(text, str):
        beside = max(path.parent.glob('*.py'), key=lambda file: file.stat().st_mtime, default=None)
        text = beside.read_text() if beside and beside.stat().st_size < 2**20 else ''
    return text


def _stand_in(cfg: Config, predictions: str | Path, **others: Any) -> None:
    """Put what reads predictions where the config has its net; nothing that needs one may be asked for beside it."""
    for name, value in others.items():
        if value:
            raise ConfigError(f'--predictions: {predictions} came with {name}={value!r}, expected no net beside a file '
                              'of predictions. Leave one of them out.')
    need(cfg, '--predictions', 'predictions')
    lacks = cfg.predictions.type.lacks
    cfg.test_evaluator = [part for part in cfg.test_evaluator if not issubclass(part['type'], lacks)]
    cfg.test_dataloader.dataset.update(cfg.predictions.type.data)
    cfg.model = dict(cfg.predictions, path=str(predictions))


def _settings(cfg: Config, tta: str | None, amp: bool, compiled: bool) -> dict:
    """What predictions depend on beside the models, for their stamp."""
    data = cfg.test_dataloader.dataset
    where = str(data_path(data.data_root)) if data.get('data_root') else None
    return dict(augmentation=[tta, _hash(cfg.get('tta_model')) if tta else None], data=[_hash(data), where],
                precision=('mixed' if amp else 'full') + (', compiled' if compiled else ''))


def _hash(value: Any) -> str:
    """A short name for a part of a config, the same for equal parts."""
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        named = inspect.isclass(value) or inspect.isfunction(value)
        return f'{value.__module__}.{value.__qualname__}' if named else repr(value)
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]


def _digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(Path(path).expanduser(), 'rb') as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def prepare(cfg: Config, submit: str | None = None, draw: str | None = None, metrics: Sequence[str] = ()) -> None:
    """Reduce a config to what a test needs, and wire in a submission, further scores and pictures.

    Args:
        cfg: the config, changed in place.
        submit: folder of the submission.
        draw: folder of the pictures.
        metrics: names of further scores.

    Raises:
        ConfigError: the config does not name what is needed, or scores were asked for beside a submission, or its
            pipeline drops points.
    """
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'val_dataloader', 'val_cfg',
                 'val_evaluator', 'custom_hooks', 'load_from'):
        cfg[part] = None
    cfg.resume = False
    cfg.work_dir = str(Path(cfg.work_dir, 'test'))  # the config dumped by the training stays as it is
    cfg.model = student_of(cfg)
    need(cfg, 'a test', 'test_dataloader', 'test_evaluator', 'test_cfg')
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    if submit:
        need(cfg, '--submit', 'submission', 'submit_dataloader')
        if metrics:
            raise ConfigError(f'--metrics: {" ".join(metrics)} came with --submit, whose test split has no labels, '
                              'expected a scored split. Leave one of them out.')
        _check_whole(cfg)
        cfg.test_dataloader = cfg.submit_dataloader
        evaluators = [dict(cfg.submission, out_dir=submit)]
    for name in dict.fromkeys(metrics):
        need(cfg, '--metrics', 'more_metrics')
        check_choice('--metrics', name, cfg.more_metrics)
        evaluators = [*evaluators, cfg.more_metrics[name]]
    parts = [*evaluators, *_drawings(cfg, draw, bool(submit))]
    cfg.custom_hooks = [part for part in parts if issubclass(part['type'], Hook)]
    cfg.test_evaluator = [part for part in parts if not issubclass(part['type'], Hook)]


def _check_whole(cfg: Config) -> None:
    """See that samples of a submission keep all their points, unless its server takes some without a class."""
    for place, step in _steps(cfg.submit_dataloader.dataset.get('pipeline'), 'submit_dataloader.dataset.pipeline'):
        kind = step['type'] if isinstance(step, dict) else type(step)
        kind = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
        if getattr(kind, 'drops_points', False):
            about = f'--submit: {place} is {kind.__name__}, which drops points'
            if not (getattr(kind, 'keeps_rows', False) and getattr(cfg.submission.type, 'takes_unlabelled', False)):
                raise ConfigError(f'{about}, expected a class for each point of a scan. Take it out of that pipeline.')
            print_log(f'{about}: they are submitted as unlabelled and count as wrong.', 'current', logging.WARNING)


def _steps(pipeline: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Place in a config and each step of a pipeline, with those that a step such as OneOf chooses from."""
    for i, step in enumerate(pipeline if isinstance(pipeline, (list, tuple)) else ()):
        yield f'{place}.{i}', step
        inner = step.get('steps') if isinstance(step, dict) else getattr(step, 'steps', None)
        yield from _steps(inner, f'{place}.{i}.steps')


def _drawings(cfg: Config, folder: str | None, submit: bool) -> list[dict]:
    """What draws into a folder; without what needs labels where there are none."""
    if folder is None:
        return []
    need(cfg, '--draw', 'draw')
    parts = cfg.draw if isinstance(cfg.draw, list) else [cfg.draw]
    return [dict(part, out_dir=folder) for part in parts
            if not (submit and getattr(part['type'], 'needs_labels', False))]
