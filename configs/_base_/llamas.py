"""LLAMAS as IntRA-KD uses it: loaders, official evaluation, submission, pictures, length of a training, mini scale."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import PolyLR
from mmengine.runner import EpochBasedTrainLoop
from torch.optim import Adam

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.samplers import EpochSampler
from perception.lanes.datasets.llamas.decoder import LLAMASDecoder
from perception.lanes.datasets.llamas.metric import LLAMASMetric
from perception.lanes.datasets.llamas.mini import write_llamas_mini
from perception.lanes.datasets.llamas.reader import LLAMAS
from perception.lanes.datasets.llamas.submission import LLAMASResults, LLAMASSubmission
from perception.lanes.draw import DrawLanes
from perception.lanes.mini import draw_sheet
from perception.lanes.predictor import LanePredictor
from perception.lanes.transforms import RandomCrop, RandomImageRotate, RandomResize

data_root = 'data/llamas'  # PERCEPTION_DATA replaces the leading data
net = dict(  # what every net on this data set is given
    # mean and std of SCNN's code
    data_preprocessor=dict(type=ImagePreprocessor, mean=(91.75, 93.15, 93.38), std=(65.61, 67.91, 70.28)),
    num_classes=5, num_lanes=4, input_size=(288, 960), decoder=dict(type=LLAMASDecoder))

train_dataloader = dict(
    batch_size=12, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=LLAMAS, data_root=data_root, split='train', input_size=(288, 960), crop_top=300, seed=0,
                 pipeline=[
                     dict(type=RandomResize, height=(274, 303), width=(912, 1008)),
                     dict(type=RandomImageRotate, max_degrees=1),
                     dict(type=RandomCrop, size=(288, 960))]))
val_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=LLAMAS, data_root=data_root, split='val', input_size=(288, 960), crop_top=300))
test_dataloader = dict(  # labels of the test images are not public; see submit_dataloader
    batch_size=4, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=LLAMAS, data_root=data_root, split='val', input_size=(288, 960), crop_top=300))
submit_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=LLAMAS, data_root=data_root, split='test', input_size=(288, 960), crop_top=300))

val_evaluator = dict(type=LLAMASMetric)
test_evaluator = dict(type=LLAMASMetric)
predictor = dict(type=LanePredictor)
predictions = dict(type=LLAMASResults)  # --predictions DIR
submission = dict(type=LLAMASSubmission)  # --submit DIR
draw = dict(type=DrawLanes)  # --draw DIR

# 58,269 images in batches of 12: 12 epochs are 58,272 iterations
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=12, val_interval=1)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0, end=12, convert_to_iter_based=True)]

mini_data = dict(type=write_llamas_mini, root='data/mini/llamas')
tiny = dict(mini_data=dict(train=2, val=1, test=1, detail=0.1, length=180.0, workers=1))  # of tools/benchmark.py fuzz
mini_sheet = dict(type=draw_sheet, dataset=LLAMAS)
# what each config makes its `mini` of: small images, so that a training takes about two minutes
mini_net = dict(input_size=(80, 256), background_weight=0.1, decoder=dict(kernel=3))
mini_loaders = dict(
    train_dataloader=dict(
        batch_size=4, num_workers=0, persistent_workers=False,
        dataset=dict(data_root='data/mini/llamas', input_size=(80, 256), pipeline=[
            dict(type=RandomResize, height=(76, 84), width=(243, 269)), dict(type=RandomImageRotate, max_degrees=1),
            dict(type=RandomCrop, size=(80, 256))])),
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(data_root='data/mini/llamas', input_size=(80, 256))),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/llamas', input_size=(80, 256))),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/llamas', input_size=(80, 256))))
mini_schedule = dict(
    optim_wrapper=dict(optimizer=dict(type=Adam, lr=1e-2)),
    train_cfg=dict(max_epochs=30, val_interval=10),
    param_scheduler=[dict(type=PolyLR, power=0.9, eta_min=0, end=30, convert_to_iter_based=True)],
    default_hooks=dict(logger=dict(interval=10)))
