"""CenterPoint that sees the camera: alone, or its features beside those of the LiDAR on one map seen from above.

Each cell fetches the image's features at some heights above it: backward projection, as Simple-BEV (Adam W. Harley et
al., ICRA 2023) has it, for depth that is guessed serves people, who are few pixels wide, badly. Both maps are then
joined by one convolution, as in BEVFusion (Zhijian Liu, Haotian Tang, Alexander Amini, Xinyu Yang, Huizi Mao, Daniela
Rus, Song Han, ICRA 2023).

Shapes: B scans with an image of h x w pixels each, K heights, maps of H rows (along y) and W columns (along x).
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.common.nets.blocks import cell_size, conv_bn_relu
from perception.crowd.models.centerpoint import CenterPoint
from perception.ops.voxelize import range_shape
from perception.registry import MODELS
from perception.utils.checkpoint import load_part
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

JOINS = ('mean', 'stack')
NEAREST = 0.1  # m of depth
EMPTY = (64, 64)  # pixels of a batch in which nobody has an image


@MODELS.register_module()
class CameraEncoder(nn.Module):
    """From one image of each scan to a map seen from above, zero where the image shows nothing.

    Attributes:
        stride: of the map, in voxels.
        out_channels: of the map.

    Args:
        point_cloud_range: least x, y, z, greatest x, y, z [m].
        voxel_size: along x, y, z [m].
        backbone: config of a net that gives a list of maps, such as ResNet.
        neck: config of an FPN with `finest_only`, without its inputs.
        levels: which maps of the backbone the neck takes, finest first.
        stride: cells are so many voxels long and wide.
        heights: K, above the LiDAR [m].
        join: what a cell takes of its heights: `'mean'` of those that the image shows, or all, `'stack'`ed and brought
            to the channels of one by a 1 x 1 convolution.
        mean, std: of red, green and blue in 0..255.
        image_weights: file of weights that the backbone starts from, such as ImageNet's; what else is in it, such as a
            classifier, is left out.
        in_channels: columns of a point, which it does not look at.

    Raises:
        ConfigError: another `join`, no height, levels that the backbone does not have, a mean or std that is none, a
            neck that gives several maps, or a range that cells do not fill.
    """

    def __init__(self, point_cloud_range: Sequence[float], voxel_size: Sequence[float], backbone: dict, neck: dict,
                 levels: Sequence[int] = (1, 2, 3), stride: int = 8,
                 heights: Sequence[float] = tuple(-3.5 + 0.5 * k for k in range(11)), join: str = 'mean',
                 mean: Sequence[float] = (123.675, 116.28, 103.53), std: Sequence[float] = (58.395, 57.12, 57.375),
                 image_weights: str | None = None, in_channels: int = 4):
        super().__init__()
        check_choice('CameraEncoder: join', join, JOINS)
        if not len(heights):
            raise ConfigError('CameraEncoder: no heights, expected one at least. Give them in metres.')
        cell = [stride * size for size in voxel_size[:2]]
        _, rows, columns = range_shape(point_cloud_range, [*cell, point_cloud_range[5] - point_cloud_range[2]])
        self.stride, self.shape, self.levels, self.image_weights = stride, (rows, columns), tuple(levels), image_weights
        self.backbone = MODELS.build(backbone)
        there = range(len(self.backbone.channels))
        if not levels or list(levels) != [level for level in there if level in levels]:
            raise ConfigError(f'CameraEncoder: levels={levels}, expected some of {", ".join(map(str, there))}, the '
                              "finest first. Correct them, or the backbone's stages.")
        for name, value in dict(mean=mean, std=std).items():
            if len(value) != 3 or name == 'std' and not all(part > 0 for part in value):
                raise ConfigError(f'CameraEncoder: {name}={value}, expected three numbers, those of std above 0. '
                                  'Correct them.')
        self.neck = MODELS.build(dict(neck, in_channels=[self.backbone.channels[i] for i in levels]))
        if not getattr(self.neck, 'finest_only', True):
            raise ConfigError('CameraEncoder: a neck that gives several maps, expected one. Give it finest_only=True.')
        self.out_channels = self.neck.out_channels
        self.join = None if join == 'mean' else nn.Conv2d(len(heights) * self.out_channels, self.out_channels, 1)
        z, y, x = torch.meshgrid(
            torch.tensor([*heights], dtype=torch.float32),
            point_cloud_range[1] + cell[1] * (torch.arange(rows) + 0.5),
            point_cloud_range[0] + cell[0] * (torch.arange(columns) + 0.5), indexing='ij')
        self.register_buffer('places', torch.stack([x, y, z, torch.ones_like(x)]), persistent=False)  # (4, K, H, W)
        for name, value in dict(mean=mean, std=std).items():
            self.register_buffer(name, torch.tensor([*value], dtype=torch.float32).view(3, 1, 1), persistent=False)

    def init_weights(self) -> None:
        """Load `image_weights`, once the whole is built.

        Raises:
            CheckpointError: they are not those of the backbone.
        """
        if self.image_weights:
            load_part(self.backbone, self.image_weights)

    def forward(self, inputs: dict) -> Tensor:
        """A batch to a (B, out_channels, H, W) map.

        Args:
            inputs: `image`, for each scan (3, h, w) uint8, red first, of no pixels where it has none, and `to_image`,
                (3, 4) float32 that takes x, y, z, 1 to a w, b w, w, with a, b in [0, 1) from the image's left and upper
                edge to the others and w the depth [m]; NaN without an image.

        Raises:
            DataError: no images, or of different sizes.
        """
        if 'image' not in inputs:
            raise DataError('CameraEncoder: a batch without images, expected one of each scan. Give the data set '
                            'image_reduce, such as 2.')
        return self.lift(self._images(inputs['image']), torch.stack([*inputs['to_image']]))

    def lift(self, images: Tensor, to_image: Tensor) -> Tensor:
        """Normalised images (B, 3, h, w) and `to_image` (B, 3, 4) of `forward` to the map."""
        maps = self.backbone(images)
        maps = self.neck([maps[i] for i in self.levels])
        grid, seen = self.project(to_image, images.shape[2:], maps.shape[2:])
        # in float32, for places in bfloat16 are off by pixels
        found = F.grid_sample(maps.float(), grid.flatten(2, 3), align_corners=False)
        found = found.to(maps.dtype).unflatten(3, self.shape) * seen[:, None]  # (B, C, K, H, W)
        if self.join is not None:
            return self.join(found.flatten(1, 2))
        return found.sum(2) / seen.sum(1, keepdim=True).clamp(min=1)

    def normalise(self, images: Tensor) -> Tensor:
        """(..., 3, h, w) red, green and blue in 0..255 to what the backbone takes."""
        return (images.float() - self.mean) / self.std

    def _images(self, images: Sequence[Tensor]) -> Tensor:
        """(B, 3, h, w), normalised; zeros where there is none."""
        sizes = {tuple(image.shape[1:]) for image in images if image.numel()}
        if len(sizes) > 1:
            raise DataError(f'CameraEncoder: images of {" and ".join(f"{w} x {h}" for h, w in sorted(sizes))} pixels, '
                            'expected one size in a batch. Set batch_size=1.')
        size = sizes.pop() if sizes else EMPTY
        return torch.stack([self.normalise(image) if image.numel() else self.mean.new_zeros(3, *size)
                            for image in images])

    def project(self, to_image: Tensor, size: Sequence[int] = (1, 1), cells: Sequence[int] = (1, 1)
                ) -> tuple[Tensor, Tensor]:
        """Where the image shows each place.

        Args:
            to_image: (B, 3, 4), see `forward`.
            size: h, w of the image.
            cells: rows and columns of its features; the last ones may reach beyond it, see `cell_size`.

        Returns:
            (B, K, H, W, 2) places in the features from -1 to 1 as `grid_sample` counts, far outside where the image
            does not show them; (B, K, H, W) bool whether it does.
        """
        with torch.autocast(to_image.device.type, enabled=False):
            a, b, depth = torch.einsum('bij,jkhw->ibkhw', to_image.float(), self.places)
            place = torch.stack([a, b], -1) / depth.clamp(min=NEAREST)[..., None]
            seen = (depth > NEAREST) & ((place >= 0) & (place < 1)).all(-1)
            share = [pixels / (count * cell_size(pixels, count)) for pixels, count in zip(size[::-1], cells[::-1])]
            return torch.where(seen[..., None], 2 * place * place.new_tensor(share) - 1, 9.0), seen


@MODELS.register_module()
class CameraCenterPoint(CenterPoint):
    """CenterPoint on the image alone: its encoder is a CameraEncoder. Points are not looked at."""

    def features(self, inputs: dict) -> Tensor:
        self.seen = next((tuple(image.shape[1:]) for image in inputs.get('image', ()) if image.numel()), self.seen)
        return self.encoder(inputs)


@MODELS.register_module()
class FusionCenterPoint(CenterPoint):
    """CenterPoint on the scan and the image. Layers of a LiDAR net have their names here too, so its weights load.

    Args:
        camera: config of a CameraEncoder, without range, voxels and stride.
        **others: those of CenterPoint.

    Raises:
        ConfigError: see CenterPoint.
    """

    def __init__(self, camera: dict, point_cloud_range: Sequence[float], voxel_size: Sequence[float], **others):
        super().__init__(point_cloud_range=point_cloud_range, voxel_size=voxel_size, **others)
        self.camera = CameraEncoder(point_cloud_range, voxel_size, stride=self.encoder.stride, **camera)
        channels = self.encoder.out_channels
        self.fuser = conv_bn_relu(channels + self.camera.out_channels, channels, 3)

    def features(self, inputs: dict) -> Tensor:
        return self.fuser(torch.cat([self.encoder(inputs['points']), self.camera(inputs)], 1))
