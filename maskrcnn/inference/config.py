"""Options of inference: test-time augmentation, tiles, merging of their detections, and what is written of them."""

from dataclasses import dataclass, field

from maskrcnn.config import option
from maskrcnn.images.config import ImageFilesConfig
from maskrcnn.model.config import DetectorConfig
from maskrcnn.structures.edges import MIN_VISIBLE_FRACTION
from maskrcnn.training.config import TrainingConfig

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


@dataclass(frozen=True)
class DetectionsConfig:
    """Output."""

    min_score: float | None = option(
        None,
        "minimum score of detections in pictures, label images and counts (default: the one of the best F1 on "
        "validation images)",
        flag="plot_min_confidence",
        minimum=0,
        maximum=1,
        renamed="plot_min_confidence",
    )
    min_visible_fraction: float = option(
        MIN_VISIBLE_FRACTION,
        "minimum visible fraction of a mask in label images, where masks with higher scores are on top",
        flag="mask_nms_thresh",
        minimum=0,
        maximum=1,
        renamed="mask_nms_thresh",
    )
    hide_progress_bar: bool = option(False, "no progress display", flag="hide_progress_bar")


@dataclass(frozen=True)
class InferenceConfig:
    """Inference: the options of a run that matter after training, with the same keys."""

    data: ImageFilesConfig = field(default_factory=ImageFilesConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    output: DetectionsConfig = field(default_factory=DetectionsConfig)
