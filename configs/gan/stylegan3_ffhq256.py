"""StyleGAN3-T on FFHQ at 256 pixels: the teacher of StyleKD.

Net and schedule are those of DCP-GAN (CVPR 2024): 16 images, R1 of 10 (NVIDIA: 32 images, 2 at this size), no mirrored
images, the mean's ramp of NVIDIA's code. Its augmentation (ADA) is left out. StyleGAN3-R: model.student.kernel=1
model.student.radial=True model.student.base=32768 model.student.most=1024, without the blur that its discriminator
begins with.
"""
from mmengine.config import read_base

from perception.plugins.gan.metrics import EquivarianceHook
from perception.plugins.gan.models.adversarial import AdversarialModel
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan3 import StyleGAN3

with read_base():
    from .._base_.ffhq import *
    from .._base_.gan_schedule import *
    from .._base_.runtime import *

default_hooks.update(gan_hooks)
log_processor.update(by_epoch=False)
train_dataloader['dataset'].update(flip=False)  # --mirror=0
train_cfg.update(max_iters=1_562_500)  # 25,000 kimg in batches of 16
optim_wrapper.update(lr=0.0025, lr_discriminator=0.8)
model = dict(type=AdversarialModel, student=dict(type=StyleGAN3, size=256, base=16384),
             discriminator=dict(type=StyleGAN2Discriminator, size=256), mixing=0.0, path=0.0, ramp=0.05)
more_metrics.update(equivariance=dict(type=EquivarianceHook))  # --metrics equivariance

mini = dict(mini_loaders, model=dict(student=mini_free, discriminator=mini_tell), **mini_free_schedule)
mini.update(more_metrics=dict(ppl=dict(count=400), equivariance=dict(count=400)))
