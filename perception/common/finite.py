"""A training stops at the first loss that is not a number, before it harms weights."""
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor

from perception.utils.checkpoint import check_finite, unwrap
from perception.utils.errors import CheckpointError, ConfigError, TrainingError

SKIPPED = 'steps_skipped'  # in the message hub


class FiniteSteps:
    """Takes the training steps of a runner. One whose loss or gradient is not finite ends the training, in all
    processes alike, or is skipped: then weights, buffers and optimiser stay as they are.

    Weights cannot be harmed by it: the loss is looked at before the backward pass, the gradient before the optimiser's
    step. Gradients of a wrapper that scales the loss are its own business.

    Args:
        runner: its model and optimiser are complete.
        allowed: how many steps of a training may be skipped.
    """

    def __init__(self, runner: Runner, allowed: int = 0) -> None:
        self.runner, self.allowed = runner, allowed
        model, wrapper = unwrap(runner.model), runner.optim_wrapper
        self.parse_losses, model.parse_losses = model.parse_losses, self._parse_losses
        for one in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            if isinstance(one, OptimWrapper) and not hasattr(one, 'loss_scaler'):
                one.optimizer.register_step_pre_hook(self._check_gradients)

    def __call__(self, data_batch: Any) -> dict[str, Tensor]:
        """Train on a batch.

        Returns:
            what the model's `train_step` gives; nothing of a skipped step.

        Raises:
            TrainingError: the step is not finite, and no more may be skipped.
            ConfigError: a batch too small for a batch normalisation.
        """
        model, wrapper = unwrap(self.runner.model), self.runner.optim_wrapper
        turns = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else []  # one may have stepped already
        kept = [*model.buffers(), *(p for p in model.parameters() if turns or not p.requires_grad)] \
            if self.allowed else []  # weights without gradients are those of a teacher that follows its student
        before = [tensor.detach().clone() for tensor in kept]
        states = [deepcopy(one.optimizer.state_dict()) for one in turns] if self.allowed else []
        try:
            return self.runner.model.train_step(data_batch, optim_wrapper=wrapper)
        except _NotFinite as found:
            self._skip(str(found))
        except ValueError as error:
            if 'more than 1 value per channel' not in str(error):
                raise
            raise ConfigError(
                f'{place(self.runner)}: a batch of one sample or of scans of one voxel came to a batch normalisation, '
                'expected two or more. Set train_dataloader.drop_last=True, or give another '
                'train_dataloader.batch_size; for small scans take smaller voxels.') from error
        except RuntimeError as error:
            if 'without overflow' not in str(error):
                raise
            raise diverged(self.runner, 'the step is too large for float32, as all of them would be,') from error
        with torch.no_grad():
            for tensor, old in zip(kept, before):
                tensor.copy_(old)  # not its `data`: who keeps what a buffer held looks at its version
        for one, state in zip(turns, states):
            one.optimizer.load_state_dict(state)
        return {}

    def _skip(self, what: str) -> None:
        """Count a step, or end the training."""
        skipped = self.runner.message_hub.get_info(SKIPPED, 0) + 1
        if skipped > self.allowed:
            again = f' ({self.allowed} such steps were skipped before)' if self.allowed else ''
            raise diverged(self.runner, f'{what}{again}', '; --allow-nan N skips up to N such steps')
        self.runner.message_hub.update_info(SKIPPED, skipped)
        self.runner.logger.warning(f'{place(self.runner)}: {what}; this step is skipped, {skipped} of {self.allowed} '
                                   f'allowed.')

    def _parse_losses(self, losses: dict) -> tuple[Tensor, dict]:
        """The model's own, then a look at the sum, which comes from a GPU with all terms, in one go."""
        total, terms = self.parse_losses(losses)
        bad = (~torch.isfinite(total.detach())).float()
        if get_world_size() > 1:
            torch.distributed.all_reduce(bad)
        if total.is_cuda:
            bad, *values = torch.stack([bad, *(term.detach().float() for term in terms.values())]).cpu()
            terms = dict(zip(terms, values))
        if bool(bad):
            names = [f'{name} is {float(torch.as_tensor(value).detach()):g}' for name, value in terms.items()
                     if name != 'loss' and not torch.isfinite(torch.as_tensor(value)).all()]
            if not names and not torch.isfinite(total):
                names = [f'the loss is {float(total.detach()):g}']
            wrapper = self.runner.optim_wrapper
            if hasattr(wrapper, '_inner_count'):  # an update of accumulated gradients stays where it is
                wrapper._inner_count += 1
                if wrapper.should_update():  # without this one's it is left out, not added to the next
                    wrapper.zero_grad()
            raise _NotFinite(', '.join(dict.fromkeys(name for part in all_gather_object(names) for name in part)))
        return total, terms

    def _check_gradients(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Look at the gradients, which all processes have alike, before a step."""
        grads = [p.grad for group in optimizer.param_groups for p in group['params']
                 if p.grad is not None and p.grad.layout is torch.strided]
        if grads and not bool(torch.isfinite(torch.stack(torch._foreach_norm(grads))).all()):
            names = [name for name, p in unwrap(self.runner.model).named_parameters()
                     if p.grad is not None and not torch.isfinite(p.grad).all()]
            if names:  # the norm of finite gradients may be infinite
                optimizer.zero_grad()
                raise _NotFinite(f'the gradient of {names[0]} (and of {len(names) - 1} more) is not finite')


class _NotFinite(Exception):
    """Leaves a step."""


def place(runner: Runner) -> str:
    """Where a training is, counted from 1, as the log counts."""
    return f'epoch {runner.epoch + 1}, iteration {runner.iter + 1}'


def diverged(runner: Runner, what: str, remedy: str = '') -> TrainingError:
    """The error that ends a training; it is the same in all processes. `remedy` stands behind a lower rate."""
    last = runner.message_hub.get_info('last_ckpt')
    good = ('There is no checkpoint yet; begin anew with a lower rate (--cfg-options optim_wrapper.optimizer.lr=...)'
            if not last or not Path(last).is_file() else f'The last good checkpoint is {last}; go on from it with a '
            'lower rate (--resume --cfg-options optim_wrapper.optimizer.lr=...)')
    rate = runner.optim_wrapper.get_lr()
    rate = ', '.join(f'{value[0]:g}' for value in (rate if isinstance(rate, dict) else {}).values() if value)
    error = TrainingError(
        f'{place(runner)}: {what} at a learning rate of {rate}, expected finite numbers. {good} or '
        f'clipped gradients{remedy}.')
    error.in_all_processes = True
    return error


def check_model(runner: Runner, file: Path) -> None:
    """See that weights are finite before they replace a file.

    Raises:
        TrainingError: they are not.
    """
    model = unwrap(runner.model)
    try:
        check_finite(model.state_dict(), file.name, model)
    except CheckpointError as error:
        raise diverged(runner, f'{str(error).split(", expected")[0]}, not saved,') from error
