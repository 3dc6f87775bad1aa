"""DHA's head: its parts, each switched on and off, what it learns from, and what it finds."""
import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from perception.common.nets.center_head import CenterHead
from perception.crowd.models.dha import DHAHead, cut_windows, nearest
from perception.utils.errors import ConfigError

RANGE, VOXEL = (0, -3.2, -4, 6.4, 3.2, 2), (.05, .05, .15)  # level 0 of stride 4 has 32 x 32 cells of 0.2 m
PLAIN = dict(levels=(0,), mixture=False, density=False, attention=False, fuse=False, delta=False,
             adaptive_radius=False)
PARTS = ('mixture', 'density', 'attention', 'fuse', 'delta')
FOUND = dict(peak_window=3, max_detections=200, score_threshold=.05, nms_threshold=.3)


def dha(**changes) -> DHAHead:
    """A narrow head on features of stride 8."""
    torch.manual_seed(0)
    return DHAHead(**{**dict(in_channels=12, tasks=[('person',)], point_cloud_range=RANGE, voxel_size=VOXEL, stride=4,
                             base_level=1, shared_channels=8, head_channels=8, **FOUND), **changes})


def stir(head: nn.Module) -> nn.Module:
    """A head whose norms and zeros are no longer those of the start."""
    generator = torch.Generator().manual_seed(1)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias.data, module.weight.data):
                values.add_(.3 * torch.randn(values.shape, generator=generator))
    for block in head.blocks:
        if block.delta is not None:
            block.delta[-1].weight.data.add_(.1 * torch.randn(block.delta[-1].weight.shape, generator=generator))
    return head


def sample(boxes: list, labels: list | None = None, **fields) -> BaseDataElement:
    """People at x, y: standing, 0.6 x 0.5 x 1.7 m, walking."""
    rows = torch.tensor([[x, y, -.8, .6, .5, 1.7, .4, 1.2, -.3] for x, y in boxes]).view(-1, 9)
    labels = torch.tensor(labels or [0] * len(boxes), dtype=torch.long)
    return BaseDataElement(boxes=rows, labels=labels, **{key: torch.tensor(value) for key, value in fields.items()})


def perfect(head: DHAHead, samples: list) -> list[dict]:
    """Maps that say exactly what the targets are."""
    maps = []
    for target in head.targets(samples):
        rows = target.boxes.new_zeros(*target.cells.shape[:1], target.boxes.shape[2], head.grid.shape[0] *
                                      head.grid.shape[1])
        batch = torch.arange(len(samples))[:, None].expand_as(target.cells)[target.mask]
        rows[batch, :, target.cells[target.mask]] = target.boxes[target.mask]
        parts = rows.unflatten(2, head.grid.shape).split(list(head.branches.values()), dim=1)
        maps.append(dict(zip(head.branches, parts), heatmap=target.heatmap.logit(eps=1e-4)))
    return maps


# --- the equivalence ---
def test_with_one_level_and_no_parts_it_is_the_plain_head():
    head, plain = stir(dha(**PLAIN)).eval(), CenterHead(8, [('person',)], RANGE, VOXEL, 4, shared_channels=8,
                                                        head_channels=8, **FOUND).eval()
    plain.shared_conv = nn.Identity()
    weights = {f'task_heads.0.{name}': value for name, value in head.task_heads[0].state_dict().items()}
    weights |= {f'task_heads.0.heatmap.{name}': value for name, value in head.blocks[0].hm[0].state_dict().items()}
    plain.load_state_dict(weights)
    features = torch.randn(2, 12, 16, 16)
    expected = plain(head.up[0](head.shared_conv(features)))
    found = head.complete(head(features))
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=0, atol=1e-5)
    people = [sample([(2, 1), (2.3, 1)]), sample([])]
    ours, theirs = head.loss(found, people), plain.loss(expected, people)
    assert {name for name in ours if 'loss' in name} == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)
    for one, other in zip(head.predict(head(features)), plain.predict(expected)):
        for part, wanted in zip(one, other):
            torch.testing.assert_close(part, wanted, rtol=0, atol=1e-5)


