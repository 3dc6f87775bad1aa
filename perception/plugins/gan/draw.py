"""Pictures of what generators make."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from perception.common.visual import canvas
from perception.plugins.gan.models.generator import to_bytes
from perception.registry import HOOKS, METRICS
from perception.utils.checkpoint import unwrap
from perception.utils.checks import check_positive

SIDE = 128  # pixels that smaller images are enlarged to


def to_array(image: Tensor, side: int = SIDE) -> np.ndarray:
    """(H, W, 3) uint8 of an image (3, H, W), enlarged to about `side` pixels where it is smaller."""
    image = np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())
    factor = max(1, side // image.shape[0])
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)


def draw_grid(rows: dict[str, Sequence[Tensor]], columns: int = 8) -> np.ndarray:
    """Images below each other that belong together, named at the left.

    Args:
        rows: name -> images (3, H, W) uint8, as many in each row.
        columns: images side by side.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    count, parts = min(map(len, rows.values())), []
    for start in range(0, count, columns):
        for name, images in rows.items():
            strip = canvas.beside([to_array(image) for image in images[start:start + columns]])
            side = canvas.blank(len(strip), max(map(canvas.text_width, rows)) + 16)
            canvas.write(side, name, 8, len(strip) // 2)
            parts.append(canvas.beside([side, strip]))
    return canvas.stacked(parts)


@METRICS.register_module()
class DrawImages(BaseMetric):
    """Writes `samples.png`: real images, made ones, and where there is a teacher its own of the same latents.

    Args:
        out_dir: folder for the picture.
        most: images of each row of names.
        collect_device, prefix: as in mmengine.

    Raises:
        ConfigError: less than one image.
    """

    default_prefix = ''

    def __init__(self, out_dir: str | Path, most: int = 32, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_positive('DrawImages', most=most)
        self.out_dir, self.most = Path(out_dir), most

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Keep the first images; arguments as of ImageMetric."""
        for real, sample in zip(data_batch['inputs']['image'], data_samples):
            if len(self.results) < self.most:
                self.results.append(dict(real=real, made=sample['pred_image'], teacher=sample.get('teacher_image')))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Write the picture; no score comes from it."""
        rows = {name: [row[name] for row in results[:self.most]] for name in ('real', 'teacher', 'made')
                if all(row[name] is not None for row in results)}
        canvas.save_png(self.out_dir / 'samples.png', draw_grid(rows))
        return {}


@HOOKS.register_module()
class SampleHook(Hook):
    """Writes what the generator makes of the same seeds, and its teacher of the same latents, while it learns:
    `samples/000100.png` in the work dir.

    Args:
        interval: iterations from a picture to the next.
        count: images.

    Raises:
        ConfigError: a number below 1.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 1000, count: int = 25) -> None:
        check_positive('SampleHook', interval=interval, count=count)
        self.interval, self.count = interval, count

    @master_only
    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Draw now and then."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = unwrap(runner.model)
        with torch.no_grad():
            z = model.student.seeds_to_z(range(self.count))
            nets = dict(teacher=model.teacher) if model.teacher is not None else {}
            rows = {name: to_bytes(net({'z': z})).cpu() for name, net in (nets | dict(made=model.student)).items()}
        canvas.save_png(Path(runner.work_dir) / 'samples' / f'{runner.iter + 1:06d}.png', draw_grid(rows))
