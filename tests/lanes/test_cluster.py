"""Clusters of made-up embeddings, and slow forms of the mean shift, the row means and the sampling."""
import numpy as np
import pytest
import torch

from perception.lanes.cluster import ClusterDecoder, Polynomial, mean_shift, row_means
from perception.utils.errors import ConfigError, DataError

META = dict(original_shape=(590, 1640), crop_top=0)
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


def scene(offsets, size=(72, 200), horizon=24, noise=.08, dimensions=4, seed=0):
    """Lanes that meet on the horizon, and embeddings around a corner of the cube of each.

    Args:
        offsets: columns of the lanes at the last row.
    """
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(size, dtype=torch.long)
    for k, offset in enumerate(offsets):
        for y in range(horizon + 8, height):
            x = round(width / 2 + (offset - width / 2) * (y - horizon) / (height - 1 - horizon))
            if 0 <= x < width:
                ids[y, max(x - 1, 0):x + 2] = k + 1
    corners = torch.cartesian_prod(*[torch.tensor([0., 3.])] * dimensions)[1:]
    corners = torch.cat([torch.zeros(1, dimensions), corners])
    embeddings = corners[ids] + noise * torch.randn(*size, dimensions, generator=generator)
    return ids, embeddings.permute(2, 0, 1)


def decode(ids, embeddings, decoder=None, meta=META):
    return (decoder or ClusterDecoder(min_share=0))((ids > 0).float()[None], embeddings[None], [meta])[0]


# --- clusters ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('offsets', [(), (90,), (40, 150), (30, 100, 170), (-60, 20, 80, 130, 190, 260),
                                     (-90, -40, 10, 60, 110, 160, 210)])
def test_every_lane_is_found_whatever_their_number(offsets, device):
    """With three lanes as in a lane change, one of them below the middle of the image."""
    ids, embeddings = scene(offsets)
    lanes = decode(ids.to(device), embeddings.to(device))
    assert len(lanes) == len(offsets)
    for lane, offset in zip(lanes, offsets):
        assert lane.dtype == np.float64 and np.all(np.diff(lane[:, 1]) == -20)
        y = (lane[:, 1] + .5) * 72 / 590 - .5
        x = 100 + (offset - 100) * (y - 24) / 47
        assert np.abs((lane[:, 0] + .5) * 200 / 1640 - .5 - x).max() < 1.0


@pytest.mark.parametrize('device', DEVICES)
def test_pixels_of_an_instance_share_a_cluster(device):
    ids, embeddings = scene((-60, 20, 80, 130, 190))
    found = ClusterDecoder(min_share=0).cluster((ids > 0).float().to(device), embeddings.to(device)).cpu()
    pairs = torch.unique(torch.stack([ids.flatten(), found.flatten()]), dim=1)
    assert pairs.shape[1] == 6 and len(set(pairs[1].tolist())) == 6
    assert (0, 0) in set(map(tuple, pairs.T.tolist()))


def slow_mean_shift(points, bandwidth, iterations=20):
    """Every point is a seed; the modes by the number of points around them."""
    modes = []
    for point in points:
        for _ in range(iterations):
            point = points[np.linalg.norm(points - point, axis=1) <= bandwidth].mean(0)
        modes.append(point)
    support = [(np.linalg.norm(points - mode, axis=1) <= bandwidth).sum() for mode in modes]
    kept = []
    for k in np.argsort(support)[::-1]:
        if all(np.linalg.norm(modes[k] - other) >= bandwidth for other in kept):
            kept.append(modes[k])
    return np.array(kept)


@pytest.mark.parametrize('device', DEVICES)
def test_mean_shift_equals_a_slow_form(device):
    rng = np.random.default_rng(0)
    groups = [rng.normal(centre, .15, (count, 3)) for centre, count in
              (((0, 0, 0), 80), ((3, 0, 0), 60), ((0, 3, 1), 40), ((2, 2, 2), 20))]
    points = np.concatenate(groups)
    slow = slow_mean_shift(points, .75)
    fast = mean_shift(torch.from_numpy(points).to(device), .75).cpu().numpy()
    assert len(fast) == len(slow) == 4
    np.testing.assert_allclose(fast, slow, atol=1e-9)
    np.testing.assert_allclose(fast, [group.mean(0) for group in groups], atol=1e-9)


