"""Tables of a tiny simulated nuScenes, made harder: racks, boxes without points, without attribute, far away; rigs with
random images, as the preprocessor takes them."""
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.common.structures import RigSample


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
def hard_nuscenes(mini_rig, change_tables, tmp_path_factory) -> Path:
    """See above; only the metadata differ from the tiny set's."""
    rng = np.random.default_rng(3)
    racks = set()

    def instances(rows):
        names = {row['token']: row['name'] for row in
                 json.loads((mini_rig / 'v1.0-mini/category.json').read_text())}
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
    rows = json.loads((mini_rig / 'v1.0-mini/instance.json').read_text())
    instances(rows)  # before the annotations, whatever the order of files
    return change_tables(tmp_path_factory.mktemp('hard') / 'nuscenes', mini_rig, **order)


@pytest.fixture(scope='session')
def mini_rig(mini_set) -> Path:
    """The tiny set of TINY, with maps."""
    return mini_set('nuscenes_rig')


# --- rigs ------------------------------------------------------------------------------------------------------------
def rig(cameras: int = 6, size: tuple[int, int] = (64, 176), layers: int = 2, cells: int = 64, seed: int = 0,
        frame: str = 'lidar') -> dict:
    """One sample: cameras all round, 1.6 m above the ground, which lies at z = -1.84."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    to_cam = torch.tensor([[1., 0, 0], [0, 0, -1], [0, 1, 0]])  # right, forward, up to right, down, forward
    frame_to_cam = torch.eye(4).repeat(cameras, 1, 1)
    for i in range(cameras):
        angle = -2 * math.pi * i / cameras
        c, s = math.cos(angle), math.sin(angle)
        frame_to_cam[i, :3, :3] = to_cam @ torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        frame_to_cam[i, :3, 3] = frame_to_cam[i, :3, :3] @ torch.tensor([0, 0, .24])
    focal = .55 * width
    cam_to_img = torch.tensor([[focal, 0, width / 2 - .5], [0, focal, height / 2 - .5], [0, 0, 1.]])
    places = torch.rand(4, 2, generator=generator) * 30 - 15
    boxes = torch.cat([places, torch.tensor([[-1., 4.2, 1.9, 1.6]]).expand(4, 4),
                       torch.rand(4, 1, generator=generator) * 6 - 3, torch.full((4, 2), torch.nan)], 1)
    sample = RigSample(
        boxes=boxes, labels=torch.arange(4) % 2, ignore=torch.zeros(4, dtype=torch.bool),
        map_labels=torch.randint(2, (layers, cells, cells), generator=generator, dtype=torch.uint8),
        map_mask=torch.rand(cells, cells, generator=generator) > .1,
        depth=torch.rand(cameras, height // 16, width // 16, generator=generator) * 30 + 1,
        metainfo=dict(sample_id=f'sample{seed}', bev_frame=frame))
    inputs = dict(images=torch.randint(255, (cameras, 3, *size), generator=generator, dtype=torch.uint8),
                  cam_to_img=cam_to_img.repeat(cameras, 1, 1), frame_to_cam=frame_to_cam,
                  image_aug=torch.eye(3).repeat(cameras, 1, 1), bev_aug=torch.eye(4))
    return dict(inputs=inputs, data_samples=sample)


def batch_of(samples: list[dict]) -> dict:
    """Samples as `pseudo_collate` gives them."""
    keys = samples[0]['inputs']
    return dict(inputs={key: [sample['inputs'][key] for sample in samples] for key in keys},
                data_samples=[sample['data_samples'] for sample in samples])


@pytest.fixture
def make_batch():
    """A batch of different rigs; see `rig`."""
    def make(count: int = 2, **options) -> dict:
        return batch_of([rig(seed=seed, **options) for seed in range(count)])
    return make
