"""StyleKD (ECCV 2022) on FFHQ at 256 pixels: a StyleGAN3-T without 70 % of its channels inherits the mapping.

The paper's own code of this was not published; widths, layers and weights are those of DCP-GAN (CVPR 2024), but the
images of moved latents go to the relation loss alone, as in the code of StyleGAN2. Without ADA and the mask of faces.
"""
from mmengine.config import read_base

from perception.distill.teachers import FrozenTeacher
from perception.plugins.gan.losses import ImageL1Loss, PerceptualLoss, RelationLoss
from perception.plugins.gan.metrics import ConsistencyMetric, ImageMetric
from perception.plugins.gan.models.adversarial import AdversarialModel
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan3 import StyleGAN3

with read_base():
    from ..gan.stylegan3_ffhq256 import *
    from ..gan.stylegan3_ffhq256 import model as teacher

large = dict(type=FrozenTeacher, model=teacher, taps={}, trained_by='configs/gan/stylegan3_ffhq256.py')
model = dict(
    type=AdversarialModel,
    student=dict(type=StyleGAN3, size=256, channels=[153] * 8 + [108, 76, 54, 38, 27, 19, 19], frequencies=512),
    discriminator=dict(type=StyleGAN2Discriminator, size=256), start='mapping', blocks=(1, 2), mixing=0.0, path=0.0,
    ramp=0.05, teachers=dict(teacher=large),
    losses=dict(l1=dict(type=ImageL1Loss, teacher='teacher', weight=3.0),
                lpips=dict(type=PerceptualLoss, teacher='teacher', weight=3.0),
                relation=dict(type=RelationLoss, teacher='teacher', layers=(1, 2), weight=30.0)))

predictor.update(teacher=large)  # --show-teacher True
val_evaluator = [dict(type=ImageMetric), dict(type=ConsistencyMetric)]
more_metrics.update(consistency=dict(type=ConsistencyMetric, teacher=large))  # --metrics consistency

mini_large = dict(model=dict(student=mini_free, discriminator=mini_tell), mini=True)
mini = dict(mini_loaders, **mini_free_schedule, model=dict(
    student=mini_free_slim, discriminator=mini_tell, teachers=dict(teacher=mini_large)),
    more_metrics=dict(ppl=dict(count=400), equivariance=dict(count=400), consistency=dict(teacher=mini_large)),
    predictor=dict(teacher=mini_large))
