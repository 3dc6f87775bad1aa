"""Tiny data sets and nets that the tests of the plugin share."""
import pytest
import torch

from perception.plugins.medical.models.densenet import DenseNet
from perception.plugins.medical.preprocessor import ViewPreprocessor

SMALL = dict(growth=4, blocks=(2, 2, 2), stem_channels=8, feature_dim=12, input_size=(32, 32))


@pytest.fixture(scope='session')
def aptos(mini_set):
    """Tiny APTOS 2019: 60 images, 2 of the test."""
    return mini_set('aptos')


@pytest.fixture(scope='session')
def ham10000(mini_set):
    """Tiny HAM10000 in ISIC's layout: 80 images, 2 of the test."""
    return mini_set('ham10000')


@pytest.fixture(scope='session')
def class_folder(mini_set):
    """Tiny images of one's own: 40 images of three classes in two folders, a table."""
    return mini_set('class_folder')


@pytest.fixture
def net():
    """A small DenseNet of five classes in evaluation mode."""
    torch.manual_seed(0)
    return DenseNet(ViewPreprocessor(), **SMALL).eval()
