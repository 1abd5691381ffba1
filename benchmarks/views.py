"""What views and slices are worth: mask AP of a trained detector by how images are looked at.

`python -m benchmarks.views --weights=RUN` looks at the run's own test images once, and in flips, in the eight
orientations and at any angle, with every merge; then at scenes of 1024² with as many objects to the pixel: at once, and
in tiles. RUN is a Mask R-CNN trained on the default ellipses.
"""

import sys
import time
from collections.abc import Sequence

import click
import numpy as np
import torch
from torch import Tensor

from augment.config import MERGE_NAMES, ViewsConfig
from augment.merging.merges import merge
from augment.prediction import predict
from benchmarks.quality import write_results
from datasets.readers.generated import masks_of_labels
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.painting import render
from datasets.synthetic.scene import compose_scene
from examples.predict import Finder, load_finder
from examples.searching import detection, views_of
from maskrcnn.evaluation.figures import evaluate
from maskrcnn.structures.instances import Instances

VIEWS = ("none", "flips", "d4", "affine:8", "scales:1,1.5", "d4+scales:1.5")
SLICES = {
    "at once": ViewsConfig(),
    "tiles of 256": ViewsConfig(tile=256, overlap=0.2),
    "tiles of 256, d4": ViewsConfig(tile=256, overlap=0.2, views="d4"),
    "tiles of 256 and at once": ViewsConfig(tile=256, overlap=0.2, full_image=True),
}
Scenes = list[tuple[Tensor, Instances]]


def scenes(count: int, times: int) -> Scenes:
    """Test scenes whose sides are `times` those of the default, with as many objects to the pixel."""
    plain = SceneConfig()
    config = update_config(
        plain,
        width=plain.width * times,
        height=plain.height * times,
        n_groups=plain.layout.n_groups * times**2,
        n_free=plain.layout.n_free * times**2,
    )
    return [_scene(config, number) for number in range(count)]


def _scene(config: SceneConfig, number: int) -> tuple[Tensor, Instances]:
    drawn = render(compose_scene(config, "test", number))
    masks, ids = masks_of_labels(torch.from_numpy(drawn.labels.astype(np.int32)))
    image = torch.from_numpy(drawn.image).permute(2, 0, 1).contiguous()
    return image, Instances.from_masks(masks, torch.ones_like(ids), ids=ids)


def measure(finder: Finder, data: Scenes, views: ViewsConfig, merges: Sequence[str]) -> dict[str, dict[str, float]]:
    """Figures by merge; every view is looked at once."""
    found: dict[str, dict[int, Instances]] = {name: {} for name in merges}
    seconds = dict.fromkeys(merges, 0.0)
    start = time.perf_counter()
    for i, (image, truth) in enumerate(data):
        layers: list[Instances] = []

        def keep(given: Sequence[Instances], layers: list[Instances] = layers) -> Instances:
            layers.extend(given)
            return given[0]

        detect, seen = detection(finder.detector, finder.machine), views_of(finder.detector, views, truth.size)
        alone = predict(detect, image, seen, keep, batch_size=8)
        for name in merges:
            begin = time.perf_counter()
            found[name][i] = merge(name, layers) if layers else alone
            seconds[name] += time.perf_counter() - begin
    looking = time.perf_counter() - start - sum(seconds.values())
    truths = {i: truth for i, (_, truth) in enumerate(data)}
    return {
        name: _figures(truths, found[name], finder.class_names)
        | {"seconds_per_image": (looking + seconds[name]) / len(data)}
        for name in merges
    }


def _figures(truths: dict[int, Instances], found: dict[int, Instances], classes: Sequence[str]) -> dict[str, float]:
    metrics = evaluate(truths, found, classes, "mask_rcnn").metrics
    return {name: metrics[name] for name in ("mask_ap", "mask_ap50", "mask_ap75", "box_ap") if name in metrics}


@click.command()
@click.option("--weights", required=True, help="a run, or a .pt file of its weights")
@click.option("--num_images", default=32)
@click.option("--num_large", default=4, help="scenes of 1024²")
def main(weights: str, num_images: int, num_large: int) -> None:
    finder = load_finder(weights, {})
    rows = {}
    with torch.no_grad():
        small, large = scenes(num_images, 1), scenes(num_large, 4)
        for views in VIEWS:
            merges = ("none",) if views == "none" else MERGE_NAMES
            for merged, figures in measure(finder, small, ViewsConfig(views=views), merges).items():
                rows[f"{views} {merged}"] = report(f"{views} {merged}", figures)
        for name, config in SLICES.items():
            figures = measure(finder, large, config, ("cluster",))["cluster"]
            rows[f"1024², {name}"] = report(f"1024², {name}", figures)
    command = " ".join(["python -m benchmarks.views", *sys.argv[1:]])
    print(f"wrote {write_results('views', command, {'rows': rows})}")


def report(name: str, figures: dict[str, float]) -> dict[str, float]:
    print(f"{name:34s} " + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)
    return figures


if __name__ == "__main__":
    main()
