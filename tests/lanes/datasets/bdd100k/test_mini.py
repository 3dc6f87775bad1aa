"""The mini BDD100K is read by both protocols."""
import json

import numpy as np

from perception.lanes.datasets.bdd100k.reader import BDD100K


def samples(dataset):
    return [dataset[i]['data_samples'] for i in range(len(dataset))]


def test_bdd100k_is_read_by_both_protocols(mini_bdd100k):
    assert [len(BDD100K(mini_bdd100k, split)) for split in ('train', 'val', 'test')] == [6, 1, 2]
    frames = json.loads((mini_bdd100k / 'labels/lane/polygons/lane_train.json').read_text())
    dataset = BDD100K(mini_bdd100k, 'train')
    for sample in samples(dataset):
        frame = next(frame for frame in frames if frame['name'] == f'{sample.sample_id.split("/")[1]}.jpg')
        lines = [label for label in frame['labels'] if label['attributes']['laneDirection'] == 'parallel']
        assert len(lines) / 2 <= len(sample.lanes) + 1 <= len(lines)       # two border lines a marking
        assert set(np.unique(sample.labels.numpy())) == {0, 1}
    official = samples(BDD100K(mini_bdd100k, 'val', protocol='official'))
    assert len(official) == 2
    for sample in official:
        assert 0 < (sample.labels.numpy() > 0).mean() < .05
    assert len(BDD100K(mini_bdd100k, 'test', protocol='official')) == 1
