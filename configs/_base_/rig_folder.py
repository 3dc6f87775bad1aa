"""Images of one's own rig of cameras with boxes: copy this file's settings into a config and name your folder."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.runner import EpochBasedTrainLoop

from perception.bev.datasets.folder.mini import write_rig_folder_mini
from perception.bev.datasets.folder.reader import RigFolder
from perception.bev.datasets.nuscenes.metric import NuScenesDetectionMetric
from perception.bev.draw import DrawRig
from perception.bev.predictor import RigPredictor
from perception.bev.transforms import BEVAug, DropCameras, ImageAug, MoveCameras
from perception.common.samplers import EpochSampler

image_size = (256, 704)  # rows, columns that the net sees
bev_frame = 'ego'
epochs, mini_epochs = 24, 32

train_pipeline = [
    dict(type=ImageAug, size=image_size, scale=(1, 1.25), degrees=5.4, flip=0.5),
    dict(type=BEVAug, max_radians=0.3925, low=0.95, high=1.05, flip_x=0.5, flip_y=0.5)]
test_pipeline = [dict(type=ImageAug, size=image_size)]

folder = dict(  # every argument: perception/bev/datasets/folder/reader.py
    type=RigFolder,
    data_root='data/rig_folder',  # PERCEPTION_DATA replaces the leading data
    bev_frame=bev_frame,
    label_map=None)  # own names of classes -> nuScenes'

train_dataloader = dict(
    batch_size=8, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(folder, split='train', pipeline=train_pipeline, seed=0))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(folder, split='val', pipeline=test_pipeline))
test_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(folder, split='val', pipeline=test_pipeline))

val_evaluator = dict(type=NuScenesDetectionMetric, present=True)
test_evaluator = dict(type=NuScenesDetectionMetric, present=True)

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=epochs, val_interval=4)

predictor = dict(type=RigPredictor)
draw = dict(type=DrawRig)  # --draw DIR
robustness = dict(  # tools/benchmark.py robustness
    cameras_3=[dict(type=DropCameras, keep=3)], cameras_1=[dict(type=DropCameras, keep=1)],
    calibration=[dict(type=MoveCameras, degrees=0.5, metres=0.05)])

mini_data = dict(type=write_rig_folder_mini, root='data/mini/rig_folder')
tiny = dict(mini_data=dict(  # of tools/benchmark.py fuzz
    train_frames=1, val_frames=1, train_scenes=1, val_scenes=1, width=64, detail=0.2, workers=1))
mini_size = (64, 176)
mini_train = [
    dict(type=ImageAug, size=mini_size, flip=0.5),
    dict(type=BEVAug, max_radians=0, low=1, high=1, flip_x=0.5, flip_y=0.5)]
mini_folder = dict(data_root='data/mini/rig_folder', reduce=2, pipeline=[dict(type=ImageAug, size=mini_size)])
near = dict(type=NuScenesDetectionMetric, present=True, max_range=25)  # m; grids of mini nets end at 25.6 m
mini_loaders = dict(
    train_dataloader=dict(batch_size=4, num_workers=0, persistent_workers=False,
                          dataset=dict(mini_folder, pipeline=mini_train)),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=mini_folder),
    test_dataloader=dict(num_workers=0, dataset=mini_folder),
    val_evaluator=near, test_evaluator=near, draw=dict(look=dict(max_range=25)), predictor=dict(max_range=25),
    train_cfg=dict(max_epochs=mini_epochs, val_interval=mini_epochs))
