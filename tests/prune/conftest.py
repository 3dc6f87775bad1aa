"""Small nets' inputs, and batch norms as a training leaves them."""
import torch
from torch import nn


def rows(seed: int = 0) -> dict:
    """A batch of a few voxels, for all sparse nets."""
    generator = torch.Generator().manual_seed(seed)
    coords = torch.cat([torch.zeros(150, 1, dtype=torch.long), torch.randint(0, 16, (150, 3), generator=generator)], 1)
    coords = torch.unique(coords, dim=0)
    count, points = len(coords), 250
    index = torch.cat([torch.arange(count), torch.randint(0, count, (points - count,), generator=generator)])
    return dict(point_feats=torch.randn(points, 9, generator=generator), point_to_voxel=index, voxel_coords=coords,
                grid_shape=(16, 16, 16), batch_size=1, num_points=[points],
                voxel_feats=torch.randn(count, 4, generator=generator))


def images(height: int = 32, width: int = 64) -> dict:
    return dict(images=torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0)))


def running(inputs: dict):
    return lambda net: net(inputs=inputs, mode='tensor')


def trained(net: nn.Module) -> nn.Module:
    """Batch norms as a training leaves them: scales, shifts and statistics of all sizes."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.1, 1.0, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
    return net.eval()
