"""What each core operation costs: ours, its plain PyTorch definition, and torchvision's or the dense way, in one run.

`python -m benchmarks.ops` prints median seconds, peak extra memory and the ratio of the peer's time to ours, for three
sizes of each operation; `--only=nms` runs one.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torchvision import ops as tv
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from benchmarks.costs import cost, describe
from benchmarks.quality import write_results
from maskrcnn.ops import masks as mask_ops
from maskrcnn.ops import matching, reference, reference_images, reference_masks
from maskrcnn.ops.affine import invert
from maskrcnn.ops.images import warp_image
from maskrcnn.ops.nms import nms
from maskrcnn.ops.pooling import crop_and_resize, roi_align
from maskrcnn.ops.types import AnchorLevel, Windows
from maskrcnn.ops.windows import window_pixels


@dataclass(frozen=True)
class Run:
    """A function and its arguments, which can be moved to a GPU."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __call__(self) -> Any:
        return self.function(*self.arguments)

    def to(self, device: torch.device) -> "Run":
        """The same with every tensor among the arguments on `device`."""
        arguments = pytree.tree_map(
            lambda value: value.to(device) if isinstance(value, Tensor) else value, self.arguments
        )
        return Run(self.function, arguments)


@dataclass(frozen=True)
class Case:
    """The same work done in several ways; None where a way would not fit into memory."""

    operation: str
    size: str
    ours: Run
    reference: Run | None
    peer: Run | None


def boxes_at(count: int, side: float, low: float, high: float, seed: int = 0) -> Tensor:
    """Spread boxes with sides from `low` to `high` in a square image of `side` pixels."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * (side - high)
    return torch.cat([corner, corner + low + torch.rand(count, 2, generator=generator) * (high - low)], dim=1)


def nms_cases(num_sizes: int = 3) -> Iterator[Case]:
    for count in (1_000, 10_000, 100_000)[:num_sizes]:
        boxes = boxes_at(count, 1024 * (count / 10_000) ** 0.5, 8, 24)
        scores = torch.rand(count, generator=torch.Generator().manual_seed(1))
        order = torch.argsort(scores, descending=True)
        plain = partial(reference.nms, boxes[order], torch.zeros_like(order), 0.5)
        peer = partial(tv.nms, boxes, scores, 0.5)
        yield Case("nms", f"{count:,} boxes", partial(nms, boxes, scores, 0.5), plain, peer)


def match_cases(num_sizes: int = 3) -> Iterator[Case]:
    sizes = torch.tensor([[16.0, 16.0]])
    level = AnchorLevel((4.0, 4.0), (2.0, 2.0), sizes, 512, 512)
    grids = matching._grids([level])
    anchors = matching.all_anchors([level])
    for count in (100, 1_000, 10_000)[:num_sizes]:
        targets = boxes_at(count, 2048, 8, 24)
        ours = partial(matching.match_anchors, [level], targets, 0.3, "all")
        plain = partial(reference.match_anchors, *grids, targets, 0.3, 1) if count <= 1_000 else None
        peer = partial(dense_match, anchors, targets) if count <= 1_000 else None
        yield Case("match_anchors", f"{len(anchors):,} x {count:,}", ours, plain, peer)
    for count in (100, 1_000, 10_000)[:num_sizes]:
        targets = boxes_at(count, 2048, 8, 24)
        priors = boxes_at(2_000, 2048, 8, 24, seed=1)
        ours = partial(matching.match_boxes, priors, targets, 0.5)
        plain = partial(reference.match_boxes, priors, targets, 0.5, 0)
        yield Case("match_boxes", f"2,000 x {count:,}", ours, plain, partial(dense_match, priors, targets))


def dense_match(priors: Tensor, targets: Tensor) -> Tensor:
    """As torchvision's Matcher: the whole matrix, low-quality matches by equality."""
    from torchvision.models.detection._utils import Matcher

    return Matcher(0.5, 0.3, allow_low_quality_matches=True)(tv.box_iou(targets, priors))


