"""What happens at the edges of an image when it is warped; imports no PyTorch, so that options can name the choices."""

from dataclasses import dataclass

PAD_MODES = ("constant", "reflect", "replicate")
CUTS = ("ignore", "drop", "keep")


@dataclass(frozen=True)
class Edges:
    """What happens at the edges of an image.

    pad_mode: what is shown beyond them: `constant` black, `replicate` the nearest edge pixel, `reflect` the image
        mirrored about the centres of its edge pixels, again and again (`numpy.pad`'s `edge` and `reflect`). Mirrored
        objects come last, with their originals' labels and ids, and set to ignore: they look like objects, so as
        background they would teach the wrong thing. `replicate` smears objects that touch the edge over the padding,
        where nothing is labelled.
    cut: what becomes of objects of which less than `min_visible_fraction` stays on the canvas: `ignore`, `drop` or
        `keep`. Those with nothing left are always dropped, all others keep their ids.

    Raises ValueError for unknown names and a fraction outside [0, 1].
    """

    pad_mode: str = "constant"
    cut: str = "ignore"
    min_visible_fraction: float = 0.25

    def __post_init__(self) -> None:
        if self.pad_mode not in PAD_MODES:
            raise ValueError(f'unknown padding mode "{self.pad_mode}": one of {", ".join(PAD_MODES)}')
        if self.cut not in CUTS:
            raise ValueError(f'unknown rule cut "{self.cut}" for cut objects: one of {", ".join(CUTS)}')
        if not 0 <= self.min_visible_fraction <= 1:
            raise ValueError(f"min_visible_fraction must be in [0, 1], got {self.min_visible_fraction}")
