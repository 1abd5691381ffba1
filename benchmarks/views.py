"""Evaluate test-time augmentation and tiles: mask AP of a trained detector by views and merge.

`python -m benchmarks.views --weights=RUN` uses the run's own test images, unchanged, with flips, in the eight
orientations, and with affine views, with every merge; then scenes of 1024² with the same density of objects, whole and
tiled. RUN is a Mask R-CNN trained on the default ellipses.
"""

import sys
import time
from collections.abc import Sequence

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.quality import write_results
from datasets.readers.generated import extract_masks
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.rendering import render
from datasets.synthetic.scene import compose_scene
from maskrcnn.evaluation.figures import evaluate
from maskrcnn.inference.config import MERGE_NAMES, ViewsConfig
from maskrcnn.inference.loading import load
from maskrcnn.inference.merging.merges import merge
from maskrcnn.inference.pipeline import bind_detector, build_views
from maskrcnn.inference.prediction import predict
from maskrcnn.inference.predictor import Predictor
from maskrcnn.structures.instances import Instances

VIEWS = ("none", "flips", "d4", "affine:8", "scales:1,1.5", "d4+scales:1.5")
SLICES = {
    "at once": ViewsConfig(),
    "tiles of 256": ViewsConfig(tile=256, overlap=0.2),
    "tiles of 256, d4": ViewsConfig(tile=256, overlap=0.2, views="d4"),
    "tiles of 256 and at once": ViewsConfig(tile=256, overlap=0.2, full_image=True),
}
Scenes = list[tuple[Tensor, Instances]]


def make_scenes(count: int, times: int) -> Scenes:
    """Make test scenes with sides `times` those of the default, and the same density of objects."""
    plain = SceneConfig()
    config = update_config(
        plain,
        width=plain.width * times,
        height=plain.height * times,
        n_groups=plain.layout.n_groups * times**2,
        n_free=plain.layout.n_free * times**2,
    )
    return [make_scene(config, number) for number in range(count)]


def make_scene(config: SceneConfig, number: int) -> tuple[Tensor, Instances]:
    """Make one test scene."""
    drawn = render(compose_scene(config, "test", number))
    masks, ids = extract_masks(torch.from_numpy(drawn.labels.astype(np.int32)))
    image = torch.from_numpy(drawn.image).permute(2, 0, 1).contiguous()
    return image, Instances.from_masks(masks, torch.ones_like(ids), ids=ids)


def measure(model: Predictor, data: Scenes, views: ViewsConfig, merges: Sequence[str]) -> dict[str, dict[str, float]]:
    """Measure metrics by merge; the detector runs once per view."""
    detections: dict[str, dict[int, Instances]] = {name: {} for name in merges}
    seconds = dict.fromkeys(merges, 0.0)
    start = time.perf_counter()
    for i, (image, target) in enumerate(data):
        layers: list[Instances] = []

        def keep(given: Sequence[Instances], layers: list[Instances] = layers) -> Instances:
            layers.extend(given)
            return given[0]

        detect, image_views = (
            bind_detector(model.detector, model.machine),
            build_views(model.detector, views, target.size),
        )
        single = predict(detect, image, image_views, keep, batch_size=8)
        for name in merges:
            begin = time.perf_counter()
            detections[name][i] = merge(name, layers) if layers else single
            seconds[name] += time.perf_counter() - begin
    detection_seconds = time.perf_counter() - start - sum(seconds.values())
    targets = {i: target for i, (_, target) in enumerate(data)}
    return {
        name: _compute_metrics(targets, detections[name], model.class_names)
        | {"seconds_per_image": (detection_seconds + seconds[name]) / len(data)}
        for name in merges
    }


def _compute_metrics(
    targets: dict[int, Instances], detections: dict[int, Instances], classes: Sequence[str]
) -> dict[str, float]:
    metrics = evaluate(targets, detections, classes, "mask_rcnn").metrics
    return {name: metrics[name] for name in ("mask_ap", "mask_ap50", "mask_ap75", "box_ap") if name in metrics}


@click.command()
@click.option("--weights", required=True, help="run, or .pt file of its weights")
@click.option("--num_images", default=32)
@click.option("--num_large", default=4, help="number of scenes of 1024²")
def main(weights: str, num_images: int, num_large: int) -> None:
    """Evaluate all views, tiles, and merges."""
    model = load(weights)
    rows = {}
    with torch.no_grad():
        small, large = make_scenes(num_images, 1), make_scenes(num_large, 4)
        for views in VIEWS:
            merges = ("none",) if views == "none" else MERGE_NAMES
            for merged, metrics in measure(model, small, ViewsConfig(views=views), merges).items():
                rows[f"{views} {merged}"] = print_metrics(f"{views} {merged}", metrics)
        for name, config in SLICES.items():
            metrics = measure(model, large, config, ("cluster",))["cluster"]
            rows[f"1024², {name}"] = print_metrics(f"1024², {name}", metrics)
    command = " ".join(["python -m benchmarks.views", *sys.argv[1:]])
    print(f"wrote {write_results('views', command, {'rows': rows})}")


def print_metrics(name: str, metrics: dict[str, float]) -> dict[str, float]:
    """Print and return metrics."""
    print(f"{name:34s} " + "  ".join(f"{key} {value:.3f}" for key, value in metrics.items()), flush=True)
    return metrics


if __name__ == "__main__":
    main()
