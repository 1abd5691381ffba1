"""Affine warping of images `[C, H, W]`, with the coordinates and arithmetic of `masks.warp_masks`."""

import torch
from torch import Tensor

from maskrcnn.ops import reference_images as reference
from maskrcnn.ops._native import native
from maskrcnn.ops.affine import invert, resolve_num_samples

BORDERS = {
    "constant": reference.CONSTANT,
    "reflect": reference.REFLECT,
    "replicate": reference.REPLICATE,
}


def warp_image(
    image: Tensor, matrix: Tensor, size: tuple[int, int], border: str = "constant", samples: int | None = None
) -> Tensor:
    """Warp an image by an affine map, bilinearly, onto a canvas of `size` (H, W).

    With a constant border, an image of a mask's levels is warped to exactly the levels that `warp_masks` gives.
    Whole-pixel shifts, flips, and 90° rotations are exact.

    Args:
        image: `[C, H, W]`, float32, or uint8 or uint16, rounded like levels of masks.
        matrix: float `[2, 3]`, from old to new continuous pixel coordinates.
        size: (H, W) of the result.
        border: padding: "constant" (black), "reflect" (repeatedly mirrored about the centers of the outermost pixels),
            or "replicate" (outermost pixels).
        samples: number of samples along each axis of a new pixel, which are averaged; default: see
            `choose_num_samples`.

    Returns:
        `[C, *size]`, dtype of the image.

    Raises:
        ValueError: If the matrix is singular or not finite, the image has another shape or dtype or no pixels, or the
            border, size, or samples are invalid.
    """
    if image.ndim != 3 or 0 in image.shape[1:]:
        raise ValueError(f"image must be [C, H, W] with a pixel at least, got {list(image.shape)}")
    if image.dtype not in (torch.uint8, torch.uint16, torch.float32):
        raise ValueError(f"image must be uint8, uint16 or float32, got {image.dtype}")
    if border not in BORDERS:
        raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}")
    if min(size) < 0:
        raise ValueError(f"size must not be negative, got {tuple(size)}")
    samples = resolve_num_samples(samples, matrix)
    back = invert(matrix).to(image.device)
    warp = native(reference.warp_image, image.device)
    if image.dtype == torch.uint16:  # its 16 bits are exact in float32
        return warp(image.float(), back, *size, BORDERS[border], samples).round_().to(torch.uint16)
    return warp(image.contiguous(), back, *size, BORDERS[border], samples)
