"""StyleGAN2 (config F) on FFHQ at 1024 pixels: the teacher of StyleKD."""
from mmengine.config import read_base

from perception.plugins.gan.models.adversarial import AdversarialModel
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan2 import StyleGAN2

with read_base():
    from .._base_.ffhq import *
    from .._base_.gan_schedule import *
    from .._base_.runtime import *

train_dataloader['dataset'].update(data_root='data/ffhq', size=1024)
val_dataloader['dataset'].update(data_root='data/ffhq', size=1024)
test_dataloader['dataset'].update(data_root='data/ffhq', size=1024)
default_hooks.update(gan_hooks)
log_processor.update(by_epoch=False)
model = dict(type=AdversarialModel, student=dict(type=StyleGAN2, size=1024),
             discriminator=dict(type=StyleGAN2Discriminator, size=1024))

mini = dict(mini_loaders, model=dict(student=mini_net, discriminator=mini_tell), **mini_schedule)
