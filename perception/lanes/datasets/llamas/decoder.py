"""LLAMAS's lanes from probability maps."""
from perception.lanes.datasets.culane.decoder import CULaneDecoder
from perception.lanes.datasets.llamas.reader import SIZE
from perception.registry import TASK_UTILS


@TASK_UTILS.register_module()
class LLAMASDecoder(CULaneDecoder):
    """CULane's rule on each row from 716 up to 300.

    It gives four lanes always, those of l1, l0, r0 and r1, empty where there is none.
    """

    image_rows = SIZE[0]

    def __init__(self, step: int = 1, num_points: int = 417, keep_slots: bool = True, **kwargs) -> None:
        super().__init__(step, num_points, keep_slots=keep_slots, **kwargs)
