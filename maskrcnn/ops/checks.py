"""What the faces ask of their arguments; errors name the argument and its value."""

from torch import Tensor


def check_boxes(**named: Tensor) -> None:
    for name, boxes in named.items():
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{name} must be [N, 4], got {list(boxes.shape)}")
        if not boxes.is_floating_point():
            raise ValueError(f"{name} must be of a floating-point type, got {boxes.dtype}")


def check_like(boxes: Tensor, **named: Tensor) -> None:
    """One value for each of the boxes, on their device."""
    for name, values in named.items():
        if values.shape != boxes.shape[:1]:
            raise ValueError(f"{name} must be [{len(boxes)}] like boxes, got {list(values.shape)}")
        if values.device != boxes.device:
            raise ValueError(f"{name} must be on {boxes.device} like boxes, got {values.device}")


def check_positive(**named: float) -> None:
    for name, value in named.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive, got {value}")
