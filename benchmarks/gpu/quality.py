"""Step e: how long the default training takes to a mask AP on the ellipses, from the start of the process."""

import time
from pathlib import Path

from augment.config import AugmentConfig
from benchmarks.gpu.context import Context
from benchmarks.gpu.throughput import machine_of
from benchmarks.quality import Point, Reached, find_crossing, to_rows, train_and_trace
from datasets.registry import open_dataset
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.training.checkpoint import save_checkpoint
from maskrcnn.training.config import TrainingConfig
from workbench.data import Data

LEVEL = 0.64
EPOCHS = 12
WEIGHTS = "trained.pt"


def make_data(folder: Path, n_train: int, n_test: int, side: int = 256) -> Data:
    """Ellipses as `create_ellipses.py` makes them, in `folder`."""
    scene = update_config(
        SceneConfig(), width=side, height=side, **({"n_groups": 1, "n_free": 4} if side < 128 else {})
    )
    create(str(folder), Recipe(n_train=n_train, n_test=n_test, scene=scene))
    train, test = (open_dataset("ellipses", str(folder), split) for split in ("train", "test"))
    return Data(train, test, test)


def time_to_quality(context: Context) -> None:
    """Train with the default settings and evaluate after each epoch until the mask AP is reached."""
    machine = machine_of(context)
    data = make_data(context.folder / "ellipses-e", *((4, 2, 64) if context.quick else (128, 32, 256)))
    detector = Detector(DetectorConfig(), 1, "mask_rcnn")
    config = TrainingConfig(
        num_epochs=1 if context.quick else EPOCHS, eval_every_n_epochs=1, device=context.device, amp=machine.amp
    )
    first_step = time.time()
    points: list[Point] = []
    arrived: list[float] = []

    def on_point(point: Point) -> None:
        points.append(point)
        ap = point.metrics["mask_ap"]
        arrived.extend([time.time()] if ap >= LEVEL and not arrived else [])
        best = max(each.metrics["mask_ap"] for each in points)
        seconds = find_crossing(points, LEVEL)
        context.report(
            level=LEVEL,
            best_mask_ap=best,
            points=to_rows(points),
            seconds_from_process_start=arrived[0] - context.started if arrived else None,
            seconds_from_first_step=arrived[0] - first_step if arrived else None,
            seconds_of_training=seconds,
            headline=f"mask AP {LEVEL}: " + (
                f"{arrived[0] - context.started:.1f} s after the process began, {seconds:.1f} s of training"
                if arrived and seconds is not None
                else f"not reached, best {best:.3f} after {point.seconds:.1f} s of training"
            ),
        )  # fmt: skip
        if arrived or context.is_late(f"epoch {point.epoch}"):
            raise Reached

    train_and_trace("ours", detector, data, AugmentConfig(), config, on_point=on_point)
    save_checkpoint(context.folder / WEIGHTS, {"model": detector.state_dict()})
