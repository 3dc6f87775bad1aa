"""The pictures of what a net has learned of its teachers."""
import argparse

import pytest
import torch

from perception.apis.benchmarks.steering import mimicked, mimicking
from perception.apis.config import load_config
from perception.registry import MODELS
from perception.utils.errors import CheckpointError, ConfigError

CONFIG = 'configs/fm/resnet50_lstm_udacity.py'


def test_a_row_for_each_path():
    cfg = load_config(CONFIG, mini=True).model
    for teacher in cfg.teachers.values():
        teacher.trained_by = None
    batch = mimicking.random_clips(1, (80, 80))
    for sample in batch['data_samples']:
        sample.set_metainfo(dict(sample_id='HMB_1/0'))
    picture = mimicked.draw(MODELS.build(cfg).eval(), batch)
    assert picture.shape[1] >= mimicked.WIDTH and picture.shape[0] > mimicked.WIDTH + 6 * 100 and picture.std() > 10


def test_colours_of_one_scale():
    image = mimicked.colors(torch.tensor([[[-9., 0], [2.5, 9]]]))
    assert image.shape == (160, 160, 3) and image[0, 0, 0] == 0 and image[-1, -1, 0] == image[-1, 0, 0] == 255
    assert (image[..., 1:] == 127).all()


def test_other_configs_are_refused(tmp_path):
    for config, error, named in (('configs/pvd/minkunet_kitti.py', ConfigError, 'no teachers of clips'),
                                 (CONFIG, CheckpointError, 'no checkpoint')):
        with pytest.raises(error, match=named):
            mimicked.run(argparse.Namespace(config=config, mini=True, work_dir=tmp_path, clips=1, out=None))
