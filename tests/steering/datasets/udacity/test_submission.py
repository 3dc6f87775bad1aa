"""Answers of Udacity's challenge 2, written, validated and read again."""
import numpy as np
import pytest
import torch

from perception.common.structures import SteeringSample
from perception.steering.datasets.udacity.submission import UdacityResults, UdacitySubmission, validate_submission
from perception.steering.metrics import SteeringMetric
from perception.utils.errors import DataError

START = 1479425441182877835


def clip(numbers, scored=None):
    """A clip of the test whose frames have the angle of their number in degrees."""
    sample = SteeringSample(metainfo=dict(
        sample_id=f'test/{START + numbers[0]}', recording='test', frames=[str(START + k) for k in numbers],
        timestamps=[.05 * k for k in numbers]))
    sample.targets = sample.pred_targets = torch.tensor(numbers, dtype=torch.float32)[:, None].repeat(1, 3)
    sample.scored = torch.tensor(scored or [True] * len(numbers))
    return sample


def submit(folder, clips, count):
    writer = UdacitySubmission(folder)
    writer.dataset_meta = dict(num_frames=count)
    writer.process(None, [sample.to_dict() for sample in clips])
    writer.compute_metrics(writer.results)
    return folder / 'submission.csv'


def test_a_submission_reads_back_as_predictions(tmp_path):
    clips = [clip([3, 4, 5], [False, True, True]), clip([0, 1, 2, 3])]
    path = submit(tmp_path, clips, 6)
    lines = path.read_text().split('\n')
    assert lines[:3] == ['frame_id,steering_angle', f'{START},0.000000000', f'{START + 1},{np.radians(1):.9f}']
    assert len(lines) == 8 and not lines[-1]
    results = UdacityResults(path)
    for sample in clips:
        del sample.pred_targets
    samples = results.test_step(dict(data_samples=clips))
    metric = SteeringMetric()
    metric.process(None, [sample.to_dict() for sample in samples])
    assert metric.compute_metrics(metric.results)['MAE'] < 1e-6
    with pytest.raises(DataError, match=f'no answer for frame {START + 9}'):
        results.test_step(dict(data_samples=[clip([5, 9])]))


def test_a_part_of_the_test_is_refused(tmp_path):
    with pytest.raises(DataError, match='4 frames, expected 6'):
        submit(tmp_path, [clip([0, 1, 2, 3])], 6)


def test_the_golden_is_valid_and_scores_as_it_should(shared):
    folder = shared / 'goldens/steering_csv'
    frames = [line.split(',')[0] for line in (folder / 'CH2_final_evaluation.csv').read_text().split()]
    assert validate_submission(folder / 'prediction.csv', frames) == []
    assert len(UdacityResults(folder / 'prediction.csv').results) == 5614


@pytest.mark.parametrize(('text', 'problem'), [
    ('frame_id,angle\n1,0\n', 'first row'), ('frame_id,steering_angle\n1\n', 'row 2 has 1 columns'),
    ('frame_id,steering_angle\n1,0\n1,0\n', '1 is there twice'),
    ('frame_id,steering_angle\n1.jpg,0\n', 'no time stamp'),
    ('frame_id,steering_angle\n1,nan\n', 'no angle'), ('frame_id,steering_angle\n1,-40\n', 'in radians'),
    ('frame_id,steering_angle\n1,x\n', 'no angle'), ('frame_id,steering_angle\n2,0\n', 'frame 1 is missing'),
    ('frame_id,steering_angle\n1,0\n2,0\n', 'frame 2 is unknown')])
def test_bad_answers_are_told(tmp_path, text, problem):
    (tmp_path / 'a.csv').write_text(text)
    assert any(problem in found for found in validate_submission(tmp_path / 'a.csv', ['1']))
    if 'missing' not in problem and 'unknown' not in problem:
        with pytest.raises(DataError):
            UdacityResults(tmp_path / 'a.csv')


def test_no_predictions(tmp_path):
    sample = clip([0, 1])
    del sample.pred_targets
    with pytest.raises(DataError, match='no pred_targets'):
        submit(tmp_path, [sample], 2)
