"""BDD100K's lanes in SAD's protocol: loaders, evaluation, submission, pictures, length of a training, mini scale."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import PolyLR
from mmengine.runner import EpochBasedTrainLoop
from torch.optim import Adam

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.samplers import EpochSampler
from perception.lanes.datasets.bdd100k.metric import BDD100KMetric
from perception.lanes.datasets.bdd100k.mini import write_bdd100k_mini
from perception.lanes.datasets.bdd100k.reader import BDD100K
from perception.lanes.datasets.bdd100k.submission import BDD100KResults, BDD100KSubmission
from perception.lanes.draw import DrawLanes
from perception.lanes.mini import draw_sheet
from perception.lanes.predictor import LanePredictor
from perception.lanes.transforms import RandomCrop, RandomImageRotate, RandomResize

data_root = 'data/bdd100k'  # PERCEPTION_DATA replaces the leading data
net = dict(  # what every net on this data set is given; no lane slots here
    # mean and std of SCNN's code
    data_preprocessor=dict(type=ImagePreprocessor, mean=(91.75, 93.15, 93.38), std=(65.61, 67.91, 70.28)),
    num_classes=2, num_lanes=0, input_size=(360, 640))

train_dataloader = dict(
    batch_size=12, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=BDD100K, data_root=data_root, split='train', input_size=(360, 640), crop_top=0, seed=0,
                 pipeline=[
                     dict(type=RandomResize, height=(342, 380), width=(608, 674)),
                     dict(type=RandomImageRotate, max_degrees=1),
                     dict(type=RandomCrop, size=(360, 640))]))
val_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=BDD100K, data_root=data_root, split='val', input_size=(360, 640), crop_top=0))
test_dataloader = dict(  # SAD's test images are the official validation images
    batch_size=4, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=BDD100K, data_root=data_root, split='test', input_size=(360, 640), crop_top=0))
submit_dataloader = test_dataloader  # masks of the official validation images

val_evaluator = dict(type=BDD100KMetric)
test_evaluator = dict(type=BDD100KMetric)
predictor = dict(type=LanePredictor)
predictions = dict(type=BDD100KResults)  # --predictions DIR
submission = dict(type=BDD100KSubmission)  # --submit DIR
draw = dict(type=DrawLanes)  # --draw DIR

# 60,000 images in batches of 12: 12 epochs are 60,000 iterations (SAD's paper)
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=12, val_interval=1)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0, end=12, convert_to_iter_based=True)]

mini_data = dict(type=write_bdd100k_mini, root='data/mini/bdd100k')
tiny = dict(mini_data=dict(train=7, val=2, test=1, detail=0.1, length=180.0, workers=1))  # of tools/benchmark.py fuzz
mini_sheet = dict(type=draw_sheet, dataset=BDD100K)
# what each config makes its `mini` of: small images, so that a training takes about two minutes
mini_net = dict(input_size=(144, 256), background_weight=0.1)
mini_loaders = dict(
    train_dataloader=dict(
        batch_size=4, num_workers=0, persistent_workers=False,
        dataset=dict(data_root='data/mini/bdd100k', input_size=(144, 256), pipeline=[
            dict(type=RandomResize, height=(137, 151), width=(243, 269)), dict(type=RandomImageRotate, max_degrees=1),
            dict(type=RandomCrop, size=(144, 256))])),
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(data_root='data/mini/bdd100k', input_size=(144, 256))),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/bdd100k', input_size=(144, 256))),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/bdd100k', input_size=(144, 256))))
mini_schedule = dict(
    optim_wrapper=dict(optimizer=dict(type=Adam, lr=1e-2)),
    train_cfg=dict(max_epochs=15, val_interval=5),
    param_scheduler=[dict(type=PolyLR, power=0.9, eta_min=0, end=15, convert_to_iter_based=True)],
    default_hooks=dict(logger=dict(interval=10)))
