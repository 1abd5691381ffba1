"""Measure the speed of synthetic data: written as PNG and drawn on the fly, compared with a plain Pillow loop.

`python -m benchmarks.datasets` makes the default ellipses (256², 48 objects) on all cores: images per second when
written with labels, annotations, and hashes, and when drawn on the fly by as many processes as cores. The peer draws as
many ellipses as Pillow polygons in one process and saves image and labels, without anti-aliasing, annotations, and
hashes. Then the peak memory of writing few and many images.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image, ImageDraw

from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create

CORNERS = 32  # per polygon of the peer
CHUNK = 50


def measure_written(count: int) -> float:
    """Measure images per second written."""
    with tempfile.TemporaryDirectory() as folder:
        return _measure_rate(count, lambda: create(Path(folder) / "data", Recipe(n_train=count, n_test=0)))


def measure_on_the_fly(count: int, pool: ProcessPoolExecutor) -> float:
    """Measure images per second drawn by the warm processes of a pool."""
    starts = range(0, count, CHUNK)
    return _measure_rate(count, lambda: list(pool.map(_draw_chunk, starts)))


def _draw_chunk(start: int) -> int:
    import torch

    from datasets.synthetic.on_the_fly import OnTheFly

    torch.set_num_threads(1)
    data = OnTheFly(Recipe(n_train=start + CHUNK), "train")
    return sum(len(data[index][1]) for index in range(start, start + CHUNK))


def measure_pillow_loop(count: int) -> float:
    """Measure images per second of a plain loop: 48 polygons per image, drawn twice, saved as PNG."""
    rng = np.random.default_rng(0)
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)

    def draw_all(folder: Path) -> None:
        for index in range(count):
            image, labels = Image.new("RGB", (256, 256)), Image.new("I;16", (256, 256))
            on_image, on_labels = ImageDraw.Draw(image), ImageDraw.Draw(labels)
            for number in range(1, 49):
                angle, semi_axes = rng.uniform(0, np.pi), rng.uniform(4, 12, 2)
                across = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                points = [tuple(point) for point in circle * semi_axes @ across.T + rng.uniform(16, 240, 2)]
                on_image.polygon(points, fill=tuple(rng.integers(127, 255, 3).tolist()))
                on_labels.polygon(points, fill=number)
            image.save(folder / f"{index}.png", compress_level=1)
            labels.save(folder / f"{index}_labels.png", compress_level=1)

    with tempfile.TemporaryDirectory() as folder:
        return _measure_rate(count, lambda: draw_all(Path(folder)))


def measure_peak_memory(count: int) -> float:
    """Measure the peak resident memory in MB of a fresh process that writes `count` images (Linux only)."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_peak_memory, count).result()


def _measure_peak_memory(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        create(Path(folder) / "data", Recipe(n_train=count, n_test=0), processes=1)
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1e3


def _measure_rate(count: int, run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return count / (time.perf_counter() - start)


@click.command()
@click.option("--count", default=2000, help="number of images per method")
def main(count: int) -> None:
    """Measure speed and memory."""
    # Imported here, because worker processes import this file and do not need PyTorch.
    from benchmarks.quality import write_results

    cores = os.cpu_count() or 1
    rates = {"pillow polygons, one process": measure_pillow_loop(count // 4), "written": measure_written(count)}
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_draw_chunk, [0] * 2 * cores))
        rates["on the fly"] = measure_on_the_fly(count, pool)
    for method, rate in rates.items():
        print(f"{method:30s} {rate:7.0f} images per second {rate / rates['pillow polygons, one process']:6.2f}x")
    memory = {str(number): measure_peak_memory(number) for number in (100, 1000)}
    print("peak memory of writing " + ", ".join(f"{number} images {peak:.0f} MB" for number, peak in memory.items()))
    command = " ".join(["python -m benchmarks.datasets", *sys.argv[1:]])
    print(f"wrote {write_results('datasets', command, {'images_per_second': rates, 'peak_megabytes': memory})}")


if __name__ == "__main__":
    main()
