"""1,797 real handwritten digits of 32 pixels, which come with scikit-learn: a set that every machine has."""
from mmengine.dataset import DefaultSampler, pseudo_collate

from perception.common.samplers import EpochSampler
from perception.plugins.gan.datasets.digits.mini import write_digits
from perception.plugins.gan.datasets.images.reader import ImageSet
from perception.plugins.gan.draw import DrawImages
from perception.plugins.gan.metrics import ImageMetric, PathHook
from perception.plugins.gan.predictor import SeedPredictor

data_root = 'data/mini/digits'  # PERCEPTION_DATA replaces the leading data

train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, drop_last=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ImageSet, data_root=data_root, size=32, seed=0))
val_dataloader = dict(
    batch_size=64, num_workers=0, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ImageSet, data_root=data_root, size=32))
test_dataloader = dict(
    batch_size=64, num_workers=0, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ImageSet, data_root=data_root, size=32))

val_evaluator = dict(type=ImageMetric)
test_evaluator = dict(type=ImageMetric)
more_metrics = dict(ppl=dict(type=PathHook))  # --metrics ppl
predictor = dict(type=SeedPredictor)  # in place of files seeds: 0-24; --walk 24 --out walk.mp4 for a film
draw = dict(type=DrawImages)  # --draw DIR

mini_data = dict(type=write_digits, root='data/mini/digits')
tiny = dict(mini_data=dict(count=32))  # of tools/benchmark.py fuzz
mini_set = dict(data_root='data/mini/digits', size=32)
mini_loaders = dict(
    train_dataloader=dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=mini_set),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=mini_set),
    test_dataloader=dict(num_workers=0, dataset=mini_set),
    more_metrics=dict(ppl=dict(count=400)))
