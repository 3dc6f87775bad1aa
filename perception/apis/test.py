"""Test checkpoints with the official metric, write a submission, draw scans; the body of tools/test.py.

What --tta, --submit and --draw do is named by the config, so that this file knows no task:

* `tta_model = dict(type=TTASegmentor)`: called with `model` (the built model) and `mode` (the word after --tta);
* `submit_dataloader`: a data loader over the official test split; `submission = dict(type=...)`: a metric that takes
  `out_dir` and writes there instead of scoring;
* `draw = dict(type=...)`: a metric or a hook that takes `out_dir` and draws every scan or image it sees.

Several checkpoints, --save, --distances and the charts of --draw are the same for all data sets of a room; its
`inference.py` offers them, see `perception/apis/inference.py`.
"""
import hashlib
import inspect
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook

from perception.apis.config import load_config
from perception.apis.inference import combine, dataset_type, offered, room_of
from perception.apis.runner import Runner, start_processes, use_amp, write_mini_data
from perception.utils.checkpoint import unwrap
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import data_path

UNFINISHED = '.unfinished'  # folder inside that of a submission, until it is whole


def test(config: str | Path, checkpoint: str | Path | Sequence[str | Path], mini: bool = False, amp: bool = False,
         tta: str | None = None, submit: str | None = None, draw: str | None = None,
         options: dict[str, Any] | None = None, launcher: str = 'none', save: str | None = None,
         ensemble: Sequence[tuple[str | Path, str | Path]] = (),
         distances: Sequence[float] | None = None) -> dict[str, float]:
    """Test weights with the data and metric of a config.

    Args:
        config: the config file; of a distillation config the student is tested.
        checkpoint: `model.pth`, `student.pth` or a training checkpoint; of several the mean of probabilities decides.
        mini: its mini section, on simulated data.
        amp: mixed precision.
        tta: mode of test-time augmentation, None for none.
        submit: folder for a submission, made from the test split; None scores the validation split.
        draw: folder for pictures of each scan and of the scores.
        options: dotted overrides of the config.
        launcher: `'none'`, `'pytorch'` or `'slurm'`.
        save: folder for the predictions of each scan; a run that was cut off continues from it.
        ensemble: config and checkpoint of further models that vote; data and metric are those of `config`.
        distances: score by distance from the sensor too, between these bounds in m; empty for the official ones.

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
    for folder in filter(None, (cfg.work_dir, submit, draw, save)):
        make_folder(folder)
    room = _room(cfg)
    if distances is not None:
        if submit:
            raise ConfigError('--distances: it came with --submit, whose test split has no labels, expected a scored '
                              'split. Leave one of them out.')
        _add_evaluator(cfg, offered(room, 'distances', '--distances')(distances))
    if save:
        offered(room, 'saved', '--save')
    if draw and not submit and hasattr(room, 'charts'):
        _add_evaluator(cfg, room.charts(Path(draw).absolute()))
    if tta:
        _need(cfg, '--tta', 'tta_model')
    checkpoints = [checkpoint] if isinstance(checkpoint, (str, Path)) else list(checkpoint)
    parts = [(cfg.model, path) for path in checkpoints] + [(load_config(c, mini).model, path) for c, path in ensemble]
    settings = _settings(cfg, tta, amp)
    runner = Runner.from_cfg(cfg)
    device = next(runner.model.parameters()).device
    model = combine(cfg, unwrap(runner.model), checkpoints, ensemble, tta, mini)
    saved = None
    if save or (submit and hasattr(room, 'saved')):
        stamp = dict(checkpoint=[_digest(path) for _, path in parts], net=[_hash(net) for net, _ in parts], **settings)
        model = saved = room.saved(model, save or Path(submit, UNFINISHED), stamp, replace=not save)
    if model is not unwrap(runner.model):
        runner.model = model.to(device)
    runner.logger.info('Testing ' + ' and '.join(str(path) for _, path in parts) + (f' with {tta}' if tta else ''))
    results = runner.test()
    if saved is not None and not save:
        saved.remove()
    return results


def make_folder(folder: str | Path) -> None:
    """Make a folder for results before the work begins.

    Raises:
        DataError: it cannot be made or written.
    """
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(f'{folder}: {error.strerror} where results are to be written, expected a folder with room for '
                        'them. Choose another one.') from error


def _settings(cfg: Config, tta: str | None, amp: bool) -> dict:
    """What predictions depend on beside the models, for their stamp."""
    data = cfg.test_dataloader.dataset
    where = str(data_path(data.data_root)) if data.get('data_root') else None
    return dict(augmentation=[tta, _hash(cfg.get('tta_model')) if tta else None], data=[_hash(data), where],
                precision='mixed' if amp else 'full')


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


def _room(cfg: Config) -> ModuleType | None:
    """The room of the data set, None where it belongs to none."""
    try:
        return room_of(dataset_type(cfg))
    except ConfigError:
        return None


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
            _add_evaluator(cfg, drawing)


def _add_evaluator(cfg: Config, metric: dict) -> None:
    evaluators = cfg.test_evaluator
    cfg.test_evaluator = [*(evaluators if isinstance(evaluators, list) else [evaluators]), metric]


def _need(cfg: Config, what: str, *keys: str) -> None:
    absent = [key for key in keys if cfg.get(key) is None]
    if absent:
        raise ConfigError(f'{cfg.filename}: {what} was asked for, expected the config to define '
                          f'{" and ".join(absent)}. See perception/apis/test.py for what they hold.')
