"""FFHQ as StyleGAN2 learns it: loaders, scores, pictures; its simulated data are vehicles and people of 32 pixels."""
from mmengine.dataset import DefaultSampler, pseudo_collate

from perception.common.samplers import EpochSampler
from perception.plugins.gan.datasets.images.reader import ImageSet
from perception.plugins.gan.datasets.street.mini import write_street
from perception.plugins.gan.draw import DrawImages
from perception.plugins.gan.metrics import ImageMetric, PathHook
from perception.plugins.gan.predictor import SeedPredictor

data_root = 'data/ffhq'  # PERCEPTION_DATA replaces the leading data

train_dataloader = dict(
    batch_size=4, num_workers=4, persistent_workers=True, drop_last=True,  # of each of 4 GPUs
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ImageSet, data_root=data_root, size=256, flip=True, seed=0))
val_dataloader = dict(
    batch_size=16, num_workers=4, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ImageSet, data_root=data_root, size=256, count=5000))
test_dataloader = dict(
    batch_size=16, num_workers=4, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ImageSet, data_root=data_root, size=256, count=50000))

val_evaluator = dict(type=ImageMetric)
test_evaluator = dict(type=ImageMetric)
more_metrics = dict(ppl=dict(type=PathHook))  # --metrics ppl
predictor = dict(type=SeedPredictor)  # in place of files seeds: 0-24; --walk 24 --out walk.mp4 for a film
draw = dict(type=DrawImages)  # --draw DIR

mini_data = dict(type=write_street, root='data/mini/ffhq')
tiny = dict(mini_data=dict(count=8))  # of tools/benchmark.py fuzz
mini_set = dict(data_root='data/mini/ffhq', size=32)
mini_loaders = dict(
    train_dataloader=dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=mini_set),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=dict(mini_set, count=400)),
    test_dataloader=dict(num_workers=0, dataset=dict(mini_set, count=400)),
    more_metrics=dict(ppl=dict(count=400)))
