"""StyleGAN3-T on FFHQ at 256 pixels: the teacher of StyleKD.

As published but for augmentation (ADA), which is left out. StyleGAN3-R: model.student.kernel=1
model.student.radial=True model.student.base=32768 model.student.most=1024.
"""
from mmengine.config import read_base

from perception.plugins.gan.models.adversarial import AdversarialModel
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan3 import StyleGAN3

with read_base():
    from .._base_.ffhq import *
    from .._base_.gan_schedule import *
    from .._base_.runtime import *

default_hooks.update(gan_hooks)
custom_hooks = [sample_hook]
log_processor.update(by_epoch=False)
train_dataloader['dataset'].update(flip=False)  # --mirror=0
train_cfg.update(max_iters=1_562_500)  # 25,000 kimg in batches of 16
optim_wrapper.update(lr=0.0025, lr_discriminator=0.8)
model = dict(type=AdversarialModel, student=dict(type=StyleGAN3, size=256, base=16384),
             discriminator=dict(type=StyleGAN2Discriminator, size=256), mixing=0.0, path=0.0)

mini = dict(mini_loaders, model=dict(student=mini_free, discriminator=mini_tell), **mini_free_schedule)
