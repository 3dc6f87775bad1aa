import pytest

from perception.common.dataset import ConcatDataset, SeededDataset, parts, run_pipeline
from perception.utils.errors import ConfigError


class Numbers(SeededDataset):
    """Samples that say whose they are and what was drawn for them."""

    def __init__(self, first, size, classes=('a', 'b'), seed=0):
        super().__init__(seed=seed)
        self.first, self.size = first, size
        self.metainfo = dict(classes=classes, first=first)

    def __len__(self):
        return self.size

    def read(self, index):
        return dict(number=self.first + index)

    def pack(self, sample, index):
        return dict(number=sample['number'], epoch=sample['epoch'], drawn=sample['rng'].integers(1 << 30))


def test_samples_of_joined_data_are_those_of_their_own_data_sets():
    few, many = Numbers(0, 3), Numbers(100, 5)
    joined = ConcatDataset([few, Numbers(50, 0), many])
    assert len(joined) == 8 and joined.metainfo == few.metainfo
    assert [joined[i] for i in range(8)] == [few[i] for i in range(3)] + [many[i] for i in range(5)]
    assert joined[2, 4] == many[2, 1] != joined[1, 4] and joined[-1] == many[4]
    with pytest.raises(IndexError):
        joined[8]
    assert [(place, data.first) for place, data in parts(ConcatDataset([joined, few]), 'd')] == [
        ('d.datasets.0.datasets.0', 0), ('d.datasets.0.datasets.1', 50), ('d.datasets.0.datasets.2', 100),
        ('d.datasets.1', 0)]


def test_one_named_twice_with_another_seed_is_augmented_otherwise():
    joined = ConcatDataset([Numbers(0, 3), Numbers(0, 3, seed=1)])
    assert joined[1]['number'] == joined[4]['number'] and joined[1]['drawn'] != joined[4]['drawn']


def test_what_is_predicted_passes_a_pipeline_as_samples_do():
    first = Numbers(0, 1)
    steps = [lambda sample: dict(sample, number=sample['number'] + int(sample['rng'].integers(9))),
             lambda sample: dict(sample, said=(sample['epoch'], sample['classes']))]
    one, two = (run_pipeline(steps, dict(number=3), ('a', 'b')) for _ in range(2))
    assert one['number'] == two['number'] >= 3 and one['said'] == (0, ('a', 'b'))
    assert set(run_pipeline([], first.read(0))) == set(first.begin(first.read(0), 0, 0))
    with pytest.raises(ConfigError, match='asks for another sample to mix in'):
        run_pipeline([lambda sample: sample['draw']()], {})


@pytest.mark.parametrize('datasets, said', [
    ([], 'no datasets came'),
    ([Numbers(0, 1), Numbers(0, 1, ('b', 'a'))], 'datasets.1 has the classes b, a and datasets.0 a, b'),
    ([Numbers(0, 1), Numbers(0, 1, None)], r'datasets.1 has the classes \(none\)')])
def test_what_cannot_be_joined_is_refused(datasets, said):
    with pytest.raises(ConfigError, match=said):
        ConcatDataset(datasets)
