"""StyleKD (ECCV 2022) on real handwritten digits of 32 pixels: 70 % of the channels removed, the mapping inherited."""
from mmengine.config import read_base

from perception.distill.teachers import FrozenTeacher
from perception.plugins.gan.datasets.digits.reader import DigitReader
from perception.plugins.gan.losses import ImageL1Loss, PerceptualLoss, RelationLoss
from perception.plugins.gan.metrics import ConsistencyMetric, ImageMetric
from perception.plugins.gan.models.adversarial import AdversarialModel
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.stylegan2 import StyleGAN2

with read_base():
    from ..gan.stylegan2_digits import *
    from ..gan.stylegan2_digits import model as teacher

large = dict(type=FrozenTeacher, model=teacher, taps={}, trained_by='configs/gan/stylegan2_digits.py')
model = dict(
    type=AdversarialModel, student=dict(type=StyleGAN2, **mini_slim),
    discriminator=dict(type=StyleGAN2Discriminator, **mini_tell), start='mapping', blocks=3,
    teachers=dict(teacher=large),
    losses=dict(l1=dict(type=ImageL1Loss, teacher='teacher', weight=3.0),
                lpips=dict(type=PerceptualLoss, teacher='teacher', weight=3.0),
                relation=dict(type=RelationLoss, teacher='teacher', layers=(0, 1, 2), weight=30.0)))

predictor.update(teacher=large)  # --show-teacher True
val_evaluator = [dict(type=ImageMetric), dict(type=ConsistencyMetric, reader=dict(type=DigitReader))]
more_metrics.update(  # --metrics consistency
    consistency=dict(type=ConsistencyMetric, teacher=large, reader=dict(type=DigitReader)))

mini = dict(mini_loaders, **mini_schedule, model=dict(teachers=dict(teacher=dict(mini=True))),
            more_metrics=dict(ppl=dict(count=400), consistency=dict(teacher=dict(mini=True))),
            predictor=dict(teacher=dict(mini=True)))

lone = [f'model.losses.{name}.weight=0' for name in ('l1', 'lpips', 'relation')]
steps = ('train_cfg.max_iters={0} train_cfg.val_interval={0} default_hooks.samples.interval={0} '
         'val_dataloader.dataset.count={1}')
evidence = dict(  # of tools/benchmark.py arms: each way to begin, without and with the losses
    data='1,797 real handwritten digits', options=[*steps.format(600, 500).split(), 'model.decay=0.98'],
    scores=dict(L1='less', PSNR='greater', pseudo_lpips='less', rsemantic='less', same_class='greater',
                rprecision='greater', rrecall='greater'),
    arms={f'{start}{losses}': ['configs/stylekd/stylegan2_digits.py', f'model.start={start}', *lone * (not losses)]
          for start in ('fresh', 'slices', 'mapping') for losses in ('', '_losses')}
    | dict(teacher=['configs/gan/stylegan2_digits.py', *steps.format(1500, 1000).split()]))
