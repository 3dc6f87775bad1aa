"""Members of many ranges at once."""
from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1 << 20  # members given at a time, a bound on memory


def range_members(first: Tensor, last: Tensor, chunk: int = CHUNK) -> Iterator[tuple[Tensor, Tensor]]:
    """The members of ranges one after the other, in pieces.

    Args:
        first: (R,) int64 first member of each range.
        last: (R,) int64 one more than its last member; a range that ends before it begins has none.
        chunk: the largest piece.

    Yields:
        owner: (P,) int64 range of each member, ascending.
        member: (P,) int64.
    """
    ends = (last - first).clamp(min=0).cumsum(0)
    shift = last - ends  # from the place among all members to the member
    for places in torch.arange(int(ends[-1]) if len(ends) else 0, device=first.device).split(chunk):
        owner = torch.searchsorted(ends, places, right=True)
        if len(owner):
            yield owner, places + shift[owner]