def pooling_cases(num_sizes: int = 3) -> Iterator[Case]:
    for count, bins, channels in ((100, 7, 64), (512, 7, 256), (33, 14, 256))[:num_sizes]:
        feature = torch.randn(2, channels, 64, 64).to(memory_format=torch.channels_last)
        boxes = boxes_at(count, 256, 8, 40)
        images = torch.arange(count) % 2
        levels = torch.zeros_like(images)
        rois = torch.cat([images[:, None], boxes], dim=1)
        nhwc = feature.permute(0, 2, 3, 1)
        ours = partial(both_ways, roi_align, [feature], boxes, images, levels, [4.0], bins, 2, True)
        plain = partial(both_ways, reference.roi_align, [nhwc], boxes, images, levels, [4.0], bins, 2, True)
        peer = partial(both_ways, tv.roi_align, [feature], rois, bins, 0.25, 2, True)
        yield Case("roi_align, both ways", f"{channels} ch, {count} x {bins}²", ours, plain, peer)


def crop_cases(num_sizes: int = 3) -> Iterator[Case]:
    for count, channels in ((100, 64), (512, 256), (2_000, 256))[:num_sizes]:
        feature = torch.randn(2, channels, 64, 64).to(memory_format=torch.channels_last)
        boxes = boxes_at(count, 256, 8, 40) / 256
        images = torch.arange(count) % 2
        ours = partial(both_ways, single(crop_and_resize), [feature], boxes, images, 7)
        plain = partial(
            both_ways, single(reference.crop_and_resize), [feature.permute(0, 2, 3, 1)], boxes, images, 7, 0.0
        )
        peer = partial(both_ways, single(sampled_crops), [feature], boxes, images) if count <= 512 else None
        yield Case("crop_and_resize, both ways", f"{channels} ch, {count} x 7²", ours, plain, peer)


def single(pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda features, *settings: pool(features[0], *settings)


def sampled_crops(features: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
    """With PyTorch's grid_sample, which wants a copy of the map for each box."""
    steps = torch.linspace(0, 1, 7, device=boxes.device)
    x, y = (
        low[:, None] + (high - low)[:, None] * steps
        for low, high in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3]))
    )
    grid = torch.stack([x[:, None, :].expand(-1, 7, -1), y[:, :, None].expand(-1, -1, 7)], dim=-1) * 2 - 1
    return torch.nn.functional.grid_sample(features[images], grid, align_corners=True)


def both_ways(pool: Callable[..., Tensor], features: list[Tensor], *settings: Any) -> Tensor:
    leaf = features[0].detach().requires_grad_()
    pooled = pool([leaf] if pool is not tv.roi_align else leaf, *settings)
    pooled.backward(torch.ones_like(pooled))
    assert leaf.grad is not None
    return leaf.grad


def paste_cases(num_sizes: int = 3) -> Iterator[Case]:
    for count in (100, 1_000, 10_000)[:num_sizes]:
        size, boxes = (1024, 1024), boxes_at(count, 1024, 8, 40)
        values = torch.rand(count, 28, 28, generator=torch.Generator().manual_seed(0))
        ours = partial(mask_ops.paste_masks, values, boxes, size)
        windows, offsets, _ = ours()
        plain = partial(reference_masks.paste_masks, values, boxes, windows, offsets)
        peer = partial(paste_masks_in_image, values[:, None], boxes, size) if count <= 1_000 else None
        yield Case("paste_masks", f"{count:,} of 28² in 1024²", ours, plain, peer)


def ellipses(count: int, side: int, seed: int = 0) -> Windows:
    """Soft masks that fill spread boxes."""
    values = (1.2 - (torch.linspace(-1, 1, 28).square()[:, None] + torch.linspace(-1, 1, 28).square())).clamp(0, 1)
    return mask_ops.paste_masks(values.expand(count, -1, -1), boxes_at(count, side, 8, 40, seed), (side, side))


