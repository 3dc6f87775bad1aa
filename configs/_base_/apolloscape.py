"""ApolloScape lane marks as IntRA-KD uses them: loaders, evaluation, submission, pictures, schedule, mini scale."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.optim import PolyLR
from mmengine.runner import EpochBasedTrainLoop
from torch.optim import Adam

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.samplers import EpochSampler
from perception.lanes.datasets.apolloscape.metric import ApolloScapeMetric
from perception.lanes.datasets.apolloscape.mini import write_apolloscape_mini
from perception.lanes.datasets.apolloscape.reader import ApolloScapeLaneMark
from perception.lanes.datasets.apolloscape.submission import ApolloScapeResults, ApolloScapeSubmission
from perception.lanes.draw import DrawLanes
from perception.lanes.mini import draw_sheet
from perception.lanes.predictor import LanePredictor
from perception.lanes.scales import ScaledWindows
from perception.lanes.transforms import RandomCrop, RandomImageRotate, RandomImageScale

data_root = 'data/apolloscape'  # PERCEPTION_DATA replaces the leading data
net = dict(  # what every net on this data set is given; class 0 (void) and 36 (noise, ignored) weigh 0.05
    data_preprocessor=dict(type=ImagePreprocessor, mean=(103.939, 116.779, 123.68), std=(1, 1, 1), bgr=True),
    num_classes=37, num_lanes=0, input_size=(496, 1488), iou_weight=0, class_weights=[0.05, *[1.0] * 35, 0.05])

train_dataloader = dict(
    batch_size=8, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ApolloScapeLaneMark, data_root=data_root, split='train', input_size=None, crop_top=1700, seed=0,
                 pipeline=[
                     dict(type=RandomImageScale, low=0.5, high=0.5),
                     dict(type=RandomCrop, size=(496, 1488), fill=(124, 117, 104), fill_label=255),
                     dict(type=RandomImageRotate, max_degrees=10, prob=0.5, fill=(124, 117, 104))]))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ApolloScapeLaneMark, data_root=data_root, split='val', input_size=(504, 1688), crop_top=1700))
test_dataloader = dict(  # labels of road05 are not public; see submit_dataloader
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ApolloScapeLaneMark, data_root=data_root, split='val', input_size=(504, 1688), crop_top=1700))
submit_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=ApolloScapeLaneMark, data_root=data_root, split='test', input_size=(504, 1688), crop_top=1700))

val_evaluator = dict(type=ApolloScapeMetric)
test_evaluator = dict(type=ApolloScapeMetric)
predictor = dict(type=LanePredictor)
predictions = dict(type=ApolloScapeResults)  # --predictions DIR
submission = dict(type=ApolloScapeSubmission)  # --submit DIR
draw = dict(type=DrawLanes)  # --draw DIR
tta_model = dict(  # --tta scales | scales_released | windows: sizes (H, W) and window of IntRA-KD's code
    type=ScaledWindows, sizes=((505, 1692), (556, 1861), (485, 1624), (606, 2030)), window=(480, 1440))
tta_dataset = dict(input_size=None)  # what it scales is the image as it is

# as IntRA-KD's code: 24 epochs, the rate falls after each of them
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=24, val_interval=1)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0, end=24, by_epoch=True)]

mini_data = dict(type=write_apolloscape_mini, root='data/mini/apolloscape')
tiny = dict(mini_data=dict(train=2, val=1, test=1, detail=0.1, length=180.0, workers=1))  # of tools/benchmark.py fuzz
mini_sheet = dict(type=draw_sheet, dataset=ApolloScapeLaneMark)
# what each config makes its `mini` of: small images, so that a training takes about two minutes
mini_net = dict(input_size=(96, 320))
mini_loaders = dict(
    train_dataloader=dict(
        batch_size=4, num_workers=0, persistent_workers=False,
        dataset=dict(data_root='data/mini/apolloscape', input_size=(96, 320), pipeline=[
            dict(type=RandomImageScale, low=0.095, high=0.105),
            dict(type=RandomCrop, size=(96, 320), fill=(124, 117, 104), fill_label=255)])),
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(data_root='data/mini/apolloscape', input_size=(96, 320))),
    test_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/apolloscape', input_size=(96, 320))),
    submit_dataloader=dict(num_workers=0, dataset=dict(data_root='data/mini/apolloscape', input_size=(96, 320))),
    tta_model=dict(sizes=((96, 320), (104, 352), (92, 306), (114, 384)), window=(88, 272)))
mini_schedule = dict(
    optim_wrapper=dict(optimizer=dict(type=Adam, lr=1e-2)),
    train_cfg=dict(max_epochs=30, val_interval=10),
    param_scheduler=[dict(type=PolyLR, power=0.9, eta_min=0, end=30, convert_to_iter_based=True)],
    default_hooks=dict(logger=dict(interval=10)))
