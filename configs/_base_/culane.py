"""CULane as SAD uses it: loaders, official evaluation, submission, pictures, length of a training, mini scale."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import PolyLR
from mmengine.runner import EpochBasedTrainLoop
from torch.optim import Adam

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.samplers import EpochSampler
from perception.lanes.datasets.culane.decoder import CULaneDecoder
from perception.lanes.datasets.culane.metric import CULaneMetric
from perception.lanes.datasets.culane.mini import write_culane_mini
from perception.lanes.datasets.culane.reader import CULane
from perception.lanes.datasets.culane.submission import CULaneResults, CULaneSubmission
from perception.lanes.draw import DrawLanes
from perception.lanes.mini import draw_sheet
from perception.lanes.pixels import LabelMapMetric
from perception.lanes.predictor import LanePredictor
from perception.lanes.tiny import write_image_files
from perception.lanes.transforms import RandomCrop, RandomImageRotate, RandomResize

data_root = 'data/culane'  # PERCEPTION_DATA replaces the leading data
net = dict(  # what every net on this data set is given
    # mean and std of SCNN's code
    data_preprocessor=dict(type=ImagePreprocessor, mean=(91.75, 93.15, 93.38), std=(65.61, 67.91, 70.28)),
    num_classes=5, num_lanes=4, input_size=(288, 800), decoder=dict(type=CULaneDecoder))

train_dataloader = dict(
    batch_size=12, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=CULane, data_root=data_root, split='train', input_size=(288, 800), crop_top=0, seed=0,
                 pipeline=[
                     dict(type=RandomResize, height=(274, 304), width=(760, 842)),
                     dict(type=RandomImageRotate, max_degrees=1),
                     dict(type=RandomCrop, size=(288, 800))]))
val_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=CULane, data_root=data_root, split='val', input_size=(288, 800), crop_top=0))
test_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=CULane, data_root=data_root, split='test', input_size=(288, 800), crop_top=0))
submit_dataloader = test_dataloader  # there is no server: text files for the official tool

val_evaluator = [dict(type=CULaneMetric), dict(type=LabelMapMetric)]
test_evaluator = dict(type=CULaneMetric)
predictor = dict(type=LanePredictor)
predictions = dict(type=CULaneResults)  # --predictions DIR
submission = dict(type=CULaneSubmission)  # --submit DIR
draw = dict(type=DrawLanes)  # --draw DIR

# 88,880 images in batches of 12: 8 epochs are 59,256 iterations (60 K in SAD's paper)
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=8, val_interval=1)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0, end=8, convert_to_iter_based=True)]

mini_data = dict(type=write_culane_mini, root='data/mini/culane')
tiny = dict(mini_data=dict(train=2, val=1, test=9, detail=0.1, length=180.0, workers=1))  # of tools/benchmark.py fuzz
tiny_sources = dict(type=write_image_files)
mini_sheet = dict(type=draw_sheet, dataset=CULane)
# what each config makes its `mini` of: small images, but large enough that a map of a quarter of it shows lanes
mini_net = dict(input_size=(112, 320), background_weight=0.1, decoder=dict(kernel=3))
mini_loaders = dict(
    train_dataloader=dict(
        batch_size=4, num_workers=0, persistent_workers=False,
        dataset=dict(data_root='data/mini/culane', input_size=(112, 320), pipeline=[
            dict(type=RandomResize, height=(106, 118), width=(304, 336)), dict(type=RandomImageRotate, max_degrees=1),
            dict(type=RandomCrop, size=(112, 320))])),
    val_evaluator=[dict(type=CULaneMetric), dict(type=LabelMapMetric, background_weight=0.1)],
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(data_root='data/mini/culane', input_size=(112, 320))),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/culane', input_size=(112, 320))),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/culane', input_size=(112, 320))))
mini_schedule = dict(
    optim_wrapper=dict(optimizer=dict(type=Adam, lr=1e-2)),
    train_cfg=dict(max_epochs=30, val_interval=10),
    param_scheduler=[dict(type=PolyLR, power=0.9, eta_min=0, end=30, convert_to_iter_based=True)],
    default_hooks=dict(logger=dict(interval=10)))
# tools/benchmark.py distillation: three times the training images, each seen less often, many more images to score
evidence = dict(
    options=[
        'mini_data.root=data/mini/culane_evidence', 'mini_data.train=126', 'mini_data.val=600', 'mini_data.test=1',
        'mini_data.detail=0.25', 'mini_data.length=180',
        'train_dataloader.dataset.data_root=data/mini/culane_evidence',
        'val_dataloader.dataset.data_root=data/mini/culane_evidence',
        'train_cfg.max_epochs=12', 'train_cfg.val_interval=6', 'param_scheduler.0.end=12'],
    scores=dict(precision='greater', recall='greater', lane_iou='greater', cross_entropy='less'))
