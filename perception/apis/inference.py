"""Use a trained model: load it, predict, draw the result; tools/visualize.py.

    predictor = load('configs/lidarseg/cylinder3d_kitti.py', 'work_dirs/lidarseg/cylinder3d_kitti/model.pth')
    sample = predictor('000700.bin')
    names = np.array(predictor.meta['classes'])[sample.pred_labels]
    save_png('000700.png', predictor.draw('000700.bin', sample))

Several checkpoints vote, also of other nets, each on several views of a scan if that is wanted:

    predictor = load('configs/lidarseg/cylinder3d_kitti.py', ['a.pth', 'b.pth'], tta='flip4',
                     ensemble=[('configs/lidarseg/minkunet_kitti.py', 'c.pth')])

What a predictor takes, returns and draws is told by its class, which the config names: `predictor = dict(type=...)`,
see `perception/common/predictor.py`.
"""
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from perception.apis.config import called, load_config, names_config, need
from perception.common.predictor import Predictor
from perception.common.visual.canvas import save_png, stacked, titled
from perception.common.visual.video import check_film, frame_rate, is_film, write_video
from perception.registry import DATASETS, MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.errors import ConfigError

Checkpoints = str | Path | Sequence[str | Path]


@names_config
def load(config: str | Path, checkpoint: Checkpoints | None = None, device: str | torch.device = 'auto',
         mini: bool = False, tta: str | None = None, ensemble: Sequence[tuple[str | Path, str | Path]] = (),
         options: dict[str, Any] | None = None) -> Predictor:
    """Build the predictor of a config.

    Args:
        config: the config file; of a distillation config the student predicts.
        checkpoint: `model.pth`, `student.pth` or a training checkpoint; of several the mean of probabilities decides.
            None builds no model: sources and labels can be drawn.
        device: `'auto'` takes the GPU where there is one.
        mini: build what `--mini` trained.
        tta: mode of test-time augmentation, None for none.
        ensemble: config and checkpoint of further models that take part, of other nets too.
        options: overrides of single values of the config, such as `{'model.width': 0.64}`.

    Returns:
        the predictor; `predictor.model` is in evaluation mode, `predictor.meta` describes the data set.

    Raises:
        ConfigError, CheckpointError: they cannot be read or do not fit each other.
    """
    cfg = load_config(config, mini, options)
    need(cfg, 'predicting', 'predictor', 'test_dataloader')
    model = None
    if checkpoint is not None:
        model = combine(cfg, MODELS.build(student_of(cfg)), checkpoint, ensemble, tta, mini)
        if device == 'auto':
            device = 'cuda' if torch.cuda.is_available() else 'cpu'
        model = model.to(device).eval()
    return called(cfg.predictor, model=model, data=dict(cfg.test_dataloader.dataset, type=dataset_type(cfg)))


def student_of(cfg: Config) -> dict:
    """Config of the net that is tested: the student of a distillation, else the model itself."""
    return cfg.model.get('student') or cfg.model


def dataset_type(cfg: Config) -> type:
    """Class of the data set that a config tests on."""
    kind = cfg.test_dataloader.dataset.type
    return DATASETS.get(kind) if isinstance(kind, str) else kind


def describe(cfg: Config) -> dict[str, Any]:
    """How the data set that a config tests on describes itself, such as its `classes`."""
    kind = dataset_type(cfg)
    return kind.describe(cfg.test_dataloader.dataset) if hasattr(kind, 'describe') else {}


