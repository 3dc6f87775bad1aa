"""Predictions of LiDAR nets as CUDA graphs: the net's thousand launches become one.

A forward is cut where the host stops waiting for the device. Voxels and maps, whose sizes only the device knows, are
made for each batch as ever and copied, with the features, into memory of fixed size, see `FixedVoxels`. The net itself,
features in, logits out, reads nothing else; it is recorded once and replayed for each batch that fits. What does not
fit has the memory made larger and the net recorded again. Padded rows reach no voxel and no point: convolutions, norms
and layers of points work row by row, and what gathers points into voxels puts padded points into the last, padded one.
"""
import logging

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.lidarseg.models.points import voxels_of
from perception.ops.sparse.fixed import FixedVoxels, put, roomy
from perception.ops.sparse.maps import VoxelSet

READ = ('point_feats', 'voxel_feats', 'point_to_voxel')  # what nets read of a batch, beside its voxels


class CannotRecord(RuntimeError):
    """The net cannot be recorded as a CUDA graph here."""


def use_graphs(net: nn.Module) -> None:
    """Predict by CUDA graphs from now on, in place; on a CPU nothing changes, and that is said.

    Hooks on parts of the net are not called by a replay. Weights may change in place.

    Args:
        net: a Cylinder3D, MinkUNet, SPVCNN or SPVNAS.
    """
    name, plain = type(net).__name__, net.forward
    if not next(net.parameters()).is_cuda:
        print_log(f'--compile: {name} on a CPU runs as it is; CUDA graphs, which it uses, are for GPUs.', 'current')
        return
    fixed = FixedNet(net)

    def forward(inputs: dict, data_samples: list | None = None, mode: str = 'tensor') -> dict | list:
        if net.training or torch.is_grad_enabled() or mode not in ('tensor', 'predict'):
            return plain(inputs, data_samples, mode)
        try:
            outputs = fixed(inputs)
        except CannotRecord as error:
            net.forward = plain
            print_log(f'--compile: {error}; it runs as it is.', 'current', logging.WARNING)
            return plain(inputs, data_samples, mode)
        if mode == 'predict':
            return net.predict(outputs['point_logits'], inputs['num_points'], data_samples)
        return outputs

    net.forward = forward


class FixedNet:
    """A net in evaluation whose shapes are those of a capacity, not of a batch; on CUDA recorded and replayed.

    On a CPU it computes the same without a record, for tests.

    Args:
        net: see `use_graphs`.
    """

    def __init__(self, net: nn.Module) -> None:
        self.name, self.forward = type(net).__name__, net.forward
        self.voxels: FixedVoxels | None = None
        self.num_points, self.memory, self.precision = 0, {}, None
        self.graph, self.outputs = None, {}

    @torch.no_grad()
    def __call__(self, inputs: dict) -> dict[str, Tensor]:
        """What the net returns in its mode 'tensor'.

        Args:
            inputs: a batch, see `CylinderVoxelizer.forward`.

        Raises:
            CannotRecord: the net waits for the device, or does what a recording forbids.
        """
        voxels, num_points = voxels_of(inputs), len(inputs['point_to_voxel'])
        device = inputs['point_to_voxel'].device
        precision = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
        if self.voxels is None or num_points > self.num_points or not self.voxels.fits(voxels):
            self.grow(dict(inputs, voxels=voxels))
        self.load(inputs, voxels)
        if precision != self.precision:
            self.precision, self.graph = precision, None
        with torch.cuda.device_of(inputs['point_to_voxel']):
            if not inputs['point_to_voxel'].is_cuda:
                self.outputs = self.compute()
            else:
                if self.graph is None:
                    self.record()
                self.graph.replay()
        return {name: rows[:num_points if name == 'point_logits' else len(voxels)].clone()
                for name, rows in self.outputs.items()}

    def grow(self, inputs: dict) -> None:
        """Make room for a batch, which is first computed as it is, so that its voxels have the maps that the net reads.
        """
        again = 'again, ' if self.voxels is not None else ''
        self.graph, self.outputs = None, {}  # whose memory can be used again
        self.forward(inputs)
        with torch.inference_mode(False):
            self.voxels = FixedVoxels(inputs['voxels'], self.voxels)
            self.num_points = max(roomy(len(inputs['point_to_voxel'])), self.num_points)
            self.memory = {name: inputs[name].new_empty(
                self.voxels.capacity if name == 'voxel_feats' else self.num_points, *inputs[name].shape[1:])
                for name in READ if name in inputs}
        levels = ' / '.join(f'{capacity:,}' for capacity in self.voxels.capacities())
        print_log(f'{self.name} is laid out {again}for {self.num_points:,} points and {levels} voxels of its levels',
                  'current')

    def load(self, inputs: dict, voxels: VoxelSet) -> None:
        """Copy a batch that fits into the memory."""
        self.voxels.load(voxels)
        for name, memory in self.memory.items():
            put(memory, inputs[name], self.voxels.capacity - 1 if name == 'point_to_voxel' else 0)

    def compute(self) -> dict[str, Tensor]:
        """The net on what the memory holds; casts of weights are not kept, for they would not be recorded."""
        device, (enabled, dtype) = self.memory['point_to_voxel'].device.type, self.precision
        voxels = self.voxels.voxels()
        with torch.autocast(device, dtype, enabled, cache_enabled=False):
            return self.forward(dict(self.memory, voxels=voxels, voxel_coords=voxels.voxel_coords))

    def record(self) -> None:
        """Record `compute`, as https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs says: after runs on the
        stream of the recording, which compile kernels and make handles; the second one refuses to wait for the device.
        """
        debug, current, stream = torch.cuda.get_sync_debug_mode(), torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream):
                self.compute()
                torch.cuda.set_sync_debug_mode('error')
                self.compute()
            torch.cuda.set_sync_debug_mode(debug)
            current.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # a loader's thread that pins memory must not end the recording
            with torch.cuda.graph(graph, stream=stream, capture_error_mode='thread_local'):
                self.outputs = self.compute()
            self.graph = graph
        except RuntimeError as error:
            why = (str(error).splitlines() or [''])[0][:200]
            raise CannotRecord(f'{self.name} cannot be recorded as a CUDA graph here ({why})') from error
        finally:
            torch.cuda.set_sync_debug_mode(debug)
            torch.cuda.set_stream(current)  # a recording that fails stays on its own
