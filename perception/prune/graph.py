"""Which channels of a net must be pruned together: groups from Torch-Pruning's dependency graph, dense and sparse.

Torch-Pruning (Fang et al., DepGraph, CVPR 2023) follows autograd from the outputs to the inputs. Sparse convolutions
are unknown to it; for the trace each stands in as a linear layer on the rows that it makes, so that skips, sums and
concatenations of sparse nets are found as those of dense ones are. Its index maps are joined position by position, so
that a channel of a concatenation belongs to the layer that makes it. No group is believed before it was tried: with
scale and shift of some of its channels at zero the net must give the same with and without them.
"""
import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from perception.common.measure import SPARSE
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError
from perception.utils.optional import import_optional
from perception.utils.structure import FORMAT, apply_structure, axis_of, is_depthwise

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (*CONVS, nn.Linear, *SPARSE)  # whose multiply-accumulates count
NORMS = (nn.modules.batchnorm._BatchNorm,)
KNOWN = (*LAYERS, *NORMS, nn.LayerNorm, nn.GroupNorm, nn.PReLU, nn.Embedding)
REFUSED = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
TOLERANCE = 1e-4  # of the trial, relative to the largest output


class Member(NamedTuple):
    """Where a group's channels stand in a module, see `perception/utils/structure.py`."""
    module: str
    side: str
    start: int
    stride: int
    count: int
    size: int


@dataclass
class Group:
    """Channels that are pruned together.

    Attributes:
        name: of the first layer that makes them, with their first channel behind it where that makes several groups.
        width: C, how many.
        members: the sides of layers that have them.
        makers: names of the layers that make them, depth-wise ones left out.
        norms: names of the batch norms on them.
        role: 'stem', 'stream' (several layers are summed), 'depthwise', 'inner' or 'squeeze'.
        follows: name of the group whose width decides this one's (the squeeze of a squeeze-and-excitation block), ''.
    """

    name: str
    width: int
    members: list[Member]
    makers: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    role: str = 'inner'
    follows: str = ''

    def positions(self, member: Member) -> np.ndarray:
        """(C, count) positions of the channels in a member."""
        return member.start + np.arange(self.width)[:, None] * member.stride + np.arange(member.count)


@dataclass
class ChannelGraph:
    """Groups of a net in forward order.

    Attributes:
        groups: that can be pruned.
        kept: name of each group that keeps its width -> why.
        order: names of the layers and norms in forward order.
    """

    groups: list[Group]
    kept: dict[str, str]
    order: list[str]


Run = Callable[[nn.Module], Any]