def test_it_starts_from_the_weights_of_the_plain_head():
    head = dha()
    torch.manual_seed(0)
    plain = CenterHead(12, [('person',)], RANGE, VOXEL, 8, shared_channels=8, head_channels=8)
    torch.testing.assert_close(head.shared_conv.conv.weight, plain.shared_conv.conv.weight)
    torch.testing.assert_close(head.blocks[0].hm[0][1].weight, plain.task_heads[0]['heatmap'][1].weight)
    torch.testing.assert_close(head.task_heads[0]['dim'][0].conv.weight, plain.task_heads[0]['dim'][0].conv.weight)


# --- shapes and parts ---
def test_sizes_of_a_published_width():
    wide = dict(in_channels=512, shared_channels=64, head_channels=64)
    counts = [sum(p.numel() for p in dha(**wide, **changes).parameters()) for changes in ({}, PLAIN)]
    assert counts == [748_446, 539_851]


@pytest.mark.parametrize('base', [0, 1, 2])
@pytest.mark.parametrize('levels', [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize('resample', ['learned', 'fixed'])
def test_levels_from_any_base(base, levels, resample):
    head = dha(base_level=base, levels=levels, resample=resample)
    size = 32 >> base
    found = head(torch.randn(2, 12, size, size))[0]
    assert found['heatmap'].shape == (2, 1, 32, 32) and found['vel'].shape == (2, 2, 32, 32)
    assert [x.shape[2] for x in found['aux']['heatmaps']] == [32 >> k for k in levels]
    assert found['aux']['density'].shape[2] == 32 >> min(2, levels[-1])
    if len(levels) > 1:
        torch.testing.assert_close(found['aux']['weights'].sum(1), torch.ones(2, 32, 32))


@pytest.mark.parametrize('on', [set(), {*PARTS}, *({part} for part in PARTS), *({*PARTS} - {part} for part in PARTS)],
                         ids=lambda on: ' '.join(sorted(on)) or 'none')
def test_every_part_can_be_left_out(on):
    changes = {part: part in on for part in PARTS}
    head = stir(dha(**changes))
    names = {name.split('.')[2 if name.startswith('blocks') else 0] for name, _ in head.named_parameters()}
    assert {'mix', 'density', 'attn', 'fuse', 'delta'} & names == {
        dict(mixture='mix', attention='attn').get(name, name) for name in on}
    losses = head.loss(head(torch.randn(1, 12, 16, 16)), [sample([(2, 1)])])
    assert ('loss_density' in losses) == changes['density']
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(('changes', 'named'), [
    (dict(levels=(1, 2)), 'levels'), (dict(levels=()), 'levels'), (dict(levels=(0, 2)), 'levels'),
    (dict(base_level=-1), 'level'), (dict(levels=range(7)), 'multiples of the stride 256'),
    (dict(resample='nearest'), 'learned, fixed')])
def test_heads_that_cannot_be(changes, named):
    with pytest.raises(ConfigError, match=named):
        dha(**changes)


def test_equal_logits_of_the_mixture_give_the_mean():
    head = dha(delta=False)
    nn.init.zeros_(head.blocks[0].mix[1].weight)
    found = head(torch.randn(1, 12, 16, 16))[0]
    logits = [nn.functional.interpolate(x, (32, 32), mode='bilinear') for x in found['aux']['heatmaps']]
    torch.testing.assert_close(found['heatmap'], sum(logits) / 3)
    torch.testing.assert_close(dha(delta=False, mixture=False)(torch.ones(1, 12, 16, 16))[0]['heatmap'].shape,
                               found['heatmap'].shape)


def test_an_empty_map_starts_with_scores_of_a_tenth():
    found = dha()(torch.zeros(1, 12, 16, 16))[0]
    torch.testing.assert_close(found['heatmap'].sigmoid(), torch.full((1, 1, 32, 32), .1), rtol=0, atol=.01)


def test_the_split_convolution_is_that_of_all_levels():
    head = stir(dha()).eval()
    maps = [torch.randn(1, 8, 32 >> k, 32 >> k) for k in range(3)]
    whole = torch.cat([nn.functional.interpolate(x, (32, 32), mode='bilinear') for x in maps], dim=1)
    torch.testing.assert_close(head.fused(maps), head.fuse(whole), rtol=0, atol=1e-5)


def test_gradients_reach_every_weight():
    head = stir(dha())
    losses = head.loss(head(torch.randn(2, 12, 16, 16)), [sample([(2, 1), (2.4, 1)]), sample([(4, -1)])])
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert not [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_two_tasks_have_blocks_of_their_own():
    head = dha(tasks=[('person',), ('cone', 'pole')])
    people = [sample([(2, 1), (3, 1), (4, 0)], [0, 2, 1])]
    maps = head(torch.randn(1, 12, 16, 16))
    assert [found['heatmap'].shape[1] for found in maps] == [1, 2]
    losses = head.loss(maps, people)
    assert {'task0.loss_heatmap_l2', 'task1.loss_density', 'task1.loss_bbox'} <= set(losses)
    heats = head.draw(head.people(people), 1)
    assert [(heats[0, c] == 1).sum().item() for c in range(3)] == [1, 1, 1]
    assert head.density(head.people(people), 2).shape == (1, 2, 8, 8)


# --- targets ---
def test_levels_have_targets_of_their_cells():
    head = dha(adaptive_radius=False)
    people = head.people([sample([(2.05, 1.05)])])
    for level in range(3):
        heat, cell = head.draw(people, level)[0, 0], .2 * 2 ** level
        row, column = (heat == 1).nonzero()[0].tolist()
        assert (row, column) == (int((1.05 + 3.2) / cell), int(2.05 / cell))
        assert (heat[row] > 0).sum() == 5  # a radius of two cells, of whatever size
    torch.testing.assert_close(head.draw(people, 0), head.targets([sample([(2.05, 1.05)])])[0].heatmap)


def test_the_radius_follows_the_distance_of_the_neighbour():
    near, far = [(2.05, 1.05), (2.45, 1.05)], [(2.05, 1.05), (2.85, 1.05)]
    for adaptive, valley in ((True, .1353), (False, .4868)):  # between two who stand 0.4 m apart
        heatmap = dha(adaptive_radius=adaptive).targets([sample(near)])[0].heatmap
        assert heatmap[0, 0, 21, 11] == pytest.approx(valley, abs=1e-3)
    alone = [dha(adaptive_radius=on).targets([sample(far), sample([(2.05, 1.05)])])[0].heatmap for on in (True, False)]
    torch.testing.assert_close(*alone)


def test_distance_to_the_nearest_one_of_the_same_sample():
    xy = torch.tensor([[0., 0], [3, 4], [0, 1], [7, 7]])
    torch.testing.assert_close(nearest(xy, torch.tensor([0, 0, 1, 2])), torch.tensor([5, 5, torch.inf, torch.inf]))
    assert nearest(xy[:0], torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_density_counts_who_stands_around():
    head = dha()
    density = head.density(head.people([sample([(2, 0), (2.5, .5)]), sample([]), sample([(2, 0)])]), 2)
    middles = head.grids[2].centers()
    one = torch.exp(-((middles - torch.tensor([2., 0])) ** 2).sum(-1) / 2)
    torch.testing.assert_close(density[2, 0], one)
    torch.testing.assert_close(density[0, 0], one + torch.exp(-((middles - torch.tensor([2.5, .5])) ** 2).sum(-1) / 2))
    assert not density[1].any()


def test_what_is_ignored_has_no_weight_at_any_level():
    head = dha(ignore_radius=5)
    people = head.people([sample([(2.05, 1.05), (3.05, -1.05)], ignore=[True, False])])
    assert len(people.boxes) == 1
    for level in range(3):
        weight, middles = head.weight(people, level)[0, 0], head.grids[level].centers()
        own = (middles - torch.tensor([2.05, 1.05])).norm(dim=-1)
        assert not weight[own == own.min()] and not weight[middles.norm(dim=-1) > 5].any()
        assert weight[(own > 1.2) & (middles.norm(dim=-1) <= 5)].all()


def test_people_in_one_cell_are_counted():
    head = dha()
    people = [sample([(2.01, 1.01), (2.15, 1.15), (2.05, 1.05)]), sample([(2.01, 1.01), (4, 1)])]
    assert head.loss(head(torch.randn(2, 12, 16, 16)), people)['shared_cells'] == 2


def test_frames_without_people_give_finite_losses():
    head = dha()
    losses = head.loss(head(torch.randn(2, 12, 16, 16)), [sample([]), sample([])])
    assert losses['loss_bbox'] == 0 and losses['loss_density'] >= 0
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()


# --- predictions ---
def test_boxes_come_back_from_their_targets():
    head = dha()
    places = [(2.05, 1.1), (4.37, -2.9), (.03, 3.15)]
    boxes, scores, labels = head.predict(perfect(head, [sample(places)]))[0]
    order = [int((boxes[:, :2] - torch.tensor(place)).norm(dim=1).argmin()) for place in places]
    assert len(boxes) == 3 and not labels.any() and (scores > .99).all()
    torch.testing.assert_close(boxes[order], sample(places).boxes, rtol=0, atol=1e-3)


@pytest.mark.parametrize('way', [(.45, 0), (0, .45), (.32, .32)])
def test_two_people_close_together_are_both_found(way):
    head = dha()
    for start in torch.linspace(2, 2.2, 5).tolist():
        places = [(start, 1.), (start + way[0], 1. + way[1])]
        boxes, _, _ = head.predict(perfect(head, [sample(places)]))[0]
        assert len(boxes) == 2, start


def test_branches_at_the_peaks_give_what_whole_maps_give():
    head = stir(dha()).eval()
    features = torch.randn(2, 12, 16, 16)
    found = head(features)[0]
    whole = head.complete([found])[0]
    assert 'features' in found and 'features' not in whole
    cells = torch.stack([torch.randperm(32 * 32)[:200], torch.arange(200)])
    cells[0, :4] = torch.tensor([0, 31, 31 * 32, 32 * 32 - 1])  # corners, where windows reach beyond the map
    torch.testing.assert_close(head.rows_at(found, cells, 0), head.rows_at(whole, cells, 0), rtol=1e-6, atol=1e-5)
    sparse = head.predict(head(features))
    head.dense = True
    for one, other in zip(sparse, head.predict(head(features))):
        assert [len(part) for part in one] == [len(part) for part in other]
        torch.testing.assert_close(one[0][:, :3], other[0][:, :3], rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(one[1], other[1])


def test_learns_a_crowd():
    head = dha(base_level=0, in_channels=4)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 4, 32, 32, generator=generator)
    places = [(2.05, 1.1), (2.5, 1.1), (4.3, -2.1), (2.2, 1.5)]
    optimizer = torch.optim.Adam(head.parameters(), lr=.02)
    for _ in range(60):
        losses = head.loss(head(features), [sample(places)])
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        optimizer.step()
    boxes, scores, _ = head.predict(head(features))[0]
    best = boxes[scores > .3]
    assert len(best) == 4
    assert torch.cdist(torch.tensor(places), best[:, :2]).amin(1).max() < .1


def test_windows_are_zero_beyond_the_map():
    features = torch.arange(1., 43).view(1, 1, 6, 7)
    windows, inside = cut_windows(features, torch.tensor([[0, 24, 41]]))
    assert windows[0, 0].tolist() == [[0] * 5, [0] * 5, [0, 0, 1, 2, 3], [0, 0, 8, 9, 10], [0, 0, 15, 16, 17]]
    torch.testing.assert_close(windows[1, 0], features[0, 0, 1:6, 1:6])
    assert inside[:, 0].tolist() == [[[0, 0, 0], [0, 1, 1], [0, 1, 1]], [[1] * 3] * 3, [[1, 1, 0], [1, 1, 0], [0] * 3]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_the_same_on_a_gpu():
    head, features = stir(dha()).eval(), torch.randn(2, 12, 16, 16)
    people = [sample([(2, 1), (2.4, 1)]), sample([(4, -1)])]
    expected = head.loss(head(features), people), head.predict(head(features))
    head.cuda()
    losses, found = head.loss(head(features.cuda()), people), head.predict(head(features.cuda()))
    for name, value in expected[0].items():
        torch.testing.assert_close(losses[name].cpu(), value, rtol=1e-3, atol=1e-3)
    assert [len(one[0]) for one in found] == [len(one[0]) for one in expected[1]]
