"""Measure how fast large data sets open: COCO of 118,000 images, and a YOLO folder of 1,000,000 objects.

`python -m benchmarks.large_sets` writes both (about 0.6 GB; the images are links to one PNG) to a temporary folder,
opens each twice in fresh processes, and prints seconds, peak memory, and what of it PyTorch takes before anything is
opened.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import numpy as np
from PIL import Image

SIZE = 640
LINKS = 30_000  # to one file; ext4 allows 65,000
CORNERS = 24  # per polygon, about as many as COCO 2017 has


class ImageFiles:
    """Writes image files as links to a few real ones."""

    def __init__(self) -> None:
        self._count, self._file = 0, Path()

    def add(self, path: Path) -> None:
        """Add an image."""
        if self._count % LINKS:
            os.link(self._file, path)
        else:
            Image.new("L", (SIZE, SIZE)).save(path)
            self._file = path
        self._count += 1


def make_polygons(rng: np.random.Generator, count: int) -> list[list[float]]:
    """Make polygons of round objects of 4 to 40 pixels, [x1, y1, …] each."""
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    centers, radii = rng.uniform(40, SIZE - 40, (count, 1, 2)), rng.uniform(2, 20, (count, 1, 1))
    return (circle * radii + centers).reshape(count, 2 * CORNERS).round(2).tolist()


def write_coco(root: Path, num_images: int, objects_per_image: float) -> int:
    """Write a COCO file of polygons; return the number of objects."""
    (root / "annotations").mkdir(parents=True)
    (root / "images/train").mkdir(parents=True)
    rng, files, number = np.random.default_rng(0), ImageFiles(), 0
    with (root / "annotations/instances_train.json").open("w") as file:
        categories = [{"id": k, "name": f"class {k}", "supercategory": "thing"} for k in range(1, 81)]
        file.write(f'{{"info": {{}}, "categories": {json.dumps(categories)}, "images": [')
        for index in range(num_images):
            name = f"{index:012d}.png"
            files.add(root / "images/train" / name)
            entry = {"license": 1, "file_name": name, "height": SIZE, "width": SIZE, "id": index}
            file.write(", " * bool(index) + json.dumps(entry))
        file.write('], "annotations": [')
        for index in range(num_images):
            for ring in make_polygons(rng, int(rng.poisson(objects_per_image))):
                x, y = min(ring[::2]), min(ring[1::2])
                box = [x, y, round(max(ring[::2]) - x, 2), round(max(ring[1::2]) - y, 2)]
                entry = {"segmentation": [ring], "area": box[2] * box[3], "iscrowd": 0, "image_id": index, "bbox": box}
                entry |= {"category_id": int(rng.integers(1, 81)), "id": number}
                file.write(", " * bool(number) + json.dumps(entry))
                number += 1
        file.write("]}")
    return number


def write_yolo(root: Path, num_images: int, objects_per_image: float) -> int:
    """Write YOLO text files, half of them with polygons; return the number of objects."""
    for kind in ("images/train", "labels/train"):
        (root / kind).mkdir(parents=True)
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval:\nnames:\n  0: round\n  1: other\n")
    rng, files, number = np.random.default_rng(0), ImageFiles(), 0
    for index in range(num_images):
        files.add(root / f"images/train/{index:08d}.png")
        lines = []
        for ring in make_polygons(rng, int(objects_per_image)):
            points = np.array(ring).reshape(-1, 2) / SIZE
            low, high = points.min(axis=0), points.max(axis=0)
            box = [*((low + high) / 2), *(high - low)]
            values = points.ravel() if index % 2 else box
            lines.append(f"{int(rng.integers(2))} " + " ".join(f"{value:.6f}" for value in values) + "\n")
        number += len(lines)
        (root / f"labels/train/{index:08d}.txt").write_text("".join(lines))
    return number


def measure(root: Path) -> dict[str, float]:
    """Measure seconds and memory (MB, Linux only) of opening a data set in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, root).result()


def _measure(root: Path) -> dict[str, float]:
    import torch

    from datasets.recognition import recognize
    from datasets.registry import open_dataset

    torch.set_num_threads(1)
    before = _read_memory("VmRSS")
    start = time.perf_counter()
    data = open_dataset(recognize(root).name, root, "train")
    seconds = time.perf_counter() - start
    peak = _read_memory("VmHWM")
    objects = len(data[len(data) // 2][1])
    return {"seconds": seconds, "peak_mb": peak, "before_mb": before, "images": len(data), "objects_of_one": objects}


def _read_memory(key: str) -> float:
    status = Path("/proc/self/status").read_text()
    return float(status.partition(f"{key}:")[2].split()[0]) / 1e3


@click.command()
@click.option("--num_images", default=118_000, help="images of the COCO file")
@click.option("--num_objects", default=1_000_000, help="objects of the YOLO folder")
def main(num_images: int, num_objects: int) -> None:
    """Write large data sets, and measure opening them."""
    from benchmarks.quality import write_results

    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        made = {
            "coco": write_coco(Path(folder) / "coco", num_images, 7.3),
            "yolo": write_yolo(Path(folder) / "yolo", num_objects // 50, 50),
        }
        for name, count in made.items():
            runs = {run: measure(Path(folder) / name) for run in ("first", "second")}
            figures[name] = {"objects": count, **runs}
            for run, each in runs.items():
                print(
                    f"{name}, {each['images']:,.0f} images, {count:,} objects, {run} time: {each['seconds']:.1f} s, "
                    f"peak {each['peak_mb']:.0f} MB ({each['before_mb']:.0f} MB before)"
                )
    command = " ".join(["python -m benchmarks.large_sets", *sys.argv[1:]])
    print(f"wrote {write_results('large_sets', command, figures)}")


if __name__ == "__main__":
    main()
