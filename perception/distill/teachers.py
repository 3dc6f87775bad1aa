"""Teachers: models that watch the student's batch and report what their taps record."""
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import nn

from perception.distill.taps import record, tapped_module
from perception.utils.checkpoint import load_weights
from perception.utils.errors import CheckpointError, ConfigError
from perception.utils.paths import default_work_dir, from_root


def trained_weights(teacher: Mapping) -> Path | None:
    """Where the config that trains a teacher leaves its weights.

    Args:
        teacher: arguments of a FrozenTeacher.

    Returns:
        the file, whether it is there or not; None where no config is named.
    """
    config = teacher.get('trained_by')
    return config and default_work_dir(from_root(config), teacher.get('mini', False)) / 'model.pth'


class FrozenTeacher(nn.Module):
    """A trained model in evaluation mode, without gradients, that never changes and is never saved.

    The model stands outside the module tree: it is in no state dict, no optimiser and no gradient reduction, `train()`
    does not reach it, and initialising the Distiller does not touch its weights; it only moves along to other devices.

    Args:
        model: config of an mmengine model, or the model. Its data preprocessor is dropped; the student's is used.
        taps: short name -> path of a sub-module of the teacher.
        trained_by: the config that trains this teacher, such as `configs/lidarseg/cylinder3d_kitti.py`; its weights
            are the `model.pth` that it leaves in its work dir. None keeps the weights the model came with.
        mini: the teacher is the one that `--mini` trains.
        checkpoint: another file with its weights.
        view: key of the inputs to look at when the data set offers several, None for the inputs as they are.

    Raises:
        CheckpointError: the checkpoint is missing, unreadable or made for another model.
        ConfigError: a tap's path is missing.
    """

    def __init__(self, model: dict | nn.Module, taps: dict[str, str], trained_by: str | None = None,
                 mini: bool = False, checkpoint: str | Path | None = None, view: str | None = None):
        super().__init__()
        if checkpoint is None:
            checkpoint = trained_weights(dict(trained_by=trained_by, mini=mini))
        if checkpoint is not None and not from_root(checkpoint).is_file():
            advice = (f'Train it with `tools/train.py {trained_by}{" --mini" if mini else ""}`' if trained_by else
                      'Correct its name in the config')
            raise CheckpointError(f'FrozenTeacher: the checkpoint {checkpoint} does not exist, expected the weights of '
                                  f'a trained teacher. {advice}.')
        model = model if isinstance(model, nn.Module) else MODELS.build(model)
        model.data_preprocessor = None
        for name, path in taps.items():
            tapped_module(model, name, path)
        if checkpoint is None:
            print_log('FrozenTeacher: no checkpoint is given, its weights stay as they were built.', 'current')
        else:
            load_weights(model, from_root(checkpoint))
        self.taps, self.view = dict(taps), view
        object.__setattr__(self, 'model', model.eval().requires_grad_(False))

    @torch.no_grad()
    def observe(self, batch: dict) -> dict[str, Any]:
        """Run on a batch and return the output of each tap.

        Args:
            batch: `inputs` as the data preprocessor made them, `data_samples`.

        Raises:
            ConfigError: the inputs have no such view.
        """
        inputs = batch['inputs']
        if self.view is not None:
            if self.view not in inputs:
                raise ConfigError(f'FrozenTeacher: view={self.view!r}, expected one of the inputs {sorted(inputs)}. '
                                  'Name the view that the data set makes for the teacher.')
            inputs = inputs[self.view]
        with record(self.model, self.taps) as outputs:
            self.model(inputs, batch['data_samples'], mode='tensor')
        return outputs

    def _apply(self, fn: Callable, recurse: bool = True) -> 'FrozenTeacher':
        self.model._apply(fn)
        return super()._apply(fn, recurse)
