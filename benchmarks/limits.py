"""Whether large images are detected whole as they are in tiles: 5,000 objects in 3,000² px and 10,000 in 4,096².

`python -m benchmarks.limits --weights=RUN`, with a detector of the default ellipses, prints recall and precision (of
boxes at IoU .5, score at least .05), what the limits cut, the time and the peak of resident memory: with limits scaled
by the image's area, with fixed ones (`limit_size` 0), and in tiles of 512.
"""

import json
import subprocess
import sys
import time
from typing import Any

import click
import torch

from benchmarks.costs import resident
from benchmarks.quality import write_results
from benchmarks.views import Scenes, make_scene
from datasets.synthetic.config import SceneConfig, update_config
from maskrcnn.evaluation.coco import match_dataset
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.loading import load
from maskrcnn.inference.pipeline import build_views, predict_image
from maskrcnn.model.limits import count_cuts
from maskrcnn.structures.instances import Instances

IMAGES = {"3000": 5_000, "4096": 10_000}  # side: objects
WAYS: dict[str, tuple[dict[str, Any], ViewsConfig]] = {
    "whole": ({}, ViewsConfig()),
    "whole, fixed limits": ({"limit_size": 0}, ViewsConfig()),
    "tiles of 512": ({}, ViewsConfig(tile=512)),
}
MEMBERS = 7  # objects per group, of which there are as many as free ones, about


def large_scene(side: int, count: int) -> Scenes:
    """One scene of so many default ellipses, as crowded as the default images, about."""
    groups = round(count * 0.58 / MEMBERS)
    config = update_config(
        SceneConfig(),
        width=side,
        height=side,
        n_groups=groups,
        n_free=count - groups * MEMBERS,
        n_objects_per_group=MEMBERS,
    )
    return [make_scene(config, 0)]


def measure(weights: str, side: int, way: str) -> dict[str, float]:
    """Recall, precision, seconds, peak of resident memory (MB), and what was cut."""
    flags, views = WAYS[way]
    model = load(weights, **flags)
    ((image, targets),) = large_scene(side, IMAGES[str(side)])
    before, start = resident("VmRSS") / 1e3, time.perf_counter()
    tiles = build_views(model.detector, views, targets.size)
    with count_cuts() as cuts:
        found = predict_image(model.detector, image, tiles, views, model.machine)
    seconds = time.perf_counter() - start
    megabytes = resident("VmHWM") / 1e3 - before
    cut = sum(each.detections for each in cuts.found())
    return scores(targets, found) | {"cut": cut, "seconds": seconds, "megabytes": megabytes}


def scores(targets: Instances, found: Instances) -> dict[str, float]:
    assert found.scores is not None
    found = found[found.scores >= 0.05]
    matches = match_dataset({0: targets}, {0: found}, ("ellipse",))
    right = int(matches.true_positive.sum())
    return {
        "objects": matches.num_objects,
        "detections": len(found),
        "recall": right / matches.num_objects,
        "precision": right / max(1, len(matches.scores)),
    }


@click.command()
@click.option("--weights", required=True, help="a run, or a .pt file of its weights")
@click.option("--one", nargs=2, default=None, hidden=True)
def main(weights: str, one: tuple[str, str] | None) -> None:
    if one is not None:  # in a process of its own, so that its peak of memory is its own
        with torch.no_grad():
            print(json.dumps(measure(weights, int(one[0]), one[1])))
        return
    rows = {}
    for side in IMAGES:
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.limits", f"--weights={weights}", "--one", side, way]
            result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            rows[f"{side}² px, {way}"] = result
            print(
                f"{side}² px, {way:20s} " + "  ".join(f"{name} {value:.4g}" for name, value in result.items()),
                flush=True,
            )
    command_line = " ".join(["python -m benchmarks.limits", *sys.argv[1:]])
    print(f"wrote {write_results('limits', command_line, {'rows': rows})}")


if __name__ == "__main__":
    main()
