"""Masks kept as windows: cost follows the objects, never objects × image.

N masks are three tensors: `windows` int32 `[N, 4]` (x1 y1 x2 y2, exclusive end, inside the canvas), `offsets`
int64 `[N + 1]` and `data` uint8 `[sum of window areas]`, row-major, a level 0..255 a pixel; inside where ≥ 128.
"""

from torch import Tensor

from maskrcnn.ops import reference_masks as reference
from maskrcnn.ops.types import Windows


def crop_masks(masks: Windows, x: int, y: int, size: tuple[int, int]) -> Windows:
    """The masks on a canvas of `size` (H, W) whose origin lies at (x, y), negative allowed, of the old one."""
    return Windows(*reference.crop_masks(masks, x, y, size))


def flip_masks(masks: Windows, size: tuple[int, int], horizontal: bool, vertical: bool) -> Windows:
    """The masks mirrored on their canvas of `size` (H, W)."""
    return Windows(*reference.flip_masks(masks, size, horizontal, vertical))


def transpose_masks(masks: Windows) -> Windows:
    """The masks with x and y exchanged."""
    return Windows(*reference.transpose_masks(masks))


def resize_masks(masks: Windows, size: tuple[int, int], new_size: tuple[int, int]) -> Windows:
    """The masks of a canvas of `size` on one of `new_size` (H, W): pixel j takes pixel floor(j * old / new)."""
    return Windows(*reference.resize_masks(masks, size, new_size))


def warp_masks(masks: Windows, matrix: Tensor, size: tuple[int, int]) -> Windows:
    """The masks under an affine map, levels bilinear, on a canvas of `size` (H, W).

    Args:
        matrix: float `[2, 3]`, from old to new continuous pixel coordinates.

    Raises:
        ValueError: the matrix is singular or not finite.
    """
    return Windows(*reference.warp_masks(masks, matrix, size))


def sample_masks(
    masks: Windows,
    size: tuple[int, int],
    boxes: Tensor,
    index: Tensor,
    output_size: int,
    sampling_ratio: int = 0,
    aligned: bool = True,
    soft: bool = True,
) -> Tensor:
    """RoIAlign of the masks at boxes: the targets of a mask head.

    Args:
        size: canvas (H, W).
        boxes: float `[K, 4]`, xyxy in pixels.
        index: int64 `[K]`, the mask that each box looks at.
        output_size: S.
        sampling_ratio: samples in each bin along each axis; 0: adaptive, as many as the bin has pixels, rounded up.
        aligned: half-pixel correction as in `roi_align`.
        soft: False thresholds at .5.

    Returns:
        float32 `[K, S, S]` in [0, 1].
    """
    if index.shape != boxes.shape[:1]:
        raise ValueError(f"index must be [{len(boxes)}] like boxes, got {list(index.shape)}")
    return reference.sample_masks(masks, size, boxes, index, output_size, sampling_ratio, aligned, soft)


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Windows:
    """Put S×S probabilities into their boxes: bilinear, touching only pixels whose centre a box holds.

    Args:
        probabilities: float `[N, S, S]` in [0, 1]; the S×S cells tile the box, values at cell centres, held constant
            from the outermost centres to the edge.
        boxes: float `[N, 4]`, xyxy in pixels. A box between pixel centres gets the one pixel it lies on.
        size: canvas (H, W).
    """
    return Windows(*reference.paste_masks(probabilities, boxes, size))


def mask_iou(masks1: Windows, masks2: Windows) -> tuple[Tensor, Tensor, Tensor]:
    """IoU of all pairs that overlap, as `(rows int64 [P], columns int64 [P], iou float32 [P])`, by row, then column."""
    return reference.mask_iou(masks1, masks2)


def label_image(masks: Windows, size: tuple[int, int], min_visible_fraction: float = 0.0) -> tuple[Tensor, Tensor]:
    """Paint the masks into one image, earlier ones on top.

    A mask is kept if more than `min_visible_fraction` of it is still free; kept masks are numbered 1, 2, …

    Returns:
        labels int32 `[H, W]` and kept bool `[N]`.
    """
    return reference.label_image(masks, size, min_visible_fraction)


def masks_from_label_image(labels: Tensor, ids: Tensor) -> Windows:
    """The masks of `ids` int64 `[N]` in an image of instance numbers `[H, W]`; one not there gives an empty mask."""
    return Windows(*reference.masks_from_label_image(labels, ids))