def test_a_subsample_finds_the_same_lanes():
    ids, embeddings = scene((20, 80, 130, 190))
    few = decode(ids, embeddings, ClusterDecoder(min_share=0, max_points=60))
    for ours, theirs in zip(few, decode(ids, embeddings), strict=True):
        np.testing.assert_allclose(ours, theirs)


def test_small_clusters_are_dropped():
    ids, embeddings = scene((40, 150))
    stray = ids.clone()
    stray[56:68, 99:101] = 3
    embeddings = torch.where(stray == 3, torch.tensor([0., 3., 3., 3.])[:, None, None], embeddings)
    assert len(decode(stray, embeddings)) == 3
    assert len(decode(stray, embeddings, ClusterDecoder(min_share=24 / ids.numel()))) == 3
    assert len(decode(stray, embeddings, ClusterDecoder(min_share=25 / ids.numel()))) == 2


def test_pieces_on_one_curve_are_merged():
    ids, embeddings = scene((40, 150))
    pieces = ids.clone()
    pieces[60:][ids[60:] == 2] = 3  # the network took the lower end for another lane
    embeddings = torch.where(pieces == 3, torch.tensor([0., 3., 3., 3.])[:, None, None], embeddings)
    assert len(decode(pieces, embeddings, ClusterDecoder(min_share=0, merge_distance=0))) == 3
    merged = decode(pieces, embeddings)
    for ours, theirs in zip(merged, decode(*scene((40, 150))), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_probabilities_select_the_pixels():
    ids, embeddings = scene((40, 150))
    probs = torch.where(ids == 1, .6, torch.where(ids == 2, .4, .1))
    call = ClusterDecoder(min_share=0)
    assert len(call(probs[None], embeddings[None], [META])[0]) == 1
    assert len(ClusterDecoder(threshold=.3, min_share=0)(probs[None], embeddings[None], [META])[0]) == 2


def test_embeddings_may_be_coarser_than_the_pixels():
    ids, embeddings = scene((40, 150))
    coarse = torch.zeros(4, 36, 100)
    for y, x in np.ndindex(36, 100):
        k = int(ids[2 * y:2 * y + 2, 2 * x:2 * x + 2].max())
        coarse[:, y, x] = torch.tensor([[0., 0, 0, 0], [3., 0, 0, 0], [0., 3, 0, 0]])[k]
    fine = decode(ids, embeddings)
    np.testing.assert_allclose(decode(ids, coarse), fine)
    assert len(fine) == 2


# --- polynomials and points ----------------------------------------------------------------------------------------
@pytest.mark.parametrize('device', DEVICES)
def test_row_means_equal_a_slow_form(device):
    ids = torch.randint(0, 4, (2, 3, 5, 9), generator=torch.Generator().manual_seed(0)) * 2 % 5
    means, counts = (value.cpu().numpy() for value in row_means(ids.to(device)))
    assert means.shape == counts.shape == (2, 3, 4, 5)
    for a, b, k, y in np.ndindex(2, 3, 4, 5):
        columns = [x for x in range(9) if ids[a, b, y, x] == k + 1]
        assert counts[a, b, k, y] == len(columns)
        assert means[a, b, k, y] == (np.mean(columns) if columns else 0)


def test_row_means_of_nothing():
    means, counts = row_means(torch.zeros(2, 4, 6, dtype=torch.long))
    assert means.shape == counts.shape == (2, 0, 4)


@pytest.mark.parametrize('rows', [range(20, 60), range(10, 90, 7), (50, 51, 52, 53)])
def test_polynomial_passes_a_cubic(rows):
    y = np.arange(100.)
    x = 50 + .3 * y - .02 * (y - 40) ** 2 + 1e-4 * y ** 3
    seen = np.isin(y, rows)
    lane = Polynomial(np.where(seen, x, -1), seen)
    np.testing.assert_allclose(lane(y[list(rows)]), x[list(rows)], atol=1e-8)
    end = rows[-1]
    slope = .3 - .04 * (end - 40) + 3e-4 * end ** 2
    assert lane.at_bottom(99) == pytest.approx(x[end] + slope * (99 - end), abs=1e-4)


@pytest.mark.parametrize('rows', [(30,), (30, 40), (30, 33, 40)])
def test_few_rows_are_passed(rows):
    x, seen = np.zeros(50), np.zeros(50, bool)
    x[list(rows)], seen[list(rows)] = 7, True
    lane = Polynomial(x, seen)
    np.testing.assert_allclose(lane(np.array(rows)), 7)


def test_lanes_are_ordered_by_where_they_meet_the_bottom():
    """The outer lane leaves the image at its side, above the inner one's end; both end in column 0."""
    lanes = decode(*scene((-20, -200, 120, 300)))
    assert len(lanes) == 4
    tops = [lane[0, 1] for lane in lanes]
    assert tops[0] < tops[1] and tops[3] < tops[2]


def test_points_lie_on_the_rows_of_the_data_set():
    ids, embeddings = scene((40, 150))
    lanes = decode(ids, embeddings, meta=dict(original_shape=(720, 1280), h_samples=list(range(160, 720, 10))))
    for lane in lanes:
        assert set(lane[:, 1]) <= set(range(160, 720, 10)) and lane[0, 1] == 710
        assert lane[-1, 1] == min(v for v in range(160, 720, 10) if (v + .5) * 72 / 720 - .5 >= 31.5)
    lanes = decode(ids, embeddings, ClusterDecoder(min_share=0, step=1), dict(original_shape=(717, 1276)))
    assert all(lane[0, 1] == 716 and np.all(np.diff(lane[:, 1]) == -1) for lane in lanes)


def test_cut_rows_are_added_again():
    ids, embeddings = scene((40, 150))
    whole = decode(ids, embeddings, meta=dict(original_shape=(350, 1640)))
    cut = decode(ids, embeddings, meta=dict(original_shape=(590, 1640), crop_top=240))
    for ours, theirs in zip(cut, whole, strict=True):
        np.testing.assert_allclose(ours, theirs + (0, 240))


def test_points_stay_in_the_image():
    lanes = decode(*scene((-60, 260)))
    assert len(lanes) == 2
    for lane in lanes:
        assert lane[:, 0].min() >= 0 and lane[:, 0].max() <= 1639 and lane[0, 1] < 589


# --- bad input -----------------------------------------------------------------------------------------------------
def test_wrong_shapes_are_refused():
    ids, embeddings = scene((40,))
    decoder = ClusterDecoder()
    with pytest.raises(DataError, match=r'ClusterDecoder: lane_probs \(1, 2, 72, 200\)'):
        decoder(torch.zeros(1, 2, 72, 200), embeddings[None], [META])
    with pytest.raises(DataError, match='for 2 images'):
        decoder(torch.zeros(1, 72, 200), embeddings[None], [META, META])
    with pytest.raises(DataError, match='a/b has no original_shape'):
        decoder(torch.zeros(1, 72, 200), embeddings[None], [dict(sample_id='a/b')])


@pytest.mark.parametrize('arguments', [dict(bandwidth=0), dict(step=0), dict(max_points=0), dict(order=0)])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ConfigError, match='ClusterDecoder: bandwidth=.*expected positive numbers'):
        ClusterDecoder(**arguments)


def test_nothing_and_everything():
    ids, embeddings = scene((40,))
    assert decode(torch.zeros_like(ids), embeddings) == []
    everything = decode(torch.ones_like(ids), torch.zeros_like(embeddings))
    assert len(everything) == 1 and abs(everything[0][0, 0] - 819.5) < 1e-6
    wild = decode(torch.ones_like(ids), 100 * torch.randn(4, 72, 200, generator=torch.Generator().manual_seed(0)))
    assert all(np.isfinite(lane).all() for lane in wild)
