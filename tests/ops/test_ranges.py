import torch

from perception.ops.ranges import range_members


def test_members_in_any_pieces():
    first, last = torch.tensor([3, 5, 0, 7]), torch.tensor([5, 5, 3, 2])  # the second is empty, the last ends early
    for chunk in (1, 2, 100):
        pieces = list(range_members(first, last, chunk))
        owner, member = map(torch.cat, zip(*pieces))
        assert owner.tolist() == [0, 0, 2, 2, 2] and member.tolist() == [3, 4, 0, 1, 2]
        assert all(len(piece[0]) <= chunk for piece in pieces)


def test_no_ranges():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert list(range_members(nothing, nothing)) == []
    assert list(range_members(torch.tensor([4]), torch.tensor([4]))) == []
