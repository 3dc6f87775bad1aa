"""StyleKD (ECCV 2022) on real handwritten digits of 32 pixels: 70 % of the channels removed, the mapping inherited."""
from mmengine.config import read_base

from perception.distill.teachers import FrozenTeacher
from perception.plugins.gan.losses import ImageL1Loss, PerceptualLoss, RelationLoss
from perception.plugins.gan.models.adversarial import AdversarialModel
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan2 import StyleGAN2

with read_base():
    from ..gan.stylegan2_digits import *
    from ..gan.stylegan2_digits import model as teacher

model = dict(
    type=AdversarialModel, student=dict(type=StyleGAN2, **mini_slim),
    discriminator=dict(type=StyleGAN2Discriminator, **mini_tell), start='mapping', blocks=3,
    teachers=dict(teacher=dict(
        type=FrozenTeacher, model=teacher, taps={}, trained_by='configs/gan/stylegan2_digits.py')),
    losses=dict(l1=dict(type=ImageL1Loss, teacher='teacher', weight=3.0),
                lpips=dict(type=PerceptualLoss, teacher='teacher', weight=3.0),
                relation=dict(type=RelationLoss, teacher='teacher', layers=(0, 1, 2), weight=30.0)))

mini = dict(mini_loaders, **mini_schedule, model=dict(teachers=dict(teacher=dict(mini=True))))
