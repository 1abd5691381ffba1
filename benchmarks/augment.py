"""What augmentation costs: ours on cropped masks, torchvision's v2 and imgaug on dense ones, in one run.

`python -m benchmarks.augment` augments one sample with flips, scale, turn, shear and light, in each library's own way:
256² with 48 objects and 1024² with 1,000. It prints median seconds, peak extra memory (the code is loaded
before, with a small sample) and how many times as much the peers take; then what the same augmentation adds to a step
of the default training. imgaug is left out where it is not installed.
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
from augment.geometry import Sample
from augment.training import make_training_transform
from benchmarks.ops import cost, describe
from benchmarks.quality import write_results
from datasets.readers.generated import masks_of_labels
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.painting import render
from datasets.synthetic.scene import compose_scene
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances

FULL = AugmentConfig(
    fixed_size=(0,), scale_u_range=(0.8, 1.25), rot_range_mag=45, affine_std=0.05, light_scl_std=0.1, light_off_std=0.1
)
CASES = {"256², 48 masks": (256, 4, 7, 20), "1024², 1,000 masks": (1024, 84, 7, 412)}


def sample(side: int, groups: int, members: int, free: int) -> Sample:
    """A scene of the generator's, with as many objects to the pixel in every size."""
    config = update_config(
        SceneConfig(), width=side, height=side, n_groups=groups, n_objects_per_group=members, n_free=free
    )
    drawn = render(compose_scene(config, "train", 0))
    masks, ids = masks_of_labels(torch.from_numpy(drawn.labels.astype(np.int32)))
    image = torch.from_numpy(drawn.image).permute(2, 0, 1).contiguous()
    return image, Instances.from_masks(masks, torch.ones_like(ids), ids=ids)


def ours(image: Tensor, instances: Instances) -> Callable[[], Any]:
    transform, generator = make_training_transform(FULL), torch.Generator().manual_seed(0)
    return lambda: transform(image, instances, generator)


def torchvision_v2(image: Tensor, instances: Instances) -> Callable[[], Any]:
    """As its documentation does it for instance masks: boolean ones, one plane each, nearest."""
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


def peers() -> dict[str, Callable[[Tensor, Instances], Callable[[], Any]]]:
    found: dict[str, Callable[[Tensor, Instances], Callable[[], Any]]] = {"torchvision v2": torchvision_v2}
    if importlib.util.find_spec("imgaug") is not None:
        found["imgaug"] = imgaug
    return found


def share_of_a_step() -> dict[str, float]:
    """Seconds that augmentation adds to the two samples of a default training step, and those of the step itself."""
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
    seconds = {"step": timed(step, 12)}
    torch.set_num_threads(1)  # as in a loader's process
    seconds["augmentation"] = 2 * timed(lambda: transform(*one, generator), 60)
    torch.set_num_threads(threads)
    return seconds


def timed(run: Callable[[], Any], times: int) -> float:
    """Median seconds, the first few left out."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[3:])


@click.command()
@click.option("--only", default="", help="cases whose name holds this text")
def main(only: str) -> None:
    rows = []
    for name, numbers in CASES.items():
        if only not in name:
            continue
        one, small = sample(*numbers), sample(64, 0, 0, 3)
        costs = {}
        for way, make in ({"ours": ours} | peers()).items():
            make(*small)()
            costs[way] = cost(make(*one))
        for way, value in costs.items():
            times = value.seconds / costs["ours"].seconds
            print(f"{name:20s} {way:16s} {describe(value):>20s} {times:8.1f}x", flush=True)
        rows.append({"case": name, "objects": len(one[1])} | {way: asdict(value) for way, value in costs.items()})
    share = share_of_a_step()
    step, augmentation = (1e3 * share[name] for name in ("step", "augmentation"))
    print(f"a step of the default training {step:.0f} ms; augmenting its samples {augmentation:.1f} ms")
    if not only:
        path = write_results(
            "augment", " ".join(["python -m benchmarks.augment", *sys.argv[1:]]), {"cases": rows, "step": share}
        )
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
