"""Cameras of a rig and the grid seen from above, with the augmentation of both.

Frames: "the frame" is the one that boxes and maps are labelled in (`bev_frame`: that of the LiDAR, of the car, or of
the car kept level), z up; a camera has x to the right, y down, z forward; pixels u, v count from the middle of the
first one. `bev_aug` takes a point of the frame to where the grid, boxes and labels of a training sample lie, and
`image_aug` a pixel of the file to one of the net's input.

Matrices are multiplied in float64, points and pixels are moved in float32 (float64 where they come so), whatever
autocast says. Shapes: B samples, N cameras of any number, images of H x W pixels, features of h x w, P points, D
depths, a grid of Y rows (along y) and X columns (along x).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from perception.common.nets.blocks import cell_size
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

NEAR = 1e-5  # depth [m] from which on a point lies before a camera
ALIGNMENTS = ('centre', 'lss')


@dataclass
class CameraGeometry:
    """Where the cameras of a batch are and what was done to their images.

    Attributes:
        cam_to_img: (B, N, 3, 3) a camera's x, y, z to pixels of its file: u d, v d, d.
        frame_to_cam: (B, N, 4, 4) the frame to the camera at its own time.
        image_aug: (B, N, 3, 3) pixel u, v, 1 of the file to pixel u, v, 1 of the input.
        bev_aug: (B, 4, 4) the frame to the augmented frame.
        size: H, W of the input.

    Raises:
        DataError: shapes that do not belong together.
    """

    cam_to_img: Tensor
    frame_to_cam: Tensor
    image_aug: Tensor
    bev_aug: Tensor
    size: tuple[int, int]

    def __post_init__(self):
        self.size = tuple(int(n) for n in self.size)
        lead = tuple(self.cam_to_img.shape[:2])
        expected = dict(cam_to_img=(*lead, 3, 3), frame_to_cam=(*lead, 4, 4), image_aug=(*lead, 3, 3),
                        bev_aug=(*lead[:1], 4, 4))
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape or len(lead) < 2 or not lead[1]:
                raise DataError(f'CameraGeometry: {name} of shape {tuple(getattr(self, name).shape)} with cam_to_img '
                                f'of {tuple(self.cam_to_img.shape)}, expected {shape} for B samples of N cameras, '
                                '(B, N, ...), bev_aug (B, 4, 4). Stack the matrices of one sample after the other.')

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Tensor]) -> CameraGeometry:
        """Of a batch: `images` (B, N, 3, H, W) and the matrices by their names."""
        return cls(**{name: inputs[name] for name in ('cam_to_img', 'frame_to_cam', 'image_aug', 'bev_aug')},
                   size=inputs['images'].shape[-2:])

    @property
    def device(self) -> torch.device:
        """Of the matrices."""
        return self.cam_to_img.device

    def bev_to_image(self) -> Tensor:
        """(B, N, 3, 4) float64: x, y, z, 1 of the augmented frame to u d, v d, d of the input, d the depth [m]."""
        with _exact(self.device):
            to_pixel = self.image_aug.double() @ self.cam_to_img.double()
            to_cam = self.frame_to_cam.double() @ _inverse(self.bev_aug)[:, None]
            return to_pixel @ to_cam[..., :3, :]

    def image_to_bev(self) -> Tensor:
        """(B, N, 3, 4) float64: u d, v d, d, 1 of the input to x, y, z of the augmented frame."""
        with _exact(self.device):
            to_frame = self.bev_aug.double()[:, None] @ _inverse(self.frame_to_cam)
            rays = to_frame[..., :3, :3] @ _inverse(self.image_aug.double() @ self.cam_to_img.double())
            return torch.cat([rays, to_frame[..., :3, 3:]], dim=-1)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels of points.

        Args:
            points: (B, P, 3) x, y, z [m] of the augmented frame, or (P, 3), the same for all samples.

        Returns:
            uv: (B, N, P, 2) pixels of the input; of no meaning where a point lies behind the camera, but finite.
            depth: (B, N, P) along the camera's axis [m].
            visible: (B, N, P) bool: before the camera and between the middles of the image's outermost pixels.
        """
        points = _real(points)
        with _exact(self.device):
            matrix = self.bev_to_image().to(points.dtype)
            image = torch.einsum('bnij,bpj->bnpi' if points.dim() == 3 else 'bnij,pj->bnpi', matrix[..., :3], points)
            image = image + matrix[..., None, :, 3]
            depth = image[..., 2]
            uv = image[..., :2] / depth.clamp(min=NEAR)[..., None]
        last = uv.new_tensor(self.size[::-1]) - 1
        return uv, depth, (depth > NEAR) & ((uv >= 0) & (uv <= last)).all(-1)

    def unproject(self, uv: Tensor, depth: Tensor) -> Tensor:
        """Points of pixels.

        Args:
            uv: (B, N, ..., 2) pixels of the input.
            depth: (B, N, ...) along the camera's axis [m].

        Returns:
            (B, N, ..., 3) x, y, z [m] of the augmented frame.
        """
        uv, depth = _real(uv), _real(depth)[..., None]
        with _exact(self.device):
            matrix = self.image_to_bev().to(uv.dtype)
            rays = torch.cat([uv * depth, depth.expand(*uv.shape[:-1], 1)], dim=-1)
            points = rays.flatten(2, -2) @ matrix[..., :3].mT + matrix[..., None, :, 3]
        return points.view(rays.shape)

    def frustum(self, depths: Tensor | Sequence[float], feature_size: Sequence[int], align: str = 'centre') -> Tensor:
        """The points that each cell of a camera's features looks at.

        Args:
            depths: (D,) [m].
            feature_size: h, w.
            align: `'centre'`: through the middle of the pixels that a cell stands for; `'lss'`: from the first pixel
                to the last one in equal steps, as in Lift, Splat, Shoot and what followed it.

        Returns:
            (B, N, D, h, w, 3) x, y, z [m] of the augmented frame.

        Raises:
            ConfigError: an unknown alignment.
        """
        check_choice('CameraGeometry.frustum: align', align, ALIGNMENTS)
        v, u = (cell_pixels(pixels, cells, align, self.device) for pixels, cells in zip(self.size, feature_size))
        uv = torch.stack(torch.meshgrid(u, v, indexing='xy'), dim=-1)
        depths = torch.as_tensor(depths, dtype=uv.dtype, device=self.device)
        lead = (*self.cam_to_img.shape[:2], len(depths), *uv.shape[:2])
        return self.unproject(uv.expand(*lead, 2), depths[:, None, None].expand(lead))


