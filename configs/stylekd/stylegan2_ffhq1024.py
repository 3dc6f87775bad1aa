"""StyleKD (ECCV 2022) on FFHQ at 1024 pixels: a StyleGAN2 without 70 % of its channels inherits the mapping.

As published but for the noise, which teacher and student share (model.share_noise=False for its own each), and for the
mask of faces, which is left out.
"""
from mmengine.config import read_base

from perception.distill.teachers import FrozenTeacher
from perception.plugins.gan.losses import ImageL1Loss, PerceptualLoss, RelationLoss
from perception.plugins.gan.metrics import ConsistencyMetric, ImageMetric
from perception.plugins.gan.models.adversarial import AdversarialModel
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan2 import StyleGAN2

with read_base():
    from ..gan.stylegan2_ffhq1024 import *
    from ..gan.stylegan2_ffhq1024 import model as teacher

large = dict(type=FrozenTeacher, model=teacher, taps={}, trained_by='configs/gan/stylegan2_ffhq1024.py')
model = dict(
    type=AdversarialModel,
    student=dict(type=StyleGAN2, size=1024, channels=[154] * 10 + [77, 77, 39, 39, 20, 20, 10, 10]),
    discriminator=dict(type=StyleGAN2Discriminator, size=1024), start='mapping',
    teachers=dict(teacher=large),
    losses=dict(l1=dict(type=ImageL1Loss, teacher='teacher', weight=3.0),
                lpips=dict(type=PerceptualLoss, teacher='teacher', weight=3.0),
                relation=dict(type=RelationLoss, teacher='teacher', layers=(1, 2, 3, 4), weight=30.0)))

predictor.update(teacher=large)  # --show-teacher True
val_evaluator = [dict(type=ImageMetric), dict(type=ConsistencyMetric)]
more_metrics.update(consistency=dict(type=ConsistencyMetric, teacher=large))  # --metrics consistency

mini_large = dict(model=dict(student=mini_net, discriminator=mini_tell), mini=True)
mini = dict(mini_loaders, **mini_schedule, model=dict(
    student=mini_slim, discriminator=mini_tell, blocks=3, teachers=dict(teacher=mini_large),
    losses=dict(relation=dict(layers=(0, 1, 2)))),
    more_metrics=dict(ppl=dict(count=400), consistency=dict(teacher=mini_large)),
    predictor=dict(teacher=mini_large))
