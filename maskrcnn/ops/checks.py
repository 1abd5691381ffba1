"""Argument checks of operations; errors name the argument and its value."""

from torch import Tensor


def check_boxes(**named: Tensor) -> None:
    """Check that boxes are floating-point `[N, 4]`.

    Raises:
        ValueError: If not.
    """
    for name, boxes in named.items():
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{name} must be [N, 4], got {list(boxes.shape)}")
        if not boxes.is_floating_point():
            raise ValueError(f"{name} must be of a floating-point type, got {boxes.dtype}")


def check_like(boxes: Tensor, **named: Tensor) -> None:
    """Check that there is one value per box, on the same device.

    Raises:
        ValueError: If not.
    """
    for name, values in named.items():
        if values.shape != boxes.shape[:1]:
            raise ValueError(f"{name} must be [{len(boxes)}] like boxes, got {list(values.shape)}")
        if values.device != boxes.device:
            raise ValueError(f"{name} must be on {boxes.device} like boxes, got {values.device}")


def check_positive(**named: float) -> None:
    """Check that numbers are positive and finite.

    Raises:
        ValueError: If not.
    """
    for name, value in named.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive, got {value}")
