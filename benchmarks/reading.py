"""Speed of reading image files against another checkout, and the share of training time spent waiting for images.

`python -m benchmarks.reading --against FOLDER` writes images of common formats, reads them with this checkout and the
one in FOLDER in turn, and prints the ratios of the speeds; without `--against`, only its own.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import tifffile
from PIL import Image

SIDE = 512  # pixels
ROUNDS = 5  # of both checkouts, in turn; the fastest counts
SECONDS = 0.4  # per format and round
WARM_UP, STEPS = 5, 40  # training steps

READ = """
import json, sys, time
from pathlib import Path
from maskrcnn.images.reading import read_image
rates = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    read_image(path)
    count, start = 0, time.process_time()
    while (spent := time.process_time() - start) < float(sys.argv[2]):
        read_image(path)
        count += 1
    rates[path.name] = count / spent
print(json.dumps(rates))
"""


def write_images(folder: Path) -> None:
    """Write one scene in the formats that were read before this benchmark was written."""
    y, x = np.mgrid[:SIDE, :SIDE]
    noise = np.random.default_rng(0).normal(0, 4, (SIDE, SIDE, 3))
    color = np.clip(np.stack([y / 3, x / 3, (x + y) / 5], axis=-1) + noise, 0, 255).astype(np.uint8)
    deep = color[:, :, 0].astype(np.uint16) * 16
    Image.fromarray(color).save(folder / "rgb.png")
    Image.fromarray(color[:, :, 0]).save(folder / "gray.png")
    Image.fromarray(deep).save(folder / "gray16.png")
    Image.fromarray(color).save(folder / "rgb.jpg", quality=92)
    tifffile.imwrite(folder / "strips.tif", color, photometric="rgb", rowsperstrip=16)
    tifffile.imwrite(folder / "tiles_deflate.tif", color, photometric="rgb", tile=(128, 128), compression="zlib")
    tifffile.imwrite(folder / "gray16.tif", deep, photometric="minisblack")
    np.save(folder / "rgb.npy", color)


def measure_rates(folder: Path, checkout: Path) -> dict[str, float]:
    """Measure images per second of processor time by a process that imports from a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READ, str(folder), str(SECONDS)]
    done = subprocess.run(command, env=environment, cwd=folder.parent, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def measure_waiting() -> float:
    """Measure the share of training time that the default training waits for images, with the default data."""
    import torch

    from augment.config import AugmentConfig
    from augment.training import make_training_transform
    from datasets.readers.generated import Generated
    from datasets.synthetic.recipes import Recipe
    from datasets.synthetic.writer import create
    from maskrcnn.model.config import DetectorConfig
    from maskrcnn.model.detector import Detector
    from maskrcnn.training.loading import KeyedSamples, load_training_batches

    with TemporaryDirectory() as folder:
        data = Generated(create(Path(folder) / "data", Recipe(n_train=32, n_val=0, n_test=0)), "train")
        samples = KeyedSamples(data, make_training_transform(AugmentConfig(), data))
        torch.manual_seed(0)
        detector = Detector(DetectorConfig(), 1, "mask_rcnn")
        optimizer = torch.optim.AdamW(detector.parameters())
        waited, begun = 0.0, 0.0
        batches = load_training_batches(samples, 2, num_workers=1)
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                waited, begun = 0.0, time.perf_counter()
            start = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - start
            with torch.autocast("cpu", torch.bfloat16):
                losses = detector(batch.images, batch.instances)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        total = time.perf_counter() - begun
        batches.close()
    return waited / total


@click.command()
@click.option("--against", type=click.Path(exists=True, path_type=Path), help="folder of another checkout")
def main(against: Path | None) -> None:
    """Measure reading and waiting."""
    from benchmarks.quality import write_results

    here = Path(__file__).parents[1]
    best: dict[str, dict[str, float]] = {"here": {}, "there": {}}
    with TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        write_images(images)
        for _ in range(ROUNDS):
            for name, checkout in (("here", here), ("there", against)):
                for kind, rate in (measure_rates(images, checkout) if checkout is not None else {}).items():
                    best[name][kind] = max(best[name].get(kind, 0.0), rate)
    rows = []
    for kind, rate in best["here"].items():
        other = best["there"].get(kind)
        rows.append({"format": kind, "images_per_second": round(rate, 1)})
        if other is not None:
            rows[-1]["ratio"] = round(rate / other, 3)
        print("  ".join(f"{value:>20}" for value in rows[-1].values()), flush=True)
    waiting = measure_waiting()
    print(f"waiting for images: {waiting:.1%} of training time (one data loader worker)")
    contents: dict[str, object] = {"reading": rows, "waiting": round(waiting, 4)}
    print(f"wrote {write_results('reading', 'python -m benchmarks.reading --against FOLDER', contents)}")


if __name__ == "__main__":
    main()
