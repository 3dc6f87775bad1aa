"""Use a trained model: load it, predict files or arrays, draw the result; tools/visualize.py.

    model = load('configs/lidarseg/cylinder3d_kitti.py', 'work_dirs/cylinder3d_kitti/model.pth')
    sample = predict(model, '000700.bin')
    names = np.array(model.dataset_meta['classes'])[sample.pred_labels]
    draw(model, '000700.bin', sample, out='000700.png')

Several checkpoints vote, also of other nets, each on several views of a scan if that is wanted:

    model = load('configs/lidarseg/cylinder3d_kitti.py', ['a.pth', 'b.pth'], tta='flip4',
                 ensemble=[('configs/lidarseg/minkunet_kitti.py', 'c.pth')])

What a model takes and how it is drawn is told by its room, in `perception/<room>/inference.py`:

* `SUFFIXES`: endings of the files it reads;
* `predict(model, source)`: the sample of one file or array, with predictions;
* `draw(model, source, sample, labels)`: its picture;
* `pictures(path, model, labels, show, ...)`: name and picture of each thing in a file or folder, one after the other;
* where it can: `ensemble(models)`: one model of several; `saved(model, folder, stamp, replace)`: a model that keeps its
  predictions on disk; `distances(edges)`: a metric by distance; `charts(out_dir)`: one that draws scores;
  `flight(path, model, labels, camera)`: frames of a film.
"""
import copy
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import nn

from perception.apis.config import load_config
from perception.common.visual.canvas import save_png
from perception.common.visual.video import check_film, frame_rate, is_film, write_video
from perception.registry import DATASETS, MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.errors import ConfigError, DataError

_PACKAGE = Path(__file__).resolve().parents[1]


def load(config: str | Path, checkpoint: str | Path | Sequence[str | Path], device: str | torch.device = 'auto',
         mini: bool = False, tta: str | None = None, ensemble: Sequence[tuple[str | Path, str | Path]] = (),
         options: dict[str, Any] | None = None) -> BaseModel | nn.Module:
    """Build the model of a config with the weights of a checkpoint, ready to predict.

    Args:
        config: the config file; of a distillation config the student is built.
        checkpoint: `model.pth`, `student.pth` or a training checkpoint; of several the mean of probabilities decides.
        device: `'auto'` takes the GPU where there is one.
        mini: build what `--mini` trained.
        tta: mode of test-time augmentation, None for none.
        ensemble: config and checkpoint of further models that take part, of other nets too.
        options: overrides of single values of the config, such as `{'model.width': 0.64}`.

    Returns:
        the model in evaluation mode; `model.dataset_meta` holds `classes` and `palette`, `model.dataset_cfg` the
        config of the data set it is tested on.

    Raises:
        ConfigError, CheckpointError: they cannot be read or do not fit each other.
    """
    cfg = load_config(config, mini, options)
    net = MODELS.build(cfg.model.get('student') or cfg.model)
    model = combine(cfg, net, checkpoint, ensemble, tta, mini)
    kind = dataset_type(cfg)
    model.dataset_meta = kind.METAINFO
    model.dataset_cfg = dict(cfg.test_dataloader.dataset, type=kind)
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return model.to(device).eval()


def combine(cfg: Config, net: nn.Module, checkpoints: str | Path | Sequence[str | Path],
            ensemble: Sequence[tuple[str | Path, str | Path]] = (), tta: str | None = None,
            mini: bool = False) -> nn.Module:
    """Load weights into a net; several checkpoints, further models and augmented views make one model that votes.

    Args:
        cfg: the config of the net, of the data and of the augmentation.
        net: built from it; takes the first checkpoint.
        checkpoints: of this net, at least one.
        ensemble: config and checkpoint of further models.
        tta: mode of test-time augmentation, which each model gets.
        mini: the further models were trained with `--mini` too.

    Returns:
        the net itself where it is alone and without augmentation.

    Raises:
        ConfigError, CheckpointError: see `load`.
    """
    checkpoints = [checkpoints] if isinstance(checkpoints, (str, Path)) else list(checkpoints)
    if not checkpoints:
        raise ConfigError(f'{cfg.filename}: no checkpoint came, expected at least one. Name a model.pth.')
    if tta and cfg.get('tta_model') is None:
        raise ConfigError(f'{cfg.filename}: --tta was asked for, expected the config to define tta_model. See '
                          'perception/apis/test.py for what it holds.')
    nets = [net, *(copy.deepcopy(net) for _ in checkpoints[1:])]
    for one, checkpoint in zip(nets, checkpoints):
        load_weights(one, checkpoint)
    nets += [_member(cfg, config, checkpoint, mini) for config, checkpoint in ensemble]
    if tta:
        options = {key: value for key, value in cfg.tta_model.items() if key != 'type'}
        nets = [cfg.tta_model.type(model=one, mode=tta, **options) for one in nets]
    if len(nets) == 1:
        return nets[0]
    return offered(room_of(dataset_type(cfg)), 'ensemble', 'several checkpoints')(nets)


