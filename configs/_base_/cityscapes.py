"""Cityscapes with 19 classes: loaders with augmentation, official score, submission, mini scale."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.runner import EpochBasedTrainLoop

from perception.common.samplers import EpochSampler
from perception.lanes.transforms import RandomCrop, RandomImageRotate, RandomImageScale
from perception.steering.datasets.cityscapes.metric import CityscapesMetric
from perception.steering.datasets.cityscapes.mini import draw_sheet, write_cityscapes_mini
from perception.steering.datasets.cityscapes.reader import Cityscapes
from perception.steering.datasets.cityscapes.submission import CityscapesSubmission
from perception.steering.image_predictors import StreetPredictor
from perception.steering.transforms import FlipImage

data_root = 'data/cityscapes'  # PERCEPTION_DATA replaces the leading data
mean = (124, 116, 104)  # ImageNet's, RGB; what is padded is filled with it

train_dataloader = dict(
    batch_size=16, num_workers=8, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=Cityscapes, data_root=data_root, split='train', seed=0, pipeline=[
        dict(type=FlipImage), dict(type=RandomImageScale, low=.5, high=2),
        dict(type=RandomImageRotate, max_degrees=10, prob=.5, fill=mean),
        dict(type=RandomCrop, size=(473, 473), fill=mean, fill_label=255)]))
val_dataloader = dict(
    batch_size=1, num_workers=4, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=Cityscapes, data_root=data_root, split='val', input_size=(512, 1024)))
test_dataloader = dict(
    batch_size=1, num_workers=4, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=Cityscapes, data_root=data_root, split='val', input_size=(512, 1024)))
submit_dataloader = dict(
    batch_size=1, num_workers=4, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=Cityscapes, data_root=data_root, split='test', input_size=(512, 1024)))

val_evaluator = dict(type=CityscapesMetric)
test_evaluator = dict(type=CityscapesMetric)
predictor = dict(type=StreetPredictor)
submission = dict(type=CityscapesSubmission)  # --submit DIR

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=48, val_interval=4)

mini_data = dict(type=write_cityscapes_mini, root='data/mini/cityscapes')
tiny = dict(mini_data=dict(  # of tools/benchmark.py fuzz
    train_streets=1, val_streets=1, test_streets=1, images=2, detail=.05, workers=1))
mini_sheet = dict(type=draw_sheet)
mini_place = dict(data_root='data/mini/cityscapes')
mini_eval = dict(mini_place, input_size=(128, 256))
mini_loaders = dict(
    train_dataloader=dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(mini_place, pipeline=[
        dict(type=FlipImage), dict(type=RandomImageScale, low=.2, high=.4),
        dict(type=RandomCrop, size=(128, 256), fill=mean, fill_label=255)])),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=mini_eval),
    test_dataloader=dict(num_workers=0, dataset=mini_eval),
    submit_dataloader=dict(num_workers=0, dataset=mini_eval))
