"""Compare the training time that the default Mask R-CNN and torchvision's ResNet-50 need to reach a mask AP.

Both train on the same 64 + 16 ellipse images, one after the other in one run, with the same loop, loader, augmentation,
detection limit, and score threshold. Seconds are those of training, with loading but without evaluation. `python -m
benchmarks.time_to_quality`
"""

import sys
import tempfile
from dataclasses import replace

import click
import torch

from augment.config import AugmentConfig
from benchmarks.peers import TorchvisionMaskRCNN
from benchmarks.quality import find_crossing, to_rows, train_and_trace, write_results
from datasets.registry import open_dataset
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.training.config import TrainingConfig
from workbench.data import Data

MAX_INSTANCES, MIN_CONFIDENCE = 300, 0.05


@click.command()
@click.option("--level", default=0.45, help="mask AP to reach")
@click.option("--minutes", default=1.5, help="training time of our model")
@click.option(
    "--peer_minutes",
    default=20.0,
    help="max. training time of torchvision's model, which stops at the level; 0 skips it",
)
def main(level: float, minutes: float, peer_minutes: float) -> None:
    """Train both models and compare the times."""
    with tempfile.TemporaryDirectory() as folder:
        create(f"{folder}/ellipses", Recipe(n_train=64, n_test=16))
        train, test = (open_dataset("ellipses", f"{folder}/ellipses", split) for split in ("train", "test"))
        data = Data(train, test, test)
        ours = train_and_trace(
            "ours", make_detector(), data, AugmentConfig(), TrainingConfig(minutes=minutes, eval_every_n_epochs=2)
        )
        peers = []
        if peer_minutes:
            torch.manual_seed(0)
            peer = TorchvisionMaskRCNN(1, MAX_INSTANCES, MIN_CONFIDENCE)
            peers = train_and_trace(
                "torchvision", peer, data, AugmentConfig(), make_peer_config(peer_minutes), until=level
            )
    seconds, peer_seconds = find_crossing(ours, level), find_crossing(peers, level)
    if peers and peer_seconds is None:  # compare at the level that the peer reached
        best = max(peers, key=lambda point: point.metrics["mask_ap"])
        level, peer_seconds = best.metrics["mask_ap"], best.seconds
        seconds = find_crossing(ours, level)
    for name, at in (("ours", seconds), ("torchvision", peer_seconds)):
        print(f"mask AP {level:.3f}: {name} " + ("never" if at is None else f"after {at:.1f} s"))
    ratio = peer_seconds / seconds if seconds and peer_seconds else None
    print(f"ratio {ratio:.1f}" if ratio else "no ratio: one model did not reach the level")
    path = write_results(
        "time_to_quality",
        " ".join(["python -m benchmarks.time_to_quality", *sys.argv[1:]]),
        {
            "level": level,
            "ours_seconds": seconds,
            "torchvision_seconds": peer_seconds,
            "ratio": ratio,
            "ours": to_rows(ours),
            "torchvision": to_rows(peers),
        },
    )
    print(f"wrote {path}")


def make_detector() -> Detector:
    """Make the default Mask R-CNN with the limits of the peer."""
    config = DetectorConfig()
    config = replace(config, box=replace(config.box, max_detections=MAX_INSTANCES, min_score=MIN_CONFIDENCE))
    torch.manual_seed(0)
    return Detector(config, 1, "mask_rcnn")


def make_peer_config(minutes: float, eval_every_n_epochs: int = 2) -> TrainingConfig:
    """Return the training options that worked best for torchvision's network: AdamW at constant 1e-4, batch size 4."""
    return TrainingConfig(
        minutes=minutes,
        batch_size=4,
        learning_rate=1e-4,
        schedule="constant",
        eval_every_n_epochs=eval_every_n_epochs,
    )


if __name__ == "__main__":
    main()
