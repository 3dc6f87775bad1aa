"""TuSimple as SAD uses it: loaders, official evaluation, submission, pictures, length of a training, mini scale."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import PolyLR
from mmengine.runner import EpochBasedTrainLoop
from torch.optim import Adam

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.samplers import EpochSampler
from perception.lanes.datasets.tusimple.decoder import TuSimpleDecoder
from perception.lanes.datasets.tusimple.metric import TuSimpleMetric
from perception.lanes.datasets.tusimple.mini import write_tusimple_mini
from perception.lanes.datasets.tusimple.reader import TuSimple
from perception.lanes.datasets.tusimple.submission import TuSimpleResults, TuSimpleSubmission
from perception.lanes.draw import DrawLanes
from perception.lanes.mini import draw_sheet
from perception.lanes.predictor import LanePredictor
from perception.lanes.transforms import RandomCrop, RandomImageRotate, RandomResize

data_root = 'data/tusimple'  # PERCEPTION_DATA replaces the leading data
net = dict(  # what every net on this data set is given
    # mean and std of SCNN's code
    data_preprocessor=dict(type=ImagePreprocessor, mean=(91.75, 93.15, 93.38), std=(65.61, 67.91, 70.28)),
    num_classes=7, num_lanes=6, input_size=(368, 640), decoder=dict(type=TuSimpleDecoder))

train_dataloader = dict(
    batch_size=12, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=TuSimple, data_root=data_root, split='train', input_size=(368, 640), crop_top=0, seed=0,
                 pipeline=[
                     dict(type=RandomResize, height=(425, 445), width=(860, 900)),
                     dict(type=RandomImageRotate, centre=-1.7, max_degrees=0.5),
                     dict(type=RandomCrop, size=(368, 640))]))
val_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=TuSimple, data_root=data_root, split='val', input_size=(368, 640), crop_top=0))
test_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=TuSimple, data_root=data_root, split='test', input_size=(368, 640), crop_top=0))
submit_dataloader = test_dataloader  # the labels are public now; the server takes the same file

val_evaluator = dict(type=TuSimpleMetric)
test_evaluator = dict(type=TuSimpleMetric)
predictor = dict(type=LanePredictor)
predictions = dict(type=TuSimpleResults)  # --predictions FILE
submission = dict(type=TuSimpleSubmission)  # --submit DIR
draw = dict(type=DrawLanes)  # --draw DIR

# 3,268 images in batches of 12: 183 epochs are 49,959 iterations (50 K in SAD's code)
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=183, val_interval=10)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0, end=183, convert_to_iter_based=True)]

mini_data = dict(type=write_tusimple_mini, root='data/mini/tusimple')
tiny = dict(mini_data=dict(train=2, val=1, test=2, detail=0.1, length=180.0, workers=1))  # of tools/benchmark.py fuzz
mini_sheet = dict(type=draw_sheet, dataset=TuSimple)
# what each config makes its `mini` of: small images, so that a training takes about two minutes
mini_net = dict(input_size=(112, 208), background_weight=0.1)
mini_loaders = dict(
    train_dataloader=dict(
        batch_size=4, num_workers=0, persistent_workers=False,
        dataset=dict(data_root='data/mini/tusimple', input_size=(112, 208), pipeline=[
            dict(type=RandomResize, height=(106, 118), width=(198, 218)), dict(type=RandomImageRotate, max_degrees=1),
            dict(type=RandomCrop, size=(112, 208))])),
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(data_root='data/mini/tusimple', input_size=(112, 208))),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/tusimple', input_size=(112, 208))),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/tusimple', input_size=(112, 208))))
mini_schedule = dict(
    optim_wrapper=dict(optimizer=dict(type=Adam, lr=1e-2)),
    train_cfg=dict(max_epochs=30, val_interval=10),
    param_scheduler=[dict(type=PolyLR, power=0.9, eta_min=0, end=30, convert_to_iter_based=True)],
    default_hooks=dict(logger=dict(interval=10)))
