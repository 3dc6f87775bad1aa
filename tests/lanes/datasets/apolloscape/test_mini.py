"""The mini ApolloScape is read by its reader."""
import numpy as np

from perception.lanes.datasets.apolloscape.reader import SCORED, ApolloScapeLaneMark


def samples(dataset):
    return [dataset[i]['data_samples'] for i in range(len(dataset))]


def test_apolloscape_has_official_colours_and_nothing_above_the_road(mini_apolloscape):
    found = set()
    for split in ('train', 'val'):
        for sample in samples(ApolloScapeLaneMark(mini_apolloscape, split, crop_top=0)):
            labels = sample.labels.numpy()
            assert labels.shape == (2710, 3384)
            assert not labels[:1700].any()
            found |= set(np.unique(labels).tolist())
    assert len(ApolloScapeLaneMark(mini_apolloscape, 'test')) == 1
    assert len(found & set(SCORED)) >= 9