@dataclass(frozen=True)
class BEVGrid:
    """Cells seen from above: row 0 at the least y, column 0 at the least x.

    A cell holds its lower borders, not its upper ones.

    Attributes:
        x: least, greatest value and size of a cell [m].
        y: the same.
        z: least and greatest value [m]; there is one layer.

    Raises:
        ConfigError: a range that cells do not fill.
    """

    x: tuple[float, float, float]
    y: tuple[float, float, float]
    z: tuple[float, float] = (-10., 10.)

    def __post_init__(self):
        for name, length in (('x', 3), ('y', 3), ('z', 2)):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            whole = len(values) == length and -inf < values[0] < values[1] < inf
            if whole and length == 3:
                cells = (values[1] - values[0]) / values[2] if values[2] > 0 else 0
                whole = .5 < cells < inf and abs(cells - round(cells)) < 1e-3
            if not whole:
                raise ConfigError(f'BEVGrid: {name}={values}, expected '
                                  + ('least, greatest value and size of a cell, a whole number of them'
                                     if length == 3 else 'least and greatest value') + ' in metres. Correct it.')

    @property
    def shape(self) -> tuple[int, int]:
        """Y, X."""
        return tuple(round((high - low) / cell) for low, high, cell in (self.y, self.x))

    def centres(self, device: torch.device | None = None) -> Tensor:
        """(Y, X, 2) float32 x, y [m] of the middles of the cells."""
        y, x = (low + cell * (torch.arange(count, device=device, dtype=torch.float64) + .5)
                for (low, _, cell), count in zip((self.y, self.x), self.shape))
        return torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1).float()


def cell_pixels(pixels: int, cells: int, align: str = 'centre', device: torch.device | None = None) -> Tensor:
    """(cells,) float32 pixels that the rows or columns of features stand for, along an axis of so many pixels."""
    if align == 'lss':
        return torch.linspace(0, pixels - 1, cells, device=device)
    return (torch.arange(cells, device=device) + .5) * cell_size(pixels, cells) - .5


def _exact(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, enabled=False)


def _inverse(matrices: Tensor) -> Tensor:
    """Float64; does not wait for a GPU as `torch.linalg.inv` does."""
    return torch.linalg.inv_ex(matrices.double())[0]


def _real(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
