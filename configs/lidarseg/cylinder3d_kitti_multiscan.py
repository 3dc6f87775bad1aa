"""Cylinder3D at full width on SemanticKITTI, three scans at a time, with the point refinement head; PVD's teacher."""
from mmengine.config import read_base

from perception.lidarseg.datasets.semantickitti.mini import write_multiscan_mini
from perception.lidarseg.transforms import RandomSector, RandomThin

with read_base():
    from .._base_.cylinder3d_schedule import *
    from .._base_.runtime import *
    from .._base_.semantickitti_multiscan import *
    from .cylinder3d_kitti import mini as single_mini
    from .cylinder3d_kitti import model

model.update(num_classes=25)

mini_data = dict(type=write_multiscan_mini, root='data/mini/semantickitti_multiscan')
mini = dict(  # as the single scans' mini; three scans hold three times the points, so one in six is kept
    single_mini,
    model=dict(single_mini['model'], class_weights=[  # (-ln of each class's share of SemanticKITTI's points) ** 0.5
        1.79, 2.95, 2.80, 2.49, 2.53, 2.94, 4.28, 4.36, 1.27, 2.05, 1.39, 2.35, 1.42, 1.62, 1.15, 2.26, 1.60, 2.42,
        2.72, 2.52, 3.00, 2.96, 3.19, 2.96, 3.03]),
    train_dataloader=dict(
        single_mini['train_dataloader'],
        dataset=dict(data_root='data/mini/semantickitti_multiscan', sequences=[0, 1, 2, 3, 4, 5],
                     pipeline=[dict(type=RandomSector, degrees=120), dict(type=RandomThin, keep=1 / 6),
                               *train_pipeline])),
    val_dataloader=dict(single_mini['val_dataloader'], dataset=dict(data_root='data/mini/semantickitti_multiscan')),
    test_dataloader=dict(single_mini['test_dataloader'], dataset=dict(data_root='data/mini/semantickitti_multiscan')),
    submit_dataloader=dict(single_mini['submit_dataloader'],
                           dataset=dict(data_root='data/mini/semantickitti_multiscan')))
