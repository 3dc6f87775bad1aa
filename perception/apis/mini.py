"""The mini data sets that configs name; the body of tools/make_mini.py."""
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from perception.apis.config import called, load_config, set_option
from perception.apis.listing import BASES, mini_sets
from perception.common.formats.stamped import is_simulated
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError


def make_mini(names: Sequence[str] = (), root: str | Path | None = None, seed: int = 0, force: bool = False,
              sheet: str | Path | None = None, options: dict[str, Any] | None = None) -> Iterator[str]:
    """Write mini data sets, or keep those that are complete.

    Args:
        names: of `mini_sets`, all by default.
        root: folder of the data set; that of its base by default.
        seed: same seed, same bytes.
        force: write it again even if it is complete.
        sheet: PNG file for a contact sheet with labels; of several data sets each gets its name added.
        options: further arguments of the writer.

    Yields:
        a line on each data set or sheet that is there now.

    Raises:
        ConfigError: an unknown name, an argument that the writer does not have, or a base without a contact sheet.
        DataError: the writer's own refusals.
    """
    names = list(names) or mini_sets()
    for name in names:
        check_choice('mini data set', name, mini_sets())
        start, cfg = time.perf_counter(), load_config(BASES / f'{name}.py')
        for key, value in (options or {}).items():
            set_option(cfg.mini_data, key, value)
        if root is not None:
            cfg.mini_data.root = str(Path(root).expanduser().absolute())
        if sheet is not None and not cfg.get('mini_sheet'):
            raise ConfigError(f'--sheet: {cfg.filename} came, expected it to define mini_sheet. Leave --sheet out.')
        folder = called(cfg.mini_data, seed=seed, force=force)
        kind = 'simulated' if is_simulated(folder) else 'real'
        yield f'{name}: {folder} is complete ({time.perf_counter() - start:.1f} s); the data are {kind}'
        if sheet is not None:
            path = Path(sheet).expanduser()
            path = path if len(names) == 1 else path.with_stem(f'{path.stem}_{name}')
            yield f'{name}: {called(cfg.mini_sheet, root=folder, path=path)}'
