"""Options of inference: test-time augmentation, tiles and the merging of their detections."""

from dataclasses import dataclass

from maskrcnn.config import option

MERGE_NAMES = ("nms", "soft_nms", "wbf", "nmm", "cluster")


@dataclass(frozen=True)
class ViewsConfig:
    """Test-time augmentation and tiles."""

    views: str = option(
        "none",
        "test-time augmentation: none, or views joined by +: flips, rot90, d4, affine:8, scales:0.75,1,1.5, "
        "gamma:0.7,1.4",
        flag="views",
    )
    tile: int = option(0, "size of tiles (px); 0 for whole images", flag="tile", minimum=0)
    overlap: float = option(
        0.2, "min. overlap of neighboring tiles, as a fraction of a tile", flag="overlap", minimum=0.0
    )
    tile_scales: tuple[float, ...] = option((1.0,), "scales of the image for tiling", flag="tile_scales", minimum=0.01)
    full_image: bool = option(False, "use the whole image as a view in addition to tiles", flag="full_image")
    merge: str = option(
        "cluster", "method that merges the detections of several views", flag="merge", choices=MERGE_NAMES
    )
    merge_threshold: float = option(
        0.5, "IoU threshold for merging detections", flag="merge_threshold", minimum=0.0, maximum=1.0
    )
    merge_on: str = option(
        "masks",
        "shapes to compare for merging; boxes if there are no masks",
        flag="merge_on",
        choices=("masks", "boxes"),
    )
    view_batch_size: int = option(4, "number of views per batch", flag="view_batch_size", minimum=1)
