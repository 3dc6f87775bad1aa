"""Tables of a tiny simulated nuScenes, made harder: racks, boxes without points, without attribute, far away."""
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope='session')
def change_tables() -> Callable[..., Path]:
    """A copy of a data set, linked but for its tables of v1.0-mini, of which some are changed by functions of rows."""
    def change(root: Path, source: Path, **changes) -> Path:
        (root / 'v1.0-mini').mkdir(parents=True)
        for path in source.iterdir():
            if path.name != 'v1.0-mini':
                (root / path.name).symlink_to(path)
        for path in (source / 'v1.0-mini').iterdir():
            rows = json.loads(path.read_text())
            rows = changes[path.stem](rows) if path.stem in changes else rows
            (root / 'v1.0-mini' / path.name).write_text(json.dumps(rows))
        return root
    return change


@pytest.fixture(scope='session')
def hard_nuscenes(mini_nuscenes, change_tables, tmp_path_factory) -> Path:
    """See above; only the metadata differ from the tiny set's."""
    rng = np.random.default_rng(3)
    racks = set()

    def instances(rows):
        names = {row['token']: row['name'] for row in
                 json.loads((mini_nuscenes / 'v1.0-mini/category.json').read_text())}
        rack = next(token for token, name in names.items() if name == 'static_object.bicycle_rack')
        for row in [row for row in rows if names[row['category_token']] == 'movable_object.trafficcone'][:12]:
            row['category_token'] = rack
            racks.add(row['token'])
        return rows

    def annotations(rows):
        for row in rows:
            if row['instance_token'] in racks:
                row['size'] = [8.0, 14.0, 4.0]
            elif rng.random() < .1:
                row['num_lidar_pts'] = 0
            elif rng.random() < .1:
                row['attribute_tokens'] = []
            row['translation'][2] += rng.normal(0, .3)
        return rows
    order = dict(instance=instances, sample_annotation=annotations)
    rows = json.loads((mini_nuscenes / 'v1.0-mini/instance.json').read_text())
    instances(rows)  # before the annotations, whatever the order of files
    return change_tables(tmp_path_factory.mktemp('hard') / 'nuscenes', mini_nuscenes, **order)


@pytest.fixture(scope='session')
def mini_rig(mini_set) -> Path:
    """The tiny set of TINY, with maps."""
    return mini_set('nuscenes_rig')