def tensors_of(outputs: Any) -> list[Tensor]:
    """The floating-point tensors in nested outputs, in order."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for item in outputs for tensor in tensors_of(item)]
    return tensors_of(outputs.feats) if hasattr(outputs, 'feats') else []


def discover(model: nn.Module, run: Run, ignore: Sequence[str] = ()) -> ChannelGraph:
    """Find the groups of a net and try them.

    Args:
        model: unpruned; it is copied, not changed.
        run: runs a model like it on one input and returns all its outputs.
        ignore: regular expressions; layers whose names one of them matches from the start keep all their outputs.

    Raises:
        ConfigError: a pattern that matches nothing, a layer that cannot be pruned and is not ignored, or one that does
            not run.
        MissingDependency: Torch-Pruning is not installed.
    """
    ignored = _ignored(model, ignore)
    _refuse(model, ignored)
    order = forward_order(model, run)
    if _idle(model, order, ignored):
        run = _with_training_branches(run)
        order = forward_order(model, run)
    by_hand = _computed_with(model, run, _idle(model, order, ignored))
    if idle := _idle(model, order, ignored | by_hand):
        raise ConfigError(f'{type(model).__name__}: {", ".join(idle[:3])} ({len(idle)} layers) did not run, expected '
                          'every layer that is trained to: what it reads is not known. Leave out what only training '
                          'runs, or name it in ignore if nothing that is pruned leads to it.')
    groups, kept = _groups(model, run, order)
    for group in list(groups):
        if any(member.module in ignored and member.side == 'out' for member in group.members):
            groups.remove(group)
            kept[group.name] = 'ignored'
    kept.update(dict.fromkeys(by_hand, 'its weights are computed with outside of it'))
    return _tried(model, run, ChannelGraph(_with_roles(model, groups, order), kept, order))


def _ignored(model: nn.Module, patterns: Iterable[str]) -> set[str]:
    names, found = [name for name, _ in model.named_modules() if name], set()
    for pattern in patterns:
        try:
            some = {name for name in names if re.match(pattern, name)}
        except re.error as error:
            raise ConfigError(f'ignore: {pattern!r} is no regular expression ({error}), expected one for names of '
                              'layers. Correct it.') from error
        if not some:
            raise ConfigError(f'ignore: {pattern!r} matches no layer of {type(model).__name__}, expected a regular '
                              f'expression for names of layers. {close_matches(pattern, names)}')
        found |= some
    return found


def _refuse(model: nn.Module, ignored: set[str]) -> None:
    bad = [(name, type(module).__name__) for name, module in model.named_modules() if name not in ignored
           and (isinstance(module, REFUSED) or 'deform' in type(module).__name__.lower())]
    if bad:
        raise ConfigError(f'{type(model).__name__}: {bad[0][0]} is a {bad[0][1]} '
                          f'({len(bad)} such), whose channels cannot be pruned, expected layers of convolutions. Keep '
                          f'them whole by ignore=[{bad[0][0]!r}].')


def _idle(model: nn.Module, order: list[str], ignored: set[str]) -> list[str]:
    """Names of the layers that are trained and did not run."""
    ran = set(order)
    return [name for name, module in model.named_modules() if isinstance(module, LAYERS) and name not in ran | ignored
            and any(parameter.requires_grad for parameter in module.parameters())]


def _computed_with(model: nn.Module, run: Run, idle: Sequence[str]) -> set[str]:
    """Those of some layers that did not run whose weights the outputs depend on all the same, such as one whose kernel
    is cut in pieces: they stay whole, and what leads to them does too, as the trial finds."""
    weights = {name: model.get_submodule(name).weight for name in idle}
    if not weights:
        return set()
    with torch.enable_grad():
        total = sum(output.sum() for output in tensors_of(run(model)))
        found = torch.autograd.grad(total, list(weights.values()), allow_unused=True) if total.requires_grad else ()
    return {name for name, gradient in zip(weights, found) if gradient is not None}


def _with_training_branches(run: Run) -> Run:
    """Runs what only training runs too, such as auxiliary heads: the net believes to be trained, its layers do not."""
    def running(net: nn.Module) -> Any:
        net.training = True
        try:
            return run(net)
        finally:
            net.training = False
    return running


@torch.no_grad()
def forward_order(model: nn.Module, run: Run) -> list[str]:
    """Names of the layers and norms with weights in the order in which they first run."""
    order: dict[str, None] = {}
    handles = [module.register_forward_hook(lambda *_, name=name: order.setdefault(name))
               for name, module in model.named_modules() if isinstance(module, KNOWN)]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


class _StandIn(nn.Module):
    """A sparse convolution as Torch-Pruning can see it: its own rows, by a linear layer."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.real = (conv,)  # in a tuple: no sub-module
        self.linear = nn.Linear(conv.in_channels, conv.out_channels)

    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            out = self.real[0](x)
        rows = torch.zeros(len(out.feats), dtype=torch.long, device=x.feats.device)
        return out.replace(self.linear(x.feats.index_select(0, rows)), out.voxels)


def _traceable(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model).eval()
    for name, module in list(model.named_modules()):
        same = _StandIn(module) if isinstance(module, SPARSE) else None
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:  # else its slope counts as an input of channels
            same = nn.LeakyReLU(module.weight.item())
        if same is not None:
            owner, _, key = name.rpartition('.')
            setattr(model.get_submodule(owner), key, same)
    return model.requires_grad_(True)


