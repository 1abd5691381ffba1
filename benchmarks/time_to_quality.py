"""How much sooner does the default Mask R-CNN reach a mask AP than torchvision's ResNet-50?

Both train on the same 64 + 16 ellipse images, one after the other in one run, with the same loop, loader, augmentation,
detection limit and score threshold. Seconds are those of training: loading counts, evaluation does not.
`python -m benchmarks.time_to_quality`
"""

import sys
import tempfile
from dataclasses import replace

import click
import torch

from augment.config import AugmentConfig
from benchmarks.peers import TorchvisionMaskRCNN
from benchmarks.quality import crossing, table, trace, write_results
from datasets.registry import open_dataset
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from examples.experiment import Data
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.training.config import TrainingConfig

MAX_INSTANCES, MIN_CONFIDENCE = 300, 0.05


@click.command()
@click.option("--level", default=0.45, help="mask AP to reach")
@click.option("--minutes", default=1.5, help="training time of ours")
@click.option(
    "--peer_minutes",
    default=20.0,
    help="most training time of torchvision's, which stops at the level; 0 leaves it out",
)
def main(level: float, minutes: float, peer_minutes: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        create(f"{folder}/ellipses", Recipe(n_train=64, n_test=16))
        train, test = (open_dataset("ellipses", f"{folder}/ellipses", split) for split in ("train", "test"))
        data = Data(train, test, test)
        ours = trace(
            "ours", our_detector(), data, AugmentConfig(), TrainingConfig(minutes=minutes, eval_every_n_epochs=2)
        )
        peers = []
        if peer_minutes:
            torch.manual_seed(0)
            peer = TorchvisionMaskRCNN(1, MAX_INSTANCES, MIN_CONFIDENCE)
            peers = trace("torchvision", peer, data, AugmentConfig(), peer_training(peer_minutes), until=level)
    seconds, peer_seconds = crossing(ours, level), crossing(peers, level)
    if peers and peer_seconds is None:  # compare at what the peer did reach
        best = max(peers, key=lambda point: point.metrics["mask_ap"])
        level, peer_seconds = best.metrics["mask_ap"], best.seconds
        seconds = crossing(ours, level)
    for name, at in (("ours", seconds), ("torchvision", peer_seconds)):
        print(f"mask AP {level:.3f}: {name} " + ("never" if at is None else f"after {at:.1f} s"))
    ratio = peer_seconds / seconds if seconds and peer_seconds else None
    print(f"ratio {ratio:.1f}" if ratio else "no ratio: one of them did not get there")
    path = write_results(
        "time_to_quality",
        " ".join(["python -m benchmarks.time_to_quality", *sys.argv[1:]]),
        {
            "level": level,
            "ours_seconds": seconds,
            "torchvision_seconds": peer_seconds,
            "ratio": ratio,
            "ours": table(ours),
            "torchvision": table(peers),
        },
    )
    print(f"wrote {path}")


def our_detector() -> Detector:
    config = DetectorConfig()
    config = replace(config, box=replace(config.box, max_instances=MAX_INSTANCES, min_confidence=MIN_CONFIDENCE))
    torch.manual_seed(0)
    return Detector(config, 1, "mask_rcnn")


def peer_training(minutes: float, eval_every_n_epochs: int = 2) -> TrainingConfig:
    """AdamW at 1e-4, constant, four images a step: what served torchvision's network best here."""
    return TrainingConfig(
        minutes=minutes,
        batch_size=4,
        learning_rate=1e-4,
        schedule="constant",
        eval_every_n_epochs=eval_every_n_epochs,
    )


if __name__ == "__main__":
    main()
