"""Compare the default anchors with the anchors proposed by examples.describe_data.

`python -m benchmarks.anchors --dataset_root FOLDER` with Kaggle's 2018 Data Science Bowl trains the default Mask R-CNN,
and the same model with the anchors and limits proposed for each finest stride, with equal epochs and seeds.
"""

from statistics import mean, stdev

import click
import torch

from augment.config import AugmentConfig
from benchmarks.quality import describe, to_rows, train_and_trace, write_results
from datasets.registry import open_dataset
from datasets.statistics import read_objects
from maskrcnn.model.detector import Detector
from maskrcnn.training.config import TrainingConfig
from workbench.anchor_fit import DescribeConfig, make_anchor_sets, measure_crowding
from workbench.config import ExperimentConfig
from workbench.data import Data


@click.command()
@click.option("--dataset_root", required=True, help="folder of stage1_train")
@click.option("--epochs", default=14)
@click.option("--seeds", default=3)
def main(dataset_root: str, epochs: int, seeds: int) -> None:
    """Train with the default and the proposed anchors."""
    splits = {split: open_dataset("dsbowl2018", dataset_root, split) for split in ("train", "test")}
    objects = {split: read_objects(each, len(each)).targets() for split, each in splits.items()}
    data = Data(splits["train"], splits["test"], splits["test"])
    config = ExperimentConfig()
    sets = make_anchor_sets(objects, config, DescribeConfig(), measure_crowding(objects, config))
    results: dict[str, object] = {}
    for name, detector, ious in ((each.name, each.detector, each.ious) for each in sets):
        points = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            training = TrainingConfig(num_epochs=epochs, eval_every_n_epochs=epochs, seed=seed)
            model = Detector(detector, len(data.class_names), "mask_rcnn")
            points += train_and_trace(f"{name}, seed {seed}", model, data, AugmentConfig(), training)[-1:]
        metrics = {key: [point.metrics[key] for point in points] for key in points[0].metrics}
        print(f"{name:17s} mean of {seeds}: {describe({key: mean(each) for key, each in metrics.items()})}", flush=True)
        deviations = {key: stdev(each) for key, each in metrics.items()} if seeds > 1 else {}
        matched = {split: float((best >= 0.5).mean()) for split, best in ious.items()}
        results[name] = {"runs": to_rows(points), "standard_deviation": deviations, "matched_at_0.5": matched}
    command = f"python -m benchmarks.anchors --dataset_root FOLDER --epochs={epochs} --seeds={seeds}"
    print(f"wrote {write_results('anchors', command, results)}")


if __name__ == "__main__":
    main()
