"""Lanes on images of one's own, scored as CULane does at their size: to be copied and changed; see perception/lanes."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import PolyLR
from mmengine.runner import EpochBasedTrainLoop
from torch.optim import Adam

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.samplers import EpochSampler
from perception.lanes.datasets.culane.decoder import CULaneDecoder
from perception.lanes.datasets.culane.metric import CULaneMetric
from perception.lanes.datasets.culane.submission import CULaneResults, CULaneSubmission
from perception.lanes.datasets.folder.mini import write_lane_folder_mini
from perception.lanes.datasets.folder.reader import LaneFolder
from perception.lanes.draw import DrawLanes
from perception.lanes.mini import draw_sheet
from perception.lanes.predictor import LanePredictor
from perception.lanes.transforms import ColorJitter, RandomCrop, RandomImageRotate, RandomResize

num_lanes = 4  # slots from left to right, the middle ones are the borders of the own lane
input_size = (288, 512)  # (H, W) that the net sees, both multiples of 16, about in the shape of the images
data = dict(
    type=LaneFolder, data_root='data/lane_folder',  # PERCEPTION_DATA replaces the leading data
    images='**/*.jpg', labels='**/*.lines.txt', num_lanes=num_lanes,
    splits=dict(train='train', val='val', test='test'),  # folders, patterns or lists; None: each fifth is for val
    image_size=None, horizon=None, input_size=input_size, crop_top=0)
net = dict(
    data_preprocessor=dict(type=ImagePreprocessor, mean=(91.75, 93.15, 93.38), std=(65.61, 67.91, 70.28)),
    num_classes=num_lanes + 1, num_lanes=num_lanes, input_size=input_size,
    decoder=dict(type=CULaneDecoder, num_points=30))  # on all rows: lanes may end above CULane's, row 250 of 590

train_dataloader = dict(
    batch_size=8, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(split='train', seed=0, pipeline=[
        dict(type=RandomResize, height=(274, 302), width=(486, 538)), dict(type=RandomImageRotate, max_degrees=1),
        dict(type=RandomCrop, size=input_size), dict(type=ColorJitter)], **data))
val_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(split='val', **data))
test_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(split='test', **data))
submit_dataloader = test_dataloader

val_evaluator = dict(type=CULaneMetric)
test_evaluator = dict(type=CULaneMetric)
predictor = dict(type=LanePredictor)
predictions = dict(type=CULaneResults)  # --predictions DIR
submission = dict(type=CULaneSubmission)  # --submit DIR: lines for CULane's tool
draw = dict(type=DrawLanes)  # --draw DIR

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=60, val_interval=5)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0, end=60, convert_to_iter_based=True)]

mini_data = dict(type=write_lane_folder_mini, root='data/mini/lane_folder')
tiny = dict(mini_data=dict(train=2, val=1, test=1, detail=0.1, length=180.0, workers=1))  # of tools/benchmark.py fuzz
mini_sheet = dict(type=draw_sheet, dataset=LaneFolder)
mini_net = dict(input_size=(80, 240), background_weight=0.1, decoder=dict(kernel=3, num_points=18))
# without the sky: of whole images so small, nets learn next to nothing in this time
mini_folder = dict(
    data_root='data/mini/lane_folder', image_size=(1080, 1920), horizon=464, input_size=(80, 240), crop_top=420)
mini_loaders = dict(
    train_dataloader=dict(
        batch_size=4, num_workers=0, persistent_workers=False,
        dataset=dict(mini_folder, pipeline=[
            dict(type=RandomResize, height=(76, 84), width=(228, 252)), dict(type=RandomImageRotate, max_degrees=1),
            dict(type=RandomCrop, size=(80, 240))])),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=mini_folder),
    test_dataloader=dict(num_workers=0, dataset=mini_folder),
    submit_dataloader=dict(num_workers=0, dataset=mini_folder))
mini_schedule = dict(
    optim_wrapper=dict(optimizer=dict(type=Adam, lr=1e-2)),
    train_cfg=dict(max_epochs=30, val_interval=10),
    param_scheduler=[dict(type=PolyLR, power=0.9, eta_min=0, end=30, convert_to_iter_based=True)],
    default_hooks=dict(logger=dict(interval=10)))