def _member(cfg: Config, config: str | Path, checkpoint: str | Path, mini: bool) -> nn.Module:
    """A further model of an ensemble, which must know the same classes."""
    other = load_config(config, mini)
    ours, theirs = dataset_type(cfg), dataset_type(other)
    if theirs.METAINFO['classes'] != ours.METAINFO['classes']:
        raise ConfigError(f'--ensemble {other.filename}: {len(theirs.METAINFO["classes"])} classes of '
                          f'{theirs.__name__}, expected the {len(ours.METAINFO["classes"])} of {ours.__name__} as in '
                          f'{cfg.filename}. Take configs of one data set and task.')
    net = MODELS.build(other.model.get('student') or other.model)
    load_weights(net, checkpoint)
    return net


def parse_members(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Config and checkpoint of each `CONFIG:CHECKPOINT`.

    Raises:
        ConfigError: a text without a colon between two paths.
    """
    pairs = [text.rpartition(':') for text in texts]
    for text, (config, _, checkpoint) in zip(texts, pairs):
        if not config or not checkpoint:
            raise ConfigError(f'--ensemble {text}: no colon between two paths, expected CONFIG:CHECKPOINT such as '
                              'configs/lidarseg/minkunet_kitti.py:work_dirs/minkunet_kitti/model.pth. Further '
                              'checkpoints of the first config follow it without --ensemble.')
    return [(config, checkpoint) for config, _, checkpoint in pairs]


def offered(room: ModuleType | None, name: str, what: str) -> Callable:
    """A function that a room may offer, see the head of this file.

    Args:
        room: None where the data set belongs to no room.
        name: of the function.
        what: the user asked for, for the message.

    Raises:
        ConfigError: the room does not offer it.
    """
    if not hasattr(room, name):
        came = room.__name__.split('.')[1] if room else 'a data set of no room'
        raise ConfigError(f'{what}: {came} came, expected a task that offers this. It is there for '
                          f'{", ".join(one for one in rooms() if hasattr(_import(one), name))}.')
    return getattr(room, name)


def predict(model: BaseModel, sources: Any) -> BaseDataElement | list[BaseDataElement]:
    """Predict one thing, or several, one after the other.

    Args:
        model: from `load`.
        sources: a file or array as the model's room takes it (a `.bin` file or (N, 4) points; an image file or
            (H, W, 3) uint8 RGB), or a list of them.

    Returns:
        for each its sample with predictions on the CPU; a list if a list came.

    Raises:
        DataError: something that cannot be read or has another shape.
    """
    room = room_of(model.dataset_cfg['type'])
    if isinstance(sources, (list, tuple)):
        return [room.predict(model, source) for source in sources]
    return room.predict(model, sources)


def draw(model: BaseModel, source: Any, sample: BaseDataElement, labels: Any = None,
         out: str | Path | None = None) -> np.ndarray:
    """Picture of a prediction.

    Args:
        model: from `load`; its class names and colours are used.
        source: the file or array that was given to `predict`.
        sample: what `predict` returned.
        labels: the truth as the model's room has it, if known.
        out: PNG file to write, if any.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = room_of(model.dataset_cfg['type']).draw(model, source, sample, labels)
    if out is not None:
        save_png(out, image)
    return image


