"""Two processes over gloo score as one does."""
import json

import numpy as np
import torch

from perception.bev.datasets.nuscenes.metric import NuScenesDetectionMetric
from perception.bev.datasets.nuscenes.reader import NuScenesRig
from perception.bev.map_metric import BEVSegMetric


def scores_of(dataset, rows):
    """What the metrics say of guesses that are the truth, moved a little, for some key frames, with truth of all."""
    metrics = [NuScenesDetectionMetric(), BEVSegMetric('bevfusion_map', rings=(0, 20, 50), bounds=(-50, -50, 50, 50))]
    for metric in metrics:
        metric.dataset_meta = dataset.metainfo
    for row in rows:
        sample, rng = dataset[row]['data_samples'], np.random.default_rng(row)
        noise = torch.from_numpy(rng.normal(0, .3, (len(sample.boxes), 9))).float()
        sample.pred_boxes, sample.pred_labels = sample.boxes.nan_to_num() + noise, sample.labels
        sample.pred_scores = torch.from_numpy(rng.random(len(sample.boxes))).float()
        sample.pred_map = (sample.map_labels + torch.from_numpy(rng.random(sample.map_labels.shape))).float() / 2
        for metric in metrics:
            metric.process(None, [sample.to_dict()])
    return [metric.evaluate(len(dataset)) for metric in metrics]


def test_two_processes_give_the_scores_of_one(mini_rig, two_processes):
    dataset = NuScenesRig(mini_rig, 'mini_val', reduce=2, map_preset='bevfusion_map')
    both = two_processes(lambda rank: scores_of(dataset, range(rank, len(dataset), 2)))
    one = json.dumps(scores_of(dataset, range(len(dataset))))
    assert len(dataset) > 1 and [json.dumps(scores) for scores in both] == [one, one]
