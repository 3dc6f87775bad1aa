"""Order of the samples, the same for any number of workers and after any resume."""
import math
from collections.abc import Iterator, Sized

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from perception.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class EpochSampler(Sampler):
    """Yields `(epoch, index)`, so that a data set draws augmentation from (seed, epoch, index) alone.

    The order of an epoch is a function of (seed, epoch). Rank r of R takes every R-th sample, from r on; all ranks get
    equally many, the first samples of the epoch's order repeated where the number does not divide. A resumed run sets
    `start`, how many of its samples the next epoch leaves out.

    Args:
        dataset: anything with a length.
        shuffle: whether each epoch has another order.
        seed: mmengine's Runner passes the run's seed; None draws one, equal on all ranks.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        order = np.resize(order, len(self) * self.world_size)  # repeats from the start where needed
        start, self.start = self.start, 0
        return iter([(self.epoch, int(i)) for i in order[self.rank::self.world_size][start:]])

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Called by mmengine before each epoch."""
        self.epoch = epoch
