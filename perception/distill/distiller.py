"""The model that trains a student with its own loss plus what teachers add; mmengine's Runner is the training loop."""
import logging
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from perception.distill.taps import record, tapped_module
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError

STUDENT = 'student'


class Distiller(BaseModel):
    """A student, the taps on it, its teachers, and the distillation losses between them.

    In `mode='loss'` the student's own loss runs while its taps record, the teachers of active losses observe the same
    batch, and each active loss adds `loss_<name>` (or `loss_<name>_<term>`). All other modes are the student's,
    untouched. `student` is the deployable model; the data preprocessor is the student's.

    After a forward in `mode='loss'`, `tap_shapes` tells what was recorded: `{'student': {'logits': (V, C)}, ...}`, for
    `tools/train.py --check`.

    Args:
        student: config of an mmengine model, or the model.
        taps: short name -> path of a sub-module of the student.
        losses: name -> config of a `DistillLoss`, or the loss; None leaves one out.
        teachers: name -> config of a teacher (`FrozenTeacher`, `EMATeacher`), or the teacher. A loss whose teacher is
            `'student'` needs none.

    Raises:
        ConfigError: a tap's path is missing, a loss names an unknown teacher or reads a tap that is not there; in a
            forward, a loss whose term is called as another one.
    """

    def __init__(self, student: dict | nn.Module, taps: dict[str, str], losses: dict[str, dict | nn.Module | None],
                 teachers: dict[str, dict | nn.Module] | None = None):
        for name, cfg in (teachers or {}).items():
            _check_inputs(name, student, cfg)
        student = _build(student)
        super().__init__(data_preprocessor=student.data_preprocessor)
        self.student = student  # built before the teachers: equal seeds give equal students with and without them
        self.taps = dict(taps)
        self.teachers = nn.ModuleDict({name: _build(cfg) for name, cfg in (teachers or {}).items()})
        self.losses = nn.ModuleDict({name: _build(cfg) for name, cfg in losses.items() if cfg is not None})
        self.register_buffer('iteration', torch.zeros((), dtype=torch.int64))  # in the checkpoint, for begin and end
        self._known: tuple = (None, 0, 0)  # the buffer when it was last read, its version and its value
        self.tap_shapes: dict[str, dict[str, Any]] = {}
        self._check()

    def forward(self, inputs: Any, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """The student's forward; in `mode='loss'` with the losses of its teachers added.

        Args:
            inputs: what the data preprocessor made of the batch.
            data_samples: labels and meta information, one per sample.
            mode: `'loss'`, `'predict'` or `'tensor'`.
        """
        if mode != 'loss':
            return self.student(inputs, data_samples, mode=mode)
        if self.training:
            for teacher in self.teachers.values():
                teacher.follow(self.student, self.now())
        own, terms = self.own_and_added(inputs, data_samples)
        if self.training:
            now = self.now() + 1
            self.iteration += 1
            self._known = self.iteration, self.iteration._version, now
        return own | {key: term for added in terms.values() for key, term in added.items()}

    def now(self) -> int:
        """The iteration; only once it was loaded, moved or set from outside is the device asked."""
        if self._known[0] is not self.iteration or self._known[1] != self.iteration._version:
            self._known = self.iteration, self.iteration._version, int(self.iteration)
        return self._known[2]

    def own_and_added(self, inputs: Any, data_samples: list | None = None,
                      all_losses: bool = False) -> tuple[dict, dict[str, dict[str, Tensor]]]:
        """One forward: the student's own losses, and for each distillation loss its weighted terms by their log names.

        Args:
            inputs: what the data preprocessor made of the batch.
            data_samples: labels and meta information, one per sample.
            all_losses: those too that are not active at this iteration, as at the nearest one at which they teach.

        Returns:
            scalars by name, and scalars by name for each loss.

        Raises:
            ConfigError: two losses give a term of the same name.
        """
        now, terms = self.now(), {}
        with record(self.student, self.taps) as outputs:
            own = self.student(inputs, data_samples, mode='loss')
        batch = dict(inputs=inputs, data_samples=data_samples, iteration=now)
        losses = {name: loss for name, loss in self.losses.items() if all_losses or loss.is_active(now)}
        needed = {loss.teacher for loss in losses.values()}
        seen = {STUDENT: outputs, **{name: teacher.observe(batch) for name, teacher in self.teachers.items()
                                     if name in needed}}
        taken = set(own)
        for name, loss in losses.items():
            at = dict(batch, iteration=loss.teaching_iteration(now) if all_losses else now)
            terms[name] = _named(name, loss(outputs, seen[loss.teacher], at), loss.weight)
            if twice := terms[name].keys() & taken:
                raise ConfigError(f'Distiller: the loss {name!r} gives {min(twice)!r}, expected a name that neither '
                                  "the student's own losses nor another loss has, of which it would take the place. "
                                  'Rename it in model.losses.')
            taken.update(terms[name])
        self.tap_shapes = {who: {tap: _shape(value) for tap, value in taps.items()} for who, taps in seen.items()}
        return own, terms

    def _check(self) -> None:
        for name, path in self.taps.items():
            tapped_module(self.student, name, path)
        if STUDENT in self.teachers:
            raise ConfigError(f'Distiller: a teacher is called {STUDENT!r}, expected another name. '
                              f'That name stands for the student as its own teacher; rename it.')
        known = {STUDENT: self.taps, **{name: teacher.taps for name, teacher in self.teachers.items()}}
        for name, loss in self.losses.items():
            if loss.teacher not in known:
                raise ConfigError(f'Distiller: loss {name!r} names the teacher {loss.teacher!r}, expected one of its '
                                  f'teachers. {close_matches(loss.teacher, known)}')
            theirs = loss.taps if loss.teacher_taps is None else loss.teacher_taps
            for who, taps in ((STUDENT, loss.taps), (loss.teacher, theirs)):
                for tap in taps:
                    if tap not in known[who]:
                        raise ConfigError(f'Distiller: loss {name!r} ({type(loss).__name__}) reads the tap {tap!r}, '
                                          f'expected it among the taps of {who!r}. {close_matches(tap, known[who])}')


def _build(cfg: dict | nn.Module) -> nn.Module:
    return cfg if isinstance(cfg, nn.Module) else MODELS.build(cfg)


def _check_inputs(name: str, student: Any, teacher: Any) -> None:
    """A teacher sees the batch that the student's data preprocessor made; say so where its own would differ.

    Raises:
        ConfigError: it takes another kind of voxels.
    """
    if isinstance(teacher, dict) and (getattr(teacher.get('type'), 'own_inputs', False) or teacher.get('own_voxels')):
        return
    if isinstance(student, dict) and isinstance(teacher, dict) and isinstance(teacher.get('model'), dict):
        ours, theirs = student.get('data_preprocessor') or {}, teacher['model'].get('data_preprocessor') or {}
        if ours.get('type') != theirs.get('type') and hasattr(theirs.get('type'), 'of_batch'):
            raise ConfigError(f"Distiller: the teacher {name!r} takes the voxels of a {theirs['type'].__name__}, the "
                              f"student's batch has those of a {getattr(ours.get('type'), '__name__', None)}, expected "
                              f'the same. Give model.teachers.{name} own_voxels=True and compare points.')
        for key in sorted(set(ours) | set(theirs)):
            if ours.get(key) != theirs.get(key):
                other = ' Voxels of its own need own_voxels=True.' if hasattr(theirs.get('type'), 'of_batch') else ''
                print_log(f'Distiller: data_preprocessor.{key} is {theirs.get(key)} for the teacher {name!r} and '
                          f"{ours.get(key)} for the student; both see the student's batch.{other}", 'current',
                          logging.WARNING)


def _named(name: str, value: Tensor | dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    if isinstance(value, dict):
        return {f'loss_{name}_{term}': weight * part for term, part in value.items()}
    return {f'loss_{name}': weight * value}


def _shape(value: Any) -> Any:
    """Shape of a recorded output: of its features when it is sparse, of each part when it is a collection."""
    value = getattr(value, 'feats', value)
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {key: _shape(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shape(part) for part in value]
    return type(value).__name__
