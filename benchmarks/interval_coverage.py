"""Simulate how often 95% intervals cover the true difference of two detectors, and how much pairing narrows them.

`python -m benchmarks.interval_coverage` compares two oracle detectors 2,000 times. Images differ in difficulty, which
both detectors share, and runs of a detector differ in skill. True AP is that of many runs on many images.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import click
import numpy as np
from numpy.typing import NDArray

from maskrcnn.evaluation.intervals import compute_difference
from maskrcnn.evaluation.resampling import draw_image_weights, resample_curve

OBJECTS = 12  # per image, on average
FALSE_POSITIVES = 5
SEED_STD, IMAGE_STD = 0.15, 0.6  # of skill and difficulty, in units of the logistic curve
SKILLS = (0.9, 1.2)


@dataclass(frozen=True)
class Images:
    """Images of a test set: the number of objects and the difficulty of each."""

    objects: NDArray[np.int64]
    difficulty: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int) -> Images:
        """Draw images."""
        return cls(1 + rng.poisson(OBJECTS - 1, count), rng.normal(0, IMAGE_STD, count))


def detect(rng: np.random.Generator, images: Images, skill: float) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return true positives and images of the detections of one run, in descending order of score."""
    strength = skill + rng.normal(0, SEED_STD) - images.difficulty
    found = rng.binomial(images.objects, 1 / (1 + np.exp(-strength)))
    wrong = rng.poisson(FALSE_POSITIVES * np.exp(-0.5 * strength))
    image = np.concatenate([np.repeat(np.arange(len(found)), found), np.repeat(np.arange(len(found)), wrong)])
    positive = np.arange(len(image)) < found.sum()
    scores = rng.normal(np.where(positive, 1.0, -0.5), 1.0)
    order = np.argsort(-scores)
    return positive[order], image[order]


def measure_true_ap(skill: float, seed: int, runs: int = 400, count: int = 500) -> float:
    """Return the mean AP of many runs, each on images of its own."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(runs):
        images = Images.draw(rng, count)
        positive, image = detect(rng, images, skill)
        values.append(resample_curve(positive, image, images.objects, np.ones((1, count), np.float32))[0])
    return float(np.mean(values))


def simulate(comparisons: int, seeds: int, num_images: int, replicates: int, expected: float) -> dict[str, float]:
    """Compare two detectors many times; return coverage and mean half widths, paired and unpaired."""
    rng = np.random.default_rng(12345)
    covered, widths, unpaired, covered_unpaired = 0, 0.0, 0.0, 0
    ones = np.ones((1, num_images), np.float32)
    for number in range(comparisons):
        images = Images.draw(rng, num_images)
        weights = [np.concatenate([ones, draw_image_weights(num_images, replicates, 2 * number + i)]) for i in (0, 1)]
        results = [[detect(rng, images, skill) for _ in range(seeds)] for skill in SKILLS]

        def resample(method: int, which: int, results=results, images=images, weights=weights):  # type: ignore[no-untyped-def]
            return np.array(
                [resample_curve(each[0], each[1], images.objects, weights[which]) for each in results[method]]
            )

        first, second, apart = resample(1, 0), resample(0, 0), resample(0, 1)
        paired, single = (
            compute_difference(first[:, 0], first[:, 1:], each[:, 0], each[:, 1:], num_images)
            for each in (second, apart)
        )
        covered += paired.low <= expected <= paired.high
        covered_unpaired += single.low <= expected <= single.high
        widths += paired.half_width / comparisons
        unpaired += single.half_width / comparisons
    return {
        "coverage": covered / comparisons,
        "half_width": widths,
        "coverage_unpaired": covered_unpaired / comparisons,
        "half_width_unpaired": unpaired,
    }


@click.command()
@click.option("--comparisons", default=2000, help="number of comparisons")
@click.option("--replicates", default=200, help="replicates of the bootstrap")
@click.option("--num_images", default=60, help="images of the test set")
def main(comparisons: int, replicates: int, num_images: int) -> None:
    """Measure the coverage of 95% intervals of AP differences."""
    from benchmarks.quality import write_results

    known = [measure_true_ap(skill, seed=7) for skill in SKILLS]
    figures: dict[str, object] = {"true_ap": known, "num_images": num_images, "comparisons": comparisons}
    print(f"true AP {known[0]:.4f} and {known[1]:.4f}, difference {known[1] - known[0]:.4f}")
    for seeds in (3, 5):
        found = simulate(comparisons, seeds, num_images, replicates, known[1] - known[0])
        figures[f"{seeds}_seeds"] = found
        print(
            f"{seeds} seeds: covered {found['coverage']:.1%}, half width {found['half_width']:.4f}; unpaired "
            f"{found['coverage_unpaired']:.1%}, {found['half_width_unpaired']:.4f}"
        )
    command = " ".join(["python -m benchmarks.interval_coverage", *sys.argv[1:]])
    print(f"wrote {write_results('interval_coverage', command, figures)}")


if __name__ == "__main__":
    main()
