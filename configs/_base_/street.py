"""Ten classes of things in streets, in ImageNet's folders: the mini scale is cut out of the toy world.

To be read after imagenet.py, which has the loaders.
"""
from perception.prune.datasets.street.mini import write_street

data_root = 'data/street'  # PERCEPTION_DATA replaces the leading data
mini_data = dict(type=write_street, root='data/mini/street')
