"""A CenterPoint without its training side, as ONNX takes it: the whole net on pillars or an image, and what is dense.

Pillars are made on the whole grid, without shapes that depend on where points lie. Sparse convolutions have no operator
in ONNX: of nets of voxels the dense part alone is a graph, from the map of the encoder on.

Shapes: B scans with N points each, maps of H rows (along y) and W columns (along x).
"""
import torch
from torch import Tensor, nn

from perception.common.part import Part
from perception.utils.errors import ConfigError

POINTS = 20000  # of an example, where the net has seen none
IMAGE = (360, 640)  # rows and columns of it, likewise


class DensePart(nn.Module):
    """The map of the encoder to the maps of the head.

    Args:
        model: a CenterPoint.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) to the maps in the order of `names`, whole ones of boxes too."""
        head = self.model.head
        maps = head.complete(head(self.model.neck(self.model.backbone(features))))
        return tuple(found[name] for found in maps for name in self.per_task())

    def per_task(self) -> list[str]:
        """Names of the maps of a task, the heat map first."""
        return ['heatmap', *self.model.head.branches]

    @property
    def names(self) -> list[str]:
        """`boxes_TASK_MAP`, such as `boxes_0_heatmap` (logits); see `decode_boxes` of `center_head.py`."""
        return [f'boxes_{task}_{name}' for task in range(len(self.model.head.counts)) for name in self.per_task()]


class PointsToMaps(nn.Module):
    """Points to the maps of the head; batch and number of points stay free.

    Args:
        model: a CenterPoint on pillars.
    """

    free = dict(points=(0, 1))  # dimensions of inputs, see `to_onnx`

    def __init__(self, model: nn.Module):
        super().__init__()
        self.encoder, self.dense = model.encoder, DensePart(model)

    def forward(self, points: Tensor) -> tuple[Tensor, ...]:
        """(B, N, in_channels) as the net takes them, shorter scans filled up with NaN, to `DensePart.names`."""
        return self.dense(self.encoder.on_grid(points))


class ImageToMaps(nn.Module):
    """An image and its projection to the maps of the head.

    Args:
        model: a CameraCenterPoint.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.encoder, self.dense = model.encoder, DensePart(model)

    def forward(self, image: Tensor, to_image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, h, w) RGB in 0..255 and (B, 3, 4), see CameraEncoder, to `DensePart.names`."""
        return self.dense(self.encoder.lift(self.encoder.normalise(image), to_image))


def whole(model: nn.Module) -> Part:
    """The whole net.

    Args:
        model: a CenterPoint on pillars or a CameraCenterPoint; an example is as large as what it has seen last.

    Raises:
        ConfigError: another net.
    """
    model.eval()
    encoder, seen = model.encoder, model.seen
    if hasattr(encoder, 'lift'):
        module, size = ImageToMaps(model), seen or IMAGE
        low, high = encoder.places[:3].flatten(1).amin(1), encoder.places[:3].flatten(1).amax(1)
        to_image = torch.zeros(1, 3, 4)  # looks along x: all that lies ahead of the origin and near the axis is seen
        to_image[0, 0, :2], to_image[0, 1, ::2] = torch.tensor([.5, -.5]), torch.tensor([.5, -.5])
        to_image[0, 2, 0] = 1
        to_image[0, 2, 3] = (high - low).max() / 100
        inputs = dict(image=torch.rand(1, 3, *size) * 255, to_image=to_image)
    elif hasattr(encoder, 'on_grid') and not hasattr(model, 'camera'):
        low, high = (torch.tensor(encoder.point_cloud_range[i:i + 3]) for i in (0, 3))
        points = torch.rand(1, seen or POINTS, encoder.in_channels)
        points[..., :3] = low + points[..., :3] * (high - low)
        module, inputs = PointsToMaps(model), dict(points=points)
    else:
        raise ConfigError(f'{type(model).__name__}.deployable: a {type(encoder).__name__} came, expected pillars or '
                          'the camera alone, since sparse convolutions have no ONNX operator. Write the dense part, '
                          'deployable_parts() from Python, and run the encoder beside it.')
    return Part(module.eval(), inputs, module.dense.names)


@torch.no_grad()
def parts(model: nn.Module) -> dict[str, Part]:
    """What of the net is one graph whatever its encoder: `dense`, from the map of the encoder on.

    Args:
        model: a CenterPoint.
    """
    model.eval()
    device, columns, seen = next(model.parameters()).device, getattr(model.encoder, 'in_channels', 4), model.seen
    nothing = dict(points=[torch.zeros(0, columns, device=device)], image=[torch.zeros(3, 0, 0, device=device)],
                   to_image=[torch.full((3, 4), torch.nan, device=device)])
    features, model.seen = torch.rand_like(model.features(nothing).float()), seen
    dense = DensePart(model).eval()
    return dict(dense=Part(dense, dict(features=features), dense.names))