def _groups(model: nn.Module, run: Run, order: list[str]) -> tuple[list[Group], dict[str, str]]:
    """All groups that the graph tells, and those that cannot be pruned with the reason."""
    tp = import_optional('torch_pruning', 'prune', "pip install -e '.[prune]'")
    copied = _traceable(model)
    names = {module: name.removesuffix('.linear') if isinstance(module, nn.Linear) and isinstance(
        copied.get_submodule(name.rpartition('.')[0]), _StandIn) else name
        for name, module in copied.named_modules() if isinstance(module, KNOWN)}
    graph = tp.DependencyGraph()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: None):
        try:
            graph.build_dependency(
                copied, example_inputs=None, forward_fn=lambda net, _: run(net), verbose=False,
                output_transform=lambda outputs: [tensor * 1.0 for tensor in tensors_of(outputs)
                                                  if tensor.requires_grad])
        except (TypeError, AttributeError, IndexError, KeyError) as error:
            raise ConfigError(f'{type(model).__name__}: Torch-Pruning cannot follow it ({type(error).__name__}: '
                              f'{str(error)[:80]}), expected layers that run once each. Use weights of their own where '
                              'parts of the net share some.') from error
    own = dict(model.named_modules())
    sides = _Sides(own)
    reached: dict[str, set[int]] = {}  # why -> positions
    edges: list[tuple[np.ndarray, np.ndarray]] = []
    modules = {name: module for module, name in names.items()}
    roots = [name for name in order if isinstance(own[name], LAYERS) and modules[name] in graph.module2node]
    for name in roots:
        width = own[name].weight.shape[axis_of(own[name], 'out')] * (
            own[name].groups if isinstance(own[name], CONVS) and getattr(own[name], 'transposed', False) else 1)
        root_fn = graph.get_pruner_of_module(modules[name]).prune_out_channels
        found = graph.get_pruning_group(modules[name], root_fn, list(range(width)))
        base = sides.offset(name, 'out')
        for item in found:
            target, roots_of, at = item.dep.target.module, np.asarray(item.root_idxs), np.asarray(item.idxs)
            kind = type(target).__name__
            if kind == '_OutputOp':
                reached.setdefault('an output of the net', set()).update((base + roots_of).tolist())
            elif isinstance(target, nn.Parameter):
                reached.setdefault('a bare parameter', set()).update((base + roots_of).tolist())
            elif target in names:
                other = own[names[target]]
                out = graph.is_out_channel_pruning_fn(item.dep.handler) or not isinstance(other, LAYERS) \
                    or is_depthwise(other)
                side = 'out' if out else 'in'
                fits = at < sides.size(names[target], side)  # a layer padded with zeros has fewer
                edges.append((base + roots_of[fits], sides.offset(names[target], side) + at[fits]))
    return _assembled(own, order, sides, edges, reached)


class _Sides:
    """Numbers for the positions of all sides of all layers."""

    def __init__(self, modules: dict[str, nn.Module]):
        self.keys, self.starts, self.sizes, total = [], {}, {}, 0
        for name, module in modules.items():
            if not isinstance(module, KNOWN) or getattr(module, 'weight', None) is None or (
                    isinstance(module, nn.PReLU) and module.num_parameters == 1):  # one slope for all channels
                continue
            for side in ('out', 'in') if isinstance(module, LAYERS) else ('out',):
                axis = axis_of(module, side)
                size = module.weight.shape[min(axis, module.weight.dim() - 1)]
                grouped = getattr(module, 'groups', 1)
                size *= grouped if axis_of(module, side) == 1 else 1
                self.keys.append((name, side))
                self.starts[name, side], self.sizes[name, side] = total, size
                total += size
        self.total = total
        self.bounds = np.array([self.starts[key] for key in self.keys] + [total])

    def offset(self, name: str, side: str) -> int:
        return self.starts.get((name, side), 0)

    def size(self, name: str, side: str) -> int:
        return self.sizes.get((name, side), 0)


