"""Every config takes a training step, predicts, scores and, where it has a submission, writes and validates it.

The student of a method is a net that has a config of its own, which writes the submission.

All run at their mini scale on the tiny data sets of `tests/conftest.py`, which are made once for the run. A data set
without an entry there gets what its writer makes by default.
"""
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement
from torch import nn

from perception.apis.config import called, load_config
from perception.apis.inference import dataset_type
from perception.apis.runner import Runner
from perception.registry import DATASETS, METRICS
from perception.utils.checkpoint import unwrap

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)


@pytest.fixture(scope='module')
def small(mini_set):
    """Loads a config at its mini scale with the tiny data of the test run in place of `data`."""
    with pytest.MonkeyPatch.context() as patch:
        def load(path: Path) -> Config:
            cfg = load_config(path, mini=True)
            patch.setenv('PERCEPTION_DATA', str(mini_set(Path(cfg.mini_data.root).name).parents[1]))
            return cfg
        yield load


class _OneStep(Exception):
    """Leaves the training loop."""


class StopHook(Hook):
    """Ends a training after its first step and keeps the losses."""

    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses = {name: float(value) for name, value in outputs.items()}
        raise _OneStep('one step was taken')


def one_step(cfg: Config, folder: Path) -> Config:
    """The config for small batches, without teachers' weights and without checkpoints."""
    cfg.merge_from_dict({key: part for key, part in cfg.get('tiny', {}).items() if key != 'mini_data'})
    cfg.train_dataloader.batch_size = min(2, cfg.train_dataloader.batch_size)
    for teacher in cfg.model.get('teachers', {}).values():
        if 'trained_by' in teacher:
            teacher.trained_by = None
    for loss in cfg.model.get('losses', {}).values():
        if 'begin' in loss:
            loss.begin = 0
    if 'lr' in cfg.optim_wrapper.get('optimizer', {}):  # a published one throws some nets off with a batch of two
        cfg.optim_wrapper.optimizer.lr *= 1e-4
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.pop('export', None)
    cfg.work_dir = str(folder)
    return cfg


def take_a_step(cfg: Config) -> tuple[Runner, dict[str, float]]:
    """Train a config for one iteration; the Runner and the losses."""
    runner, stop = Runner.from_cfg(cfg), StopHook()
    runner.register_hook(stop)
    with pytest.raises(_OneStep):
        runner.train()
    return runner, stop.losses


def submit(cfg: Config, model: nn.Module, folder: Path) -> None:
    """Predict the test split and write its submission, which is checked as the official tool checks it."""
    dataset = DATASETS.build(cfg.submit_dataloader.dataset)
    evaluator = Evaluator(METRICS.build(dict(cfg.submission, out_dir=str(folder))))
    evaluator.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        batch = pseudo_collate([dataset[index]])
        evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
    evaluator.evaluate(len(dataset))


def same_predictions(found: BaseDataElement, tested: BaseDataElement) -> None:
    """A user's file is predicted as the test of the data set that it belongs to predicts it, lists of lanes too."""
    def plain(value: Any) -> Any:
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else [plain(one) for one in value] \
            if isinstance(value, (list, tuple)) else value
    ours, theirs = ({name: plain(value) for name, value in sample.items() if name.startswith('pred_')}
                    for sample in (found, tested))
    torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_predictions_are_compared_wherever_they_stand():
    def sample(**found) -> BaseDataElement:
        return BaseDataElement(**{f'pred_{name}': value for name, value in found.items()})
    lanes = [np.array([[1., 2.]]), np.array([[3., np.nan]])]
    same_predictions(sample(lanes=lanes, path=np.zeros(2)), sample(lanes=[lane.copy() for lane in lanes],
                                                                   path=np.zeros(2)))
    for other in (lanes[:1], [lanes[0], lanes[1] + 1], [lanes[0], lanes[1][:0]]):
        with pytest.raises(AssertionError, match='lanes'):
            same_predictions(sample(lanes=lanes), sample(lanes=other))
    with pytest.raises(AssertionError, match='path'):
        same_predictions(sample(lanes=lanes, path=np.zeros(2)), sample(lanes=lanes))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.relative_to(ROOT / 'configs').as_posix())
def test_trains_predicts_scores_and_submits(path, small, tmp_path):
    cfg = one_step(small(path), tmp_path / 'run')
    runner, losses = take_a_step(cfg)
    model = unwrap(runner.model)
    assert 'loss' in losses and len(losses) > 1 and all(map(torch.isfinite, map(torch.tensor, losses.values())))
    method = set(cfg.model.get('losses', {}))
    assert all(any(name.startswith(f'loss_{term}') for name in losses) for term in method), f'{method} of {losses}'

    scores = runner.val_loop.run()
    assert scores and not all(value != value for value in scores.values())

    net = getattr(model, 'student', model).eval()
    predictor = called(cfg.predictor, model=net, data=dict(cfg.test_dataloader.dataset, type=dataset_type(cfg)))
    sample = DATASETS.build(cfg.test_dataloader.dataset)[0]
    # points before the image that belongs to them
    meta = sample['data_samples'].metainfo
    keys = sorted((k for k in meta if k == 'source' or k.endswith('_path')), reverse=True)
    assert keys, 'a sample names its source, see perception/common/structures.py'
    found = predictor(meta[keys[0]])
    assert any(name.startswith('pred_') for name in found.keys())  # noqa: SIM118
    same_predictions(found, net.test_step(pseudo_collate([sample]))[0])

    if cfg.get('submission') and not method:
        submit(cfg, net, tmp_path / 'answers')
        assert any(file.is_file() for file in (tmp_path / 'answers').rglob('*'))
