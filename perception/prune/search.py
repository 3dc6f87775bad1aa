"""From a trained net and a budget to the structure of a slim one."""
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch import nn

from perception.prune.cost import KINDS, Cost, CostModel, measure_places
from perception.prune.graph import NORMS, ChannelGraph, Run, discover, records
from perception.prune.importance import (
    NORMALISATIONS,
    SCORES,
    Losses,
    channel_scores,
    channels_to_keep,
    group_importance,
)
from perception.prune.latency import LatencyModel
from perception.prune.peel import RULES, Grid, backbone_widths, make_grid, reallocate, shares, slimmed
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError
from perception.utils.structure import FORMAT, plain

METHODS = ('peel', 'uniform', 'shuffled', 'slimming')
BACKBONE = dict(kind='uniform', rho=0.8, ends=(0.6, 1.4), widths=None)
IMPORTANCE = dict(kind='bn_mean', normalize_by='role', batches=8)
REALLOCATION = dict(alpha=1.0, donors=0.0, pool='macs')
UNITS = dict(macs='multiply-accumulates', params='parameters', activations='elements', latency='milliseconds')


@dataclass
class Found:
    """A search's result.

    Attributes:
        structure: as a file has it, see `perception/utils/structure.py`.
        graph: of the net.
        cost: the cost model.
        seconds: of the graph (with its trial and the measurement of the layers), and of the search itself.
        unnormalised: groups without batch norm, scored by their filters instead.
    """

    structure: dict[str, Any]
    graph: ChannelGraph
    cost: CostModel
    seconds: tuple[float, float]
    unnormalised: list[str]


