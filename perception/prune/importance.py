"""How much the channels of a group, and the groups of a net, matter: read off the trained net.

Each measure scores the channels. The importance of a group is the mean of its channels' scores, or for `bn_active` the
share of those above the median of the whole net. [chosen], for the paper's own formula could not be read; by default
the mean over the groups of the same role becomes 1, since scales of branches, streams and depth-wise layers cannot be
compared.
"""
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from perception.prune.graph import Group
from perception.utils.checks import check_choice
from perception.utils.errors import CheckpointError, ConfigError
from perception.utils.structure import axis_of

Losses = Callable[[], Iterable[Tensor]]


def channel_scores(model: nn.Module, groups: Sequence[Group], kind: str = 'bn_mean', losses: Losses | None = None
                   ) -> tuple[list[np.ndarray], list[str]]:
    """Score the channels of each group.

    Args:
        model: trained, unpruned.
        groups: of its graph.
        kind: `bn_mean` and `bn_active` (mean size of the scales of the group's batch norms), `l2` (norm of the filters
            that make a channel, over the mean of the net), `taylor` (size of weight times gradient, summed over these
            filters).
        losses: gives the training loss of some batches, for `taylor`.

    Returns:
        (C,) scores of each group, and the names of groups without batch norm that were scored by `l2` instead.

    Raises:
        ConfigError: an unknown kind, or `taylor` without losses.
        CheckpointError: scores that are not finite, or all zero.
    """
    check_choice('prune: importance', kind, SCORES)
    scores, fallback = SCORES[kind](model, groups, losses)
    where = type(model).__name__
    bad = [group.name for group, score in zip(groups, scores) if not np.isfinite(score).all()]
    if bad:
        raise CheckpointError(f'{where}: the {kind} scores of {len(bad)} groups are not finite ({bad[0]}), expected '
                              'numbers. The training diverged; use a checkpoint from before that.')
    if groups and not any(score.any() for score in scores):
        raise CheckpointError(f'{where}: all {kind} scores of {len(groups)} groups are 0, expected a trained net. Use '
                              "another checkpoint, or importance=dict(kind='l2').")
    return scores, fallback


def _gathered(values: np.ndarray, group: Group, member) -> np.ndarray:
    return values[group.positions(member)].mean(axis=1)


def _by_norm(model: nn.Module, groups: Sequence[Group], losses: Losses | None) -> tuple[list[np.ndarray], list[str]]:
    own, found, fallback = dict(model.named_modules()), [], []
    filters = None
    for i, group in enumerate(groups):
        sizes = [_gathered(own[m.module].weight.detach().abs().cpu().double().numpy(), group, m)
                 for m in group.members if m.module in group.norms and own[m.module].weight is not None]
        if not sizes:
            filters = _by_filters(model, groups, None)[0] if filters is None else filters
            fallback.append(group.name)
        found.append(np.mean(sizes, axis=0) if sizes else filters[i])
    return found, fallback


def _maker_values(model: nn.Module, groups: Sequence[Group], value: Callable[[nn.Parameter], Tensor],
                  reduce: Callable[[Tensor], Tensor]) -> list[np.ndarray]:
    own, found = dict(model.named_modules()), []
    for group in groups:
        sizes = []
        for member in group.members:
            module = own[member.module]
            if member.side == 'out' and member.module in group.makers:
                rows = value(module.weight).movedim(axis_of(module, 'out'), 0).flatten(1)
                sizes.append(_gathered(reduce(rows).detach().cpu().double().numpy(), group, member))
        found.append(np.mean(sizes, axis=0))
    return found


def _by_filters(model: nn.Module, groups: Sequence[Group], losses: Losses | None
                ) -> tuple[list[np.ndarray], list[str]]:
    found = _maker_values(model, groups, lambda weight: weight, lambda rows: rows.norm(dim=1))
    mean = np.concatenate(found).mean() if found else 1.0
    return [score / mean if mean > 0 else score for score in found], []


def _by_gradient(model: nn.Module, groups: Sequence[Group], losses: Losses | None
                 ) -> tuple[list[np.ndarray], list[str]]:
    if losses is None:
        raise ConfigError("prune: importance='taylor' came without training data, expected a train_dataloader. Name "
                          'one in the config, or choose bn_mean.')
    total: list[np.ndarray] | None = None
    count = 0
    for loss in losses():
        model.zero_grad(set_to_none=True)
        loss.backward()
        some = _maker_values(
            model, groups, lambda weight: torch.zeros_like(weight) if weight.grad is None else weight * weight.grad,
            lambda rows: rows.sum(dim=1).abs())
        total = some if total is None else [a + b for a, b in zip(total, some)]
        count += 1
    model.zero_grad(set_to_none=True)
    if total is None:
        raise ConfigError("prune: importance='taylor' got no batch, expected at least one. Add training data.")
    return [score / count for score in total], []


NORMALISATIONS = ('role', 'none')
SCORES = dict(bn_mean=_by_norm, bn_active=_by_norm, l2=_by_filters, taylor=_by_gradient)


def group_importance(groups: Sequence[Group], scores: Sequence[np.ndarray], kind: str = 'bn_mean',
                     normalize_by: str = 'role') -> np.ndarray:
    """(K,) importance of the groups.

    Args:
        groups: of a graph.
        scores: of their channels.
        kind: see `channel_scores`.
        normalize_by: `'role'`: the mean of groups of one role is 1; `'none'`.

    Raises:
        ConfigError: an unknown normalisation.
    """
    check_choice('prune: normalize_by', normalize_by, NORMALISATIONS)
    if kind == 'bn_active':
        median = np.median(np.concatenate([s for s, group in zip(scores, groups) if not group.follows]))
        found = np.array([(score > median).mean() for score in scores])
    else:
        found = np.array([score.mean() for score in scores])
    if normalize_by == 'role':
        for role in {group.role for group in groups}:
            same = np.array([group.role == role for group in groups])
            mean = found[same].mean()
            found[same] = found[same] / mean if mean > 0 else 1.0
    return found


def channels_to_keep(scores: np.ndarray, width: int) -> list[int]:
    """The channels with the largest scores, the earlier of equal ones, ascending."""
    return sorted(np.argsort(-scores, kind='stable')[:width].tolist())
