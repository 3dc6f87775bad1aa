"""Images of another size than the official one: labels, decoders, scores and submissions follow the image."""
import json
import re

import cv2
import numpy as np
import pytest
import torch

from perception.lanes.datasets.apolloscape.reader import ApolloScapeLaneMark
from perception.lanes.datasets.bdd100k.reader import BDD100K
from perception.lanes.datasets.culane.decoder import CULaneDecoder
from perception.lanes.datasets.culane.metric import CULaneMetric, lane_width
from perception.lanes.datasets.culane.reader import CULane, read_lanes
from perception.lanes.datasets.culane.submission import CULaneSubmission
from perception.lanes.datasets.llamas.metric import LLAMASMetric
from perception.lanes.datasets.llamas.reader import LLAMAS
from perception.lanes.datasets.tusimple.decoder import TuSimpleDecoder
from perception.lanes.datasets.tusimple.metric import TuSimpleMetric
from perception.lanes.datasets.tusimple.reader import TuSimple
from perception.lanes.datasets.tusimple.submission import TuSimpleSubmission
from perception.utils.errors import DataError

SETS = dict(culane=CULane, tusimple=TuSimple, bdd100k=BDD100K)


def ten_times(root):
    """Lanes of the tiny sets, whose images have a tenth of the official size, in official pixels."""
    for path in root.rglob('*.lines.txt'):
        path.write_text('\n'.join(' '.join(f'{10 * float(n):g}' for n in line.split())
                                  for line in path.read_text().splitlines()) + '\n')
    for path in root.rglob('*.json'):
        path.write_text(re.sub(r'(?<=[\[ ])\d+(?:\.\d+)?(?=[,\]])', lambda n: f'{10 * float(n[0]):g}',
                               path.read_text()))


def resize_all(root, size):
    for path in [*root.rglob('*.jpg'), *root.rglob('*color_rect.png')]:
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), size[::-1]))


def score(metric, sample, lanes, **more):
    metric.process(None, [dict(sample.all_items(), pred_lanes=lanes, **more)])
    return metric.compute_metrics(metric.results)


@pytest.mark.parametrize('name', SETS)
def test_labels_that_stayed_are_scaled_with_their_images(official, name, caplog):
    cls, root = SETS[name], official(name)
    own = [cls(root, split)[0]['data_samples'] for split in ('train', 'val', 'test')]
    assert all(sample.label_shape == sample.original_shape for sample in own)
    ten_times(root)
    for split, before in zip(('train', 'val', 'test'), own):
        sample = cls(root, split)[0]['data_samples']
        assert sample.original_shape == before.original_shape and sample.label_shape == cls.IMAGE_SIZE
        assert len(sample.lanes) == len(before.lanes) > 0
        for ours, theirs in zip(sample.lanes, before.lanes):
            np.testing.assert_allclose(ours, theirs, atol=.6 if name == 'bdd100k' else 1e-9)
        if 'labels' in before and name != 'bdd100k':
            assert sample.exist.tolist() == before.exist.tolist()
            assert (sample.labels != before.labels).float().mean() < .03
    assert sample.crop_top == 0 and cls(root, 'train', crop_top=100)[0]['data_samples'].crop_top == 10


def test_each_size_of_a_mixed_set_is_judged_by_its_own_labels(official):
    root = official('culane')
    own = CULane(root, 'train')[0]['data_samples']
    first, second = (entry[1] for entry in CULane(root, 'train').samples[:2])
    cv2.imwrite(second, np.zeros((*CULane.IMAGE_SIZE, 3), np.uint8))
    lines = second.replace('.jpg', '.lines.txt')
    with open(lines, 'w') as file:
        file.write('300 580 500 400\n')
    samples = [CULane(root, 'train', check_flags=False, all_lanes=True)[k]['data_samples'] for k in (0, 1)]
    assert samples[0].label_shape == samples[0].original_shape == own.original_shape  # its labels are its own
    np.testing.assert_allclose(samples[0].lanes[0], own.lanes[0])
    assert samples[1].lanes[0].tolist() == [[300, 580], [500, 400]]


def test_llamas_is_scaled_as_a_whole(official):
    root = official('llamas')
    whole = LLAMAS(root, 'val', crop_top=300)[0]['data_samples']
    resize_all(root, (358, 638))
    sample = LLAMAS(root, 'val', crop_top=300)[0]['data_samples']
    assert sample.original_shape == (358, 638) and sample.label_shape == (717, 1276) and sample.crop_top == 150
    for ours, theirs in zip(sample.lanes, whole.lanes):
        np.testing.assert_allclose(ours, theirs * (638 / 1276, 358 / 717))
    assert sample.labels.shape == (208, 638) and sample.full_labels.shape == (358, 638)
    assert set(sample.labels.unique().tolist()) == set(whole.labels.unique().tolist())
    for shift in (0, 3, 12, 60):
        both = [score(LLAMASMetric(('f1', 'regression')), found, [lane + (shift * found.original_shape[1] / 1276, 0)
                                                                 if len(lane) else lane for lane in found.lanes])
                for found in (sample, whole)]
        assert both[0] == pytest.approx(both[1], abs=.01)
    resize_all(root, (400, 638))
    with pytest.raises(DataError, match='400 x 638 pixels, expected 717 x 1276'):
        LLAMAS(root, 'val')[0]


