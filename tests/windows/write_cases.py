"""Arguments of every operation and what the plain PyTorch definitions answer, for driver.cpp to read.

    python write_cases.py FILE

The file, little-endian: for each operation its name, the number of cases, and for each case the tolerance (0: to the
last bit), arguments and results. Both are a count, then for each value a letter for its kind and the value.
"""

import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ops_toy
import torch
from ops_toy import DEFINITIONS, Arguments

from maskrcnn.ops._native import VERSION

DRAWS = 20
ROUNDED = ("roi_align", "crop_and_resize", "sample_masks")  # sums of floats
DTYPES = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}
NUMBERS = {  # of torch::headeronly::ScalarType
    torch.uint8: 0,
    torch.int32: 3,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.float64: 7,
    torch.bool: 11,
    torch.bfloat16: 15,
}
Case = tuple[float, Arguments, Arguments]


def answers(definition: Any, arguments: Arguments) -> Arguments:
    answer = definition(*arguments)
    return answer if isinstance(answer, tuple) else (answer,)


def forward_cases(name: str) -> Iterator[Case]:
    for arguments in ops_toy.draws(name, DRAWS):
        yield 2e-5 if name in ROUNDED else 0.0, arguments, answers(DEFINITIONS[name], arguments)
    if name in ("roi_align", "crop_and_resize"):
        for dtype, tolerance in DTYPES.items():
            arguments = getattr(ops_toy, name)(ops_toy.Random(f"{name} {dtype}"), dtype)
            yield tolerance, arguments, answers(DEFINITIONS[name], arguments)


def backward_cases(name: str) -> Iterator[Case]:
    """The definition has no backward of its own: autograd differentiates it."""
    for features, *rest in ops_toy.draws(name, DRAWS):
        leaves = [m.clone().requires_grad_() for m in (features if isinstance(features, list) else [features])]
        pooled = DEFINITIONS[name](leaves if isinstance(features, list) else leaves[0], *rest)
        grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))
        sums = [torch.zeros_like(leaf) for leaf in leaves]
        if pooled.requires_grad:
            found = torch.autograd.grad((pooled * grad).sum(), leaves, allow_unused=True)
            sums = [zeros if one is None else one for zeros, one in zip(sums, found, strict=True)]
        settings = rest if name == "roi_align" else rest[:-1]  # what lies outside has no part in the gradient
        yield 2e-5, (grad, features, *settings), (sums if isinstance(features, list) else sums[0],)


def all_cases() -> dict[str, list[Case]]:
    cases = {name: list(forward_cases(name)) for name in DEFINITIONS}
    cases |= {f"{name}_backward": list(backward_cases(name)) for name in ("roi_align", "crop_and_resize")}
    return cases | {"version": [(0.0, (), (VERSION,))]}


def write_value(file: BinaryIO, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        file.write(b"t")
        write_tensor(file, value)
    elif isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        file.write(b"l" + struct.pack("<I", len(value)))
        for one in value:
            write_tensor(file, one)
    elif isinstance(value, list) and isinstance(value[0], int):
        file.write(b"w" + struct.pack(f"<I{len(value)}q", len(value), *value))
    elif isinstance(value, list):
        file.write(b"n" + struct.pack(f"<I{len(value)}d", len(value), *value))
    elif isinstance(value, bool):  # before int, of which it is a kind
        file.write(b"b" + struct.pack("<B", value))
    elif isinstance(value, int):
        file.write(b"i" + struct.pack("<q", value))
    else:
        file.write(b"f" + struct.pack("<d", value))


def write_tensor(file: BinaryIO, tensor: torch.Tensor) -> None:
    file.write(struct.pack(f"<BB{tensor.dim()}q", NUMBERS[tensor.dtype], tensor.dim(), *tensor.shape))
    file.write(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def write(file: BinaryIO, cases: dict[str, list[Case]]) -> None:
    for name, some in cases.items():
        file.write(struct.pack("<I", len(name)) + name.encode() + struct.pack("<I", len(some)))
        for tolerance, *both in some:
            file.write(struct.pack("<d", tolerance))
            for values in both:
                file.write(struct.pack("<I", len(values)))
                for value in values:
                    write_value(file, value)


def main() -> None:
    cases = all_cases()
    source = (Path(__file__).parents[2] / "csrc" / "bind_cpu.cpp").read_text(encoding="utf-8")
    defined = set(re.findall(r'm\.def\(\s*"(\w+)\(', source)) - {"built_with"}  # which the driver prints
    if defined != set(cases):
        raise SystemExit(f"defined in csrc or known here, but not both: {sorted(defined ^ set(cases))}")
    with open(sys.argv[1], "wb") as file:
        write(file, cases)


if __name__ == "__main__":
    main()
