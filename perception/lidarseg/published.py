"""Which config fits the published weights of this room."""
from collections.abc import Sequence

from perception.utils.paths import from_root

DATA_SETS = {19: 'kitti', 16: 'nuscenes', 25: 'kitti_multiscan', 22: 'waymo'}  # by their numbers of classes


def data_set_of(net: str, num_classes: int) -> str:
    """The data set with so many classes that the net has a config for, else SemanticKITTI; as in names of configs."""
    name = DATA_SETS.get(num_classes, 'kitti')
    return name if from_root(f'configs/lidarseg/{net}_{name}.py').is_file() else 'kitti'


def fitting_config(net: str, num_classes: int, options: Sequence[str] = ()) -> str:
    """The config of a net for a number of classes, with the options that weights need.

    Args:
        net: as in names of configs, such as `minkunet_half`.
        num_classes: outputs without the ignored class.
        options: `KEY=VALUE` for `--cfg-options`.
    """
    name = data_set_of(net, num_classes)
    options = [*options, *([] if DATA_SETS.get(num_classes) == name else [f'model.num_classes={num_classes}'])]
    return ' '.join([f'configs/lidarseg/{net}_{name}.py', *(['--cfg-options', *options] if options else [])])
