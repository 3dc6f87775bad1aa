"""Drives with a rig of cameras as people keep their own: simulated streets as folders of images with boxes.

```
<root>/{train,val}/<scene>/<moment>/rig.json, CAM_FRONT.jpg, ...    six cameras, each where it is at the LiDAR's time
<root>/{train,val}/<scene>/boxes/<moment>.json
<root>/mini.json                                                      what it was made from
```
"""
from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from perception.bev.datasets.folder.reader import BOXES
from perception.bev.datasets.nuscenes.mini import WRITER_VERSION, write_bev_mini
from perception.bev.datasets.nuscenes.reader import ATTRIBUTES, CLASSES, NuScenesRig, from_world
from perception.bev.rig import NAME, rig_of_key_frame, write_rig
from perception.common.formats.stamped import write_stamped
from perception.common.scene.world import SCENE_VERSION
from perception.utils.paths import data_path

SPLITS = dict(mini_train='train', mini_val='val')


def write_rig_folder_mini(root: str | Path = 'data/mini/rig_folder', seed: int = 0, train_frames: int = 15,
                          val_frames: int = 20, train_scenes: int = 8, val_scenes: int = 2, width: int = 400,
                          detail: float = .44, workers: int = 0, force: bool = False) -> Path:
    """Writes the mini data set, or keeps the one that is there if it was made from the same arguments.

    Args:
        root: folder of the data set, `data/...` as configs name it or absolute; it appears only when it is complete.
        seed: same seed, same bytes on one machine.
        train_frames, val_frames: moments of each drive of a split.
        train_scenes, val_scenes: drives, up to 8 and 2.
        width: pixels of the images, a multiple of 16; heights are 9/16 of it.
        detail: share of the width at which images are rendered.
        workers: processes that write drives, 0 for as many as there are cores; the files do not depend on it.
        force: write it again even if a complete one is there.

    Returns:
        The folder.

    Raises:
        DataError: an argument out of range, a folder that holds something else, or a disk that is full.
    """
    options = dict(seed=seed, train_frames=train_frames, val_frames=val_frames, train_scenes=train_scenes,
                   val_scenes=val_scenes, width=width, detail=detail)
    stamp = dict(options, dataset='rig_folder', simulated=True, scene_version=SCENE_VERSION,
                 writer_version=WRITER_VERSION)
    size = 2 + round((train_scenes * train_frames + val_scenes * val_frames) * width * width / 1e6)
    write = partial(_write_all, dict(options, workers=workers))
    return write_stamped(data_path(root), stamp, write, 'rig folder', size, force)


def _write_all(options: dict, root: Path) -> None:
    source = write_bev_mini(root / '.nuscenes', **options, test_scenes=0, columns=60)
    for split, folder in SPLITS.items():
        dataset, counts = NuScenesRig(source, split, bev_frame='ego', training=False, min_points=0), {}
        for frame in dataset.frames:
            moment = f'{counts.setdefault(frame.scene, 0):03d}'
            counts[frame.scene] += 1
            _write_moment(dataset, frame.row, root / folder / frame.scene, moment)
    shutil.rmtree(source)


def _write_moment(dataset: NuScenesRig, row: int, drive: Path, moment: str) -> None:
    (drive / moment).mkdir(parents=True)
    rig = rig_of_key_frame(dataset.index, row)
    for camera, view in zip(rig.cameras, dataset.index.views(row).values()):
        shutil.copyfile(dataset.data_root / view.image, drive / moment / f'{camera.name}.jpg')
    write_rig(drive / moment / NAME, rig._replace(cameras=tuple(camera._replace(image='') for camera in rig.cameras)))
    truth = dataset.truth(row, np.eye(4))['annotations']
    boxes = from_world(truth.boxes, dataset.index.ego_to_world(row))
    rows = np.where(np.isfinite(boxes), boxes.round(4), None).tolist()
    found = [{'class': CLASSES[label], 'box': box, 'attribute': ATTRIBUTES[attribute] if attribute >= 0 else '',
              'points': points} for label, box, attribute, points in zip(
                  truth.labels.tolist(), rows, truth.attributes.tolist(), truth.points.tolist())]
    (drive / BOXES).mkdir(exist_ok=True)
    (drive / BOXES / f'{moment}.json').write_text(json.dumps(found) + '\n')