def visualize(source: str | Path, out: str | Path, config: str | Path | None = None,
              checkpoint: str | Path | Sequence[str | Path] | None = None, labels: str | Path | None = None,
              mini: bool = False, show: bool = False, num_colors: int | None = None, fps: float | None = None,
              attention: bool | str | Path = False, camera: str | None = None, tta: str | None = None,
              ensemble: Sequence[tuple[str | Path, str | Path]] = (),
              options: dict[str, Any] | None = None) -> Iterator[Path]:
    """Draw a file, or everything in a folder or a video, with predictions of a model, labels, or both.

    Args:
        source: a scan, an image, a video, or a folder of scans or images.
        out: folder of the pictures, `<name>.png`, or a film (`.mp4`, `.avi`, `.gif`) to put them in.
        config, checkpoint, tta, ensemble, options: the model, see `load`; without config and checkpoint no predictions
            are drawn.
        labels: the file of the truth, or the folder of all.
        mini: the model was trained with `--mini`.
        show: also open a window for each, where there is a display.
        num_colors: reduce each picture to a palette of so many colours.
        fps: frames per second of a video; those of the source, else 10.
        attention: draw where the stages of the net look, beside those of an earlier checkpoint if one is named.
        camera: make one large view of each scan from a camera of that kind, 'follow' or 'fixed', for a film.

    Yields:
        the picture just written, or the video at the end.

    Raises:
        ConfigError: only one of config and checkpoint, or something that the room does not offer.
        DataError: something cannot be read or written.
    """
    if (config is None) != (checkpoint is None):
        raise ConfigError('visualize: one of config and checkpoint came, expected both or neither. Give both to see '
                          'predictions.')
    film = is_film(out)
    if film:
        rate = frame_rate(source) if fps is None else fps
        check_film(out, rate)
    model = None
    if config is not None:
        model = load(config, checkpoint, mini=mini, tta=tta, ensemble=ensemble, options=options)
    room = room_for(source) if model is None else room_of(model.dataset_cfg['type'])
    shown = {}
    if attention:
        _need_attention(room, model)
        shown['attention'] = {'attention': model}
        if not isinstance(attention, bool):
            earlier = load(config, attention, mini=mini, options=options)
            shown['attention'] = {'before': earlier, 'after': model}
    if camera:
        drawn = offered(room, 'flight', '--camera')(source, model, labels, camera)
    else:
        drawn = room.pictures(source, model, labels, show, **shown)
    if film:
        yield write_video(out, (image for _, image in drawn), rate)
        return
    for name, image in drawn:
        yield save_png(Path(out, f'{name}.png'), image, num_colors)


def _need_attention(room: ModuleType, model: BaseModel | None) -> None:
    if model is None or 'attention' not in inspect.signature(room.pictures).parameters:
        raise ConfigError(f'--attention: {"no model" if model is None else room.__name__} came, expected a net whose '
                          'stages are maps over an image. Give a config and a checkpoint of configs/lanes.')


def rooms() -> list[str]:
    """Names of the rooms that predict and draw."""
    return sorted(p.parent.name for p in _PACKAGE.glob('*/inference.py') if p.parent.name != 'apis')


def _import(name: str) -> ModuleType:
    return importlib.import_module(f'perception.{name}.inference')


def room_of(kind: type) -> ModuleType:
    """What the room of a data set offers, `perception/<room>/inference.py`.

    Args:
        kind: class of the data set, of this package or derived from one of it.

    Raises:
        ConfigError: its room predicts nothing.
    """
    for base in inspect.getmro(kind):
        package, _, rest = base.__module__.partition('.')
        room = rest.partition('.')[0]
        if package == 'perception' and (_PACKAGE / room / 'inference.py').is_file():
            return _import(room)
    raise ConfigError(f'{kind.__module__}.{kind.__name__}: a data set of no room that predicts, expected one of '
                      f'{", ".join(f"perception.{name}" for name in rooms())}. Derive it from one of theirs.')


def room_for(path: str | Path) -> ModuleType:
    """The room that reads such a file, or the files of such a folder.

    Raises:
        DataError: nothing there that a room reads.
    """
    path = Path(path).expanduser()
    there = {p.suffix.lower() for p in (path.iterdir() if path.is_dir() else [path])}
    known = []
    for name in rooms():
        room = _import(name)
        if there & set(room.SUFFIXES):
            return room
        known += room.SUFFIXES
    came = f'a folder with {", ".join(sorted(filter(None, there))) or "no"} files' if path.is_dir() else 'such a file'
    if not path.exists():
        came = 'no such file or folder'
    raise DataError(f'{path}: {came}, expected one that ends in {", ".join(known)}. Check the path.')


def dataset_type(cfg: Config) -> type:
    """Class of the data set that a config tests on; it knows class names and colours without reading any data.

    Raises:
        ConfigError: there is none with `METAINFO`.
    """
    kind = cfg.get('test_dataloader', {}).get('dataset', {}).get('type')
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    if not {'classes', 'palette'} <= set(getattr(kind, 'METAINFO', {})):
        raise ConfigError(f'{cfg.filename}: test_dataloader.dataset is of type {getattr(kind, "__name__", kind)}, '
                          'expected a data set whose METAINFO holds classes and palette. Take a config of perception.')
    return kind