def _assembled(own: dict[str, nn.Module], order: list[str], sides: _Sides, edges: list, reached: dict[str, set[int]]
               ) -> tuple[list[Group], dict[str, str]]:
    """From pairs of positions that are pruned together to groups."""
    rows, columns = (np.concatenate([edge[i] for edge in edges]) for i in (0, 1))
    number, label = connected_components(
        coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), (sides.total, sides.total)), directed=False)
    by_class = np.argsort(label, kind='stable')
    splits = np.split(by_class, np.cumsum(np.bincount(label, minlength=number))[:-1])
    side_of = np.searchsorted(sides.bounds, np.arange(sides.total), side='right') - 1
    why = {position: reason for reason, positions in reached.items() for position in positions}
    alike: dict[tuple, list[np.ndarray]] = {}
    for positions in splits:
        if len(positions) > 1:
            alike.setdefault(tuple(side_of[positions]), []).append(positions)
    rank = {name: i for i, name in enumerate(order)}
    groups, kept, taken = [], {}, set()
    for signature, channels in sorted(alike.items(), key=lambda item: item[1][0][0]):
        table = np.stack(sorted(channels, key=lambda positions: positions[0]))  # (C, positions of a channel)
        members, regular = [], True
        for side in dict.fromkeys(signature):
            part = table[:, [i for i, s in enumerate(signature) if s == side]] - sides.bounds[side]
            found = _members(*sides.keys[side], part, sides.sizes[sides.keys[side]])
            regular = regular and bool(found)
            members += found
        members.sort(key=lambda member: (rank.get(member.module, len(rank)), member.side))
        makers = [m.module for m in members if m.side == 'out' and isinstance(own[m.module], LAYERS)
                  and not is_depthwise(own[m.module])]
        readers = [m.module for m in members if m.side == 'in']
        if not makers:
            continue  # channels of the input
        name = makers[0]
        if name in taken:
            name += f'[{next(m.start for m in members if m.module == makers[0] and m.side == "out")}]'
        taken.add(name)
        norms = [m.module for m in members if isinstance(own[m.module], NORMS)]
        group = Group(name, len(table), members, makers, norms)
        reasons = {why[p] for p in table.flatten().tolist() if p in why}
        grouped = [m.module for m in members if getattr(own[m.module], 'groups', 1) > 1
                   and not is_depthwise(own[m.module])]
        if reasons:
            kept[name] = f'leads to {sorted(reasons)[0]}'
        elif grouped:
            kept[name] = f'{grouped[0]} is a convolution in groups'
        elif not readers:
            kept[name] = 'no layer reads it'
        elif not regular:
            kept[name] = 'its channels stand in no regular order in one of its layers'
        elif len(table) < 2:
            kept[name] = 'it has one channel'
        else:
            groups.append(group)
    groups.sort(key=lambda group: (rank[group.makers[0]], group.members[0].start))
    return groups, kept


def _members(module: str, side: str, part: np.ndarray, size: int) -> list[Member]:
    """The regular forms of (C, count) positions, together or, where the channels come twice, apart; else none."""
    part = np.sort(part, axis=1)
    for columns in ([part], np.split(part, part.shape[1], axis=1)):
        found = []
        for one in columns:
            start, stride = int(one[0, 0]), int(one[1, 0] - one[0, 0]) if len(one) > 1 else one.shape[1]
            expected = start + np.arange(len(one))[:, None] * stride + np.arange(one.shape[1])
            if stride > 0 and np.array_equal(one, expected):
                found.append(Member(module, side, start, stride, one.shape[1], int(size)))
        if len(found) == len(columns):
            return found
    return []


