"""Every kernel against the plain PyTorch definition of its operation, and what PyTorch asks of an operation."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ops_toy
import pytest
import torch
import torch._dynamo
from ops_toy import DEFINITIONS
from torch.utils import _pytree as pytree
from torchvision.ops import roi_align

from maskrcnn.ops import _native

ROOT = Path(__file__).parents[1]
NAMES = sorted(DEFINITIONS)
POOLING = ("roi_align", "crop_and_resize")
DTYPES = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def operation(name: str) -> Any:
    return getattr(torch.ops.maskrcnn, name)


def test_the_native_core_is_built_and_loaded() -> None:
    assert "cpu" in _native.LOADED


def assert_equal(name: str, found: Any, wanted: Any) -> None:
    """To the last bit, but for sums of floats and for levels that rounding moves by one."""
    for got, expected in zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True):
        if name in (*POOLING, "sample_masks"):
            torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)
        else:
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_computes_what_its_definition_says(name: str) -> None:
    for arguments in ops_toy.draws(name, 60):
        assert_equal(name, operation(name)(*arguments), DEFINITIONS[name](*arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POOLING)
def test_pooling_serves_every_type(name: str, dtype: torch.dtype) -> None:
    for seed in range(10):
        arguments = getattr(ops_toy, name)(ops_toy.Random(seed), dtype)
        found, wanted = operation(name)(*arguments), DEFINITIONS[name](*arguments)
        assert found.dtype == dtype
        torch.testing.assert_close(found, wanted, rtol=DTYPES[dtype], atol=DTYPES[dtype])


@pytest.mark.parametrize("name", POOLING)
def test_gradients_of_pooling_are_those_of_the_definition(name: str) -> None:
    for features, *rest in ops_toy.draws(name, 30):
        if len(rest[0]) == 0:
            continue
        maps = features if isinstance(features, list) else [features]
        grads = []
        for function in (operation(name), DEFINITIONS[name]):
            leaves = [feature.clone().requires_grad_() for feature in maps]
            pooled = function(leaves if isinstance(features, list) else leaves[0], *rest)
            weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))
            grads.append(torch.autograd.grad((pooled * weights).sum(), leaves, allow_unused=True))
        for got, expected in zip(*grads, strict=True):
            torch.testing.assert_close(
                got, torch.zeros_like(got) if expected is None else expected, rtol=2e-5, atol=2e-5
            )


def small_pooling(name: str) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(2, h, w, 3, dtype=torch.float64, generator=generator).requires_grad_() for h, w in ((5, 6), (3, 4))
    ]
    boxes = torch.tensor([[1.0, 1, 6, 5], [-2, 3, 5, 20], [2, 2, 2.5, 2.5]])
    images, levels = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    if name == "roi_align":
        return features, boxes, images, levels, [2.0, 4.0], [3, 2], 0, True
    return features[0], boxes / 8, images, 3, 0.5


@pytest.mark.parametrize("name", POOLING)
def test_gradcheck(name: str) -> None:
    features, *rest = small_pooling(name)
    maps = features if isinstance(features, list) else [features]

    def pooled(*leaves: torch.Tensor) -> Any:
        return operation(name)(list(leaves) if isinstance(features, list) else leaves[0], *rest)

    assert torch.autograd.gradcheck(pooled, maps)


@pytest.mark.parametrize("name", POOLING)
def test_second_and_third_derivatives(name: str) -> None:
    features, *rest = small_pooling(name)
    several = isinstance(features, list)

    def pooled(*leaves: torch.Tensor) -> Any:
        return operation(name)(list(leaves) if several else leaves[0], *rest)

    def slopes(*leaves: torch.Tensor) -> Any:
        return torch.autograd.grad(pooled(*leaves).pow(3).sum(), leaves, create_graph=True)

    maps = features if several else [features]
    assert torch.autograd.gradgradcheck(pooled, maps)
    assert torch.autograd.gradgradcheck(slopes, maps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_penalty_is_that_of_torchvision(dtype: torch.dtype) -> None:
    """Zhang et al., arXiv 1805.08318, and others: the norm of a gradient is part of a loss."""
    features, boxes, images, levels, strides, size, ratio, aligned = small_pooling("roi_align")
    leaf = features[0].detach().to(dtype).requires_grad_()
    pooled = operation("roi_align")([leaf], boxes[:2], images[:2], levels[:2], strides[:1], size, ratio, aligned)
    (slope,) = torch.autograd.grad(pooled.float().square().sum(), leaf, create_graph=True)
    (found,) = torch.autograd.grad(slope.float().square().sum(), leaf)
    # Pooling is a matrix A: the slope is 2 AᵀA x, and the gradient of its squared norm 8 (AᵀA)² x.
    inputs = leaf.detach().double().permute(0, 3, 1, 2).contiguous()
    rois = torch.cat([images[:2, None], boxes[:2]], dim=1).double()

    def matrix(x: torch.Tensor) -> torch.Tensor:
        x = x.requires_grad_()
        wanted = roi_align(x, rois, size, 1 / strides[0], -1, aligned)
        return torch.autograd.grad(wanted, x, wanted.detach())[0]

    wanted = 8 * matrix(matrix(inputs)).permute(0, 2, 3, 1)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", POOLING)
def test_the_definition_has_no_second_derivative_and_raises(name: str) -> None:
    features, *rest = small_pooling(name)
    maps = features if isinstance(features, list) else [features]
    pooled = DEFINITIONS[name](features, *rest)
    slopes = torch.autograd.grad(pooled.square().sum(), maps, create_graph=True)
    with pytest.raises(NotImplementedError, match="derivative"):
        torch.autograd.grad(sum(slope.square().sum() for slope in slopes), maps)


@pytest.mark.parametrize("name", POOLING)
def test_opcheck_of_the_backward_pass(name: str) -> None:
    features, *rest = small_pooling(name)
    grad = torch.randn_like(operation(name)(features, *rest)).requires_grad_()
    settings = rest if isinstance(features, list) else rest[:-1]
    torch.library.opcheck(operation(f"{name}_backward").default, (grad, features, *settings))


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str) -> None:
    for arguments in [*ops_toy.draws(name, 6)][1:6:2]:
        torch.library.opcheck(operation(name).default, arguments)


@pytest.mark.parametrize("name", POOLING)
def test_opcheck_with_gradients(name: str) -> None:
    torch.library.opcheck(operation(name).default, small_pooling(name))


@pytest.mark.parametrize("name", NAMES)
def test_operations_compile_without_a_break(name: str) -> None:
    arguments = [*ops_toy.draws(name, 4)][3]
    torch._dynamo.reset()
    compiled = torch.compile(lambda *a: operation(name)(*a), fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        assert_equal(name, compiled(*arguments), operation(name)(*arguments))


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_changes_nothing(name: str) -> None:
    threads = torch.get_num_threads()
    try:
        for arguments in ops_toy.draws(name, 10):
            results = []
            for count in (1, 2):
                torch.set_num_threads(count)
                results.append(pytree.tree_leaves(operation(name)(*arguments)))
            assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_gradients_do_not_depend_on_threads() -> None:
    threads = torch.get_num_threads()
    features, *rest = next(ops_toy.draws("roi_align", 1))
    grads = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            leaves = [feature.clone().requires_grad_() for feature in features]
            grads.append(torch.autograd.grad(operation("roi_align")(leaves, *rest).square().sum(), leaves))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))


MASKS = ops_toy.random_masks(9).parts
BOX = torch.tensor([[1.0, 1, 6, 5]])
ZERO = torch.zeros(1, dtype=torch.int64)
MAPS = [torch.randn(2, 5, 6, 3)]
IMAGE, MAP = torch.zeros(3, 5, 6), torch.eye(3, dtype=torch.float64)[:2]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nms", (torch.zeros(3, 5), torch.zeros(3).long(), 0.5), r"boxes must be \[any, 4\], got \[3, 5\]"),
        ("nms", (torch.zeros(3, 4).double(), torch.zeros(3).long(), 0.5), "boxes must be of type Float, got Double"),
        ("nms", (torch.zeros(4, 3).T, torch.zeros(3).long(), 0.5), "boxes must be contiguous"),
        ("nms", (torch.zeros(3, 4), torch.zeros(2).long(), 0.5), r"groups must be \[3\], got \[2\]"),
        ("roi_align", (MAPS, BOX, ZERO + 2, ZERO, [4.0], 7, 0, True), r"images must be in 0..1, got 2 at 0"),
        ("roi_align", (MAPS, BOX, ZERO, ZERO - 1, [4.0], 7, 0, True), r"levels must be in 0..0, got -1 at 0"),
        ("roi_align", (MAPS, BOX * torch.inf, ZERO, ZERO, [4.0], 7, 0, True), "boxes must be finite, got inf in row 0"),
        (
            "roi_align",
            (MAPS, BOX, ZERO, ZERO, [4.0, 8.0], 7, 0, True),
            "strides must be one number for each of 1 levels, got 2",
        ),
        ("roi_align", (MAPS, BOX, ZERO, ZERO, [4.0], 0, 0, True), "output_size must be positive, got 0"),
        ("roi_align", (MAPS, BOX, ZERO, ZERO, [4.0], [2, -1], 0, True), "output_size must be positive, got -1"),
        ("roi_align", (MAPS, BOX, ZERO, ZERO, [4.0], [2], 0, True), "output_size must be two numbers, got 1"),
        ("roi_align", (MAPS, BOX, ZERO, ZERO, [4.0], [2, 2, 2], 0, True), "output_size must be two numbers, got 3"),
        ("roi_align", ([MAPS[0].long()], BOX, ZERO, ZERO, [4.0], 7, 0, True), "features must be float32"),
        ("roi_align", ([MAPS[0], MAPS[0][:1]], BOX, ZERO, ZERO, [4.0, 8.0], 7, 0, True), r"got \[1, 5, 6, 3\]"),
        ("crop_and_resize", (MAPS[0], BOX, ZERO + 7, 7, 0.0), "images must be in 0..1, got 7"),
        ("sample_masks", (*MASKS, 23, 31, BOX, ZERO + 9, 7, 0, True, True), "index must be in 0..8, got 9 at 0"),
        (
            "sample_masks",
            (MASKS[0], MASKS[1] + 1, MASKS[2], 23, 31, BOX, ZERO, 7, 0, True, True),
            "offsets must begin with 0",
        ),
        ("label_image", (MASKS[0], MASKS[1], MASKS[2][1:], 23, 31, 0.5), "data must be"),
        ("paste_masks", (torch.zeros(1, 0, 0), BOX, *MASKS[:2]), "probabilities must have one cell at least"),
        ("measure_masks", (MASKS[0], MASKS[1], MASKS[2][1:]), "data must be"),
        ("measure_masks", (MASKS[0].long(), *MASKS[1:]), "windows must be of type Int, got Long"),
        ("pick_masks", (MASKS[0][:, [2, 1, 0, 3]], *MASKS[1:], ZERO), "offsets must be the sums of the windows' areas"),
        ("pick_masks", (*MASKS, ZERO + 9), "index must be in 0..8, got 9 at 0"),
        ("pick_masks", (*MASKS, ZERO - 1), "index must be in 0..8, got -1 at 0"),
        ("pick_masks", (*MASKS, ZERO.int()), "index must be of type Long, got Int"),
        ("pick_masks", (*MASKS, ZERO[0]), r"index must be \[any\], got \[\]"),
        ("warp_masks", (*MASKS, MAP, *MASKS[:2], 0), "samples must be in 1..64, got 0"),
        ("warp_masks", (*MASKS, MAP.float(), *MASKS[:2], 1), "matrix must be of type Double, got Float"),
        ("warp_image", (IMAGE[0], MAP, 4, 4, 0, 1), r"image must be \[C, H, W\] with a pixel at least, got \[5, 6\]"),
        ("warp_image", (IMAGE[:, :0], MAP, 4, 4, 0, 1), r"with a pixel at least, got \[3, 0, 6\]"),
        ("warp_image", (IMAGE.long(), MAP, 4, 4, 0, 1), "image must be uint8 or float32, got Long"),
        ("warp_image", (IMAGE.transpose(1, 2), MAP, 4, 4, 0, 1), "image must be contiguous"),
        ("warp_image", (IMAGE, MAP[:, :2], 4, 4, 0, 1), r"matrix must be \[2, 3\], got \[2, 2\]"),
        ("warp_image", (IMAGE, MAP, -4, 4, 0, 1), "a canvas cannot be -4 x 4 pixels"),
        ("warp_image", (IMAGE, MAP, 4, 4, 3, 1), "border must be in 0..2, got 3"),
        ("warp_image", (IMAGE, MAP, 4, 4, 0, 65), "samples must be in 1..64, got 65"),
        ("decode_rle", (MASKS[2], ZERO, -4, -4), "a canvas cannot be -4 x -4 pixels"),
        ("encode_rle", (*MASKS, 2**31, 5), "a canvas cannot be 2147483648 x 5 pixels"),
        ("label_image", (*MASKS, 5, 5, 0.5), "windows must lie inside the canvas of 5 x 5 pixels"),
        (
            "decode_rle",
            (torch.zeros(3, dtype=torch.uint8), torch.tensor([0, 2]), 4, 4),
            "text_offsets must go from 0 to 3",
        ),
    ],
)
def test_arguments_that_cannot_be_are_named(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        operation(name)(*arguments)


def test_many_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(100_000, 2, generator=generator) * 4000
    boxes = torch.cat([corner, corner + 8 + torch.rand(100_000, 2, generator=generator) * 16], dim=1)
    groups = torch.zeros(100_000, dtype=torch.int64)
    kept = operation("nms")(boxes, groups, 0.5)
    assert torch.equal(kept, DEFINITIONS["nms"](boxes, groups, 0.5))


def test_without_the_library_the_definitions_serve_with_one_warning(tmp_path: Path) -> None:
    program = (
        "import pathlib; pathlib.Path.exists = lambda self: False\n"
        "from maskrcnn.ops import _native, nms, masks, pooling\n"
        "import torch\n"
        "boxes = torch.tensor([[0., 0, 4, 4]]).repeat(3, 1)\n"
        "print(sorted(_native.LOADED), len(nms.nms(boxes, torch.rand(3), .5)))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert result.stdout.split() == ["[]", "1"], result.stderr
    assert result.stderr.count("the native core is not built") == 1 and "pip install" in result.stderr
