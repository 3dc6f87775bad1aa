"""How much of the wheel's angle the features that are to be mimicked tell: a ridge regression of it from each path.

A path whose features tell no more of the angle than 0 degrees, the mean of all frames and their mirror images, has
nothing to teach a net that steers. Features of all frames of the training data, and of their mirror images, are
averaged to small maps and standardised; the strength of the regression is the one that does best on a quarter of the
recordings; errors are those of the test data. The small frames themselves are regressed beside them.
"""
import argparse

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.apis.config import load_config
from perception.apis.runner import write_mini_data
from perception.registry import DATASETS, MODELS
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError, DataError

STRENGTHS = tuple(10.0 ** k for k in range(-1, 6))  # of the regression
OPTIONS = {
    'config': {'metavar': 'CONFIG', 'help': 'such as configs/fm/resnet50_lstm_udacity.py'},
    '--mini': {'action': 'store_true', 'help': 'the nets and data of its mini section'},
    '--side': {'type': 'int', 'default': 8, 'help': 'rows and columns that maps are averaged to (default: 8)'}}


def run(args: argparse.Namespace) -> list[dict]:
    """Regress and log a table.

    Returns:
        for `0 degrees`, which all know, for the `frames` and for each path `name`, `numbers` that one frame has, and
        `RMSE` of the test [deg].

    Raises:
        ConfigError: a config without teachers of clips.
        DataError: too few frames with an angle.
    """
    check_positive('probe', side=args.side)
    cfg = load_config(args.config, args.mini)
    if not cfg.model.get('teachers') or not all('paths' in teacher for teacher in cfg.model.teachers.values()):
        raise ConfigError(f'probe: {args.config} has no teachers of clips, expected some. Choose one of configs/fm.')
    for teacher in cfg.model.teachers.values():
        teacher.cache_gb = 0.0
    if args.mini:
        write_mini_data(cfg)
    model = MODELS.build(cfg.model).eval()
    train, test = (DATASETS.build(dict(loader.dataset, pipeline=[])) for loader in (cfg.train_dataloader,
                                                                                    cfg.test_dataloader))
    known, unknown = collect(model, train, args.side, mirror=True), collect(model, test, args.side)
    rows = [dict(name='0 degrees', numbers=0, RMSE=rmse(unknown['frames'][1]))]
    for name, (features, angles, drives) in known.items():
        found = regress(features, angles, drives)(unknown[name][0])
        rows.append(dict(name=name, numbers=features.shape[1], RMSE=rmse(found - unknown[name][1])))
    lines = [f'{row["name"]:<16}{row["numbers"]:>10,}{row["RMSE"]:>12.2f} deg' for row in rows]
    print_log('\n' + '\n'.join([f'{"features":<16}{"numbers":>10}{"RMSE":>12}', *lines]), 'current')
    return rows


@torch.no_grad()
def collect(model: nn.Module, data, side: int, mirror: bool = False) -> dict[str, tuple[Tensor, Tensor, np.ndarray]]:
    """Features of all frames with an angle, by `<teacher> <path>` and `frames`.

    Args:
        model: a Distiller.
        data: clips with `targets`.
        side: see OPTIONS.
        mirror: also of the mirrored frames, whose angles are the others'.

    Returns:
        features (N, D), angles (N,) [deg] and recordings (N,) of each.

    Raises:
        DataError: fewer than 8 frames.
    """
    found: dict[str, list] = {}
    for index, flip in ((i, flip) for i in range(len(data)) for flip in (False, True)[:1 + mirror]):
        batch = pseudo_collate([data[index]])
        sample = batch['data_samples'][0]
        if flip:
            batch['inputs']['clip'] = [clip.flip(3) for clip in batch['inputs']['clip']]
        inputs = model.data_preprocessor(batch)
        maps = {'frames': (inputs['inputs']['frames'].transpose(1, 2).float(), False)}
        for name, teacher in model.teachers.items():
            maps.update({f'{name} {path}': (part, teacher.pairs) for path, part in teacher.observe(inputs).items()})
        angles = sample.targets[:, 0].double() * (-1 if flip else 1)
        for name, (part, pairs) in maps.items():
            frames = angles.isfinite() & sample.scored
            frames[:int(pairs)] = False
            part = part[0].transpose(0, 1)[frames]
            small = F.adaptive_avg_pool2d(part, [min(side, n) for n in part.shape[2:]]).flatten(1).double()
            found.setdefault(name, []).append((small, angles[frames], np.full(int(frames.sum()), sample.recording)))
    result = {name: (torch.cat([x for x, _, _ in parts]), torch.cat([y for _, y, _ in parts]),
                     np.concatenate([r for _, _, r in parts])) for name, parts in found.items()}
    if not result or min(len(angles) for _, angles, _ in result.values()) < 8:
        raise DataError(f'probe: fewer than 8 frames with an angle in {type(data).__name__}, expected more. Choose a '
                        'split with labels.')
    return result


def regress(features: Tensor, angles: Tensor, drives: np.ndarray):
    """The function of features (N, D) that a ridge regression with the best of STRENGTHS gives."""
    names = np.unique(drives)
    held = torch.from_numpy(np.isin(drives, names[::4]))
    if bool(held.all()):  # one recording: every fourth frame
        held = torch.arange(len(held)) % 4 == 0
    errors = [rmse(ridge(features[~held], angles[~held], strength)(features[held]) - angles[held])
              for strength in STRENGTHS]
    return ridge(features, angles, STRENGTHS[int(np.argmin(errors))])


def ridge(features: Tensor, angles: Tensor, strength: float):
    """The function of features that a ridge regression gives, solved over frames, for features are many."""
    mean, scale, middle = features.mean(0), features.std(0).clamp(min=1e-6), angles.mean()
    rows = (features - mean) / scale
    weights = torch.linalg.solve(rows @ rows.T + strength * torch.eye(len(rows), dtype=rows.dtype), angles - middle)
    weights = rows.T @ weights
    return lambda others: (others - mean) / scale @ weights + middle


def rmse(errors: Tensor) -> float:
    """Root of the mean square."""
    return float(errors.square().mean().sqrt())
