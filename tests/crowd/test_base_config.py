"""The base config of STCrowd: what its parts say to each other."""
import pytest
from mmengine.config import Config

from perception.apis.config import load_config, merge
from perception.crowd.transforms import SamplePeople
from perception.registry import DATASETS


@pytest.fixture
def config(root) -> Config:
    """The base as configs read it."""
    return load_config(root / 'configs/_base_/stcrowd.py')


def test_people_are_added_until_the_last_fifth_of_the_training(config):
    for mini in (False, True):
        if mini:
            merge(config._cfg_dict, config.mini_loaders, 'mini')
        steps = [step for step in config.train_dataloader.dataset.pipeline if step['type'] is SamplePeople]
        assert [step.epochs for step in steps] == [config.train_cfg.max_epochs] == [12 if mini else 40]


def test_its_loaders_read_the_official_layout(config, folder):
    for name, split, people in (('train', 'train', 1), ('val', 'val', 2), ('test', 'val', 2), ('submit', 'val', 2)):
        dataset = DATASETS.build(dict(config[f'{name}_dataloader'].dataset, data_root=str(folder)))
        item = dataset[40, 0]  # after the last epoch, so that nobody is added
        assert dataset.split == split and len(item['data_samples'].boxes) == people
        assert item['inputs']['points'][:, 0].min() >= 0
