"""An exported file in place of weights: ONNX Runtime computes, the net's own rules make predictions of what it gives.

So what is deployed is scored, drawn and run on videos as the net is: `tools/test.py CONFIG model.onnx`.
"""
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from perception.utils.errors import CheckpointError, ConfigError, DataError, PerceptionError
from perception.utils.optional import import_optional

SUFFIX = '.onnx'
INSTALL = "pip install -e '.[onnx]'"


def open_session(path: str | Path, threads: int | None = None):
    """An ONNX Runtime session on the CPU.

    Args:
        path: the file.
        threads: as many as torch uses by default.

    Raises:
        MissingDependency: onnxruntime is missing.
    """
    runtime = import_optional('onnxruntime', 'ONNX Runtime', INSTALL)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    return runtime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


class ExportedNet(nn.Module):
    """Stands where a test has its net.

    Args:
        net: whose `deployable()` takes `images` alone, (B, 3, H, W) in 0..255, and which has a method
            `predict(outputs, data_samples)`.
        path: file of tools/export.py.

    Raises:
        CheckpointError: it cannot be read, or was exported of another net.
        ConfigError: a net of another kind.
        MissingDependency: onnxruntime is missing.
    """

    def __init__(self, net: nn.Module, path: str | Path) -> None:
        super().__init__()
        if not (hasattr(net, 'deployable') and hasattr(net, 'predict')):
            raise ConfigError(f'{path}: {type(net).__name__} came with an exported file, expected a net of single '
                              'images that tells lanes, marks or classes. Give the checkpoint instead.')
        self.real, self.path = (net,), Path(path).expanduser()  # in a tuple: no sub-module, for it computes nothing
        if not self.path.is_file():
            raise CheckpointError(f'{path}: no such file, expected one of tools/export.py. Correct the path.')
        try:
            self.session = open_session(self.path)
        except Exception as error:
            if isinstance(error, PerceptionError):
                raise
            raise CheckpointError(f'{path}: not readable ({str(error).splitlines()[0][:100]}), expected a file of '
                                  'tools/export.py. Export it again.') from error  # onnxruntime's share no class
        module, inputs, names = net.cpu().deployable()  # its examples are made there
        with torch.no_grad():
            ours = dict(inputs, **dict(zip(names, module(*inputs.values()))))
        ours = {name: tuple(value.shape[1:]) for name, value in ours.items()}
        theirs = {part.name: tuple(part.shape[1:])
                  for part in (*self.session.get_inputs(), *self.session.get_outputs())}
        if theirs != ours or list(inputs) != ['images']:
            raise CheckpointError(f'{path}: {_shapes(theirs)}, expected {_shapes(ours)} of {type(net).__name__}. Use '
                                  'the config that it was exported with (--mini for a mini run).')
        self.shape, self.outputs = ours['images'], names

    @property
    def finds_lanes(self) -> bool:
        """As the net has it."""
        return getattr(self.real[0], 'finds_lanes', True)

    @torch.no_grad()
    def test_step(self, data: dict) -> Sequence:
        """Predict a batch as it comes from the data loader.

        Args:
            data: `inputs` with `image`, a list of (3, H, W) uint8 tensors, RGB, and `data_samples`, one each.

        Raises:
            DataError: images of another size than the file is for.
        """
        images = data['inputs']['image']
        wrong = [tuple(image.shape) for image in images if tuple(image.shape) != self.shape]
        if wrong:
            raise DataError(f'{self.path}: images of {wrong[0]}, expected {self.shape}, which the file is for. Set '
                            "the data set's input_size so, or export the net for that size (model.input_size).")
        found = self.session.run(None, dict(images=torch.stack(list(images)).float().cpu().numpy()))
        outputs = {name: torch.from_numpy(value) for name, value in zip(self.outputs, found)}
        return self.real[0].predict(outputs, data['data_samples'])


def _shapes(shapes: dict[str, tuple]) -> str:
    return ', '.join(f'{name} (B, {", ".join(map(str, shape))})' for name, shape in shapes.items())
