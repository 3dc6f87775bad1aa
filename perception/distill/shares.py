"""How much of the student's gradient each distillation term has: does a method teach anything, or drown the labels?"""
import torch
from torch import Tensor, nn

from perception.distill.distiller import Distiller

LEAST, MOST = 0.01, 1.0  # shares of the task's gradient outside of which a term is worth a warning


def gradient_shares(distiller: Distiller, batch: dict) -> dict[str, float]:
    """Share of each distillation term in the gradient of the task, measured in one forward.

    The share is the norm of the gradient of the weighted term over all trainable parameters of the student, divided by
    that of the student's own losses. A loss that is not active at this iteration is measured as if it were. The model
    is in the mode in which it was (training, inside a training); its buffers, gradients and the random state are
    afterwards as before. Under mixed precision too this is float32.

    Args:
        distiller: the model.
        batch: `inputs` and `data_samples` as the data loader gives them.

    Returns:
        log name of the term, `loss_<loss>_<term>` -> share, `inf` where the task has no gradient. Terms that by design
        train only modules of their loss, as an autoencoder does, are left out.
    """
    weights = [weight for weight in distiller.student.parameters() if weight.requires_grad]
    buffers = {name: buffer.clone() for name, buffer in distiller.named_buffers()}
    devices = {weight.device.index for weight in weights if weight.is_cuda}
    with torch.random.fork_rng(devices), torch.enable_grad():
        try:
            own, added = distiller.own_and_added(**distiller.data_preprocessor(batch, True), all_losses=True)
            task = _gradient_norm(distiller.parse_losses(own)[0], weights)
            norms = {key: _gradient_norm(term, weights) for name, terms in added.items() for key, term in terms.items()
                     if key.removeprefix(f'loss_{name}_') not in distiller.losses[name].own_terms}
        finally:
            with torch.no_grad():
                for name, buffer in distiller.named_buffers():
                    buffer.copy_(buffers[name])
    return {key: norm / task if task else float('inf') if norm else 0. for key, norm in norms.items()}


def report(distiller: Distiller, batch: dict) -> tuple[list[str], list[str]]:
    """Lines of a log that tell the shares, and warnings about those below 1 % or above 100 %.

    Args:
        distiller: the model.
        batch: `inputs` and `data_samples` as the data loader gives them.
    """
    shares, now = gradient_shares(distiller, batch), int(distiller.iteration)
    lines = [f"{name}: {_percent(share)} of the gradient of the student's own losses" for name, share in shares.items()]
    for name, loss in distiller.losses.items():
        if now != loss.teaching_iteration(now):
            when = f'teaches from iteration {loss.teaches_from:,} on' if now < loss.teaches_from else (
                f'ended at iteration {loss.end:,}')
            lines.append(f'loss {name!r} {when}; its shares are those that it would have now')
    warnings = []
    for some, limit, meaning in (
            ({k: v for k, v in shares.items() if v < LEAST}, f'at least {_percent(LEAST)}',
             'The student hardly feels them: raise their factors'),
            ({k: v for k, v in shares.items() if not v <= MOST}, f'at most {_percent(MOST)}',
             'They outweigh what the labels teach: lower their factors')):
        if some:
            found = ', '.join(f'{name} {_percent(share)}' for name, share in some.items())
            warnings.append(f"{found} of the gradient of the student's own losses, expected {limit}. {meaning} in the "
                            "config's model.losses (weight, or the term's own).")
    return lines, warnings


def _gradient_norm(value: Tensor, weights: list[nn.Parameter]) -> float:
    """Euclidean norm of the gradient over all weights, 0 where none is reached."""
    grads = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True) if value.requires_grad else ()
    norms = [torch.linalg.vector_norm(grad, dtype=torch.float64) for grad in grads if grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.


def _percent(share: float) -> str:
    return f'{100 * share:.3g} %'
