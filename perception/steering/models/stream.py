"""A running video, frame by frame, for any of the room's nets."""
from collections import deque

import torch
from torch import Tensor

from perception.steering.models.fm_net import SteeringNet


class Stream:
    """What each frame of a video comes to.

    A net that looks back only keeps the last frames of each layer's input, so that a frame costs one frame's work and
    gives what the whole video would give as one clip. Another net sees the last frames as a clip each time, and its
    answer is that of the clip's last frame.

    Args:
        net: in evaluation mode.
        window: frames of a clip, for a net that sees ahead.
        every: how many frames of the video lie from one that the net sees to the next; more than 1 for a video with
            more frames a second than the net learned from. Each frame is answered all the same, from those so many,
            twice so many ... before it.
    """

    def __init__(self, net: SteeringNet, window: int = 10, every: int = 1) -> None:
        self.net, self.window, self.every = net, window, every
        self.restart()

    def restart(self) -> None:
        """A new video begins."""
        self.frames: deque[Tensor] = deque(maxlen=(self.window - 1) * self.every + 1)
        self.states: deque[list[Tensor] | None] = deque([None] * self.every)  # after the last frames

    @torch.no_grad()
    def __call__(self, frame: Tensor) -> Tensor:
        """What the next frame comes to.

        Args:
            frame: (3, H, W) uint8 RGB of the net's input size, on its device.

        Returns:
            (K,) outputs in their units.
        """
        frame = self.net.data_preprocessor.normalise(frame)
        if self.net.streams:
            outputs, state = self.net.step(frame[None], self.states.popleft())
            self.states.append(state)
            return outputs[0]
        self.frames.append(frame)
        clip = torch.stack(list(self.frames)[::-self.every][::-1])[None]
        return self.net.in_units(self.net(dict(clip=clip))['outputs'])[0, -1]
