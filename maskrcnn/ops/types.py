"""Types of arguments and results of operations."""

from typing import Literal, NamedTuple

from torch import Tensor

Ties = Literal["all", "nearest"]
TIES: dict[Ties | None, int] = {None: 0, "all": 1, "nearest": 2}  # codes of the native operations


class AnchorLevel(NamedTuple):
    """Regular grid of anchors of one FPN level: A anchors at each of height × width centers.

    Anchor `a` of cell (row, column) is centered at `(column * stride[1] + offset[1], row * stride[0] + offset[0])` and
    has the size `sizes[a] = (width, height)`; all in pixels.
    """

    stride: tuple[float, float]
    offset: tuple[float, float]
    sizes: Tensor
    height: int
    width: int


class Matches(NamedTuple):
    """Matches of P priors.

    Attributes:
        index: int64 `[P]`, best ground-truth box, or -1 if the IoU is below `min_iou` and the prior is not forced.
        iou: float32 `[P]`, IoU with that box, 0 if the index is -1.
        forced: bool `[P]`, priors with the highest IoU for some ground-truth box (low-quality matches of Faster R-CNN).
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which is not needed here
    iou: Tensor
    forced: Tensor


class Windows(NamedTuple):
    """Tensors of N masks."""

    windows: Tensor
    offsets: Tensor
    data: Tensor
