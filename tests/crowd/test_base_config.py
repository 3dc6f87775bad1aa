"""The base config of STCrowd: what its parts say to each other."""
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from perception.apis import loops
from perception.apis.config import load_config, merge
from perception.common.samplers import EpochSampler
from perception.crowd.datasets.stcrowd.reader import STCrowd
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


def test_the_end_of_adding_people_moves_with_that_of_the_training(root):
    name, own = root / 'configs/crowd/centerpoint_pillar_stcrowd.py', 'train_dataloader.dataset.pipeline.1.epochs'
    for options, epochs in (({}, 40), ({'train_cfg.max_epochs': 10}, 10), ({'train_cfg.max_epochs': 10, own: 12}, 12)):
        assert load_config(name, options=options).train_dataloader.dataset.pipeline[1].epochs == epochs


@pytest.mark.parametrize(('epochs', 'sampler', 'said'), [
    (4, EpochSampler, []), (40, EpochSampler, ['SamplePeople is told of 40 epochs in a training of 4']),
    (4, DefaultSampler, ['DefaultSampler does not tell the epoch'])])
def test_augmentation_that_does_not_know_of_the_epochs_is_said(folder, monkeypatch, epochs, sampler, said):
    dataset, texts = STCrowd(folder, pipeline=[SamplePeople(epochs=epochs)]), []
    monkeypatch.setattr(loops, 'print_log', lambda text, *_: texts.append(text))
    loader = DataLoader(dataset, sampler=sampler(dataset, seed=0), collate_fn=pseudo_collate)
    for loop in (EpochBasedTrainLoop(SimpleNamespace(visualizer=SimpleNamespace()), loader, 4),
                 IterBasedTrainLoop(SimpleNamespace(visualizer=SimpleNamespace()), loader, 4 * len(dataset))):
        texts.clear()
        loops.check_steps(loop)
        assert len(texts) == len(said) and all(part in text for part, text in zip(said, texts))


def test_its_loaders_read_the_official_layout(config, folder):
    for name, split, people in (('train', 'train', 1), ('val', 'val', 2), ('test', 'val', 2), ('submit', 'val', 2)):
        dataset = DATASETS.build(dict(config[f'{name}_dataloader'].dataset, data_root=str(folder)))
        item = dataset[40, 0]  # after the last epoch, so that nobody is added
        assert dataset.split == split and len(item['data_samples'].boxes) == people
        assert item['inputs']['points'][:, 0].min() >= 0


@pytest.mark.parametrize('mini', [False, True])
@pytest.mark.parametrize('name', ['fusion_voxel', 'camera_r50', 'dha_voxel'])
def test_what_is_submitted_is_seen_as_what_is_tested(root, name, mini):
    config = load_config(root / f'configs/crowd/{name}_stcrowd.py', mini)
    assert config.submit_dataloader == config.test_dataloader