def target_cases(num_sizes: int = 3) -> Iterator[Case]:
    for count, rois in ((100, 128), (1_000, 512), (10_000, 2_000))[:num_sizes]:
        masks, side = ellipses(count, 1024), 1024
        index = torch.arange(rois) % count
        boxes = boxes_at(count, side, 8, 40)[index] + torch.rand(rois, 4)
        arguments = (boxes, index, 28, 2, False)
        ours = partial(mask_ops.sample_masks, masks, (side, side), *arguments)
        plain = partial(reference_masks.sample_masks, *masks, side, side, *arguments, True)
        peer = partial(project_masks_on_boxes, dense(masks, side), boxes, index, 28) if count <= 1_000 else None
        yield Case("sample_masks", f"{count:,} targets, {rois} x 28²", ours, plain, peer)


def dense(masks: Windows, side: int) -> Tensor:
    result = torch.zeros(len(masks.windows), side, side, dtype=torch.uint8)
    owner, x, y = window_pixels(masks.windows)
    result[owner, y, x] = (masks.data >= 128).to(torch.uint8)
    return result


def measure_cases(num_sizes: int = 3) -> Iterator[Case]:
    for count in (100, 1_000, 10_000)[:num_sizes]:
        masks = ellipses(count, 1024)
        ours = partial(mask_ops.measure_masks, masks)
        stack = dense(masks, 1024) if count <= 1_000 else None
        peer = partial(dense_measures, stack) if stack is not None else None
        yield Case("measure_masks", f"{count:,} in 1024²", ours, partial(reference_masks.measure_masks, *masks), peer)
        index = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: count * 7 // 10]
        ours, plain = partial(mask_ops.pick_masks, masks, index), partial(reference_masks.pick_masks, *masks, index)
        peer = partial(torch.index_select, stack, 0, index) if stack is not None else None
        yield Case("pick_masks", f"{len(index):,} of {count:,}", ours, plain, peer)


def dense_measures(masks: Tensor) -> tuple[Tensor, Tensor]:
    return masks.sum(dim=(1, 2)), tv.masks_to_boxes(masks)


def iou_cases(num_sizes: int = 3) -> Iterator[Case]:
    for count in (100, 1_000, 10_000)[:num_sizes]:
        first, second = ellipses(count, 1024), ellipses(count, 1024, seed=1)
        plain = partial(reference_masks.mask_iou, *first, *second)
        peer = partial(dense_iou, dense(first, 1024), dense(second, 1024)) if count <= 1_000 else None
        yield Case("mask_iou", f"{count:,} x {count:,}", partial(mask_ops.mask_iou, first, second), plain, peer)


def dense_iou(first: Tensor, second: Tensor) -> Tensor:
    one, two = first.flatten(1).float(), second.flatten(1).float()
    shared = one @ two.T
    return shared / (one.sum(dim=1)[:, None] + two.sum(dim=1) - shared)


def warp_cases(num_sizes: int = 3) -> Iterator[Case]:
    matrix = torch.tensor([[0.9, 0.3, 10.0], [-0.3, 0.9, 200.0]])
    for count in (100, 1_000, 10_000)[:num_sizes]:
        masks = ellipses(count, 1024)
        ours = partial(mask_ops.warp_masks, masks, matrix, (1024, 1024))
        windows, offsets, _ = ours()
        plain = partial(reference_masks.warp_masks, *masks, invert(matrix), windows, offsets, 1)
        peer = partial(dense_warp, dense(masks, 1024)) if count <= 1_000 else None
        yield Case("warp_masks", f"{count:,} in 1024²", ours, plain, peer)


def dense_warp(images: Tensor, interpolation: InterpolationMode = InterpolationMode.NEAREST) -> Tensor:
    return v2.affine(images, -18.4, [10, 200], 0.95, [0.0, 0.0], interpolation)


def image_cases(num_sizes: int = 3) -> Iterator[Case]:
    for side in (256, 512, 1024)[:num_sizes]:
        image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        matrix = torch.tensor([[0.9, 0.3, -0.1 * side], [-0.3, 0.9, 0.2 * side]])
        ours = partial(warp_image, image, matrix, (side, side))
        plain = partial(reference_images.warp_image, image, invert(matrix), side, side, reference_images.CONSTANT, 1)
        peer = partial(dense_warp, image, InterpolationMode.BILINEAR)
        yield Case("warp_image", f"3 x {side}²", ours, plain, peer)


