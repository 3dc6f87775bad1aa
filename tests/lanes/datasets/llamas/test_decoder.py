"""LLAMAS's decoder: four lanes always."""
import pytest
import torch

from perception.lanes.datasets.culane.decoder import CULaneDecoder
from perception.lanes.datasets.llamas.decoder import LLAMASDecoder
from perception.utils.errors import DataError

SHAPE = dict(original_shape=(717, 1276))


def test_slots_can_be_kept():
    probs = torch.zeros(1, 5, 88, 160)
    probs[0, 3, :, 80:90] = 1
    lanes = LLAMASDecoder()(probs, None, [SHAPE])[0]
    assert [len(lane) for lane in lanes] == [0, 0, 417, 0]
    assert lanes[2][:, 1].tolist() == list(range(716, 299, -1)) and lanes[0].shape == (0, 2)
    assert [len(lane) for lane in CULaneDecoder()(probs, None, [dict(original_shape=(590, 1640))])[0]] == [18]


def test_bad_input():
    probs = torch.zeros(2, 5, 16, 32)
    with pytest.raises(DataError, match='for 1 images'):
        LLAMASDecoder()(probs, None, [SHAPE])
    with pytest.raises(DataError, match='expected one number a slot'):
        LLAMASDecoder()(probs, torch.zeros(2, 6), [SHAPE] * 2)
    with pytest.raises(DataError, match='no original_shape'):
        LLAMASDecoder()(probs, None, [dict(sample_id='a')] * 2)
    empty = LLAMASDecoder()(probs, None, [SHAPE] * 2)
    assert all(not len(lane) for image in empty for lane in image) and len(empty) == 2
