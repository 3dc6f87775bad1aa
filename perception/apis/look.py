"""Look at what a config comes to: its resolved values, and samples as the net gets them; the body of tools/look.py."""
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from perception.apis.config import config_text, is_read, load_config, names_config, need
from perception.apis.inference import load
from perception.apis.runner import write_mini_data
from perception.common.visual.canvas import save_png
from perception.registry import DATASETS
from perception.utils.errors import ConfigError
from perception.utils.paths import make_folder


def resolved(config: str | Path, mini: bool = False, options: dict[str, Any] | None = None) -> str:
    """All values of a config, its bases, `mini` and options applied, as a config file that stands alone.

    Variables that only help to write the file are left out.

    Args:
        config, mini, options: see `load_config`.

    Raises:
        ConfigError: see `load_config`.
    """
    values = load_config(config, mini, options)._to_lazy_dict()
    return config_text(Config({key: value for key, value in values.items() if is_read(key)}))


@names_config
def samples(config: str | Path, out: str | Path, num: int = 8, mini: bool = False, split: str = 'train',
            epoch: int = 0, options: dict[str, Any] | None = None) -> Iterator[Path]:
    """Draw samples as the net gets them, after augmentation, with their labels.

    They are spread evenly over the data set; in each epoch they look different, and the same in each run.

    Args:
        config: the config file.
        out: folder of the pictures, `<split>_<number of the sample>.png`.
        num: how many.
        mini: of its mini section, on simulated data, written at first use.
        split: 'train', 'val' or 'test'.
        epoch: that the augmentation is drawn for, from 0.
        options: dotted overrides of the config.

    Returns:
        the pictures, each just written.

    Raises:
        ConfigError: the config has no such data, or no predictor that draws.
        DataError: something cannot be read or written.
    """
    cfg = load_config(config, mini, options)
    need(cfg, f'looking at samples of {split}', f'{split}_dataloader', 'predictor')
    if num < 1:
        raise ConfigError(f'--num={num}, expected 1 or more pictures. Correct it.')
    if epoch < 0:
        raise ConfigError(f'--epoch={epoch}, expected 0 or more. Correct it.')
    if mini:
        write_mini_data(cfg)
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    predictor = load(config, mini=mini, options=options)
    out = make_folder(out)

    def draw() -> Iterator[Path]:
        for index in np.unique(np.linspace(0, len(dataset) - 1, num).round().astype(int)):
            sample = dataset[epoch, int(index)]
            title = f'{sample["data_samples"].get("sample_id", index)}   {split}, epoch {epoch}'
            yield save_png(Path(out, f'{split}_{index:06d}.png'), predictor.draw_sample(sample, title))
    return draw()
