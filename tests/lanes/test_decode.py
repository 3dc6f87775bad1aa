"""Means, maxima and the way back to the original image, pixel by pixel."""
import numpy as np
import pytest
import torch

from perception.lanes.decode import box_mean, restore_labels, restore_probs

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('kernel', [1, 5, 9])
@pytest.mark.parametrize('padding', ['zeros', 'reflect'])
def test_means(device, kernel, padding, random_probs, slow_mean):
    probs = random_probs(0, 2, 12, 17)
    rows = np.array([11, 0, 5])
    means = box_mean(probs.to(device), rows, kernel, padding).cpu()
    for k in range(2):
        image = probs[0, k].double().numpy()
        expected = [[slow_mean(image, row, column, kernel, padding) for column in range(17)] for row in rows]
        assert means[0, k].tolist() == expected


def test_back_to_the_original_image():
    probs = torch.tensor([[[.2, .8]], [[.8, .2]]])
    full = restore_probs(probs, (5, 4), crop_top=2)
    assert full.shape == (2, 5, 4) and (full.sum(dim=0) == 1).all()
    assert (full[0, :2] == 1).all() and full[1, 2].tolist() == pytest.approx([.8, .65, .35, .2])
    labels = restore_labels(torch.tensor([[1, 2], [3, 255]]), (6, 4), crop_top=2)
    assert labels.tolist() == [[0] * 4] * 2 + [[1, 1, 2, 2]] * 2 + [[3, 3, 255, 255]] * 2
