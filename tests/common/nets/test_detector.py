"""Encoder, backbone, neck and head fit each other and learn."""
import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from perception.common.nets.center_head import CenterHead
from perception.common.nets.pillars import PillarEncoder
from perception.common.nets.second import SECOND, SECONDFPN
from perception.common.nets.sparse_encoder import SparseEncoder

RANGE = (0, -3.2, -2, 6.4, 3.2, 1.2)


@pytest.mark.parametrize('kind', ['pillars', 'voxels'])
def test_three_people_are_found_by_a_net_that_learned_them(kind):
    torch.manual_seed(0)
    if kind == 'pillars':
        encoder = PillarEncoder(4, RANGE, (.2, .2, 3.2), channels=(16,))
        strides, stride = (2, 2), 2
    else:
        encoder = SparseEncoder(4, RANGE, (.2, .2, .2), channels=(8, 16), blocks=1, paddings=(1,), last_channels=4)
        strides, stride = (1, 2), 2
    net = nn.Sequential(encoder, SECOND(encoder.out_channels, (16, 16), (1, 1), strides),
                        SECONDFPN((16, 16), (16, 16), (1, 2)),
                        CenterHead(32, [('person',)], RANGE, (.2, .2), stride, shared_channels=16, head_channels=16,
                                   peak_window=3, nms_threshold=.4, score_threshold=.3))
    boxes = torch.tensor([[3, 1, -.8, .6, .7, 1.7, .4, 1, 0], [5.2, -2, -.8, .5, .6, 1.6, -2, 0, -1],
                          [3.9, 1.2, -.9, .7, .7, 1.8, 2.5, .2, .3]])
    body = boxes[:, None, :3] + (torch.rand(3, 60, 3) - .5) * boxes[:, None, 3:6]
    ground = torch.rand(400, 3) * torch.tensor([6.4, 6.4, .05]) - torch.tensor([0, 3.2, 1.7])
    points = nn.functional.pad(torch.cat([body.flatten(0, 1), ground]), (0, 1), value=.5)
    sample = BaseDataElement(boxes=boxes, labels=torch.zeros(3, dtype=torch.long))
    optimizer = torch.optim.Adam(net.parameters(), lr=.01)
    for _ in range(60):
        optimizer.zero_grad()
        sum(net[-1].loss(net([points]), [sample]).values()).backward()
        optimizer.step()
    found, scores, _ = net[-1].predict(net([points]))[0]
    order = found[:, 0].argsort()
    assert len(found) == 3, scores
    torch.testing.assert_close(found[order][:, :2], boxes[[0, 2, 1], :2], rtol=0, atol=.15)
