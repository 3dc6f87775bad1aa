"""nuScenes' six cameras: data loaders with augmentation, the official score, results file, pictures; simulated data."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.runner import EpochBasedTrainLoop

from perception.bev.datasets.nuscenes.metric import NuScenesDetectionMetric
from perception.bev.datasets.nuscenes.mini import draw_sheet, write_bev_mini
from perception.bev.datasets.nuscenes.reader import NuScenesRig
from perception.bev.datasets.nuscenes.submission import NuScenesDetectionResults, NuScenesDetectionSubmission
from perception.bev.draw import DrawRig
from perception.bev.predictor import RigPredictor
from perception.bev.transforms import BEVAug, DropCameras, ImageAug, MoveCameras
from perception.common.samplers import EpochSampler

data_root = 'data/nuscenes'  # PERCEPTION_DATA replaces the leading data
image_size = (256, 704)  # rows, columns
bev_frame = 'lidar'
epochs, mini_epochs = 24, 32

train_pipeline = [  # of BEVDet; scales are relative to 704 / 1600
    dict(type=ImageAug, size=image_size, scale=(0.864, 1.25), degrees=5.4, flip=0.5),
    dict(type=BEVAug, max_radians=0.3925, low=0.95, high=1.05, flip_x=0.5, flip_y=0.5)]
test_pipeline = [dict(type=ImageAug, size=image_size)]

train_dataloader = dict(
    batch_size=8, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=NuScenesRig, data_root=data_root, split='train', bev_frame=bev_frame, reduce=2, balance=True,
                 pipeline=train_pipeline, seed=0))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=NuScenesRig, data_root=data_root, split='val', bev_frame=bev_frame, reduce=2,
                 pipeline=test_pipeline))
test_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=NuScenesRig, data_root=data_root, split='val', bev_frame=bev_frame, reduce=2,
                 pipeline=test_pipeline))
submit_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(type=NuScenesRig, data_root=data_root, split='test', bev_frame=bev_frame, reduce=2,
                 pipeline=test_pipeline))

val_evaluator = dict(type=NuScenesDetectionMetric)
test_evaluator = dict(type=NuScenesDetectionMetric)

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=epochs, val_interval=epochs)

predictor = dict(type=RigPredictor)
predictions = dict(type=NuScenesDetectionResults)  # --predictions FILE
submission = dict(type=NuScenesDetectionSubmission)  # --submit DIR
draw = dict(type=DrawRig)  # --draw DIR
robustness = dict(  # tools/benchmark.py robustness
    cameras_5=[dict(type=DropCameras, keep=5)], cameras_4=[dict(type=DropCameras, keep=4)],
    cameras_3=[dict(type=DropCameras, keep=3)], cameras_2=[dict(type=DropCameras, keep=2)],
    cameras_1=[dict(type=DropCameras, keep=1)],
    black_1=[dict(type=DropCameras, names=['CAM_FRONT'], black=True)],
    turned=[dict(type=MoveCameras, degrees=0.5)], shifted=[dict(type=MoveCameras, metres=0.05)],
    calibration=[dict(type=MoveCameras, degrees=0.5, metres=0.05)])

mini_data = dict(type=write_bev_mini, root='data/mini/nuscenes_rig')
tiny = dict(mini_data=dict(  # of tools/benchmark.py fuzz
    train_frames=1, val_frames=1, test_frames=1, train_scenes=1, width=64, detail=0.2, columns=60, workers=1))
mini_sheet = dict(type=draw_sheet)
mini_size = (64, 176)
mini_train = [  # turned and scaled samples would take a longer training
    dict(type=ImageAug, size=mini_size, flip=0.5),
    dict(type=BEVAug, max_radians=0, low=1, high=1, flip_x=0.5, flip_y=0.5)]
mini_test = [dict(type=ImageAug, size=mini_size)]
mini_place = dict(data_root='data/mini/nuscenes_rig', reduce=2)
mini_loaders = dict(
    train_dataloader=dict(batch_size=4, num_workers=0, persistent_workers=False,
                          dataset=dict(mini_place, split='mini_train', balance=False, pipeline=mini_train)),
    val_dataloader=dict(num_workers=0, persistent_workers=False,
                        dataset=dict(mini_place, split='mini_val', pipeline=mini_test)),
    test_dataloader=dict(num_workers=0, dataset=dict(mini_place, split='mini_val', pipeline=mini_test)),
    submit_dataloader=dict(num_workers=0, dataset=dict(mini_place, split='test', pipeline=mini_test)),
    train_cfg=dict(max_epochs=mini_epochs, val_interval=mini_epochs))
near = dict(type=NuScenesDetectionMetric, max_range=25)  # m; grids of mini nets end at 25.6 m
mini_pictures = dict(draw=dict(look=dict(max_range=25)), predictor=dict(max_range=25))
mini_boxes_score = dict(  # beside mini_loaders, for nets that find boxes
    mini_pictures, val_evaluator=near, test_evaluator=near)
