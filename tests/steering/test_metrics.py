"""Scores of driving, against the golden of Udacity's challenge 2 and slow loops."""
import json

import numpy as np
import pytest
import torch

from perception.common.structures import SteeringSample
from perception.steering.datasets.udacity.reader import read_cells, read_evaluation
from perception.steering.metrics import ActionMetric, HardFramesMetric, SteeringMetric, steering_scores
from perception.utils.errors import DataError


def sample(pred, truth, recording='a', start=0, scored=None, **fields):
    """A clip as a metric gets it."""
    targets = torch.full((len(truth), 3), float('nan'))
    targets[:, 0] = torch.tensor(truth)
    found = SteeringSample(metainfo=dict(sample_id=f'{recording}/{start}', recording=recording,
                                         timestamps=[start + .05 * k for k in range(len(truth))],
                                         condition=fields.pop('condition', '')))
    found.targets, found.pred_targets = targets, torch.tensor(pred)[:, None].repeat(1, 3)
    found.scored = torch.ones(len(truth), dtype=torch.bool) if scored is None else torch.tensor(scored)
    for key, value in fields.items():
        found.set_field(torch.tensor(value), key)
    return found.to_dict()


def score(metric, samples):
    metric.process(None, samples)
    return metric.compute_metrics(metric.results)


def test_the_golden_to_the_digit(shared):
    folder = shared / 'goldens/steering_csv'
    expected = json.loads((folder / 'results.json').read_text())
    stamps, truth, public, _ = read_evaluation(folder / 'CH2_final_evaluation.csv')
    answers = {int(row[0]): float(row[1]) for _, row in read_cells(folder / 'prediction.csv', 'answers')[1:]}
    found = steering_scores(np.array([answers[stamp] for stamp in stamps.tolist()]), truth, public)
    close = {'MAE': expected['mae_deg'], 'RMSE': expected['rmse_deg'], 'RMSE_rad': expected['rmse_rad_all'],
             'RMSE_rad_public': expected['rmse_rad_public'], 'RMSE_rad_private': expected['rmse_rad_private'],
             'MAE_zero': expected['all_zero']['mae_deg'], 'RMSE_zero': expected['all_zero']['rmse_deg'],
             'RMSE_rad_zero': expected['all_zero']['rmse_rad_all'],
             'RMSE_rad_public_zero': expected['all_zero']['rmse_rad_public'],
             'RMSE_rad_private_zero': expected['all_zero']['rmse_rad_private'],
             'RMSE_rad_constant': expected['constant_mean_of_test']['rmse_rad_all']}
    for key, value in close.items():
        assert found[key] == pytest.approx(value, rel=1e-13), key
    white = expected['whiteness_std_of_difference_rad']
    assert np.radians(found['whiteness']) == pytest.approx(white['prediction'], rel=1e-13)
    assert np.radians(found['whiteness_truth']) == pytest.approx(white['truth'], rel=1e-13)
    assert (public == 1).sum() == 2797 and (public == 0).sum() == 2817


def test_each_frame_counts_once_whatever_the_clips():
    truth, pred = [0., 10, 20, 30, 40, 50, 60], [1., 12, 20, 27, 40, 50, 70]
    clips = [sample(pred[:3], truth[:3]), sample(pred[3:6], truth[3:6], start=.15),
             sample([99., 99, pred[6]], truth[4:], start=.2, scored=[False, False, True])]
    found = score(SteeringMetric(), [*clips, clips[0]])  # the sampler fills its last round
    assert found['MAE'] == pytest.approx(16 / 7) and found['RMSE'] == pytest.approx(np.sqrt((1 + 4 + 9 + 100) / 7))
    assert found['RMSE_rad'] == pytest.approx(np.radians(found['RMSE']))
    assert found['whiteness'] == pytest.approx(np.std(np.diff(pred)), rel=1e-6)
    assert found['whiteness_truth'] == pytest.approx(0, abs=1e-5) and 'RMSE_rad_public' not in found
    assert found['MAE_zero'] == pytest.approx(30) and found['RMSE_constant'] == pytest.approx(20)


def test_whiteness_does_not_look_from_one_recording_to_the_next():
    found = score(SteeringMetric(), [sample([0., 1], [0., 1]), sample([90., 91], [90., 91], 'b')])
    assert found['whiteness'] == pytest.approx(0, abs=1e-5)


def test_halves_are_scored_alone():
    found = score(SteeringMetric(), [sample([0., 0, 0, 0], [3., 4, 6, 8], public=[1, 1, 0, -1])])
    assert np.degrees(found['RMSE_rad_public']) == pytest.approx(np.sqrt(12.5))
    assert np.degrees(found['RMSE_rad_private']) == pytest.approx(6)


def test_hard_frames():
    samples = [sample([0., 0], [10., 40]), sample([5., 5], [10., 10], 'b', condition='night'),
               sample([1., 1], [2., 2], 'c', condition='day')]
    found = score(HardFramesMetric(sharp=30), samples)
    assert found['MAE_curve'] == pytest.approx(40) and found['MAE_night'] == pytest.approx(5)
    assert found['MAE_normal'] == pytest.approx((10 + 1 + 1) / 3) and found['MAE_hard'] == pytest.approx(50 / 3)
    assert 'MAE_glare' not in found and found['whiteness_night'] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(targets=None), 'no targets'), (dict(pred_targets=None), 'no pred_targets'),
    (dict(targets=torch.full((2, 3), float('nan'))), '0 true angles'),
    (dict(pred_targets=torch.full((2, 3), float('inf'))), '0 predicted angles'),
    (dict(pred_targets=torch.zeros(3, 3)), '3 predicted angles')])
def test_what_cannot_be_scored_is_said(changes, message):
    with pytest.raises(DataError, match=message):
        SteeringMetric().process(None, [dict(sample([1., 2], [1., 2]), **changes)])


# --- actions ---
def test_accuracy_and_perplexity():
    probs = [[.7, .1, .1, .1], [.2, .5, .2, .1], [.1, .1, .1, .7], [.25, .25, .25, .25]]
    found = score(ActionMetric(), [sample([0.] * 4, [0.] * 4, actions=[0, 2, 3, 255], pred_actions=probs)])
    assert found['accuracy'] == pytest.approx(2 / 3)
    assert found['perplexity'] == pytest.approx((.7 * .2 * .7) ** (-1 / 3), rel=1e-6)
    found = score(ActionMetric(), [sample([0.] * 4, [0.] * 4, actions=[0, 3, 3, 3], pred_actions=probs)])
    assert found['accuracy_constant'] == .75
    assert found['perplexity_constant'] == pytest.approx(.25 ** -.25 * .75 ** -.75, rel=1e-6)
    metric = ActionMetric()
    frames = metric.frames_of(sample([0.] * 4, [0.] * 4, actions=[0, 3, 3, 3], pred_actions=probs))
    table = [line.split() for line in metric.report(frames, np.ones(3, bool))[1].splitlines()]
    assert table[1:3] == [['0', '1', '100.00%'], ['1', '0', '-']]  # nothing is found of what never occurs


@pytest.mark.parametrize(('actions', 'probs', 'message'), [
    ([0, 5], [[1., 0, 0, 0]] * 2, 'action 5'), ([0, 1], [[2., 0, 0, 0]] * 2, 'sum'),
    ([255, 255], [[1., 0, 0, 0]] * 2, 'no frame')])
def test_bad_actions_are_refused(actions, probs, message):
    with pytest.raises(DataError, match=message):
        score(ActionMetric(), [sample([0.] * 2, [0.] * 2, actions=actions, pred_actions=probs)])
