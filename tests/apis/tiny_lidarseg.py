"""Complete configs of tiny LiDAR nets on a tiny SemanticKITTI, and untrained weights of them."""
from pathlib import Path

import torch

from perception.apis.config import load_config
from perception.registry import MODELS

CONFIG = '''
"""A net of a few thousand weights."""
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.runner import TestLoop

from perception.lidarseg.charts import DrawCharts
from perception.lidarseg.datasets.nuscenes.reader import NuScenesLidarSeg
from perception.lidarseg.datasets.semantickitti.metric import SemanticKITTIMetric
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTI
from perception.lidarseg.datasets.semantickitti.submission import SemanticKITTISubmission
from perception.lidarseg.distance import DistanceMetric
from perception.lidarseg.draw import DrawScans
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.predictor import LidarPredictor
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.lidarseg.voting import EnsembleSegmentor, TTASegmentor
from perception.common.saving import SavedPredictions

default_scope = 'perception'
work_dir = None
model = {model}
loader = dict(batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
              collate_fn=dict(type=pseudo_collate))
test_dataloader = dict(loader, dataset=dict(type={data}, data_root={root!r}, split='val'))
submit_dataloader = dict(loader, dataset=dict(type={data}, data_root={root!r}, split='test'))
test_evaluator = dict(type=SemanticKITTIMetric)
test_cfg = dict(type=TestLoop)
tta_model = dict(type=TTASegmentor, chunk=4)
submission = dict(type=SemanticKITTISubmission)
draw = [dict(type=DrawScans, panel=(160, 90), max_scans=1), dict(type=DrawCharts)]
predictor = dict(type=LidarPredictor)
ensemble_model = dict(type=EnsembleSegmentor)
saved_model = dict(type=SavedPredictions)
more_metrics = dict(distance=dict(type=DistanceMetric))
'''
CYLINDER = '''dict(type=Cylinder3D, base_channels=2, compression=4, point_channels=8, point_widths=(4, 8, 8),
             num_classes={classes}, data_preprocessor=dict(type=CylinderVoxelizer, grid_shape=(32, 24, 8)))'''
CUBES = 'dict(type=MinkUNet, width=0.1, data_preprocessor=dict(type=CubeVoxelizer, voxel_size=1.0))'
NETS = dict(cylinder=CYLINDER.format(classes=19), cubes=CUBES, coarse=CYLINDER.format(classes=16))


def write_configs(folder: Path, root: Path) -> Path:
    """Write `cylinder.py`, `cubes.py` and `coarse.py` (nuScenes' classes), and two checkpoints of each."""
    for name, model in NETS.items():
        data = 'NuScenesLidarSeg' if name == 'coarse' else 'SemanticKITTI'
        (folder / f'{name}.py').write_text(CONFIG.format(model=model, data=data, root=str(root)))
        for seed in (0, 1):
            torch.manual_seed(seed)
            net = MODELS.build(load_config(folder / f'{name}.py').model)
            for module in net.modules():
                if isinstance(module, torch.nn.BatchNorm1d):  # as after a training
                    module.running_mean.uniform_(-0.1, 0.1)
            torch.save(net.state_dict(), folder / f'{name}_{seed}.pth')
    return folder