def combine(cfg: Config, net: nn.Module, checkpoints: Checkpoints,
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
    check_vote(cfg, checkpoints, ensemble, tta)
    nets = [net, *(copy.deepcopy(net) for _ in checkpoints[1:])]
    for one, checkpoint in zip(nets, checkpoints):
        load_weights(one, checkpoint)
    nets += [_member(cfg, config, checkpoint, mini) for config, checkpoint in ensemble]
    if tta:
        nets = [called(cfg.tta_model, model=one, mode=tta) for one in nets]
    return nets[0] if len(nets) == 1 else called(cfg.ensemble_model, models=nets)


def check_vote(cfg: Config, checkpoints: Sequence[str | Path], ensemble: Sequence[tuple[str | Path, str | Path]] = (),
               tta: str | None = None) -> None:
    """See that a config names what `combine` needs, before any work is done.

    Raises:
        ConfigError: it does not, or no checkpoint came.
    """
    if not checkpoints:
        raise ConfigError(f'{cfg.filename}: no checkpoint came, expected at least one. Name a model.pth.')
    if tta:
        need(cfg, '--tta', 'tta_model')
    if len(checkpoints) > 1 or ensemble:
        need(cfg, f'a vote of {len(checkpoints) + len(ensemble)} models', 'ensemble_model')


def _member(cfg: Config, config: str | Path, checkpoint: str | Path, mini: bool) -> nn.Module:
    """A further model of an ensemble, which must know the same classes."""
    other = load_config(config, mini)
    ours, theirs = (tuple(describe(one).get('classes', ())) for one in (cfg, other))
    if theirs != ours:
        raise ConfigError(f'--ensemble {other.filename}: {len(theirs)} classes of {dataset_type(other).__name__}, '
                          f'expected the {len(ours)} of {dataset_type(cfg).__name__} as in {cfg.filename}. Take '
                          'configs of one data set and task.')
    net = MODELS.build(student_of(other))
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
                              'configs/lidarseg/minkunet_kitti.py:work_dirs/lidarseg/minkunet_kitti/model.pth. Further '
                              'checkpoints of the first config follow it without --ensemble.')
    return [(config, checkpoint) for config, _, checkpoint in pairs]


def visualize(config: str | Path, source: str | Path, out: str | Path, checkpoint: Checkpoints | None = None,
              labels: str | Path | None = None, view: str = 'plain', against: str | Path | None = None,
              mini: bool = False, show: bool = False, num_colors: int | None = None, fps: float | None = None,
              tta: str | None = None, ensemble: Sequence[tuple[str | Path, str | Path]] = (),
              options: dict[str, Any] | None = None) -> Iterator[Path]:
    """Draw a file, or everything in a folder or a video, with predictions of a model, labels, or both.

    Args:
        config: whose data set the source and its labels are of.
        source: a scan, an image, a video, a folder of them: what the config's predictor reads.
        out: folder of the pictures, `<name>.png`, or a film (`.mp4`, `.avi`, `.gif`) to put them in.
        checkpoint, tta, ensemble, options: the model, see `load`; without a checkpoint no predictions are drawn.
        labels: the truth, a file or a folder; see the predictor.
        view: kind of picture, one of the predictor's `views`.
        against: an earlier checkpoint whose picture is drawn above each.
        mini: the checkpoints were trained with `--mini`.
        show: also open a window for each, where there is a display.
        num_colors: reduce each picture to a palette of so many colours.
        fps: frames per second of a video; those of the source, else 10.

    Yields:
        the picture just written, or the video at the end.

    Raises:
        ConfigError: a view that the predictor does not have, or `against` without a checkpoint.
        DataError: something cannot be read or written.
    """
    if checkpoint is None and (against or tta or ensemble):
        raise ConfigError('visualize: no checkpoint came, expected one beside --against, --tta or --ensemble. Name it '
                          'after the config.')
    film = is_film(out)
    if film:
        rate = frame_rate(source) if fps is None else fps
        check_film(out, rate)
    drawn = load(config, checkpoint, mini=mini, tta=tta, ensemble=ensemble, options=options).pictures(
        source, labels, view, show)
    if against:
        earlier = load(config, against, mini=mini, options=options).pictures(source, labels, view)
        drawn = ((name, above(before, after)) for (_, before), (name, after) in zip(earlier, drawn))
    if film:
        yield write_video(out, (image for _, image in drawn), rate)
        return
    for name, image in drawn:
        yield save_png(Path(out, f'{name}.png'), image, num_colors)


def above(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The picture of an earlier checkpoint above that of a later one, (H, W, 3) uint8 RGB."""
    return stacked([titled(before, 'before'), titled(after, 'after')])
