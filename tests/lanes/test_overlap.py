"""Strokes against lines drawn one by one on whole canvases; ratios of counts."""
import cv2
import numpy as np
import pytest

from perception.lanes.overlap import Counts, ImageResult, count, draw_stroke, iou_matrix, matched_ious


def random_pixels(rng, points, spread):
    return np.cumsum(rng.normal(0, spread, (points, 2)), axis=0).astype(np.int64) + rng.integers(-50, 200, 2)


def slow_mask(pixels, size, width):
    """One line for each segment on the whole canvas."""
    mask = np.zeros(size, np.uint8)
    for a, b in zip(pixels[:-1], pixels[1:]):
        cv2.line(mask, a.tolist(), b.tolist(), 1, width)
    return mask


@pytest.mark.parametrize('seed', range(12))
def test_strokes_equal_one_line_per_segment(seed):
    rng = np.random.default_rng(seed)
    size, width = (120, 200), int(rng.integers(2, 31))
    pixels = random_pixels(rng, int(rng.integers(2, 60)), 12)
    stroke = draw_stroke(pixels, size, width)
    mask = np.zeros(size, np.uint8)
    mask[stroke.top:stroke.top + stroke.mask.shape[0], stroke.left:stroke.left + stroke.mask.shape[1]] = stroke.mask
    expected = slow_mask(pixels, size, width)
    assert (mask == expected).all() and stroke.area == expected.sum()


def test_ious_equal_those_of_whole_masks():
    rng, size = np.random.default_rng(3), (120, 200)
    lanes = [rng.integers(0, (200, 120), (8, 2)) for _ in range(3)]
    preds = [lane + rng.integers(-9, 9, 2) for lane in lanes]
    strokes, others = ([draw_stroke(pixels, size, 20) for pixels in group] for group in (lanes, preds))
    iou = iou_matrix([*strokes, None], others)
    for i, a in enumerate(lanes):
        for j, b in enumerate(preds):
            a_mask, b_mask = slow_mask(a, size, 20), slow_mask(b, size, 20)
            assert iou[i, j] == (a_mask & b_mask).sum() / (a_mask | b_mask).sum()
    assert iou.any() and (iou[3] == 0).all()
    outside = draw_stroke(np.array([[-900, -900], [-800, -900]]), size, 20)
    assert outside.area == 0 and np.isnan(iou_matrix([outside], [outside])).all()


def test_counts_of_images():
    match = np.array([1, -1, 0])
    ious = matched_ious(np.array([[.1, .8], [.9, .9], [.4, .2]]), match)
    assert ious == [.8, .4]
    counts = count([ImageResult(3, 2, ious), ImageResult(1, 0, [])])
    assert (counts.tp, counts.fp, counts.fn) == (1, 1, 3) and counts.f1 == 2 / 6
    assert count([ImageResult(3, 2, ious)], .3).tp == 2


def test_ratios_of_nothing():
    for numbers, expected in (((0, 0, 0), (-1, -1)), ((0, 5, 0), (0, -1)), ((0, 0, 4), (-1, 0))):
        counts = Counts(*numbers)
        assert (counts.precision, counts.recall) == pytest.approx(expected)
        assert counts.f1 == 0