def test_label_images_are_scaled_to_their_images(official):
    root = official('apolloscape')
    for path in root.rglob('*_bin.png'):
        cv2.imwrite(str(path), cv2.imread(str(path)).repeat(2, 0).repeat(2, 1))
    sample = ApolloScapeLaneMark(root, 'val', crop_top=20)[0]['data_samples']
    assert sample.labels.shape == (60, 96) and sample.full_labels.shape == (80, 96)
    assert (sample.labels[20:24] == 1).all() and (sample.labels[40:, 20:30] == 7).all()


def test_scaled_images_are_scored_and_submitted_in_official_pixels(official, tmp_path):
    """Accuracy and F1 of shifted lanes are those of the official size."""
    root = official('tusimple')
    ten_times(root)
    small = TuSimple(root, 'test')[0]['data_samples']
    resize_all(root, (720, 1280))
    whole = TuSimple(root, 'test')[0]['data_samples']
    assert whole.h_samples == tuple(range(160, 720, 40)) and small.h_samples == tuple(range(16, 72, 4))
    for shift in (0, 15, 25, 60):
        both = [score(TuSimpleMetric(), sample, [lane + (shift * sample.original_shape[1] / 1280, 0)
                                                 for lane in sample.lanes]) for sample in (small, whole)]
        assert both[0] == pytest.approx(both[1])
        both = [score(CULaneMetric(), sample, [lane + (shift * sample.original_shape[1] / 1280, 0)
                                               for lane in sample.lanes]) for sample in (small, whole)]
        assert both[0] == pytest.approx(both[1])
    record = TuSimpleSubmission(tmp_path).write('a', dict(small.all_items(), pred_lanes=small.lanes))
    truth = json.loads((root / 'test_label.json').read_text().splitlines()[0])
    assert record['h_samples'] == truth['h_samples']
    assert record['lanes'] == np.maximum(truth['lanes'], -2).tolist()


def test_culane_submits_official_pixels(official, tmp_path):
    root = official('culane')
    ten_times(root)
    sample = CULane(root, 'test')[0]['data_samples']
    CULaneSubmission(tmp_path).write('a', dict(sample.all_items(), pred_lanes=sample.lanes))
    for ours, theirs in zip(read_lanes(tmp_path / 'a.lines.txt'), read_lanes(sample.image_path[:-3] + 'lines.txt')):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_other_images_in_culanes_format_are_scored_at_their_size(official):
    """1280 x 720: lanes 300 pixels off are wrong, and lanes are 23 pixels wide, as 30 are of 1640."""
    root = official('culane')
    resize_all(root, (720, 1280))
    lane = np.stack([np.linspace(300, 600, 40), np.linspace(719, 320, 40)], 1)
    for path in root.rglob('*.lines.txt'):
        path.write_text(' '.join(f'{n:g}' for n in lane.ravel()) + '\n')
    sample = CULane(root, 'test')[0]['data_samples']
    assert sample.original_shape == sample.label_shape == (720, 1280)
    np.testing.assert_allclose(sample.lanes[0], lane, atol=1e-3)
    assert lane_width((720, 1280)) == 23 and lane_width((590, 1640)) == 30 and lane_width((1080, 1920)) == 35
    found = {shift: score(CULaneMetric(), sample, [lane + (shift, 0)])['f1_50'] for shift in (0, 5, 11, 300)}
    assert found == {0: 1, 5: 1, 11: 0, 300: 0}
    assert score(CULaneMetric(width=60), sample, [lane + (11, 0)])['f1_50'] == 1
    below = np.array([[800., 719], [800, 600]])  # outside CULane's own canvas
    assert score(CULaneMetric(), sample, [below])['f1_50'] == 0
    sample.lanes = [below]
    assert score(CULaneMetric(), sample, [below])['f1_50'] == 1


@pytest.mark.parametrize('name', SETS)
def test_labels_of_an_image_of_another_shape_are_refused(official, name):
    root = official(name)
    ten_times(root)
    resize_all(root, (64, 64))
    message = 'labels of|64 x 64 pixels with lanes down to row' if name == 'culane' else 'with lanes down to row'
    with pytest.raises(DataError, match=message):
        SETS[name](root, 'test')[0]


def test_decoders_take_the_size_from_the_sample():
    probs = torch.zeros(1, 3, 72, 128)
    probs[0, 1, 24:, 40:49] = probs[0, 2, 24:, 80:89] = 1
    for decoder in (CULaneDecoder(kernel=3), TuSimpleDecoder(), TuSimpleDecoder('simple')):
        whole, = decoder(probs, None, [dict(original_shape=(720, 1280))])
        for share in (.5, 1.5, 3):
            size = (round(720 * share), round(1280 * share))
            lanes, = decoder(probs, None, [dict(original_shape=size)])
            assert len(lanes) == len(whole) == 2
            for ours, theirs in zip(lanes, whole):
                assert len(ours) == len(theirs) > 10
                np.testing.assert_allclose(ours, theirs * share, atol=share * 10)
    lane, = CULaneDecoder(kernel=3)(probs[:, :2], None, [dict(original_shape=(2160, 3840))])[0]
    assert lane[0, 1] == 2159 and lane[-1, 1] < 1000 and (np.diff(lane[:, 1]) < 0).all()
