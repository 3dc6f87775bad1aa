"""Toys of a voxel net and an image net: everything the distillation needs, no task."""
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


class ToyImageNet(BaseModel):
    """Four stages at strides 1, 2, 4, 4 and a head at full size; taps as the image nets of the tasks have them."""

    def __init__(self, width: int = 6, data_preprocessor=None):
        super().__init__(data_preprocessor=data_preprocessor)
        channels = (3, width, width, 2 * width, 2 * width)
        for i, stride in enumerate((1, 2, 2, 1)):
            self.add_module(f'stage{i + 1}', nn.Sequential(
                nn.Conv2d(channels[i], channels[i + 1], 3, stride, 1, bias=False), nn.BatchNorm2d(channels[i + 1]),
                nn.ReLU()))
        self.classifier, self.logits = nn.Conv2d(2 * width, CLASSES, 1), nn.Identity()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.stage4(self.stage3(self.stage2(self.stage1(inputs['images']))))
        size = inputs['images'].shape[2:]
        logits = self.logits(nn.functional.interpolate(self.classifier(x), size, mode='bilinear'))
        if mode == 'loss':
            return dict(loss_seg=nn.functional.cross_entropy(logits.float(), inputs['labels'], ignore_index=255))
        return logits.argmax(1) if mode == 'predict' else dict(logits=logits)


def make_images(batch_size=2, size=(16, 24), seed=0):
    """Images and labels in upright stripes, some pixels ignored."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((batch_size, *size), np.int64)
    for image in labels:
        for k, u in enumerate(rng.integers(0, size[1] - 2, CLASSES - 1)):
            image[:, u:u + 2] = k + 1
    labels[rng.random(labels.shape) < 0.05] = 255
    return dict(images=torch.from_numpy(rng.normal(size=(batch_size, 3, *size)).astype(np.float32)),
                labels=torch.from_numpy(labels))


@pytest.fixture
def image_toy():
    """The image net, a maker of batches, and the number of classes."""
    return SimpleNamespace(Net=ToyImageNet, make_inputs=make_images, classes=CLASSES)


KINDS = ('map', 'points', 'voxels', 'sparse')


class Case:
    """Made-up outputs of two nets at the same positions, in one of the forms a tap can have.

    `student` and `teacher` hold `logits` (C = 5 both), `feats` (6 and 9 channels) and `deep` (7 and 4) in float64;
    `samples` gives the plain view for a slow implementation: an array (P, C) for each image or scan.
    """

    def __init__(self, kind: str, seed: int = 0):
        self.kind, self.rows = kind, 'voxels' if kind == 'voxels' else 'points'
        rng = torch.Generator().manual_seed(seed)
        if kind == 'map':
            labels = torch.randint(0, CLASSES, (2, 5, 7), generator=rng)
            labels[torch.rand(labels.shape, generator=rng) < 0.1] = 255
            self.inputs, self.shape = dict(labels=labels), lambda c: (2, c, 5, 7)
        else:
            self.inputs = make_inputs(60, seed=seed, grid=(6, 4, 2))
            self.inputs['point_batch'] = self.inputs['voxel_coords'][self.inputs['point_to_voxel'], 0]
            count = len(self.inputs['points' if kind == 'points' else 'voxel_coords'])
            self.shape = lambda c: (count, c)
        self.student = {tap: self.wrap(torch.randn(self.shape(c), generator=rng, dtype=torch.float64))
                        for tap, c in (('logits', CLASSES), ('feats', 6), ('deep', 7))}
        self.teacher = {tap: self.wrap(torch.randn(self.shape(c), generator=rng, dtype=torch.float64))
                        for tap, c in (('logits', CLASSES), ('feats', 9), ('deep', 4))}
        self.batch = dict(inputs=self.inputs, data_samples=None, iteration=0)

    def wrap(self, tensor):
        """As the tap of this kind records it."""
        return SimpleNamespace(feats=tensor) if self.kind == 'sparse' else tensor

    def map(self, function, taps):
        """Outputs with the function applied to each tensor."""
        return {tap: self.wrap(function(getattr(value, 'feats', value))) for tap, value in taps.items()}

    def samples(self, value):
        """A (P, C) array for each image or scan."""
        value = getattr(value, 'feats', value).detach()
        if self.kind == 'map':
            return [x.flatten(1).T.numpy() for x in value]
        index = self.inputs['point_batch'] if self.kind == 'points' else self.inputs['voxel_coords'][:, 0]
        return [value[index == b].numpy() for b in range(2)]

    def labels(self):
        """A (P,) array for each image or scan."""
        labels = self.inputs['labels' if self.kind in ('map', 'points') else 'voxel_labels']
        return [x[:, 0] for x in self.samples(labels.unsqueeze(1))]


@pytest.fixture(params=KINDS)
def case(request):
    """Outputs of two nets: maps, rows of points or voxels, sparse tensors."""
    return Case(request.param)


@pytest.fixture
def make_case():
    """The maker of cases, for tests that need one kind."""
    return Case
