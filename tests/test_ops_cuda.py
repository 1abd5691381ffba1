"""The CUDA kernels against the plain PyTorch definitions: on an emulator everywhere, on a GPU with `-m gpu`."""

import os
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import emulated
import ops_toy
import pytest
import torch
from ops_toy import DEFINITIONS
from torch import Tensor
from torch.utils import _pytree as pytree

from maskrcnn.ops import _native

NAMES = sorted(DEFINITIONS)
POOLING = ("roi_align", "crop_and_resize")
DRAWS = int(os.environ.get("SMALLOBJECTS_DRAWS", "40"))  # few under a tool that makes kernels slow
DTYPES = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}
Kernels = Callable[..., Any]


@pytest.fixture(scope="session", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Runs the kernel of an operation on arguments on the CPU, and brings its results there."""
    if "cpu" not in _native.LOADED:
        pytest.skip("the native core, which defines the operations, is not built")
    if request.param == "gpu":
        if "cuda" not in _native.LOADED:
            pytest.skip("no CUDA device, or the native core is not built for it")
        return on_gpu
    if emulated.compiler() is None:
        pytest.skip("the emulated kernels need Linux and g++")
    library = emulated.build(tmp_path_factory.mktemp("emulated"))
    emulated.load(library, [*NAMES, *(f"{name}_backward" for name in POOLING)])
    return on_emulator


def on_emulator(name: str, *arguments: Any) -> Any:
    return getattr(torch.ops.maskrcnn_emulated, name)(*arguments)


def on_gpu(name: str, *arguments: Any) -> Any:
    def moved(values: Any, device: str) -> Any:
        return pytree.tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, values)

    return moved(getattr(torch.ops.maskrcnn, name)(*moved(arguments, "cuda")), "cpu")


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_computes_what_its_definition_says(name: str, kernels: Kernels) -> None:
    tolerance = 2e-5 if name in (*POOLING, "sample_masks") else 0
    for arguments in ops_toy.draws(name, DRAWS):
        pairs = zip(
            pytree.tree_leaves(kernels(name, *arguments)),
            pytree.tree_leaves(DEFINITIONS[name](*arguments)),
            strict=True,
        )
        for found, wanted in pairs:
            torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POOLING)
def test_pooling_serves_every_type(name: str, dtype: torch.dtype, kernels: Kernels) -> None:
    for seed in range(5):
        arguments = getattr(ops_toy, name)(ops_toy.Random(seed), dtype)
        found = kernels(name, *arguments)
        assert found.dtype == dtype
        torch.testing.assert_close(found, DEFINITIONS[name](*arguments), rtol=DTYPES[dtype], atol=DTYPES[dtype])


@pytest.mark.parametrize("name", POOLING)
def test_gradients_of_pooling_are_those_of_the_definition_and_repeat_exactly(name: str, kernels: Kernels) -> None:
    for features, *rest in ops_toy.draws(name, 20):
        several = isinstance(features, list)
        leaves = [feature.clone().requires_grad_() for feature in (features if several else [features])]
        pooled = DEFINITIONS[name](leaves if several else leaves[0], *rest)
        grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))
        settings = rest if several else rest[:-1]  # what lies outside has no part in the gradient
        found, again = (kernels(f"{name}_backward", grad, features, *settings) for _ in range(2))
        assert all(torch.equal(*pair) for pair in zip(*map(pytree.tree_leaves, (found, again)), strict=True))
        wanted = torch.autograd.grad(pooled, leaves, grad, allow_unused=True) if len(rest[0]) else [None] * len(leaves)
        for got, expected in zip(pytree.tree_leaves(found), wanted, strict=True):
            torch.testing.assert_close(
                got, torch.zeros_like(got) if expected is None else expected, rtol=2e-5, atol=2e-5
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_summed_in_float32_at_least(dtype: torch.dtype, kernels: Kernels) -> None:
    features, *rest = ops_toy.roi_align(ops_toy.Random("7"), dtype)
    grad = torch.ones_like(DEFINITIONS["roi_align"](features, *rest))
    sums = kernels("roi_align_backward", grad, features, *rest)
    assert {total.dtype for total in sums} == {torch.float64 if dtype == torch.float64 else torch.float32}
    wide = kernels("roi_align_backward", grad.double(), [feature.double() for feature in features], *rest)
    for total, exact in zip(sums, wide, strict=True):
        torch.testing.assert_close(total.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threshold", [0.2, 0.3, 0.5, 0.6, 0.7])
def test_nms_at_ious_of_exactly_the_threshold(threshold: float, kernels: Kernels) -> None:
    boxes, groups = ops_toy.pairs_of_whole_boxes()
    assert torch.equal(kernels("nms", boxes, groups, threshold), DEFINITIONS["nms"](boxes, groups, threshold))


def test_many_boxes(kernels: Kernels, request: pytest.FixtureRequest) -> None:
    count = 100_000 if "gpu" in request.node.callspec.id else 2_000
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 12 * count**0.5
    boxes = torch.cat([corner, corner + 8 + torch.rand(count, 2, generator=generator) * 16], dim=1)
    groups = torch.zeros(count, dtype=torch.int64)
    assert torch.equal(kernels("nms", boxes, groups, 0.5), DEFINITIONS["nms"](boxes, groups, 0.5))


def test_a_chain_of_boxes_each_of_which_waits_for_the_one_before(kernels: Kernels) -> None:
    x = torch.arange(700.0) * 4
    boxes = torch.stack([x, torch.zeros_like(x), x + 10, torch.full_like(x, 10)], dim=1)
    kept = kernels("nms", boxes, torch.zeros(700, dtype=torch.int64), 0.4)
    assert torch.equal(kept, torch.arange(700) % 2 == 0)


MASKS = ops_toy.random_masks(9).parts
BOXES = torch.tensor([[1.0, 1, 6, 5]]).repeat(4, 1)
ZEROS = torch.zeros(4, dtype=torch.int64)
MAPS = [torch.ones(2, 5, 6, 3)]
IMAGE, MAP = torch.zeros(3, 5, 6), torch.eye(3, dtype=torch.float64)[:2]


def test_rois_that_cannot_be_give_nan_and_send_nothing_back(kernels: Kernels) -> None:
    boxes, images, levels = BOXES.clone(), ZEROS.clone(), ZEROS.clone()
    boxes[1, 2], images[2], levels[3] = torch.inf, 2, -1
    settings = (boxes, images, levels, [4.0], 7, 0, True)
    pooled = kernels("roi_align", MAPS, *settings)
    assert torch.isfinite(pooled[0]).all() and torch.isnan(pooled[1:]).all()
    (some,) = kernels("roi_align_backward", torch.ones(4, 7, 7, 3), MAPS, *settings)
    (one,) = kernels("roi_align_backward", torch.ones(1, 7, 7, 3), MAPS, *(s[:1] for s in settings[:3]), *settings[3:])
    assert torch.equal(some, one) and some.sum() > 0


def test_a_box_far_larger_than_the_map_costs_no_more_than_the_map(kernels: Kernels) -> None:
    huge = torch.tensor([[-1e9, -1e9, 1e9, 1e9]])
    pooled = kernels("roi_align", MAPS, huge, ZEROS[:1], ZEROS[:1], [1.0], 2, 0, True)
    assert torch.isfinite(pooled).all()


def test_masks_that_cannot_be_are_empty(kernels: Kernels) -> None:
    windows, offsets, data = MASKS
    index = torch.tensor([0, 9, -1, 1])
    sampled = kernels("sample_masks", windows, offsets, data, 23, 31, BOXES, index, 7, 0, True, True)
    assert torch.isnan(sampled[1:3]).all() and torch.isfinite(sampled[[0, 3]]).all()
    for wrong in ((windows, offsets + 10_000, data), (windows, offsets, data[:0]), (windows + 1, offsets, data[:5])):
        labels, kept = kernels("label_image", *wrong, 23, 31, 0.0)
        assert labels.sum() == 0 and not kept.any()
        assert len(kernels("mask_iou", *wrong, *MASKS)[0]) == 0
        areas, boxes = kernels("measure_masks", *wrong)
        picked, ends, _ = kernels("pick_masks", *wrong, index)
        assert not any(part[1:].any() for part in (areas, boxes, picked, ends.diff()))  # the first has one pixel
    picked, ends, _ = kernels("pick_masks", *MASKS, index)  # the second and the third are not there
    assert ends.diff().tolist() == [offsets[1], 0, 0, offsets[2] - offsets[1]] and not picked[1:3].any()
    _, kept = kernels("label_image", *MASKS, 5, 5, 0.0)  # a canvas that does not hold them
    assert not kept[windows[:, 2:].amax(dim=1) > 5].any()


def test_coordinates_beyond_all_numbers_see_nothing_or_some_pixel(kernels: Kernels) -> None:
    image = torch.arange(1, 100, dtype=torch.uint8).view(1, 9, 11)
    for at, number in product(range(6), (torch.nan, torch.inf, -torch.inf, 1e300, -3e9)):
        matrix = torch.ones(6, dtype=torch.float64)
        matrix[at] = number
        for border in range(3):
            arguments = (image, matrix.view(2, 3), 5, 7, border, 1)
            assert torch.equal(kernels("warp_image", *arguments), DEFINITIONS["warp_image"](*arguments))


def test_texts_whose_offsets_cannot_be_are_broken(kernels: Kernels) -> None:
    text, offsets = kernels("encode_rle", *MASKS, 23, 31)
    for wrong in (offsets + 1, offsets - 1, offsets.flip(0)):
        windows, _, data, broken = kernels("decode_rle", text, wrong, 23, 31)
        assert broken >= 0 and windows.sum() == 0 and len(data) == 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nms", (torch.zeros(3, 5), torch.zeros(3).long(), 0.5), r"boxes must be \[any, 4\], got \[3, 5\]"),
        ("nms", (torch.zeros(3, 4).double(), torch.zeros(3).long(), 0.5), "boxes must be of type Float, got Double"),
        ("nms", (torch.zeros(3, 4), torch.zeros(2).long(), 0.5), r"groups must be \[3\], got \[2\]"),
        ("roi_align", (MAPS, BOXES, ZEROS, ZEROS, [4.0, 8.0], 7, 0, True), "strides must be one number for each of 1"),
        ("roi_align", (MAPS * 17, BOXES, ZEROS, ZEROS, [4.0] * 17, 7, 0, True), "features must be at most 16 levels"),
        ("roi_align", (MAPS, BOXES, ZEROS, ZEROS, [4.0], 0, 0, True), "output_size must be positive, got 0"),
        ("roi_align", ([MAPS[0].long()], BOXES, ZEROS, ZEROS, [4.0], 7, 0, True), "features must be float32"),
        ("sample_masks", (*MASKS, 23, 31, BOXES, ZEROS[:1], 7, 0, True, True), r"index must be \[4\], got \[1\]"),
        ("measure_masks", (MASKS[0].long(), *MASKS[1:]), "windows must be of type Int, got Long"),
        ("pick_masks", (*MASKS, ZEROS.int()), "index must be of type Long, got Int"),
        ("warp_masks", (*MASKS, MAP, *MASKS[:2], 65), "samples must be in 1..64, got 65"),
        ("warp_image", (IMAGE[0], MAP, 4, 4, 0, 1), r"image must be \[C, H, W\] with a pixel at least, got \[5, 6\]"),
        ("warp_image", (IMAGE.long(), MAP, 4, 4, 0, 1), "image must be uint8 or float32, got Long"),
        ("warp_image", (IMAGE, MAP, 4, 4, 3, 1), "border must be in 0..2, got 3"),
        ("label_image", (MASKS[0], MASKS[1][1:], MASKS[2], 23, 31, 0.5), r"offsets must be \[10\], got \[9\]"),
    ],
)
def test_arguments_that_cannot_be_are_named(
    name: str, arguments: tuple[Any, ...], message: str, kernels: Kernels
) -> None:
    with pytest.raises(RuntimeError, match=message):
        kernels(name, *arguments)


@pytest.mark.gpu
def test_a_tensor_on_another_device_is_named() -> None:
    with pytest.raises(RuntimeError, match="groups must be on a CUDA device"):
        torch.ops.maskrcnn.nms(torch.zeros(3, 4, device="cuda"), torch.zeros(3, dtype=torch.int64), 0.5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_opcheck_on_a_gpu(name: str) -> None:
    for arguments in [*ops_toy.draws(name, 6)][1:6:2]:
        there = pytree.tree_map(lambda value: value.cuda() if isinstance(value, Tensor) else value, arguments)
        torch.library.opcheck(getattr(torch.ops.maskrcnn, name).default, there)


@pytest.mark.parametrize(("built", "problem"), [(False, "is not built"), (True, "cannot be loaded")])
def test_a_gpu_without_its_library_is_told_of_and_the_cpu_keeps_its_kernels(
    built: bool, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = {"cpu": _native.find_library("cpu"), "cuda": tmp_path / "_cuda.so" if built else None}
    if libraries["cpu"] is None:
        pytest.skip("the native core is not built")
    (tmp_path / "_cuda.so").write_text("no library")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_native, "find_library", libraries.__getitem__)
    monkeypatch.setattr(_native._registration, "register", lambda: None)  # is done
    with pytest.warns(UserWarning, match=f"the native core for CUDA {problem}"):
        assert _native.load() == {"cpu"}


def test_the_emulator_keeps_its_promises(tmp_path: Path) -> None:
    if emulated.compiler() is None:
        pytest.skip("the emulator needs Linux and g++")
    program, folder = tmp_path / "selftest", emulated.ROOT / "tests" / "cuda"
    emulated.compile_with(folder / "selftest.cpp", folder / "emulator.cpp", "-o", program)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
