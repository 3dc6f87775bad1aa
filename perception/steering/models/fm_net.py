"""Learning to Steer by Mimicking Features from Heterogeneous Auxiliary Networks (FM-Net), the net that is deployed.

Yuenan Hou, Zheng Ma, Chunxiao Liu, Chen Change Loy. AAAI 2019. A trunk sees a clip, a head makes 128 numbers of each
frame, a predictor says angle, torque and speed of each frame, or which action is taken. What is mimicked while training
is `distill/mimic.py`; nothing of it remains here.

Shapes: B clips of T frames of H x W pixels, K outputs.
"""
import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from perception.common.structures import SteeringSample
from perception.registry import MODELS
from perception.steering.models.resnet3d import Memory
from perception.utils.checks import check_choice, rows_and_columns
from perception.utils.errors import ConfigError, DataError

MODES = ('tensor', 'loss', 'predict')
PARTS = ('clip', 'step')
NO_ACTION = 255


@MODELS.register_module()
class ClipPreprocessor(BaseDataPreprocessor):
    """Stacks the clips of a batch and brings 0..255 to -1..1, as the released code does for all channels."""

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise a batch.

        Args:
            data: `inputs` with `clip`, a list of (T, 3, H, W) uint8 tensors, RGB, and `data_samples`.
            training: not used.

        Returns:
            dict with `data_samples` as given and `inputs`: `clip` (B, T, 3, H, W) float32 and `frames`, the same as
            uint8, which teachers normalise in their own way.

        Raises:
            DataError: no colour clips, or of different lengths or sizes.
        """
        data = self.cast_data(data)
        clips, samples = data['inputs']['clip'], data.get('data_samples')
        shape = tuple(clips[0].shape) if len(clips) else ()
        for i, clip in enumerate(clips):
            name = samples[i].get('sample_id', i) if samples else i
            if clip.ndim != 4 or clip.shape[1] != 3 or clip.dtype != torch.uint8:
                raise DataError(f'clip {name}: {clip.dtype} of shape {tuple(clip.shape)}, expected uint8 (T, 3, H, W), '
                                'red first. Convert it to 8-bit colour.')
            if tuple(clip.shape) != shape:
                raise DataError(f'clip {name}: shape {tuple(clip.shape)} beside {shape}, expected clips of one length '
                                'and size in a batch. Resize them alike.')
        if not shape:
            raise DataError('ClipPreprocessor: an empty batch, expected at least one clip. Check the data loader.')
        frames = torch.stack(list(clips))
        return dict(inputs=dict(clip=self.normalise(frames), frames=frames), data_samples=samples)

    @staticmethod
    def normalise(frames: Tensor) -> Tensor:
        """0..255 to -1..1, float32."""
        return frames.float() * (2 / 255) - 1


@MODELS.register_module()
class SteeringNet(BaseModel):
    """Trunk, head and predictor with the loss of FM-Net: angle [deg], torque and speed [m/s] of each frame.

    With z the normalised targets, `z_own` what the net says of itself and `z_given` what it says when it is told the
    truth of each frame before, means over frames whose target is known:
        L = (z_own - z)^2 of the angle + lambda ((z_own - z)^2 + (z_given - z)^2) of all outputs

    Taps: `trunk.conv1`, `trunk.conv3` and the rest of the trunk's parts.

    Args:
        trunk: config of a ResNet3d or CNN3d.
        head: config of a FrameHead, without its maps.
        predictor: config of an AutoregressiveLSTM or FramePredictor, without features and outputs.
        data_preprocessor: a ClipPreprocessor or its config.
        input_size: rows and columns of the frames.
        aux_weight: lambda; 1.0 in FM-Net's code, 0.1 in komanda's.
        target_mean, target_std: K numbers each; by default those that TargetStatisticsHook takes from the training
            data. They stand in the checkpoint.
        carry_state: in evaluation the predictor goes on from clip to clip of a recording, whose clips come in order,
            in one process; published is False, a new start in each clip.
        deploy: what `deployable` gives, 'clip' or 'step', the latter for nets that look back only.
        init_cfg: see mmengine.

    Raises:
        ConfigError: not K statistics, a deviation that is not positive, a step of a net that sees ahead, or a state to
            carry on where several processes have every other clip.
    """

    outputs = 3
    classes = False
    output_name = 'targets'

    def __init__(self, trunk: dict, head: dict, predictor: dict, data_preprocessor: dict | nn.Module | None = None,
                 input_size: Sequence[int] = (160, 160), aux_weight: float = 1.0,
                 target_mean: Sequence[float] | None = None, target_std: Sequence[float] | None = None,
                 carry_state: bool = False, deploy: str = 'clip',
                 init_cfg: dict | None = None):
        super().__init__(data_preprocessor or dict(type=ClipPreprocessor), init_cfg)
        check_choice(f'{type(self).__name__}: deploy', deploy, PARTS)
        if carry_state and get_world_size() > 1:
            raise ConfigError(f'{type(self).__name__}: carry_state=True in {get_world_size()} processes, each of which '
                              'skips the clips of the others, expected one process. Train without it, and test with it '
                              'in one process.')
        self.input_size = rows_and_columns(f'{type(self).__name__}: input_size', input_size)
        self.trunk = MODELS.build(trunk)
        self.head = MODELS.build(dict(head, maps=map_shapes(trunk, self.input_size)))
        self.predictor = MODELS.build(dict(predictor, features=self.head.features, outputs=self.outputs,
                                           classes=self.classes))
        self.aux_weight, self.carry_state, self.deploy = aux_weight, carry_state, deploy
        self._carried: tuple[str, Tensor, float] | None = None
        self._told = False  # that targets are learned as they are
        if not self.classes:
            self._set_statistics(target_mean, target_std)
        if deploy == 'step':
            self._check_streams()

    # ------------------------------------------------------------------------------------------------------- forward

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = 'tensor') -> dict | list:
        """Run the net on a batch of a ClipPreprocessor.

        Args:
            inputs: `clip` (B, T, 3, H, W) in -1..1.
            data_samples: a SteeringSample for each clip; new ones are made where predictions need them.
            mode: 'tensor', 'loss' or 'predict'.

        Returns:
            'tensor': dict with `outputs` (B, T, K), not yet in their units. 'loss': scalars `loss_*`. 'predict': the
            samples with predictions.

        Raises:
            ConfigError: frames of another size.
            DataError: a loss without targets.
        """
        check_choice(f'{type(self).__name__}: mode', mode, MODES)
        size = tuple(inputs['clip'].shape[3:])
        if size != self.input_size:
            raise ConfigError(f'{type(self).__name__}: frames of {size[0]} x {size[1]} pixels, expected '
                              f'{self.input_size[0]} x {self.input_size[1]}. Give model.input_size and that of the '
                              'data set the same value.')
        features = self.encode(inputs['clip'])
        if mode == 'loss':
            return self.loss(features, data_samples)
        if mode == 'predict':
            return self.predict(features, data_samples)
        return dict(outputs=self.predictor(features)[0])

    def encode(self, clip: Tensor, memory: Memory | None = None) -> Tensor:
        """Features (B, T, F) of a clip (B, T, 3, H, W) in -1..1; `memory` as in ResNet3d."""
        return self.head(self.trunk(clip.transpose(1, 2), memory))

    def step(self, frame: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """What the next frame of a video comes to, for the work of one frame.

        Args:
            frame: (B, 3, H, W) in -1..1.
            state: what the frame before returned, None at the start of a recording.

        Returns:
            (B, K) outputs in their units, and the state: the last frames of each layer's input, then the predictor's.

        Raises:
            ConfigError: a net that sees frames ahead.
        """
        self._check_streams()
        memory = Memory(None if state is None else state[:-1])
        features = self.encode(frame[:, None], memory)
        outputs, said = self.predictor(features, None if state is None else state[-1])
        return self.in_units(outputs[:, 0]), [*memory.frames, said]

    def first_state(self, batch: int = 1) -> list[Tensor]:
        """The state before a recording starts."""
        with torch.no_grad():
            device = next(self.parameters()).device
            *past, said = self.step(torch.zeros(batch, 3, *self.input_size, device=device))[1]
            initial = getattr(self.predictor, 'initial', said.new_zeros(0))
            return [*map(torch.zeros_like, past), initial.detach().expand(batch, -1).clone()]

    # ---------------------------------------------------------------------------------------- training and evaluation

    def loss(self, features: Tensor, data_samples: list | None) -> dict[str, Tensor]:
        """The loss of the class's docstring.

        Args:
            features: (B, T, F).
            data_samples: with `targets` (T, 3), NaN where unknown.
        """
        if not self._told and not self.target_known:
            print_log(f'{type(self).__name__}: nobody told mean and deviation of the targets, so that degrees and m/s '
                      'are learned as they are. Add dict(type=TargetStatisticsHook) to custom_hooks, or give '
                      'model.target_mean and model.target_std.', 'current', logging.WARNING)
        self._told = True
        truth = self.normalised(self._stacked(data_samples))
        own = self.predictor(features)[0]
        losses = dict(loss_angle=_square_error(own[..., :1], truth[..., :1]),
                      loss_own=self.aux_weight * _square_error(own, truth))
        if hasattr(self.predictor, 'initial'):
            given = self.predictor(features, given=truth)[0]
            losses['loss_given'] = self.aux_weight * _square_error(given, truth)
        return losses

    def predict(self, features: Tensor, data_samples: list | None = None) -> list:
        """Write the predictions into each clip's sample: `pred_targets` (T, 3) angle [deg], torque, speed [m/s].

        With `carry_state` frames that are not scored have NaN: another clip had them already.

        Args:
            features: (B, T, F).
            data_samples: a SteeringSample for each clip, or None.

        Raises:
            DataError: clips whose state is carried on and that do not come in order.
        """
        samples = data_samples or [SteeringSample() for _ in features]
        outputs = self._carry_on(features, samples) if self.carry_state else self.predictor(features)[0]
        for sample, rows in zip(samples, self.in_units(outputs).float()):
            sample.set_field(rows, f'pred_{self.output_name}')
        return samples

    def _carry_on(self, features: Tensor, samples: list) -> Tensor:
        """The predictor's outputs, clip after clip, only of frames that no clip before had."""
        outputs = features.new_full((*features.shape[:2], self.outputs), torch.nan)
        for i, sample in enumerate(samples):
            recording, times = sample.get('recording', ''), sample.get('timestamps') or [0.0]
            new = sample.scored if 'scored' in sample else torch.ones(features.shape[1], dtype=torch.bool)
            begins = bool(sample.first[0]) if 'first' in sample else None
            goes_on = self._carried and self._carried[0] == recording and not begins
            if goes_on and times[-1] < self._carried[2] or begins is False and not goes_on:
                raise DataError(f'{type(self).__name__}: {sample.get("sample_id", "a clip")} does not come after those '
                                'before it, expected clips in order of time, whose state is carried on. Set '
                                'sampler.shuffle=False of the loader, or carry_state=False.')
            outputs[i, new], state = self.predictor(features[i:i + 1, new], self._carried[1] if goes_on else None)
            self._carried = recording, state, times[-1]
        return outputs

    def train(self, mode: bool = True) -> 'SteeringNet':
        """See nn.Module; what a carried state told of an evaluation before is forgotten."""
        self._carried = None
        return super().train(mode)

    # --------------------------------------------------------------------------------------------------------- targets

    def in_units(self, outputs: Tensor) -> Tensor:
        """Outputs (..., 3) as angle [deg], torque and speed [m/s]."""
        return outputs * self.target_std + self.target_mean

    def normalised(self, targets: Tensor) -> Tensor:
        """Angle [deg], torque and speed [m/s] (..., 3) as the net says them, NaN where unknown."""
        return (targets - self.target_mean) / self.target_std

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take mean and deviation of each target; one that never changes, or is unknown, keeps its scale.

        Raises:
            ConfigError: not K of each, or a negative one.
        """
        mean, std = (torch.as_tensor(x, dtype=torch.float32).flatten() for x in (mean, std))
        if len(mean) != self.outputs or len(std) != self.outputs or bool((std < 0).any()):
            raise ConfigError(f'{type(self).__name__}: target_mean={mean.tolist()}, target_std={std.tolist()}, '
                              f'expected {self.outputs} numbers each, deviations not negative. Correct them, or leave '
                              'both out.')
        self.target_mean.copy_(mean.nan_to_num(0.0))
        self.target_std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))
        self.target_known.fill_(True)

    def _set_statistics(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        self.register_buffer('target_mean', torch.zeros(self.outputs))
        self.register_buffer('target_std', torch.ones(self.outputs))
        self.register_buffer('target_known', torch.zeros((), dtype=torch.bool))
        if (mean is None) != (std is None):
            raise ConfigError(f'SteeringNet: target_mean={mean}, target_std={std}, expected both or none. Give both.')
        if mean is not None:
            self.set_statistics(mean, std)

    def _stacked(self, data_samples: list | None) -> Tensor:
        if not data_samples or any(self.output_name not in sample for sample in data_samples):
            raise DataError(f'{type(self).__name__}.loss: clips without {self.output_name}, expected them in every '
                            'sample. Train on a split that has them.')
        return torch.stack([sample.get(self.output_name) for sample in data_samples])

    # ------------------------------------------------------------------------------------------------------ deployment

    def deployable(self, part: str | None = None,
                   frames: int = 10) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """What runs without its training side, frames as RGB in 0..255, normalisation and units inside.

        Args:
            part: 'clip', a clip to the outputs of each frame, or 'step', a frame and the state to the outputs and the
                next state; `deploy` by default.
            frames: of the example clip.

        Returns:
            the module in evaluation mode, its example inputs by name and the names of its outputs. 'clip': `clip` (1,
            T, 3, H, W) to `targets` (1, T, K). 'step': `frame` (1, 3, H, W) and `state` (1, S) to `targets` (1, K) and
            `next_state` (1, S), all parts of the state in one row; at the start of a recording it is the row that
            the module has as `first_state`.

        Raises:
            ConfigError: a step of a net that sees ahead.
        """
        part = part or self.deploy
        check_choice(f'{type(self).__name__}.deployable: part', part, PARTS)
        self.eval()
        if part == 'clip':
            return _Clip(self).eval(), dict(clip=torch.rand(1, frames, 3, *self.input_size) * 255), [self.output_name]
        module = _Step(self).eval()
        inputs = dict(frame=torch.rand(1, 3, *self.input_size) * 255, state=torch.rand_like(module.first_state))
        return module, inputs, [self.output_name, 'next_state']

    @property
    def streams(self) -> bool:
        """Whether no output depends on frames after it, so that the net can run frame by frame."""
        return self.trunk.causal and not self.trunk.batch_statistics and not self.head.norm_over_time

    def _check_streams(self) -> None:
        if not self.streams:
            raise ConfigError(f'{type(self).__name__}: a net whose trunk sees frames ahead, or that normalises over '
                              'them, expected one that looks back only. Set trunk.causal=True, '
                              'trunk.batch_statistics=False and head.norm_over_time=False, and train it so.')


@MODELS.register_module()
class ActionNet(SteeringNet):
    """SteeringNet for discrete actions (BDD): straight, slow or stop, left, right.

    The scores of classes take the place of targets, and their probabilities go back to the next frame. The loss is the
    cross-entropy of what it says of itself plus lambda times that of what it says when it is told the truth before;
    frames with the action 255 count in neither.

    Args:
        **arguments: see SteeringNet.
    """

    outputs = 4
    classes = True
    output_name = 'actions'

    def loss(self, features: Tensor, data_samples: list | None) -> dict[str, Tensor]:
        """The loss of the class's docstring.

        Args:
            features: (B, T, F).
            data_samples: with `actions` (T,), 255 where none is known.

        Raises:
            DataError: no actions, or others than 0..3 and 255.
        """
        actions = self._stacked(data_samples)
        known = actions != NO_ACTION
        if bool((known & ((actions < 0) | (actions >= self.outputs))).any()):
            raise DataError(f'ActionNet.loss: actions up to {int(actions[known].max())}, expected 0..'
                            f'{self.outputs - 1} or {NO_ACTION}. Map them.')
        losses = dict(loss_action=self._entropy(self.predictor(features)[0], actions))
        if hasattr(self.predictor, 'initial'):
            truth = F.one_hot(actions.clamp(max=self.outputs - 1), self.outputs).to(features.dtype)
            given = self.predictor(features, given=truth.masked_fill(~known[..., None], torch.nan))[0]
            losses['loss_given'] = self.aux_weight * self._entropy(given, actions)
        return losses

    def in_units(self, outputs: Tensor) -> Tensor:
        """Scores as probabilities."""
        return outputs.softmax(-1)

    @staticmethod
    def _entropy(scores: Tensor, actions: Tensor) -> Tensor:
        total = F.cross_entropy(scores.float().flatten(0, 1), actions.flatten(), ignore_index=NO_ACTION,
                                reduction='sum')
        return total / (actions != NO_ACTION).sum().clamp(min=1)


def map_shapes(trunk: dict, size: Sequence[int]) -> dict[str, tuple[int, int, int]]:
    """Channels, rows and columns of each output of a trunk.

    Args:
        trunk: its config.
        size: rows and columns of the frames.
    """
    with torch.device('meta'):
        maps = MODELS.build(dict(trunk, weights_2d=None) if 'weights_2d' in trunk else trunk).eval()(
            torch.zeros(1, 3, 2, *size))  # two frames: statistics of a batch need some values
    return {name: (value.shape[1], *value.shape[3:]) for name, value in maps.items()}


def _square_error(found: Tensor, truth: Tensor) -> Tensor:
    """Mean square over the entries that are known."""
    known = ~truth.isnan()
    error = torch.where(known, found.float() - truth, torch.zeros_like(truth))
    return error.square().sum() / known.sum().clamp(min=1)


class _Clip(nn.Module):
    """Frames in 0..255 to outputs in their units; see `SteeringNet.deployable`."""

    def __init__(self, net: SteeringNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        net = self.net
        return (net.in_units(net.predictor(net.encode(net.data_preprocessor.normalise(clip)))[0]),)


class _Step(_Clip):
    """A frame and the state to outputs in their units and the next state; see `SteeringNet.deployable`."""

    def __init__(self, net: SteeringNet) -> None:
        super().__init__(net)
        parts = net.first_state()
        self.shapes = [tuple(part.shape[1:]) for part in parts]
        self.register_buffer('first_state', torch.cat([part.flatten(1) for part in parts], 1), persistent=False)

    def forward(self, frame: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        parts = state.split([math.prod(shape) for shape in self.shapes], 1)
        outputs, parts = self.net.step(self.net.data_preprocessor.normalise(frame),
                                       [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes)])
        return outputs, torch.cat([part.flatten(1) for part in parts], 1)
