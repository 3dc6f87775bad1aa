"""A small StyleGAN2 on real handwritten digits of 32 pixels."""
from mmengine.config import read_base

from perception.plugins.gan.models.adversarial import AdversarialModel
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan2 import StyleGAN2

with read_base():
    from .._base_.digits import *
    from .._base_.gan_schedule import *
    from .._base_.runtime import *

default_hooks.update(gan_hooks)
log_processor.update(by_epoch=False)
model = dict(type=AdversarialModel, student=dict(type=StyleGAN2, **mini_net),
             discriminator=dict(type=StyleGAN2Discriminator, **mini_tell))

mini = dict(mini_loaders, **mini_schedule)
