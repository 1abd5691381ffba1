"""Real nuclei from scratch on a CPU: the default Mask R-CNN and torchvision's ResNet-50 under the same budget.

`python -m benchmarks.nuclei --dataset_root FOLDER` with Kaggle's 2018 Data Science Bowl: random crops of 256² in
training, whole images in the test.
"""

import click
import torch

from augment.config import AugmentConfig
from benchmarks.peers import TorchvisionMaskRCNN
from benchmarks.quality import table, trace, write_results
from benchmarks.time_to_quality import MIN_CONFIDENCE, peer_training
from datasets.registry import open_dataset
from examples.experiment import Data
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.training.config import TrainingConfig


@click.command()
@click.option("--dataset_root", required=True, help="the folder of stage1_train")
@click.option("--minutes", default=15.0, help="training time of ours")
@click.option("--peer_minutes", default=15.0, help="training time of torchvision's; 0 leaves it out")
def main(dataset_root: str, minutes: float, peer_minutes: float) -> None:
    train, test = (open_dataset("dsbowl2018", dataset_root, split) for split in ("train", "test"))
    data = Data(train, test, test)
    torch.manual_seed(0)
    config = DetectorConfig()
    ours = trace(
        "ours",
        Detector(config, 1, "mask_rcnn"),
        data,
        AugmentConfig(),
        TrainingConfig(minutes=minutes, eval_every_n_epochs=10),
    )
    peers = []
    if peer_minutes:
        torch.manual_seed(0)
        peer = TorchvisionMaskRCNN(1, config.box.max_instances, MIN_CONFIDENCE)
        peers = trace("torchvision", peer, data, AugmentConfig(), peer_training(peer_minutes))
    command = f"python -m benchmarks.nuclei --dataset_root FOLDER --minutes={minutes} --peer_minutes={peer_minutes}"
    path = write_results("nuclei", command, {"ours": table(ours), "torchvision": table(peers)})
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