class PEEL:
    """How a net is pruned; a config's `prune = dict(type=PEEL, ...)`.

    All numbers are our choice, for the paper's were not to be had.

    Args:
        target: `dict(kind='macs', ratio=0.5)` or with `value=2.05e9`; the kind also `'params'`, `'activations'` or
            `'latency'` (milliseconds of this machine's CPU).
        backbone: `dict(kind='uniform', rho=0.8)`: the backbone spends rho of the target; kind `'linear'` with `ends`,
            or `'explicit'` with `widths`.
        importance: `dict(kind='bn_mean', normalize_by='role')`, see `importance.py`; `batches` of `taylor`.
        reallocation: `dict(alpha=1.0, donors=0.0, pool='macs')`, see `reallocate`; pool `'params'` shares parameters.
        divisor: widths are multiples of it; None takes 8, and 4 for groups narrower than 32.
        min_ratio: share of each group that stays.
        ignore: regular expressions for names of layers that keep all their outputs.
        input_shape: (H, W) of the images; None runs a sample of the data set, which sparse nets need.
        samples: how many samples of the data set the places of sparse layers are averaged over.
        sparsity: of the training of the whole net, before any search: factor of the sum of the sizes of all scales in
            the loss, as in network slimming; its own values are 1e-4 for ResNets and 1e-5 for mobile nets. None
            leaves it out, for PEEL needs no such phase.

    Raises:
        ConfigError: values that cannot be.
    """

    def __init__(self, target: Mapping | None = None, backbone: Mapping | None = BACKBONE,
                 importance: Mapping | None = IMPORTANCE, reallocation: Mapping | None = REALLOCATION,
                 divisor: int | None = 8, min_ratio: float = 0.1, ignore: Sequence[str] = (),
                 input_shape: Sequence[int] | None = None, samples: int = 1, sparsity: float | None = None):
        self.target = _filled('target', target or dict(ratio=0.5), dict(kind='macs', ratio=None, value=None))
        self.backbone = _filled('backbone', backbone, BACKBONE)
        self.importance = _filled('importance', importance, IMPORTANCE)
        self.reallocation = _filled('reallocation', reallocation, REALLOCATION)
        check_choice('prune: target kind', self.target['kind'], UNITS)
        check_choice('prune: pool', self.reallocation['pool'], ('macs', 'params'))
        check_choice('prune: backbone kind', self.backbone['kind'], RULES)
        check_choice('prune: importance kind', self.importance['kind'], SCORES)
        check_choice('prune: importance normalize_by', self.importance['normalize_by'], NORMALISATIONS)
        alpha, ends = self.reallocation['alpha'], self.backbone['ends']
        if not alpha >= 0 or len(ends) != 2 or not min(ends) > 0:
            raise ConfigError(f'prune: reallocation with alpha={alpha} and backbone with ends={ends}, expected an '
                              'exponent of 0 or more, and two factors above 0. Correct them.')
        ratio, value, rho = self.target['ratio'], self.target['value'], self.backbone['rho']
        if (ratio is None) == (value is None) or not (ratio is None or 0 < ratio <= 1) or not (
                value is None or value > 0):
            raise ConfigError(f'prune: target with ratio={ratio} and value={value}, expected one of them: a share of 0 '
                              'to 1 or a number above 0. Name it.')
        if not 0 < rho <= 1 or samples < 1 or not (sparsity is None or sparsity >= 0):
            raise ConfigError(f'prune: rho={rho}, samples={samples}, sparsity={sparsity}, expected a share of 0 to 1, '
                              'a whole number of 1 or more and a factor of 0 or more. Correct them.')
        self.divisor, self.min_ratio, self.ignore = divisor, min_ratio, tuple(ignore)
        self.input_shape, self.samples = None if input_shape is None else tuple(input_shape), samples

    def search(self, model: nn.Module, runs: Sequence[Run], losses: Losses | None = None, method: str = 'peel',
               seed: int = 0) -> Found:
        """Find the structure of a net.

        Args:
            model: unpruned, with the weights that tell the importance.
            runs: each runs the net on one input; the first one is traced, all are measured.
            losses: of training batches, for `taylor`.
            method: `'peel'`, or a control at the same budget: `'uniform'` widths whatever the backbone, `'shuffled'`
                importance, `'slimming'`, a global threshold on the scores.
            seed: of the shuffling.

        Raises:
            ConfigError: a budget that cannot be reached, or a net that cannot be pruned.
            CheckpointError: weights without importance.
        """
        check_choice('prune: method', method, METHODS)
        start = time.perf_counter()
        graph = discover(model, runs[0], self.ignore)
        if not graph.groups:
            why = '; '.join(f'{name}: {reason}' for name, reason in list(graph.kept.items())[:3])
            raise ConfigError(f'{type(model).__name__}: no group of channels can be pruned ({why}), expected at least '
                              'one. See `ignore`.')
        costs = CostModel(model, graph.groups, measure_places(model, runs))
        cost = self._cost(model, costs, runs)
        middle = time.perf_counter()
        scores, unnormalised = channel_scores(model, graph.groups, self.importance['kind'], losses)
        followers = {group.name for group in graph.groups if group.follows}
        unnormalised = [name for name in unnormalised if name not in followers]
        if unnormalised:
            print_log(f'prune: {len(unnormalised)} of {len(scores)} groups have no batch norm ({unnormalised[0]}); the '
                      'norm of their filters, over the mean of the net, stands for their scales.', 'current')
        _tell_frozen(model, graph)
        importance = group_importance(graph.groups, scores, self.importance['kind'], self.importance['normalize_by'])
        grid = make_grid(costs.full, self.divisor, self.min_ratio)
        goal = self.target['value'] or self.target['ratio'] * cost(costs.full)
        before, after, ratio, share = self._widths(cost, costs, grid, importance, scores, goal, method, seed)
        structure = self._structure(graph, costs, cost, scores, importance, goal, before, after, ratio, share, method)
        return Found(structure, graph, costs, (middle - start, time.perf_counter() - middle), unnormalised)

    def _cost(self, model: nn.Module, costs: CostModel, runs: Sequence[Run]) -> Cost:
        return costs.cost(self.target['kind']) if self.target['kind'] in KINDS else LatencyModel(model, costs, runs[0])

    def _widths(self, cost: Cost, costs: CostModel, grid: Grid, importance: np.ndarray, scores: list, goal: float,
                method: str, seed: int) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        """Widths of the backbone, final widths, the backbone's ratio, and shares in the pool."""
        least, kind = cost(costs.expand(grid.least)), self.target['kind']
        if least > goal:
            raise ConfigError(f'prune: {_number(goal)} {UNITS[kind]} came, expected {_number(least)} or more, the '
                              f'least that these groups can be pruned to (all: {_number(cost(costs.full))}). Give a '
                              'larger budget, or a smaller min_ratio or divisor.')
        frozen, nothing = [i for i, _ in costs.follow], np.zeros(len(importance))
        if method == 'slimming':
            widths = costs.expand(slimmed(cost, grid, scores, goal))
            return widths, widths, float('nan'), nothing
        rho, rule = (1.0, 'uniform') if method == 'uniform' else (self.backbone['rho'], self.backbone['kind'])
        before, ratio = backbone_widths(cost, grid, rho * goal, rule, self.backbone['ends'], self.backbone['widths'])
        if cost(before) > goal:
            raise ConfigError(f'prune: the explicit backbone costs {_number(cost(before))} {UNITS[kind]}, expected at '
                              f'most the target, {_number(goal)}. Give smaller widths.')
        if method == 'uniform':
            return costs.expand(before), costs.expand(before), ratio, nothing
        if method == 'shuffled':
            importance = np.random.default_rng(seed).permutation(importance)
        price = costs.cost('params') if self.reallocation['pool'] == 'params' else None
        after = reallocate(cost, grid, before, importance, goal, self.reallocation['alpha'],
                           self.reallocation['donors'], price, frozen)
        share = shares(importance, self.reallocation['alpha'], frozen)
        return costs.expand(before), costs.expand(after), ratio, share

    def _structure(self, graph: ChannelGraph, costs: CostModel, cost: Cost, scores: list, importance: np.ndarray,
                   goal: float, before: np.ndarray, after: np.ndarray, ratio: float, share: np.ndarray,
                   method: str) -> dict[str, Any]:
        more = {group.name: dict(backbone=int(a), final=int(b), importance=float(i), share=float(w), role=group.role)
                for group, a, b, i, w in zip(graph.groups, before, after, importance, share)}
        keeps = {group.name: channels_to_keep(score, int(width))
                 for group, score, width in zip(graph.groups, scores, after)}
        numbers = {kind: dict(full=costs.cost(kind)(costs.full), backbone=costs.cost(kind)(before),
                              final=costs.cost(kind)(after)) for kind in KINDS}
        if self.target['kind'] not in KINDS:
            numbers[self.target['kind']] = dict(full=cost(costs.full), backbone=cost(before), final=cost(after))
        return plain(dict(
            format=FORMAT, method=method, convention='multiply-accumulates of convolutions and linear layers',
            divisor=self.divisor, target=dict(kind=self.target['kind'], value=goal), ratio=ratio, **numbers,
            importance=dict(self.importance), backbone=dict(self.backbone), reallocation=dict(self.reallocation),
            kept=graph.kept, groups=records(graph.groups, keeps, more)))


def _filled(name: str, given: Mapping | None, known: dict[str, Any]) -> dict[str, Any]:
    for key in given or {}:
        check_choice(f'prune: a key of {name}', key, known)
    return {**known, **(given or {})}


def _number(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _tell_frozen(model: nn.Module, graph: ChannelGraph) -> None:
    """Say where scales were not trained: they are still a measure, but not of this task."""
    own = dict(model.named_modules())
    frozen = [name for group in graph.groups for name in group.norms if isinstance(own[name], NORMS)
              and own[name].weight is not None and not own[name].weight.requires_grad]
    if frozen:
        print_log(f'prune: {len(frozen)} batch norms are frozen ({frozen[0]}); their scales are those of earlier data. '
                  'Let them train before the slim net is.', 'current', logging.WARNING)


