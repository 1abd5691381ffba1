"""Operations and stages under `torch.export` and `torch.compile(fullgraph=True)`: the same results as in eager mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ops_toy
import pytest
import torch
from detector_toy import toy_detector
from ops_toy import DEFINITIONS
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves

from maskrcnn.ops import _native
from maskrcnn.ops.nms import nms
from maskrcnn.ops.pooling import roi_align

pytestmark = pytest.mark.skipif("cpu" not in _native.LOADED, reason="the native core is not built")


class Function(nn.Module):
    """A function of tensors as a module, with the parameters of another."""

    def __init__(self, function: Callable[..., Any], module: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.module = function, module

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def assert_equal(found: Any, wanted: Any, tolerance: float = 0.0) -> None:
    found, wanted = tree_leaves(found), tree_leaves(wanted)
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def check(module: Function, inputs: tuple[Tensor, ...], others: Sequence[tuple[Tensor, ...]], dynamic: Any) -> None:
    """Trace with `inputs`, and compare with eager mode there and on `others`, which have other sizes."""
    exported = torch.export.export(module, inputs, dynamic_shapes=(dynamic,)).module()
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for each in (inputs, *others):
        wanted = module(*each)
        assert_equal(exported(*each), wanted, 1e-5)
        assert_equal(compiled(*each), wanted, 1e-5)


# ---- operations


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_operation_traces(name: str) -> None:
    """With all dimensions dynamic, also those of results whose size only the kernel knows."""
    drawn = [each for each in ops_toy.draws(name, 60) if all(len(x) > 1 for x in tensors_of(each) if x.ndim)]
    arguments = drawn[0]
    operation = getattr(torch.ops.maskrcnn, name)
    lists = [isinstance(x, list) and isinstance(x[0], Tensor) for x in arguments]
    lengths = [len(x) if is_list else 1 for x, is_list in zip(arguments, lists, strict=True)]

    def call(*tensors: Tensor) -> Any:
        rest, full = list(tensors), []
        for value, is_list, length in zip(arguments, lists, lengths, strict=True):
            if is_list:
                full.append([rest.pop(0) for _ in range(length)])
            else:
                full.append(rest.pop(0) if isinstance(value, Tensor) else value)
        return operation(*full)

    inputs = tuple(tensors_of(arguments))
    dynamic = tuple({axis: Dim.AUTO for axis in range(x.ndim)} for x in inputs)
    check(Function(call), inputs, [], dynamic)


def tensors_of(arguments: Sequence[Any]) -> list[Tensor]:
    return [x for x in tree_leaves(list(arguments)) if isinstance(x, Tensor)]


BOXES = torch.tensor([[1.0, 2, 20, 30], [5, 5, 9, 9], [10, 10, 40, 44], [6, 5, 10, 9]])
IMAGES, LABELS = torch.tensor([0, 1, 1, 1]), torch.ones(4, dtype=torch.int64)
COUNT = Dim("count", min=2, max=5000)
TWICE = torch.cat([BOXES, BOXES + 3])


def test_python_functions_with_their_checks_trace() -> None:
    scores = torch.tensor([0.5, 0.9, 0.7, 0.8])
    check(Function(lambda b, s: nms(b, s, 0.5)), (BOXES, scores), [(TWICE, scores.repeat(2))], ({0: COUNT}, {0: COUNT}))

    def pool(feature: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
        return roi_align([feature], boxes, images, torch.zeros_like(images), [2.0], (7, 3))

    feature = torch.randn(2, 16, 32, 48)
    more = (torch.randn(2, 16, 20, 24), TWICE, IMAGES.repeat(2))
    sizes = {2: Dim("height", min=2, max=500), 3: Dim("width", min=2, max=500)}
    check(Function(pool), (feature, BOXES, IMAGES), [more], (sizes, {0: COUNT}, {0: COUNT}))


# ---- stages of a detector


def pixels_of(*sizes: int) -> tuple[Tensor]:
    return (torch.rand(sizes[0], 3, *sizes[1:], generator=torch.Generator().manual_seed(0)),)


SIZES = ({0: Dim("batch", min=2, max=8), 2: 8 * Dim("rows", min=2, max=64), 3: 8 * Dim("columns", min=2, max=64)},)


def test_backbone_and_pyramid_trace_for_any_size() -> None:
    backbone = toy_detector("rpn").eval().backbone
    check(Function(backbone, backbone), pixels_of(2, 64, 96), [pixels_of(3, 80, 40)], SIZES)


def test_the_first_stage_traces_for_any_size() -> None:
    detector = toy_detector("rpn").eval()

    def predict(pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        output = detector.rpn(detector.backbone(pixels), (pixels.shape[2], pixels.shape[3]))
        return output.logits, output.deltas

    check(Function(predict, detector), pixels_of(2, 64, 96), [pixels_of(3, 80, 40)], SIZES)


@pytest.mark.parametrize("head", ["box_head", "mask_head"])
def test_the_heads_trace_for_any_number_of_boxes(head: str) -> None:
    detector = toy_detector("mask_rcnn").eval()
    with torch.no_grad():
        maps = detector.backbone(*pixels_of(2, 64, 96))
    module = getattr(detector, head)
    labels = (LABELS,) if head == "mask_head" else ()

    def predict(*tensors: Tensor) -> Any:
        return module(list(tensors[: len(maps)]), *tensors[len(maps) :])

    inputs, more = (*maps, BOXES, IMAGES, *labels), (*maps, TWICE, IMAGES.repeat(2), *(x.repeat(2) for x in labels))
    dynamic = (*({} for _ in maps), *({0: COUNT} for _ in inputs[len(maps) :]))
    check(Function(predict, module), inputs, [more], dynamic)


def test_gradients_of_a_compiled_pooling_are_those_of_eager_mode() -> None:
    def loss(feature: Tensor) -> Tensor:
        return roi_align([feature], BOXES, IMAGES, torch.zeros_like(IMAGES), [2.0], (3, 5)).square().sum()

    torch._dynamo.reset()
    slopes = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        feature = torch.randn(2, 4, 32, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
        slopes.append(torch.autograd.grad(function(feature), feature)[0])
    assert_equal(slopes[1:], slopes[:1], 1e-5)
