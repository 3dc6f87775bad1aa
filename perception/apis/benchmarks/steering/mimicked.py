"""What a net that mimics others has learned of them: its adapted features beside those of its teachers, drawn.

Of each clip the last frame is shown; below it stands a row for each path of each teacher, with the teacher's features
on the left and the student's on the right. Red, green and blue are the three channels that vary most from place to
place; of the high path of segmentation there are but three, road, vehicles and the largest of all classes. Both are
standardised as the loss standardises them, and share one scale.
"""
import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.apis.config import load_config
from perception.apis.runner import write_mini_data
from perception.common.visual import canvas
from perception.distill.taps import record
from perception.registry import DATASETS, MODELS
from perception.utils.checkpoint import load_checkpoint, newest_checkpoint, weights_of
from perception.utils.checks import check_positive
from perception.utils.errors import CheckpointError, ConfigError
from perception.utils.paths import default_work_dir, from_root, make_folder

WIDTH, LIMIT = 320, 2.5  # pixels of a picture; deviations that are black and full
OPTIONS = {
    'config': {'metavar': 'CONFIG', 'help': 'such as configs/fm/resnet50_lstm_udacity.py'},
    '--mini': {'action': 'store_true', 'help': 'the nets and data of its mini section'},
    '--work-dir': {'metavar': 'DIR', 'help': 'of its training, whose newest checkpoint is taken (default: its own)'},
    '--clips': {'type': 'int', 'default': 3, 'help': 'of the validation data, evenly spaced (default: 3)'},
    '--out': {'metavar': 'DIR', 'help': 'for the pictures (default: work_dirs/mimicked)'}}


def run(args: argparse.Namespace) -> list[Path]:
    """Draw some clips.

    Returns:
        the pictures.

    Raises:
        ConfigError: no clips, or a config without losses that adapt features.
        CheckpointError: no training in the work dir, or one of another config.
    """
    check_positive('mimicked', clips=args.clips)
    cfg = load_config(args.config, args.mini)
    if not (cfg.model.get('losses') and all('paths' in loss for loss in cfg.model.losses.values())):
        raise ConfigError(f'mimicked: {args.config} has no teachers of clips, expected some. Choose one of configs/fm.')
    folder = Path(args.work_dir or default_work_dir(from_root(args.config), args.mini)).expanduser()
    path, _ = newest_checkpoint(folder)
    if path is None:
        raise CheckpointError(f'{folder}: no checkpoint here, expected those of a training. Run `tools/train.py '
                              f'{args.config}{" --mini" * args.mini}`, or name its --work-dir.')
    if args.mini:
        write_mini_data(cfg)
    model = MODELS.build(cfg.model).eval()
    missing, _ = model.load_state_dict(weights_of(load_checkpoint(path), str(path)), strict=False)
    if missing:
        raise CheckpointError(f'{path}: {len(missing)} weights are missing, such as {missing[0]}, expected those of '
                              f'{args.config}. Name the work dir of its training.')
    data, out = DATASETS.build(cfg.val_dataloader.dataset), make_folder(args.out or from_root('work_dirs/mimicked'))
    paths = []
    for index in np.unique(np.linspace(0, len(data) - 1, args.clips).round().astype(int)):
        picture = draw(model, pseudo_collate([data[int(index)]]))
        paths.append(canvas.save_png(out / f'{index:04d}.png', picture))
    print_log(f'{len(paths)} pictures in {out}', 'current')
    return paths


@torch.no_grad()
def draw(model: nn.Module, batch: dict) -> np.ndarray:
    """The picture of a clip, (H, W, 3) uint8 RGB.

    Args:
        model: a Distiller in evaluation mode, whose losses are MimicLoss.
        batch: of one clip.
    """
    data = model.data_preprocessor(batch)
    with record(model.student, model.taps) as ours:
        model.student(data['inputs'], None, mode='tensor')
    frame = batch['inputs']['clip'][0][-1].permute(1, 2, 0).numpy()
    panels = [canvas.titled(enlarged(frame, WIDTH), str(batch['data_samples'][0].sample_id))]
    for name, loss in model.losses.items():
        theirs = model.teachers[loss.teacher].observe(data)
        for path, about in loss.paths.items():
            target = theirs[path]
            aim = loss.targets[path](target.transpose(1, 2).flatten(0, 1), torch.ones(target.shape[2]))[-1]
            found = loss.adapt(path, ours[about['tap']], target.shape[3:])[-1]
            shown = aim.flatten(1).std(1).topk(min(3, len(aim))).indices.sort().values
            error = (found - aim).square().mean().item()
            panels.append(canvas.titled(canvas.beside([colors(maps[shown]) for maps in (aim, found)]),
                                        f'{name} {path}: teacher, student; error {error:.2f}'))
    return canvas.stacked(panels)


def colors(maps: Tensor) -> np.ndarray:
    """Maps (C, h, w) of up to three channels as (H, WIDTH / 2, 3) uint8 RGB."""
    maps = torch.cat([maps, maps.new_zeros(3 - len(maps), *maps.shape[1:])])
    image = ((maps / LIMIT + 1) * 127.5).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return enlarged(image, WIDTH // 2)


def enlarged(image: np.ndarray, width: int) -> np.ndarray:
    """An image (h, w, 3) so many pixels wide."""
    height = round(width * image.shape[0] / image.shape[1])
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_NEAREST)
