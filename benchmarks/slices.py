"""Sliced prediction of an image too large for memory: 10,000² pixels with 50,000 objects, read from a tiled TIFF.

`python -m benchmarks.slices` makes the image, in which every object has a colour of its own, and searches it with a
detector that is always right: it reads the objects off the colours of the tile that it is shown. It prints the time,
the peak of resident memory, and how many objects were lost, doubled or changed.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import tifffile
import torch
from torch import Tensor

from benchmarks.costs import resident
from benchmarks.quality import write_results
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.rendering import rasterize, render
from datasets.synthetic.scene import compose_scene
from datasets.synthetic.shapes import INSIDE
from maskrcnn.images.large import open_pixels
from maskrcnn.inference.prediction import predict
from maskrcnn.inference.views import tiles
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

SIDE, PARTS = 10_000, 4  # the generator draws the image in 4 x 4 parts
GROUPS, MEMBERS, FREE = 250, 7, 1_375  # of a part: 50,000 objects in all
TIFF_TILE = 256


def part_config(side: int) -> SceneConfig:
    """One part of the scene, `side` pixels wide and high, with as many objects per area as the whole."""
    share = (side * PARTS / SIDE) ** 2
    return update_config(
        SceneConfig(),
        width=side,
        height=side,
        n_groups=round(GROUPS * share),
        n_objects_per_group=MEMBERS,
        n_free=round(FREE * share),
        max_diameter=30,
    )


def make_scene_image(parts: int, side: int) -> tuple[Tensor, int]:
    """A scene of `parts` x `parts` parts in its own colors, uint8 `[3, parts * side, parts * side]`; its objects."""
    config = part_config(side)
    image = torch.zeros(3, parts * side, parts * side, dtype=torch.uint8)
    count = 0
    for part in range(parts**2):
        scene = compose_scene(config, "test", part)
        y, x = side * (part // parts), side * (part % parts)
        image[:, y : y + side, x : x + side] = torch.from_numpy(render(scene).image).permute(2, 0, 1)
        count += len(scene.labels)
    return image, count


def make_image(path: Path) -> None:
    """The scene, later objects on top, as a tiled RGB TIFF: an object's number is r + 256 g + 65,536 b."""
    side = SIDE // PARTS
    config = part_config(side)
    labels = np.zeros((SIDE, SIDE), np.int32)
    for part in range(PARTS**2):
        coverage = rasterize(compose_scene(config, "test", part).shapes, side, side)
        y, x = side * (part // PARTS), side * (part % PARTS)
        for number in range(len(coverage.windows)):
            rows, columns, levels = coverage.window(number)
            here = labels[y : y + side, x : x + side][rows, columns]
            here[levels >= INSIDE] = 1 + number + part * len(coverage.windows)
    colours = np.stack([labels & 255, labels >> 8 & 255, labels >> 16], axis=2).astype(np.uint8)
    tifffile.imwrite(path, colours, tile=(TIFF_TILE, TIFF_TILE), photometric="rgb", compression="zlib")


def numbers_in(image: Tensor) -> Tensor:
    """int64 `[H, W]` of an image `[3, H, W]`."""
    red, green, blue = image.long()
    return red + 256 * green + 65_536 * blue


def oracle(images: Sequence[Tensor]) -> list[Instances]:
    """The objects that are seen in each image."""
    return [_objects(numbers_in(image)) for image in images]


def _objects(numbers: Tensor) -> Instances:
    present = numbers.unique()
    masks = CroppedMasks.from_label_image(numbers, present[present > 0])
    found = Instances.from_masks(masks, torch.ones(len(masks), dtype=torch.int64))
    found.scores = torch.ones(len(found))
    return found


def search(path: Path, tile: int, overlap: float) -> dict[str, float]:
    """Look through the image; report seconds, peak memory, and what was found as rows of box and area."""
    pixels = open_pixels(path)
    start = time.perf_counter()
    found = predict(oracle, pixels, tiles(pixels.size, tile, overlap))
    seconds = time.perf_counter() - start
    megabytes = resident("VmHWM") / 1e3
    assert found.masks is not None
    rows = torch.cat([found.boxes.long(), found.masks.areas()[:, None]], dim=1)
    np.save(path.with_suffix(".npy"), rows.numpy())
    return {"seconds": seconds, "megabytes": megabytes, "views": len(tiles(pixels.size, tile, overlap))}


def compare(path: Path) -> dict[str, int]:
    """Objects in the image against those found, by box and area."""
    image = torch.from_numpy(tifffile.imread(path)).permute(2, 0, 1)
    targets = _objects(numbers_in(image))
    assert targets.masks is not None
    expected = torch.cat([targets.boxes.long(), targets.masks.areas()[:, None]], dim=1).tolist()
    found = np.load(path.with_suffix(".npy")).tolist()
    there, seen = set(map(tuple, expected)), list(map(tuple, found))
    right = len(there & set(seen))
    return {"objects": len(expected), "found": len(seen), "right": right, "lost or changed": len(there) - right}


@click.command()
@click.option("--tile", default=512)
@click.option("--overlap", default=0.1)
@click.option("--step", default="all", hidden=True)
@click.option("--path", default=None, hidden=True)
def main(tile: int, overlap: float, step: str, path: str | None) -> None:
    if step != "all":  # apart, so that its peak is its own
        assert path is not None
        if step == "make":
            make_image(Path(path))
        else:
            print(json.dumps(search(Path(path), tile, overlap)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.tif"
        _apart("make", file, tile, overlap)
        result = json.loads(_apart("search", file, tile, overlap))
        result |= compare(file) | {"file_megabytes": file.stat().st_size / 1e6, "tile": tile, "overlap": overlap}
    print(
        f"{SIDE:,}² px, {result['objects']:,} objects, {result['views']} tiles of {tile}: {result['seconds']:.0f} s, "
        f"peak {result['megabytes']:,.0f} MB; found {result['found']:,}, exactly right {result['right']:,}"
    )
    print(f"wrote {write_results('slices', ' '.join(['python -m benchmarks.slices', *sys.argv[1:]]), result)}")


def _apart(step: str, path: Path, tile: int, overlap: float) -> str:
    words = ["-m", "benchmarks.slices", f"--step={step}", f"--path={path}", f"--tile={tile}", f"--overlap={overlap}"]
    return subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
