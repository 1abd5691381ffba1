"""What operations take and return beside plain tensors."""

from typing import Literal, NamedTuple

from torch import Tensor

Ties = Literal["all", "nearest"]
TIES: dict[Ties | None, int] = {None: 0, "all": 1, "nearest": 2}  # as the operations number them


class AnchorLevel(NamedTuple):
    """The regular grid of anchors of one FPN level: A anchors at each of height × width centres.

    The anchor `a` of cell (row, column) is centred at `(column * stride[1] + offset[1], row * stride[0] + offset[0])`
    and measures `sizes[a] = (width, height)`; all in pixels.
    """

    stride: tuple[float, float]
    offset: tuple[float, float]
    sizes: Tensor
    height: int
    width: int


class Matches(NamedTuple):
    """What each of P priors matches.

    index: int64 `[P]`, its best truth, or -1 where the best IoU is below `min_iou` and the prior is not forced.
    iou: float32 `[P]`, IoU with that truth, 0 where index is -1.
    forced: bool `[P]`, priors that some truth overlaps best (low-quality matches of Faster R-CNN).
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    iou: Tensor
    forced: Tensor


class Windows(NamedTuple):
    """The three tensors of N masks."""

    windows: Tensor
    offsets: Tensor
    data: Tensor
