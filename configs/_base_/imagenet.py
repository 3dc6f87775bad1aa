"""ImageNet (ILSVRC 2012): loaders, accuracy, predictor; mini scale on 1,797 real handwritten digits."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import SGD

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.samplers import EpochSampler
from perception.prune.datasets.digits.mini import write_digits
from perception.prune.datasets.imagenet.metric import TopKMetric
from perception.prune.datasets.imagenet.reader import ImageNet
from perception.prune.predictor import ImagePredictor
from perception.prune.transforms import ImageJitter, RandomImageFlip, RandomResizedCrop, ResizeAndCut

data_root = 'data/imagenet'  # PERCEPTION_DATA replaces the leading data
net = dict(data_preprocessor=dict(type=ImagePreprocessor), num_classes=1000)
cut = [dict(type=ResizeAndCut, short=256, size=224)]

train_dataloader = dict(
    batch_size=256, num_workers=8, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ImageNet, data_root=data_root, split='train', seed=0, pipeline=[
        dict(type=RandomResizedCrop, size=224, area=(0.08, 1.0)), dict(type=RandomImageFlip), dict(type=ImageJitter)]))
val_dataloader = dict(
    batch_size=64, num_workers=4, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ImageNet, data_root=data_root, split='val', pipeline=cut))
test_dataloader = dict(
    batch_size=64, num_workers=4, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ImageNet, data_root=data_root, split='test', pipeline=cut))

val_evaluator = dict(type=TopKMetric)
test_evaluator = dict(type=TopKMetric)
predictor = dict(type=ImagePredictor)

mini_data = dict(type=write_digits, root='data/mini/imagenet')
tiny = dict(mini_data=dict(count=180))  # of tools/benchmark.py fuzz
mini_net = dict(num_classes=10, input_size=(32, 32))
mini_cut = [dict(type=ResizeAndCut, short=32, size=32)]
mini_set = dict(data_root='data/mini/imagenet', pipeline=mini_cut)
mini_loaders = dict(
    train_dataloader=dict(
        batch_size=32, num_workers=0, persistent_workers=False,
        dataset=dict(data_root='data/mini/imagenet', pipeline=[
            dict(type=RandomResizedCrop, size=32, area=(0.6, 1.0)), dict(type=ImageJitter)])),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=mini_set),
    test_dataloader=dict(num_workers=0, dataset=mini_set))
mini_schedule = dict(
    optim_wrapper=dict(optimizer=dict(type=SGD, lr=0.05, momentum=0.9, weight_decay=1e-4)),
    train_cfg=dict(max_epochs=12, val_interval=4),
    param_scheduler=[dict(type=LinearLR, start_factor=0.1, end=1, convert_to_iter_based=True),
                     dict(type=CosineAnnealingLR, T_max=11, begin=1, eta_min=0, convert_to_iter_based=True)],
    default_hooks=dict(logger=dict(interval=20)))
