"""Which data to read."""

from dataclasses import dataclass

from maskrcnn.config import option


@dataclass(frozen=True)
class ReadingConfig:
    """Reading of annotations."""

    crowds: str = option(
        "ignore",
        "crowds in COCO's files, such as CVAT's brush masks: ignored, or taken as objects",
        flag="crowds",
        choices=("ignore", "objects"),
    )
    voc_from: str = option(
        "auto",
        "number of the first pixel in VOC's boxes; auto: 0 where a box begins at 0 or the files are CVAT's, Label "
        "Studio's or Roboflow's, else 1",
        flag="voc_from",
        choices=("auto", "0", "1"),
    )
    image_folder: str | None = option(
        None, "folder of COCO's images where it is not found beside the annotations", flag="image_folder"
    )


@dataclass(frozen=True)
class DataConfig:
    """Data set."""

    dataset: str = option(
        "ellipses",
        "data set: ellipses, shapes, synthetic:FILE.toml, coco, voc, dsbowl2018, labels, cst, aitod, visdrone, a class "
        "of yours as my_module:MyData, or several joined as a+b",
        flag="dataset",
    )
    dataset_root: str | None = option(None, "its folder; default: the one in [paths]", flag="dataset_root")
    split_file: str | None = option(
        None, "JSON with lists `train`, `test` and maybe `val` of image names", flag="split_file"
    )
    subsetseed: int = option(12345, "random seed of every split that is drawn", flag="subsetseed", minimum=0)
    test_fraction: float = option(
        0.25,
        "fraction of the images drawn for the test where the data has no test set",
        flag="test_fraction",
        minimum=0.0001,
        maximum=0.9,
    )
    val_fraction: float = option(
        0.15,
        "fraction of the training images held out for validation where the data has no validation set (0: validate on "
        "the test set, so that its figures choose the weights)",
        flag="val_fraction",
        minimum=0.0,
        maximum=0.9,
    )
    subset: str | None = option(
        None,
        'training images to take, such as "index % 4 == 0" or "not (name in ids(\'FILE\'))"; names: index, id, name, '
        "num_objects, width, height",
        flag="subset",
    )
    test_subset: str | None = option(None, "test images to take, likewise", flag="test_subset")
    skip_bad: bool = option(False, "leave images out that cannot be read; reads all of them first", flag="skip_bad")
    cache_mb: int = option(1024, "memory for decoded masks of data slow to read, in MiB of each loader", minimum=0)
    gray_levels: tuple[float, ...] = option(
        (),
        "of images with more than 8 bits: the values shown as 0 and 1 (default: measured on some training images, and "
        "kept with the weights)",
        flag="gray_levels",
        minimum=0,
        maximum=65_535,
    )
    max_megapixels: int = option(
        256,
        "max. size of an image that has to be decoded whole (megapixels); TIFF and .npy are read by window",
        flag="max_megapixels",
        minimum=1,
    )
