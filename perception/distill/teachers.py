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


class Teacher(nn.Module):
    """Base of the teachers; one sets `model` and, where it changes while the student learns, writes `follow`.

    Args:
        taps: short name -> path of a sub-module of the teacher.
        view: key of the inputs to look at when the data set offers several, None for the inputs as they are.
    """

    model: nn.Module

    def __init__(self, taps: dict[str, str], view: str | None = None):
        super().__init__()
        self.taps, self.view = dict(taps), view

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
                raise ConfigError(f'{type(self).__name__}: view={self.view!r}, expected one of the inputs '
                                  f'{sorted(inputs)}. Name the view that the data set makes for the teacher.')
            inputs = inputs[self.view]
        with record(self.model, self.taps) as outputs:
            self.model(self.own(inputs), batch['data_samples'], mode='tensor')
        return outputs

    def own(self, inputs: Any) -> Any:
        """What the model sees of the inputs that the student's data preprocessor made."""
        return inputs

    def follow(self, student: nn.Module, iteration: int) -> None:
        """Take over what the student has learned before this iteration; called before each one of a training.

        Args:
            student: the model that is trained.
            iteration: how many there were.
        """


class FrozenTeacher(Teacher):
    """A trained model in evaluation mode, without gradients, that never changes and is never saved.

    The model stands outside the module tree: it is in no state dict, no optimiser and no gradient reduction, `train()`
    does not reach it, and initialising the Distiller does not touch its weights; it only moves along to other devices.

    Args:
        model: config of an mmengine model, or the model. Its data preprocessor is dropped, unless it has `own_voxels`;
            the student's is used.
        taps: short name -> path of a sub-module of the teacher.
        trained_by: the config that trains this teacher, such as `configs/lidarseg/cylinder3d_kitti.py`; its weights
            are the `model.pth` that it leaves in its work dir. None keeps the weights the model came with.
        mini: the teacher is the one that `--mini` trains.
        checkpoint: another file with its weights.
        view: key of the inputs to look at when the data set offers several, None for the inputs as they are.
        own_voxels: its own data preprocessor puts the points of the student's batch into its voxels, by `of_batch`, as
            a net of another kind or resolution needs them. Then outputs of points alone stand for the same in both.

    Raises:
        CheckpointError: the checkpoint is missing, unreadable or made for another model.
        ConfigError: a tap's path is missing, or a data preprocessor without `of_batch`.
    """

    def __init__(self, model: dict | nn.Module, taps: dict[str, str], trained_by: str | None = None,
                 mini: bool = False, checkpoint: str | Path | None = None, view: str | None = None,
                 own_voxels: bool = False):
        super().__init__(taps, view)
        if checkpoint is None:
            checkpoint = trained_weights(dict(trained_by=trained_by, mini=mini))
        if checkpoint is not None and not from_root(checkpoint).is_file():
            advice = (f'Train it with `tools/train.py {trained_by}{" --mini" if mini else ""}`' if trained_by else
                      'Correct its name in the config')
            raise CheckpointError(f'FrozenTeacher: the checkpoint {checkpoint} does not exist, expected the weights of '
                                  f'a trained teacher. {advice}.')
        model = model if isinstance(model, nn.Module) else MODELS.build(model)
        voxelizer = model.data_preprocessor if own_voxels else None
        if own_voxels and not hasattr(voxelizer, 'of_batch'):
            raise ConfigError(f'FrozenTeacher: own_voxels=True for a {type(model).__name__} with a '
                              f'{type(voxelizer).__name__}, expected a data preprocessor with of_batch, such as those '
                              'of LiDAR nets. Leave own_voxels out.')
        object.__setattr__(self, 'voxelizer', voxelizer)
        model = _watching(model, taps)
        if checkpoint is None:
            print_log('FrozenTeacher: no checkpoint is given, its weights stay as they were built.', 'current')
        else:
            load_weights(model, from_root(checkpoint))
        object.__setattr__(self, 'model', model.eval().requires_grad_(False))

    def own(self, inputs: Any) -> Any:
        """See Teacher."""
        return inputs if self.voxelizer is None else self.voxelizer.of_batch(inputs)

    def _apply(self, fn: Callable, recurse: bool = True) -> 'FrozenTeacher':
        self.model._apply(fn)
        return super()._apply(fn, recurse)


class EMATeacher(Teacher):
    """A running mean of the student's parameters that teaches it (mean teacher, Tarvainen and Valpola, 2017).

        theta' <- a theta' + (1 - a) theta,  a = min(1 - 1 / (t + 1), 1 - momentum),  t = 0, 1, ...

    after each iteration t of the student, so that the first one makes both equal. Parameters only: buffers such as
    batch statistics are the teacher's own, which is in training mode when the student is. It is part of the checkpoint.

    Args:
        model: config of the student's model, or such a model. Its data preprocessor is dropped; the student's is used.
        taps: short name -> path of a sub-module of the teacher.
        momentum: weight of the student in the mean, once it has warmed up.
        view: key of the inputs to look at when the data set offers several, None for the inputs as they are.

    Raises:
        ConfigError: a tap's path is missing, or a momentum that is not above 0 and up to 1.
    """

    def __init__(self, model: dict | nn.Module, taps: dict[str, str], momentum: float = 0.01, view: str | None = None):
        super().__init__(taps, view)
        if not 0 < momentum <= 1:
            raise ConfigError(f'EMATeacher: momentum={momentum}, expected the weight of the student, above 0 and at '
                              'most 1. Usual is 0.01.')
        self.model, self.momentum = _watching(model, taps).requires_grad_(False), momentum
        self.register_buffer('updates', torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, student: nn.Module, iteration: int) -> None:
        """Move towards the student, once for each iteration that it took; a training that begins makes both equal anew.

        Raises:
            ConfigError: the student has other parameters.
        """
        if not iteration:  # the count of a checkpoint whose weights alone were taken
            self.updates.zero_()
        updates = int(self.updates)
        if iteration <= updates:
            return
        mine, theirs = dict(self.model.named_parameters()), dict(student.named_parameters())
        if not updates:
            differ = [name for name in dict.fromkeys((*mine, *theirs)) if name not in mine or name not in theirs
                      or mine[name].shape != theirs[name].shape]
            if differ:
                raise ConfigError(f'EMATeacher: {len(differ)} parameters differ from those of the student '
                                  f'({", ".join(differ[:3])}), expected the same model. Give it the config of the '
                                  'student.')
        share = max(1 / (updates + 1), self.momentum)
        for name, parameter in mine.items():
            parameter.lerp_(theirs[name], share)
        self.updates += 1


def _watching(model: dict | nn.Module, taps: dict[str, str]) -> nn.Module:
    """The model of a teacher, which sees what the student's data preprocessor made and has all taps."""
    model = model if isinstance(model, nn.Module) else MODELS.build(model)
    model.data_preprocessor = None
    for name, path in taps.items():
        tapped_module(model, name, path)
    return model
