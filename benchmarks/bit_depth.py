"""AP of images of 8 and of 12 bits over their contrast, at one signal-to-noise ratio.

`python -m benchmarks.bit_depth` writes synthetic sets whose objects differ from the background by 2 to 16 of 4,096
levels, with noise of a quarter of that, as 12-bit images and as the same images of 8 bits, and trains the default Mask
R-CNN on each. The reference is an 8-bit set with the same signal-to-noise ratio and ample contrast.
"""

from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch

from augment.config import AugmentConfig
from benchmarks.quality import train_and_trace, write_results
from datasets.synthetic.config import SceneConfig, update_config
from datasets.synthetic.recipes import Recipe
from datasets.synthetic.writer import create
from maskrcnn.config import merge
from maskrcnn.files import atomic_write
from maskrcnn.model.detector import Detector
from maskrcnn.training.config import TrainingConfig
from workbench.config import ExperimentConfig
from workbench.data import open_data, set_image_options

SIDE = 96  # pixels
SNR = 4.0  # contrast : noise
FULL = 4095.0  # of 12 bits
BACKGROUND, OBJECT = 127, 254  # of 255
REFERENCE = 1024  # levels of 4,096: the contrast of the reference, 64 levels of 256
JUDGED = 8  # levels of 4,096


def make_scene(contrast: float, bits: int) -> SceneConfig:
    """Make scenes whose objects differ from the background by `contrast` levels of 4,096."""
    return update_config(
        SceneConfig(),
        width=SIDE,
        height=SIDE,
        n_groups=0,
        n_free=8,
        grey=True,
        channels=1,
        bit_depth=bits,
        min_colour=OBJECT,
        max_colour=OBJECT,
        min_background=BACKGROUND,
        max_background=BACKGROUND,
        contrast=contrast / FULL * 255 / (OBJECT - BACKGROUND),
        noise=contrast / SNR / FULL,
    )


def measure_ap(contrast: float, bits: int, seed: int, steps: int, images: int) -> dict[str, float]:
    """Train on a set and return its figures on test images."""
    with TemporaryDirectory() as folder:
        recipe = Recipe(n_train=images, n_val=0, n_test=32, scene=make_scene(contrast, bits))
        root = create(Path(folder) / "data", recipe)
        options = {"data.dataset": "ellipses", "data.dataset_root": str(root), "data.val_fraction": 0.0}
        config = merge(ExperimentConfig(), options)
        data = open_data(config, notify=lambda line: None)
        config = set_image_options(config, data)
        torch.manual_seed(seed)
        model = Detector(config.detector, len(data.class_names), "mask_rcnn")
        training = TrainingConfig(num_steps=steps, eval_every_n_epochs=10**6, seed=seed)
        name = f"{contrast:g} of 4096, {bits} bits, seed {seed}"
        crops = AugmentConfig(crop_size=(SIDE,), crop_border=0)  # black borders have another contrast in each set
        return train_and_trace(name, model, data, crops, training)[-1].metrics


@click.command()
@click.option("--seeds", default=3, help="training seeds of the judged contrast and of the reference")
@click.option("--steps", default=240, help="training steps")
@click.option("--images", default=64, help="training images")
@click.option("--figure", type=click.Path(path_type=Path), help="also draw the figure to this PNG file")
def main(seeds: int, steps: int, images: int, figure: Path | None) -> None:
    """Measure AP over the contrast with 8 and 12 bits."""
    runs: dict[tuple[float, int], list[dict[str, float]]] = {}
    for contrast, bits in ((JUDGED, 12), (REFERENCE, 8)):
        runs[contrast, bits] = [measure_ap(contrast, bits, seed, steps, images) for seed in range(seeds)]
    for contrast in (2, 4, JUDGED, 16):
        for bits in (8, 12):
            if (contrast, bits) not in runs:
                runs[contrast, bits] = [measure_ap(contrast, bits, 0, steps, images)]
    rows: list[dict[str, Any]] = [
        {"contrast_of_4096": contrast, "bits": bits, "seeds": len(each)}
        | {name: round(mean(run[name] for run in each), 4) for name in ("mask_ap", "box_ap")}
        | {"mask_aps": [round(run["mask_ap"], 4) for run in each]}
        for (contrast, bits), each in sorted(runs.items())
    ]
    low, reference = (mean(run["mask_ap"] for run in runs[key]) for key in ((JUDGED, 12), (REFERENCE, 8)))
    print(f"contrast {JUDGED} of 4096, 12 bits: mask AP {low:.3f}; 8 bits, equal SNR: {reference:.3f}")
    command = f"python -m benchmarks.bit_depth --seeds={seeds} --steps={steps} --images={images}"
    contents: dict[str, object] = {"difference_of_mask_ap": round(low - reference, 4), "runs": rows}
    print(f"wrote {write_results('bit_depth', command, contents)}")
    if figure is not None:
        draw_figure(rows, reference, figure)


def draw_figure(rows: list[dict[str, Any]], reference: float, path: Path) -> None:
    """Draw AP over the contrast."""
    from matplotlib import pyplot as plt

    drawing, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for bits, color in ((12, "tab:blue"), (8, "tab:red")):
        shown = [row for row in rows if row["bits"] == bits and row["contrast_of_4096"] != REFERENCE]
        x, y = ([row[key] for row in shown] for key in ("contrast_of_4096", "mask_ap"))
        label = "12 bits, as stored" if bits == 12 else "the same images, 8 bits"
        axes.plot(x, y, "o-", color=color, label=label)
    axes.axhline(reference, color="gray", linestyle="--", label="8 bits, contrast 64 of 256")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks := [2, 4, 8, 16], [str(tick) for tick in ticks])
    axes.set(xlabel="contrast (levels of 4,096)", ylabel="mask AP", ylim=(0, 1))
    axes.set_title(f"Signal-to-noise ratio {SNR:g} at every contrast", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    with atomic_write(path) as beside:
        drawing.savefig(beside, format="png", dpi=110)


if __name__ == "__main__":
    main()
