"""A toy of a voxel net: everything the distillation needs, no task."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

CLASSES = 5
GRID = (12, 8, 4)


class ToyNet(BaseModel):
    """Point features, mean per voxel, logits of both; the taps' names are those of the real nets."""

    def __init__(self, width: int = 6, sparse: bool = False, data_preprocessor=None):
        super().__init__(data_preprocessor=data_preprocessor)
        self.sparse = sparse
        self.stem = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Tanh())
        self.backbone, self.point_feats = nn.Identity(), nn.Identity()
        self.head, self.point_logits = nn.Linear(width, CLASSES), nn.Linear(width, CLASSES)
        self.unused = nn.Identity()

    def _tensor(self, x):
        """Recorded like a SparseTensor when `sparse`."""
        return SimpleNamespace(feats=x) if self.sparse else x

    def forward(self, inputs, data_samples=None, mode='tensor'):
        feats = self.stem(inputs['points'])
        voxels = torch.zeros(len(inputs['voxel_coords']), feats.shape[1], dtype=feats.dtype, device=feats.device)
        voxels = voxels.index_add(0, inputs['point_to_voxel'], feats)
        self.backbone(self._tensor(voxels))
        voxel_logits = self.head(voxels)
        point_logits = self.point_logits(self.point_feats(feats))
        if mode == 'loss':
            return dict(loss_ce=nn.functional.cross_entropy(point_logits.float(), inputs['labels'], ignore_index=255))
        if mode == 'predict':
            return point_logits.argmax(1)
        return dict(voxel_logits=voxel_logits, point_logits=point_logits)


TAPS = dict(point_logits='point_logits', voxel_logits='head', point_feats='point_feats', voxel_feats='backbone')


def make_inputs(num_points=300, batch_size=2, seed=0, grid=GRID, classes=CLASSES):
    """A voxelised batch with random points; about one in ten is ignored."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(num_points, 4)).astype(np.float32)
    cells = np.stack([rng.integers(0, size, num_points) for size in (batch_size, *grid)], 1)
    coords, point_to_voxel = np.unique(cells, axis=0, return_inverse=True)
    labels = rng.integers(0, classes, num_points)
    labels[rng.random(num_points) < 0.1] = 255
    voxel_labels = np.zeros(len(coords), np.int64)
    voxel_labels[point_to_voxel.ravel()] = labels  # any label of its points will do here
    return dict(points=torch.from_numpy(points), voxel_coords=torch.from_numpy(coords),
                point_to_voxel=torch.from_numpy(point_to_voxel.ravel()), batch_size=batch_size, grid_shape=grid,
                labels=torch.from_numpy(labels), voxel_labels=torch.from_numpy(voxel_labels))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def toy():
    """The toy net, its taps, a maker of batches, and the number of classes."""
    return SimpleNamespace(Net=ToyNet, taps=TAPS, make_inputs=make_inputs, grid=GRID, classes=CLASSES)
