"""Which data to read."""

from dataclasses import dataclass

from maskrcnn.config import option


@dataclass(frozen=True)
class DataConfig:
    """Data set."""

    dataset: str = option("ellipses", "data set: ellipses, dsbowl2018 (dsbowl2018:s1_train_val)", flag="dataset")
    dataset_root: str | None = option(None, "its folder; default: the one in [paths]", flag="dataset_root")
    split_file: str | None = option(None, "JSON with lists `train` and `test` of image names", flag="split_file")
    subsetseed: int = option(12345, "seed of the split where no file gives one", flag="subsetseed", minimum=0)
    cache_mb: int = option(1024, "memory for decoded masks of data that is slow to read, in MiB", minimum=0)
