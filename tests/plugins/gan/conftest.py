"""Small nets that the tests of the plugin share."""
import pytest
import torch

from perception.distill.teachers import FrozenTeacher
from perception.plugins.gan.losses import ImageL1Loss, PerceptualLoss, RelationLoss
from perception.plugins.gan.models.adversarial import AdversarialModel
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan2 import StyleGAN2
from perception.plugins.gan.models.stylegan3 import StyleGAN3

WIDE, SLIM = [8] * 6, [4] * 6


def generator(channels, **options):
    """Of 16 pixels."""
    return StyleGAN2(16, style_dim=12, num_mlp=2, channels=channels, **options)


@pytest.fixture
def adversarial():
    """Gives a model with or without a teacher, StyleGAN2 or `free`, StyleGAN3."""
    def give(taught=True, free=False, **options):
        torch.manual_seed(0)
        if free:
            def build(channels):
                return StyleGAN3(16, 12, 1, num_layers=4, channels=channels[:5], frequencies=8)
        else:
            build = generator
        teacher = AdversarialModel(build(WIDE), StyleGAN2Discriminator(16, channels=[4, 6, 6]))
        if taught:
            options = dict(dict(start='mapping', blocks=2, teachers=dict(t=FrozenTeacher(teacher, {})), losses=dict(
                l1=ImageL1Loss('t', weight=3.0), lpips=PerceptualLoss('t', weight=3.0),
                relation=RelationLoss('t', (0, 1), weight=30.0))), **options)
        return AdversarialModel(build(SLIM), StyleGAN2Discriminator(16, channels=[4, 6, 6]), **options)
    return give