def label_cases(num_sizes: int = 3) -> Iterator[Case]:
    for count in (100, 1_000, 10_000)[:num_sizes]:
        masks, size = ellipses(count, 1024), (1024, 1024)
        stack = dense(masks, 1024) if count <= 1_000 else None
        plain = partial(reference_masks.label_image, *masks, *size, 0.0)
        peer = partial(painted, stack) if stack is not None else None
        yield Case("label_image", f"{count:,} in 1024²", partial(mask_ops.label_image, masks, size), plain, peer)
        labels, kept = mask_ops.label_image(masks, size)
        ids = torch.arange(1, int(kept.sum()) + 1)
        plain = partial(reference_masks.masks_from_label_image, labels, ids)
        peer = partial(lambda labels, ids: labels == ids[:, None, None], labels, ids) if count <= 1_000 else None
        ours = partial(mask_ops.masks_from_label_image, labels, ids)
        yield Case("masks_from_label_image", f"{count:,} in 1024²", ours, plain, peer)


def painted(masks: Tensor) -> Tensor:
    """The first mask of each pixel."""
    return torch.where(masks.bool().any(dim=0), masks.argmax(dim=0) + 1, 0)


def code_cases(num_sizes: int = 3) -> Iterator[Case]:
    from pycocotools import mask as coco

    from maskrcnn.ops import reference_rle
    from maskrcnn.ops.rle import decode_rle, encode_rle

    for count in (100, 1_000, 10_000)[:num_sizes]:
        masks, size = ellipses(count, 1024), (1024, 1024)
        columns = dense(masks, 1024).permute(1, 2, 0).numpy().copy(order="F") if count <= 1_000 else None
        peer = partial(coco.encode, columns) if columns is not None else None
        plain = partial(reference_rle.encode_rle, *masks, *size)
        yield Case("encode_rle", f"{count:,} in 1024²", partial(encode_rle, masks, size), plain, peer)
        codes = encode_rle(masks, size)
        as_coco = [{"size": list(size), "counts": code} for code in codes]
        text, ends = reference_rle.encode_rle(*masks, *size)
        plain = partial(reference_rle.decode_rle, text, ends, *size)
        peer = partial(coco.decode, as_coco) if count <= 1_000 else None
        yield Case("decode_rle", f"{count:,} in 1024²", partial(decode_rle, codes, size), plain, peer)


def partial(function: Callable[..., Any], *arguments: Any) -> Run:
    return Run(function, arguments)


CASES = (
    nms_cases, match_cases, pooling_cases, crop_cases, paste_cases, target_cases, measure_cases, iou_cases, warp_cases,
    image_cases, label_cases, code_cases,
)  # fmt: skip


@click.command()
@click.option("--only", default="", help="operations whose name holds this text")
def main(only: str) -> None:
    rows = []
    print(f"{'operation':26s} {'size':26s} {'ours':>16s} {'definition':>18s} {'peer':>18s} {'peer / ours':>12s}")
    for cases in CASES:
        for case in cases():
            if only not in case.operation:
                continue
            costs = {way: cost(run) for way in ("ours", "reference", "peer") if (run := getattr(case, way))}
            ratio = costs["peer"].seconds / costs["ours"].seconds if "peer" in costs else None
            cells = [describe(costs.get(way)) for way in ("ours", "reference", "peer")]
            print(f"{case.operation:26s} {case.size:26s} {cells[0]:>16s} {cells[1]:>18s} {cells[2]:>18s} "
                  + (f"{ratio:11.1f}x" if ratio else " " * 12), flush=True)  # fmt: skip
            rows.append({"operation": case.operation, "size": case.size, "ratio": ratio,
                         **{way: asdict(value) for way, value in costs.items()}})  # fmt: skip
    if not only:
        path = write_results("ops", " ".join(["python -m benchmarks.ops", *sys.argv[1:]]), {"cases": rows})
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
