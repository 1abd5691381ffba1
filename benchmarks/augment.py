"""Measure the cost of augmentation: ours with cropped masks, torchvision's v2 and imgaug with dense masks, in one run.

`python -m benchmarks.augment` augments one sample with flips, scale, rotation, shear, and light, in each library's way:
256² with 48 objects and 1024² with 1,000 objects. It prints median seconds, peak additional memory (after a warm-up
with a small sample), and the ratios to the peers, then the time that augmentation adds to a step of the default
training. imgaug is skipped if it is not installed.
"""

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from augment.config import AugmentConfig
from augment.training import make_training_transform
from benchmarks.costs import cost, describe
from benchmarks.quality import write_results
from datasets.readers.generated import extract_masks
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.rendering import render
from datasets.synthetic.scene import compose_scene
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.warping import Sample

FULL = AugmentConfig(
    crop_size=(0,),
    scale_range=(0.8, 1.25),
    rotation_degrees=45,
    affine_std=0.05,
    brightness_factor_std=0.1,
    brightness_offset_std=0.1,
)
CASES = {"256², 48 masks": (256, 4, 7, 20), "1024², 1,000 masks": (1024, 84, 7, 412)}


def sample(side: int, groups: int, members: int, free: int) -> Sample:
    """Make a synthetic scene with the same density of objects in every size."""
    config = update_config(
        SceneConfig(), width=side, height=side, n_groups=groups, n_objects_per_group=members, n_free=free
    )
    drawn = render(compose_scene(config, "train", 0))
    masks, ids = extract_masks(torch.from_numpy(drawn.labels.astype(np.int32)))
    image = torch.from_numpy(drawn.image).permute(2, 0, 1).contiguous()
    return image, Instances.from_masks(masks, torch.ones_like(ids), ids=ids)


def make_ours(image: Tensor, instances: Instances) -> Callable[[], Any]:
    """Make our augmentation of a sample."""
    transform, generator = make_training_transform(FULL), torch.Generator().manual_seed(0)
    return lambda: transform(image, instances, generator)


def make_torchvision_v2(image: Tensor, instances: Instances) -> Callable[[], Any]:
    """Make torchvision's augmentation with dense boolean masks and nearest-neighbor interpolation, as documented."""
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomAffine(45, scale=(0.8, 1.25), shear=3, interpolation=InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.1, contrast=0.1),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    size, masks = instances.size, instances.masks
    assert masks is not None
    target = {
        "boxes": tv_tensors.BoundingBoxes(instances.boxes, format="XYXY", canvas_size=size),
        "masks": tv_tensors.Mask(masks.to_dense()),
        "labels": instances.labels,
    }
    return lambda: transform(tv_tensors.Image(image), target)


def imgaug(image: Tensor, instances: Instances) -> Callable[[], Any]:
    """Make imgaug's augmentation with segmentation maps."""
    import imgaug.augmenters as iaa
    from imgaug.augmentables.segmaps import SegmentationMapsOnImage

    augmenter = iaa.Sequential(
        [
            iaa.Fliplr(0.5),
            iaa.Flipud(0.5),
            iaa.Affine(rotate=(-45, 45), scale=(0.8, 1.25), shear=(-3, 3)),
            iaa.Multiply((0.9, 1.1)),
            iaa.Add((-25, 25)),
        ]
    )
    assert instances.masks is not None
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    planes = np.ascontiguousarray(instances.masks.to_dense().permute(1, 2, 0).numpy())
    return lambda: augmenter(image=pixels, segmentation_maps=SegmentationMapsOnImage(planes, shape=pixels.shape))


def list_peers() -> dict[str, Callable[[Tensor, Instances], Callable[[], Any]]]:
    """Return the available peers."""
    available: dict[str, Callable[[Tensor, Instances], Callable[[], Any]]] = {"torchvision v2": make_torchvision_v2}
    if importlib.util.find_spec("imgaug") is not None:
        available["imgaug"] = imgaug
    return available


def measure_step_share() -> dict[str, float]:
    """Measure the seconds of a default training step, and those that augmentation adds to its two samples."""
    one = sample(*CASES["256², 48 masks"])
    torch.manual_seed(0)
    detector = Detector(DetectorConfig(), 1, "mask_rcnn")
    detector.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(detector.parameters(), 1e-3)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            losses = detector.losses([one[0], one[0]], [one[1], one[1]])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    transform, generator = make_training_transform(FULL), torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    seconds = {"step": measure_median(step, 12)}
    torch.set_num_threads(1)  # as in a data loader worker
    seconds["augmentation"] = 2 * measure_median(lambda: transform(*one, generator), 60)
    torch.set_num_threads(threads)
    return seconds


def measure_median(run: Callable[[], Any], times: int) -> float:
    """Measure median seconds, without the first three runs."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[3:])


@click.command()
@click.option("--only", default="", help="run only cases whose name contains this text")
def main(only: str) -> None:
    """Run all cases."""
    rows = []
    for name, numbers in CASES.items():
        if only not in name:
            continue
        one, small = sample(*numbers), sample(64, 0, 0, 3)
        costs = {}
        for method, make in ({"ours": make_ours} | list_peers()).items():
            make(*small)()
            costs[method] = cost(make(*one))
        for method, value in costs.items():
            times = value.seconds / costs["ours"].seconds
            print(f"{name:20s} {method:16s} {describe(value):>20s} {times:8.1f}x", flush=True)
        rows.append({"case": name, "objects": len(one[1])} | {method: asdict(value) for method, value in costs.items()})
    step_seconds = measure_step_share()
    step, augmentation = (1e3 * step_seconds[name] for name in ("step", "augmentation"))
    print(f"a step of the default training {step:.0f} ms; augmentation of its samples {augmentation:.1f} ms")
    if not only:
        path = write_results(
            "augment", " ".join(["python -m benchmarks.augment", *sys.argv[1:]]), {"cases": rows, "step": step_seconds}
        )
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
