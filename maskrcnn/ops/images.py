"""Images `[C, H, W]` under affine maps, with the coordinates and the arithmetic of `masks.warp_masks`."""

import torch
from torch import Tensor

from maskrcnn.ops import reference_images as reference
from maskrcnn.ops._native import native
from maskrcnn.ops.affine import inverse_of, samples_of

BORDERS = {
    "constant": reference.CONSTANT,
    "reflect": reference.REFLECT,
    "replicate": reference.REPLICATE,
}


def warp_image(
    image: Tensor, matrix: Tensor, size: tuple[int, int], border: str = "constant", samples: int | None = None
) -> Tensor:
    """The image under an affine map, bilinear between pixel centres, on a canvas of `size` (H, W).

    An image of masks' levels warps, with a constant border, to the very levels that `warp_masks` gives. Whole-pixel
    shifts, mirrors and quarter turns move pixels as they are.

    Args:
        image: uint8, rounded as masks' levels are, or float32 `[C, H, W]`.
        matrix: float `[2, 3]`, from old to new continuous pixel coordinates.
        border: what lies outside the image. "constant": black; "reflect": the image, mirrored again and again about
            the centres of its outermost pixels; "replicate": the outermost pixels.
        samples: along each axis of a new pixel, which is the mean of them; None: as many as `samples_for` finds.

    Returns:
        `[C, *size]` of the image's type.

    Raises:
        ValueError: the matrix is singular or not finite; an image of another shape or type, or without pixels; a
            border of another name; a size or samples that cannot be.
    """
    if image.ndim != 3 or 0 in image.shape[1:]:
        raise ValueError(f"image must be [C, H, W] with a pixel at least, got {list(image.shape)}")
    if image.dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"image must be uint8 or float32, got {image.dtype}")
    if border not in BORDERS:
        raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}")
    if min(size) < 0:
        raise ValueError(f"size must not be negative, got {tuple(size)}")
    samples = samples_of(samples, matrix)
    back = inverse_of(matrix).to(image.device)
    warp = native(reference.warp_image, image.device)
    return warp(image.contiguous(), back, *size, BORDERS[border], samples)
