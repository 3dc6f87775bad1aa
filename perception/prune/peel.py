"""Network Pruning via Resource Reallocation (PEEL): widths of a net for a budget, in one round.

Yuenan Hou, Zheng Ma, Chunxiao Liu, Zhe Wang, Chen Change Loy. arXiv 2103.01847, Pattern Recognition 145, 2024. Only
the abstract and the figure are public, no code: a predefined backbone is pruned below the budget, and what it leaves
unspent is handed out at once, more to the informative layers. How is our choice, told at each argument.

Everything here is arithmetic on K widths; `cost` turns them into what the budget counts. Widths are multiples of a
divisor, or full.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception.prune.cost import Cost
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError

RULES = ('uniform', 'linear', 'explicit')


@dataclass
class Grid:
    """The widths that groups may have.

    Attributes:
        full: (K,) C.
        step: (K,) divisors.
        least: (K,) smallest widths.
    """

    full: np.ndarray
    step: np.ndarray
    least: np.ndarray

    def round(self, widths: np.ndarray) -> np.ndarray:
        """The largest widths of the grid that are no larger."""
        down = (self.step * np.floor(np.asarray(widths) / self.step + 1e-9)).astype(np.int64)
        return np.where(np.asarray(widths) >= self.full, self.full, np.clip(down, self.least, self.full))


def make_grid(full: Sequence[int], divisor: int | None = None, min_ratio: float = 0.1) -> Grid:
    """The widths that groups of given full widths may have.

    Args:
        full: of the groups.
        divisor: d; None takes 8, and 4 for groups narrower than 32. A group not wider than d stays whole.
        min_ratio: share of a group that stays at least.

    Raises:
        ConfigError: a divisor below 1, or a share outside 0..1.
    """
    full = np.asarray(full, np.int64)
    if (divisor is not None and divisor < 1) or not 0 <= min_ratio <= 1:
        raise ConfigError(f'prune: divisor={divisor}, min_ratio={min_ratio}, expected a whole number of 1 or more and '
                          'a share of 0 to 1. Correct them.')
    step = np.full(len(full), divisor) if divisor else np.where(full < 32, 4, 8)
    least = np.minimum(np.maximum(step, step * np.floor(min_ratio * full / step).astype(np.int64)), full)
    return Grid(full, step, least)


def backbone_widths(cost: Cost, grid: Grid, budget: float, rule: str = 'uniform', ends: Sequence[float] = (0.6, 1.4),
                    widths: Sequence[int] | None = None) -> tuple[np.ndarray, float]:
    """The predefined backbone: all widths from one ratio r, the largest that the budget bears.

    Args:
        cost: of widths.
        grid: of the widths.
        budget: rho times the target.
        rule: `uniform`: r C; `linear`: r C times a + (b - a) depth, the deeper the wider as in the paper's figure,
            depth the rank of a group from 0 to 1; `explicit`: `widths`.
        ends: a and b of the linear rule.
        widths: of the explicit rule.

    Returns:
        (K,) widths, the smallest of the grid where no ratio fits, and r (NaN for `explicit`).

    Raises:
        ConfigError: an unknown rule, or explicit widths that do not fit.
    """
    check_choice('prune: backbone rule', rule, RULES)
    full = grid.full
    if rule == 'explicit':
        if widths is None or len(widths) != len(full) or any(not 1 <= w <= c for w, c in zip(widths, full)):
            raise ConfigError(f'prune: {0 if widths is None else len(widths)} explicit widths for {len(full)} groups, '
                              'expected one of 1 to the full width for each. Correct them.')
        return grid.round(np.asarray(widths)), float('nan')
    depth = np.arange(len(full)) / max(len(full) - 1, 1)
    slope = np.ones(len(full)) if rule == 'uniform' else ends[0] + (ends[1] - ends[0]) * depth

    def at(ratio: float) -> np.ndarray:
        return grid.round(np.clip(ratio * slope, 0, 1) * full)

    low, high = 0.0, 1 / slope.min()
    if cost(at(high)) <= budget:
        return at(high), high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(at(middle)) <= budget else (low, middle)
    return at(low), low


def reallocate(cost: Cost, grid: Grid, start: np.ndarray, importance: np.ndarray, target: float, alpha: float = 1.0,
               donors: float = 0.0, price: Cost | None = None, frozen: Sequence[int] = ()) -> np.ndarray:
    """Hand the unspent budget out in one round, by importance; saturated groups pass their share on.

    Args:
        cost: of widths, which stays below `target`.
        grid: of the widths.
        start: (K,) widths of the backbone.
        importance: (K,) of the groups.
        target: T.
        alpha: exponent of the importance in the shares.
        donors: groups whose importance lies below this quantile first give one step back.
        price: in which the pool is shared; `cost` by default. Of parameters the shares count parameters.
        frozen: groups that get nothing, since their width follows from another one's.

    Returns:
        (K,) widths.

    Raises:
        ConfigError: importances that are negative or not finite, or a quantile outside 0..1.
    """
    importance = np.asarray(importance, float)
    if not np.isfinite(importance).all() or (importance < 0).any() or not 0 <= donors <= 1:
        raise ConfigError(f'prune: importances {importance.min():g} to {importance.max():g} and donors={donors}, '
                          'expected finite numbers of 0 or more and a quantile of 0 to 1. Check the checkpoint.')
    share = shares(importance, alpha, frozen)
    start = np.asarray(start, np.int64).copy()
    if donors:
        gives = importance < np.quantile(importance, donors)
        start[gives] = grid.round(start - 1)[gives]  # of a full width that is no multiple, the next one below
    price = price or cost
    base, pool = price(start), max(target - cost(start), 0.0)
    unit = np.eye(len(start), dtype=np.int64) * np.maximum(np.minimum(grid.step, grid.full - start), 1)
    gain = np.array([max(price(start + row) - base, 1e-12) / row.max() for row in unit])
    grows = np.where(grid.full > start, pool * share / gain, 0.0)
    if len(frozen):
        grows[list(frozen)] = 0

    def at(scale: float) -> np.ndarray:
        return np.maximum(grid.round(np.minimum(start + scale * grows, grid.full)), start)

    if grows.max() > 0:
        low, high = 0.0, 1.0
        while cost(at(high)) <= target and (at(high) < grid.full)[grows > 0].any() and high < 1e15:
            low, high = high, 2 * high
        if cost(at(high)) <= target:
            low = high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(at(middle)) <= target else (low, middle)
        widths = at(low)
    else:
        widths = start
    return spend_rest(cost, grid, widths, share, target, frozen)


def shares(importance: np.ndarray, alpha: float = 1.0, frozen: Sequence[int] = ()) -> np.ndarray:
    """(K,) shares of the groups in the pool, arguments as of `reallocate`; equal ones where nothing is important."""
    found = np.asarray(importance, float) ** alpha
    found[list(frozen)] = 0
    return found / found.sum() if found.sum() > 0 else np.full(len(found), 1 / len(found))


def spend_rest(cost: Cost, grid: Grid, widths: np.ndarray, share: np.ndarray, target: float,
               frozen: Sequence[int] = ()) -> np.ndarray:
    """Add single steps while one fits, each time to the group with the largest share per cost."""
    widths, closed = widths.copy(), set(frozen)
    while True:
        now, best = cost(widths), None
        for i in range(len(widths)):
            if i in closed or widths[i] >= grid.full[i]:
                continue
            wider = widths.copy()
            wider[i] = min(widths[i] + grid.step[i], grid.full[i])
            more = cost(wider) - now
            if now + more > target:
                continue
            worth = (share[i] / max(more, 1e-12), -more, -i)
            if best is None or worth > best[0]:
                best = worth, wider
        if best is None:
            return widths
        widths = best[1]


def slimmed(cost: Cost, grid: Grid, scores: Sequence[np.ndarray], target: float) -> np.ndarray:
    """Network slimming (Liu et al., ICCV 2017) as a control: one threshold on the scores of all channels of the net.

    Args:
        cost: of widths.
        grid: of the widths; numbers of channels above the threshold are rounded down to it.
        scores: of the channels.
        target: that the cost stays below.
    """
    values = np.sort(np.concatenate(scores))
    low, high = 0, len(values)  # the threshold's place; everything goes at the end

    def at(place: int) -> np.ndarray:
        if place >= len(values):
            return grid.least.copy()
        return grid.round(np.array([(score >= values[place]).sum() for score in scores]))

    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(at(middle)) <= target else (middle + 1, high)
    return at(low)
