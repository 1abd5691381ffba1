"""Options of data sets."""

from dataclasses import dataclass

from maskrcnn.config import option
from maskrcnn.images.config import ImageFilesConfig


@dataclass(frozen=True)
class ReadingConfig:
    """Reading of annotations."""

    crowds: str = option(
        "ignore",
        "crowds in COCO files, such as CVAT's brush masks: ignore them, or treat them as objects",
        flag="crowds",
        choices=("ignore", "objects"),
    )
    voc_first_pixel: str = option(
        "auto",
        "number of the first pixel in VOC boxes; auto: 0 if a box starts at 0 or the files are from CVAT, Label Studio "
        "or Roboflow, else 1",
        flag="voc_from",
        choices=("auto", "0", "1"),
        renamed="voc_from",
    )
    split_components: bool = option(
        False,
        "split each object of label images into its connected components",
        flag="split_components",
    )
    label_background: int | None = option(
        None,
        "value of pixels without an object in label images (default: 0, or detected)",
        flag="label_background",
        minimum=-1,
    )
    point_size: float = option(
        12.0, "side of the boxes around the points of CSV files (px)", flag="point_size", minimum=0.5, maximum=10_000
    )
    image_folder: str | None = option(
        None, "folder of the COCO images, if it is not found next to the annotations", flag="image_folder"
    )

    classes: tuple[str, ...] = option(
        (), "classes whose objects are used, after map_classes (default: all)", flag="classes"
    )
    map_classes: tuple[str, ...] = option(
        (), 'classes that are renamed or joined, such as "car|truck=vehicle,person=human"', flag="map_classes"
    )
    one_class: bool = option(False, "make all classes one, named object", flag="one_class")


@dataclass(frozen=True)
class DataConfig(ImageFilesConfig):
    """Data set."""

    dataset: str = option(
        "auto",
        "data set: auto (recognized from the files in --dataset_root; the ellipses without it), the name of a format, "
        "such as coco, voc or yolo (docs/data.md lists all), synthetic:FILE.toml, your own class as my_module:MyData, "
        "or several joined as a+b",
        flag="dataset",
    )
    dataset_root: str | None = option(None, "folder of the data set (default: from [paths])", flag="dataset_root")
    split_file: str | None = option(
        None, "JSON file with lists `train`, `test` and optionally `val` of image names", flag="split_file"
    )
    split_seed: int = option(12345, "random seed of random splits", flag="subsetseed", minimum=0, renamed="subsetseed")
    test_fraction: float = option(
        0.25,
        "fraction of the images drawn for the test set, if the data has none",
        flag="test_fraction",
        minimum=0.0001,
        maximum=0.9,
    )
    val_fraction: float = option(
        0.15,
        "fraction of the training images held out for validation, if the data has no validation set (0: validate on "
        "the test set, which then also selects the weights)",
        flag="val_fraction",
        minimum=0.0,
        maximum=0.9,
    )
    subset: str | None = option(
        None,
        'training images to use, such as "index % 4 == 0" or "not (name in ids(\'FILE\'))"; variables: index, id, '
        "name, num_objects, width, height",
        flag="subset",
    )
    test_subset: str | None = option(None, "test images to use, as for --subset", flag="test_subset")
    skip_bad: bool = option(False, "leave out unreadable images (reads all of them first)", flag="skip_bad")
    cache_mb: int = option(1024, "memory for decoded masks of slow formats, per data loader worker (MiB)", minimum=0)
