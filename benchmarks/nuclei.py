"""Train on real nuclei from scratch on a CPU: the default Mask R-CNN and torchvision's ResNet-50 with equal budgets.

`python -m benchmarks.nuclei --dataset_root FOLDER` with Kaggle's 2018 Data Science Bowl: random crops of 256² for
training, whole images for testing.
"""

import click
import torch

from augment.config import AugmentConfig
from benchmarks.peers import TorchvisionMaskRCNN
from benchmarks.quality import to_rows, train_and_trace, write_results
from benchmarks.time_to_quality import MIN_CONFIDENCE, make_peer_config
from datasets.registry import open_dataset
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.training.config import TrainingConfig
from workbench.data import Data


@click.command()
@click.option("--dataset_root", required=True, help="folder of stage1_train")
@click.option("--minutes", default=15.0, help="training time of our model")
@click.option("--peer_minutes", default=15.0, help="training time of torchvision's model; 0 skips it")
def main(dataset_root: str, minutes: float, peer_minutes: float) -> None:
    """Train both models."""
    train, test = (open_dataset("dsbowl2018", dataset_root, split) for split in ("train", "test"))
    data = Data(train, test, test)
    torch.manual_seed(0)
    config = DetectorConfig()
    ours = train_and_trace(
        "ours",
        Detector(config, 1, "mask_rcnn"),
        data,
        AugmentConfig(),
        TrainingConfig(minutes=minutes, eval_every_n_epochs=10),
    )
    peers = []
    if peer_minutes:
        torch.manual_seed(0)
        peer = TorchvisionMaskRCNN(1, config.box.max_detections, MIN_CONFIDENCE)
        peers = train_and_trace("torchvision", peer, data, AugmentConfig(), make_peer_config(peer_minutes))
    command = f"python -m benchmarks.nuclei --dataset_root FOLDER --minutes={minutes} --peer_minutes={peer_minutes}"
    path = write_results("nuclei", command, {"ours": to_rows(ours), "torchvision": to_rows(peers)})
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