def _with_roles(model: nn.Module, groups: list[Group], order: list[str]) -> list[Group]:
    own = dict(model.named_modules())
    first = next((name for name in order if isinstance(own[name], LAYERS)), None)
    reads = {(m.module, m.side): group for group in groups for m in group.members}
    for group in groups:
        depthwise = any(is_depthwise(own[m.module]) for m in group.members)
        group.role = ('stream' if len(group.makers) > 1 else 'stem' if first in group.makers else
                      'depthwise' if depthwise else 'inner')
        owner, _, key = group.makers[0].rpartition('.')
        squeezed = getattr(own[owner], 'squeeze', None)
        if key == squeezed and (group.makers[0], 'in') in reads:
            group.follows, group.role = reads[group.makers[0], 'in'].name, 'squeeze'
    return groups


# --------------------------------------------------------------------------------------------------------------- trial

def _tried(model: nn.Module, run: Run, graph: ChannelGraph) -> ChannelGraph:
    """The groups of a graph that bear pruning; others are kept whole, with the reason."""
    if not graph.groups or _trial(model, run, graph.groups) is None:
        return graph
    good = []
    stack = [graph.groups]
    while stack:  # halves, so that a few bad groups cost few trials
        some = stack.pop()
        why = _trial(model, run, some)
        if why is None:
            good += some
        elif len(some) == 1:
            graph.kept[some[0].name] = why
        else:
            stack += [some[len(some) // 2:], some[:len(some) // 2]]
    while good and (why := _trial(model, run, good)) is not None:  # those that only fail together
        graph.kept[good.pop().name] = why
    names = {group.name for group in good}
    graph.groups = [group for group in graph.groups if group.name in names]
    return graph


@torch.no_grad()
def _trial(model: nn.Module, run: Run, groups: Sequence[Group]) -> str | None:
    """What goes wrong where every fourth channel of each group is zero, then gone; None where nothing does."""
    keeps = {group.name: [i for i in range(group.width) if i % 4 != 3 and (group.width > 3 or i)] for group in groups}
    net = silenced(copy.deepcopy(model).eval(), groups, keeps)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = tensors_of(run(net))
        structure = dict(format=FORMAT, groups=records(groups, keeps))
        try:
            apply_structure(net, structure)
            torch.manual_seed(0)
            after = tensors_of(run(net))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            return f'the net does not run without some of it ({str(error).splitlines()[0][:80]})'
    for one, other in zip(before, after):
        if one.shape != other.shape:
            return 'an output would change its shape'
        scale = float(one.abs().max())
        if not float((one - other).abs().max()) <= TOLERANCE * max(scale, 1e-6):
            return 'silent channels of it change the output'
    return None


def silenced(model: nn.Module, groups: Sequence[Group], keeps: dict[str, Sequence[int]]) -> nn.Module:
    """Set all that makes the channels which are not kept to zero: weights, biases, scales and shifts; in place."""
    own = dict(model.named_modules())
    with torch.no_grad():
        for group in groups:
            gone = np.setdiff1d(np.arange(group.width), keeps[group.name])
            for member in group.members:
                module, positions = own[member.module], torch.as_tensor(group.positions(member)[gone].flatten())
                if member.side == 'out':
                    for parameter in module._parameters.values():
                        if parameter is None or (parameter.dim() == 1 and len(parameter) != member.size):
                            continue  # one slope for all channels
                        axis = axis_of(module, 'out') if parameter.dim() > 1 else 0
                        parameter.index_fill_(axis, positions.to(parameter.device), 0.0)
    return model


def records(groups: Sequence[Group], keeps: dict[str, Sequence[int]], more: dict[str, dict] | None = None
            ) -> list[dict]:
    """The groups as a structure has them, see `perception/utils/structure.py`.

    Args:
        groups: of a graph.
        keeps: name of each -> channels that stay.
        more: name -> further entries.
    """
    return [dict(name=group.name, full=group.width, **(more or {}).get(group.name, {}),
                 keep=[int(i) for i in keeps[group.name]], members=[list(member) for member in group.members])
            for group in groups]
