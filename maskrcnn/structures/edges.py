"""Options for padding, and for truncated and hidden objects. Imports no PyTorch, so that `--help` stays fast."""

from dataclasses import dataclass

PAD_MODES = ("constant", "reflect", "replicate")
CUTS = ("ignore", "drop", "keep")
MIN_VISIBLE_FRACTION = 0.9  # of an object in a label image, where objects with higher scores are on top


@dataclass(frozen=True)
class Edges:
    """How to fill pixels outside the image and how to treat objects cut by the edge.

    Attributes:
        pad_mode: `constant` fills with black, `replicate` repeats the edge pixels, and `reflect` mirrors the image
            about the centers of its edge pixels as often as needed (the modes `edge` and `reflect` of `numpy.pad`).
            Mirrored objects come last, with the labels and ids of the originals, and are ignored: they look like
            objects, so training on them as background would be wrong. `replicate` smears objects at the edge over
            the padding, which has no labels.
        cut: how to treat objects with less than `min_visible_fraction` of their area on the canvas: `ignore`, `drop`,
            or `keep`. Objects with nothing left are always dropped. All others keep their ids.
        min_visible_fraction: in [0, 1].

    Raises:
        ValueError: If a name is unknown or the fraction is outside [0, 1].
    """

    pad_mode: str = "constant"
    cut: str = "ignore"
    min_visible_fraction: float = 0.25

    def __post_init__(self) -> None:
        if self.pad_mode not in PAD_MODES:
            raise ValueError(f'unknown padding mode "{self.pad_mode}": must be one of {", ".join(PAD_MODES)}')
        if self.cut not in CUTS:
            raise ValueError(f'unknown value "{self.cut}" of cut: must be one of {", ".join(CUTS)}')
        if not 0 <= self.min_visible_fraction <= 1:
            raise ValueError(f"min_visible_fraction must be in [0, 1], got {self.min_visible_fraction}")
