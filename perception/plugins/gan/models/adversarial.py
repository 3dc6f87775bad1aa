"""Trains a generator against a discriminator, alone or with what a larger generator teaches; two optimisers.

T. Karras et al. Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020; G. Xu et al. Mind the Gap in
Distilling StyleGANs, ECCV 2022 (StyleKD). B images, D of a latent.

An iteration: the discriminator (every 16th time with R1), the generator with the losses of its teachers, every 4th time
the generator again for path lengths, and the running mean of its weights.
"""
import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from perception.distill.base import DistillLoss
from perception.plugins.gan.models.generator import Generator, Synthesis, generator_of, to_bytes
from perception.plugins.gan.models.layers import gaussian
from perception.plugins.gan.regularisers import (
    discriminator_loss,
    generator_loss,
    path_lengths,
    path_penalty,
    r1_penalty,
)
from perception.plugins.gan.structures import ImageSample
from perception.plugins.gan.students import begin, latent_directions
from perception.registry import MODEL_WRAPPERS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

NEVER = 1 << 30  # behind the last latent of any net, teachers with more layers included


@MODELS.register_module()
class AdversarialModel(BaseModel):
    """A generator and its discriminator.

    `student` is the running mean of `generator`, the net that is validated and deployed. All that is drawn in an
    iteration depends on (seed, iteration, rank) alone, so that a resumed training goes on bit for bit.

    Args:
        student: config of the generator.
        discriminator: config of the discriminator.
        teachers: name -> FrozenTeacher of a model of this class, at most one.
        losses: name -> DistillLoss on `rgbs` of B latents and `features` of 2 B, the second half moved; None leaves one
            out.
        start: how the generator begins, see `students.begin`.
        directions: what latents are moved along: `'split'` and `'global'` directions of the teacher, or `'random'`.
        blocks: which of the generator's `modulations` the directions come from: the first ones, or their numbers.
        offset: deviation of how far latents are moved.
        share_noise: give teacher and student the same noise; the published code does not.
        r1, r1_every: weight of R1, and iterations from one to the next.
        path, path_every: those of path lengths, weight 0 for none.
        path_shrink: share of the batch that path lengths are taken of, 1 / path_shrink.
        mixing: probability of two latents in an image.
        decay: of the running mean of weights.
        ramp: the mean's half-life is at most this share of the iterations so far, without which that of a short run
            holds much of the weights that it began with; None for `decay` from the start.
        seed: of what is drawn.
        augment: an AdaptiveAugment, or its config, that changes all that the discriminator sees; None for none.
        blur: width [pixel] of the blur through which the discriminator sees at first; StyleGAN3-R has 10.
        blur_kimg: thousands of real images in which that blur goes to nothing.

    Raises:
        ConfigError: an argument out of its range, or teachers and losses that do not fit.
    """

    def __init__(self, student: dict | nn.Module, discriminator: dict | nn.Module,
                 teachers: dict[str, dict | nn.Module] | None = None,
                 losses: dict[str, dict | nn.Module | None] | None = None, start: str = 'fresh',
                 directions: str = 'split', blocks: int | Sequence[int] = 5, offset: float = 5.0,
                 share_noise: bool = True, r1: float = 10.0, r1_every: int = 16, path: float = 2.0,
                 path_every: int = 4, path_shrink: int = 2, mixing: float = 0.9, decay: float = 0.5 ** (32 / 10000),
                 ramp: float | None = None, seed: int = 0, augment: dict | nn.Module | None = None,
                 blur: float = 0.0, blur_kimg: float = 200.0):
        teachers = {name: _build(cfg) for name, cfg in (teachers or {}).items()}  # first, or the same seed would give a
        student = _build(student)  # student the weights that its teacher began with, and so nearly its mapping
        super().__init__(data_preprocessor=student.data_preprocessor)
        check_choice('AdversarialModel: directions', directions, ('split', 'global', 'random'))
        check_positive('AdversarialModel', r1_every=r1_every, path_every=path_every, path_shrink=path_shrink,
                       blur_kimg=blur_kimg)
        if not all(0 <= value < math.inf for value in (r1, path, offset, seed, ramp or 0, blur)) or not (
                0 <= mixing <= 1 and 0 <= decay < 1):
            raise ConfigError(f'AdversarialModel: r1={r1}, path={path}, offset={offset}, mixing={mixing}, '
                              f'decay={decay}, ramp={ramp}, seed={seed}, blur={blur}, expected weights, a ramp, a seed '
                              'and a blur of 0 or more, and shares of 0..1. Correct them.')
        self.teachers = nn.ModuleDict(teachers)
        self.losses = nn.ModuleDict({name: _build(cfg) for name, cfg in (losses or {}).items() if cfg is not None})
        self._check(student)
        if self.teacher is not None:
            begin(student, self.teacher, start)
        elif start != 'fresh':
            raise ConfigError(f"AdversarialModel: start={start!r} without a teacher, expected 'fresh'. Name a teacher.")
        self.generator, self.student = student, copy.deepcopy(student).requires_grad_(False)
        self.discriminator = _build(discriminator)
        if self.discriminator.size != student.size:
            raise ConfigError(f'AdversarialModel: a discriminator of {self.discriminator.size} pixels for a generator '
                              f'of {student.size}, expected equal sizes. Correct one.')
        self.directions, self.blocks, self.offset, self.share_noise = directions, blocks, offset, share_noise
        self.r1, self.r1_every, self.path, self.path_every = r1, r1_every, path, path_every
        self.path_shrink, self.mixing, self.decay, self.ramp, self.seed = path_shrink, mixing, decay, ramp, seed
        if self.teacher is not None and mixing and self.teacher.num_latents != student.num_latents:
            raise ConfigError(f'AdversarialModel: mixing={mixing} with {self.teacher.num_latents} latents of the '
                              f'teacher and {student.num_latents} of the student, expected as many, for the place '
                              'where they are mixed would be another one. Set mixing=0.')
        self.blur, self.blur_kimg = blur, blur_kimg
        self.augment = None if augment is None else _build(augment)
        self.register_buffer('iteration', torch.zeros((), dtype=torch.int64))
        self.register_buffer('path_mean', torch.zeros(()))
        self._directions: Tensor | None = None

    def _check(self, student: Generator) -> None:
        if len(self.teachers) > 1 or any(loss.teacher not in self.teachers for loss in self.losses.values()):
            raise ConfigError(f'AdversarialModel: teachers {list(self.teachers)}, losses of '
                              f'{[loss.teacher for loss in self.losses.values()]}, expected at most one teacher, named '
                              'by all losses. Correct them.')
        known = ('rgbs', 'features')
        for name, loss in self.losses.items():
            if not isinstance(loss, DistillLoss) or set(loss.taps) - set(known):
                raise ConfigError(f'AdversarialModel: loss {name!r} reads {getattr(loss, "taps", ())}, expected a '
                                  f'DistillLoss on {known}. Take one of perception/plugins/gan/losses.py.')
        if self.teacher is not None and (self.teacher.size, self.teacher.style_dim) != (student.size,
                                                                                        student.style_dim):
            raise ConfigError(f'AdversarialModel: a teacher of {self.teacher.size} pixels and latents of '
                              f'{self.teacher.style_dim}, a student of {student.size} and {student.style_dim}, '
                              'expected equal ones. Correct the student.')

    @property
    def teacher(self) -> Generator | None:
        """The teacher's generator, None without one."""
        for teacher in self.teachers.values():
            return generator_of(teacher.model)
        return None

    def after_student_loaded(self) -> None:
        """The generator that learns begins with the weights of its mean too, such as those of a `model.pth`."""
        self.generator.load_state_dict(self.student.state_dict())

    def forward(self, inputs: Any, data_samples: list[ImageSample] | None = None, mode: str = 'tensor') -> Any:
        """What the mean generator makes; of `'predict'` samples also have `teacher_image` where there is a teacher.

        Args:
            inputs, data_samples, mode: see Generator.

        Raises:
            ConfigError: `mode='loss'`: losses of two nets are in `train_step`.
        """
        found = self.student(inputs, data_samples, mode)
        if mode == 'predict' and self.teacher is not None:
            z = self.student.seeds_to_z([sample.source for sample in data_samples])
            for sample, image in zip(found, to_bytes(self.teacher({'z': z}))):
                sample.teacher_image = image
        return found

    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict[str, Tensor]:
        """One iteration.

        Args:
            data: a batch of real images as the collate function made it.
            optim_wrapper: with `generator` and `discriminator`.

        Returns:
            the losses; `loss` is their sum.

        Raises:
            DataError: images of another size than the generator's.
        """
        real, now = self.data_preprocessor(data, True)['inputs']['images'], int(self.iteration)
        if real.shape[2:] != (self.generator.size, self.generator.size):
            raise DataError(f'AdversarialModel: images of {real.shape[2]} x {real.shape[3]} pixels for a generator of '
                            f'{self.generator.size}, expected equal sizes. Set `size` of the data set.')
        draw = torch.Generator().manual_seed(int(np.random.SeedSequence(
            [self.seed, now, get_rank()]).generate_state(1)[0]))
        logs = self._learn_to_tell(real, now, draw, optim_wrapper['discriminator'])
        logs |= self._learn_to_make(len(real), now, draw, optim_wrapper['generator'])
        if self.path and now % self.path_every == 0:
            logs |= self._learn_paths(max(1, len(real) // self.path_shrink), draw, optim_wrapper['generator'])
        self._average(now)
        self.iteration += 1
        return dict(logs, loss=sum(value for name, value in logs.items() if name.startswith('loss_')))

    def _learn_to_tell(self, real: Tensor, now: int, draw: torch.Generator, wrapper: OptimWrapper) -> dict[str, Tensor]:
        self._learns(self.discriminator)
        with torch.no_grad():
            fake = self.generator.synthesis(self._latents(len(real), draw), self._noise(draw, len(real)),
                                            track=True).image
        penalised = self.r1 > 0 and now % self.r1_every == 0
        real = real.requires_grad_(penalised)
        scores = self._scores(real, now, draw)
        losses = dict(loss_d=discriminator_loss(scores, self._scores(fake, now, draw)))
        if penalised:
            losses['loss_r1'] = self.r1 / 2 * self.r1_every * r1_penalty(scores, real)
        logs = self._step(losses, wrapper)
        if self.augment is not None:
            self.augment.see(scores)
            logs |= self.augment.follow(now)
        return logs

    def _scores(self, images: Tensor, now: int, draw: torch.Generator) -> Tensor:
        """What the discriminator says of images (B, 3, H, W), after its blur and its augmentation: (B, 1)."""
        left = 1 - now * len(images) * get_world_size() / (1000 * self.blur_kimg)
        images = gaussian(images, self.blur * max(left, 0.0))
        return self.discriminator(images if self.augment is None else self.augment(images, draw))

    def _learn_to_make(self, batch: int, now: int, draw: torch.Generator, wrapper: OptimWrapper) -> dict[str, Tensor]:
        self._learns(self.generator)
        active = {name: loss for name, loss in self.losses.items() if loss.is_active(now)}
        plan = self._plan(batch, draw)
        moved = any('features' in loss.taps for loss in active.values())
        offsets = self._offsets(batch, draw) if moved else None
        noise = self._noise(draw, batch * (1 + moved))
        made = self._made(self.generator, plan, offsets, noise)
        losses = dict(loss_g=generator_loss(self._scores(made.image[:batch], now, draw)))
        if active:
            with torch.no_grad():
                theirs = self._made(self.teacher, plan, offsets,
                                    noise if self.share_noise else self._noise(draw, batch * (1 + moved)))
            seen = [dict(features=part.features, rgbs=[rgb[:batch] for rgb in part.rgbs]) for part in (made, theirs)]
            for name, loss in active.items():
                value = loss(*seen, dict(iteration=now))
                terms = value if isinstance(value, dict) else {'': value}
                losses |= {f'loss_{name}' + f'_{term}' * bool(term): loss.weight * part for term, part in terms.items()}
        return self._step(losses, wrapper)

    def _learn_paths(self, batch: int, draw: torch.Generator, wrapper: OptimWrapper) -> dict[str, Tensor]:
        self._learns(self.generator)
        latents = self._latents(batch, draw)
        images = self.generator.synthesis(latents, self._noise(draw, batch)).image
        towards = torch.randn(images.shape, generator=draw).to(images.device)
        penalty, mean = path_penalty(path_lengths(images, latents, towards), self.path_mean)
        logs = self._step(dict(loss_path=self.path * self.path_every * penalty), wrapper)
        all_reduce(mean, 'mean')
        self.path_mean.copy_(mean)
        return dict(logs, path_mean=mean)

    def _learns(self, net: nn.Module) -> None:
        """Gradients for one net alone."""
        for other in (self.generator, self.discriminator):
            other.requires_grad_(other is net)

    def _step(self, losses: dict[str, Tensor], wrapper: OptimWrapper) -> dict[str, Tensor]:
        total, logs = self.parse_losses(losses)
        wrapper.zero_grad()
        wrapper.backward(total)
        if get_world_size() > 1:
            for group in wrapper.optimizer.param_groups:
                for parameter in group['params']:
                    if parameter.grad is not None:
                        all_reduce(parameter.grad, 'mean')
        wrapper.step()
        wrapper.zero_grad()
        return {name: value.detach() for name, value in logs.items() if name != 'loss'}

    @torch.no_grad()
    def _average(self, now: int) -> None:
        decay = self.decay if self.ramp is None else min(self.decay, 0.5 ** (1 / max(self.ramp * now, 1e-8)))
        for mean, value in zip(self.student.buffers(), self.generator.buffers()):
            mean.copy_(value)
        for mean, value in zip(self.student.parameters(), self.generator.parameters()):
            mean.lerp_(value, 1 - decay)

    # --- what is drawn, on the CPU, the same for any device ---
    def _plan(self, batch: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """z and z2 (B, D), and the latent from which on the second counts."""
        z = torch.randn(2, batch, self.generator.style_dim, generator=draw).to(self.path_mean.device)
        mixed = torch.rand(1, generator=draw) < self.mixing
        begin = torch.randint(1, self.generator.num_latents, (1,), generator=draw)
        return z[0], z[1], torch.where(mixed, begin, NEVER)

    def _latents(self, batch: int, draw: torch.Generator) -> Tensor:
        return self._of_plan(self.generator, self._plan(batch, draw))

    @staticmethod
    def _of_plan(net: Generator, plan: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        z, z2, begin = plan
        return net.mix(net.mapping(z), net.mapping(z2), begin)

    def _made(self, net: Generator, plan: tuple[Tensor, Tensor, Tensor], offsets: Tensor | None,
              noise: list[Tensor]) -> Synthesis:
        latents = self._of_plan(net, plan)
        if offsets is not None:
            latents = torch.cat([latents, latents + offsets])
        return net.synthesis(latents, noise)

    def _noise(self, draw: torch.Generator, batch: int) -> list[Tensor]:
        return [torch.randn(batch, 1, side, side, generator=draw).to(self.path_mean.device)
                for side in self.generator.noise_sizes]

    def _offsets(self, batch: int, draw: torch.Generator) -> Tensor:
        """(B, 1, D) ways to move latents, the same for student and teacher."""
        if self.directions == 'random':
            ways = torch.randn(batch, self.generator.style_dim, generator=draw).to(self.path_mean.device)
        else:
            if self._directions is None:
                self._directions = latent_directions(self.teacher, self.blocks, together=self.directions == 'global')
            ways = self._directions.to(self.path_mean.device)[
                torch.randint(len(self._directions), (batch,), generator=draw)]
        far = self.offset * torch.randn(batch, 1, generator=draw).to(ways.device)
        return (far * nn.functional.normalize(ways, dim=1))[:, None]


def _build(cfg: dict | nn.Module) -> nn.Module:
    return cfg if isinstance(cfg, nn.Module) else MODELS.build(cfg)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LazyAdam:
    """Adam for each of both nets, corrected for regularisers that take part now and then, as StyleGAN2 has it.

    Args:
        optim_wrapper_cfg: with `lr`, the learning rate, and maybe `lr_mapping`, a factor on that of the mapping, of
            which 0 keeps it as it is, and `lr_discriminator`, a factor on that of the discriminator.
        paramwise_cfg: None.

    Raises:
        ConfigError: anything else.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        known = dict(lr=0.002, lr_mapping=1.0, lr_discriminator=1.0)
        rest = {key: value for key, value in optim_wrapper_cfg.items() if key not in known}
        if rest or paramwise_cfg:
            raise ConfigError(f'LazyAdam: {rest or paramwise_cfg} came, expected {", ".join(known)} alone. Leave out '
                              'the rest, and --amp.')
        self.lr, self.lr_mapping, self.lr_discriminator = (known | optim_wrapper_cfg).values()
        if not (0 < self.lr < math.inf and 0 < self.lr_discriminator < math.inf and 0 <= self.lr_mapping < math.inf):
            raise ConfigError(f'LazyAdam: {known | optim_wrapper_cfg}, expected positive rates, and a factor of 0 or '
                              'more for the mapping. Correct them.')

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Both optimisers."""
        model, found = getattr(model, 'module', model), {}
        for name, every in (('generator', model.path_every if model.path else None),
                            ('discriminator', model.r1_every if model.r1 else None)):
            net, ratio = getattr(model, name), every / (every + 1) if every else 1.0
            rate = self.lr * ratio * (self.lr_discriminator if net is model.discriminator else 1)
            mapping = {id(p) for p in getattr(net, 'style', nn.Module()).parameters()}
            groups = [dict(params=[p for p in net.parameters() if id(p) not in mapping], lr=rate)]
            if mapping:
                groups[0]['params'] += model.losses.parameters()
                groups.append(dict(params=list(net.style.parameters()), lr=rate * self.lr_mapping))
            found[name] = OptimWrapper(torch.optim.Adam(groups, lr=rate, betas=(0.0, 0.99 ** ratio)))
        return OptimWrapperDict(**found)


@MODEL_WRAPPERS.register_module()
class StepDistributed(MMDistributedDataParallel):
    """Equal weights at the start in all processes; the model's own step takes the mean of gradients."""

    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict[str, Tensor]:
        """The model's."""
        return self.module.train_step(data, optim_wrapper)
