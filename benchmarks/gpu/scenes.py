"""Images with any number of objects, made in a moment and the same everywhere, and training steps on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ops import ellipses
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.training.machine import Machine


def make_scene(count: int, side: int, seed: int = 0) -> tuple[Tensor, Instances]:
    """A uint8 image `[3, side, side]` of `count` bright ellipses of 8 to 40 px on noise, and their instances."""
    masks = CroppedMasks(*ellipses(count, side, seed), (side, side))
    inside = masks.to_label_image()[0] > 0
    noise = torch.randint(0, 60, (3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return noise + 150 * inside.to(torch.uint8), Instances.from_masks(masks, torch.ones(count, dtype=torch.int64))


def make_batch(count: int, side: int, batch_size: int, device: torch.device) -> tuple[list[Tensor], list[Instances]]:
    """Images and instances on `device`; at most eight scenes, repeated."""
    scenes = [make_scene(count, side, seed) for seed in range(min(batch_size, 8))]
    images = [image.to(device) for image, _ in scenes]
    instances = [objects.to(device) for _, objects in scenes]
    return [images[i % len(images)] for i in range(batch_size)], [instances[i % len(scenes)] for i in range(batch_size)]


@dataclass
class Trainee:
    """A model with its optimizer and one batch in the form that the model takes."""

    model: nn.Module
    images: Sequence[Tensor]
    targets: Sequence[Any]
    machine: Machine

    def __post_init__(self) -> None:
        self.machine.place(self.model).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-5, fused=True)

    def step(self) -> None:
        """Losses, gradients, and new weights."""
        with self.machine.autocast():
            losses: dict[str, Tensor] = self.model(self.images, self.targets)
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()


def torchvision_model(**options: Any) -> nn.Module:
    """torchvision's Mask R-CNN with random weights."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    model: nn.Module = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, **options)
    return model


def torchvision_inputs(images: Sequence[Tensor], instances: Sequence[Instances]) -> tuple[list[Tensor], list[Any]]:
    """Images in [0, 1] and dense masks, made before time is taken."""
    return [image.float() / 255 for image in images], [objects.to_torchvision() for objects in instances]


def free_memory(device: torch.device) -> None:
    """Give memory back, and begin a new measurement of its peak."""
    import gc

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gigabytes(device: torch.device) -> float | None:
    """Peak GPU memory since `free_memory`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def run_unless_too_large(work: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """What `work` returns, or that the memory does not suffice."""
    try:
        return work()
    except torch.cuda.OutOfMemoryError:
        return {"error": "out of memory"}
    finally:
        free_memory(device)
