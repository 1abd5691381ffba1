"""The steps, most important first, and what each needs. Imports no PyTorch."""

from dataclasses import dataclass

from maskrcnn.config import UserError


@dataclass(frozen=True)
class Step:
    """One step.

    `function` is `module:function` in this package; it takes a `Context`. `share` is its part of the time, in
    seconds of a run of nine minutes. `packages` are import names, `gpu_gigabytes` the free GPU memory it needs.
    """

    letter: str
    title: str
    function: str
    share: float
    packages: tuple[str, ...] = ("torch", "torchvision")
    gpu_gigabytes: float = 2.0
    needs_nvcc: bool = False


STEPS = (
    Step("a", "build the CUDA library", "build:build", 50, ("torch",), 0.0, needs_nvcc=True),
    Step("b", "tests on the GPU", "suite:run_tests", 110, ("torch", "torchvision", "pytest", "hypothesis")),
    Step("c", "operations", "operations:measure_operations", 65, gpu_gigabytes=16.0),
    Step("d", "training speed", "throughput:measure_training", 80, gpu_gigabytes=24.0),
    Step(
        "e", "time to mask AP", "quality:time_to_quality", 75, ("torch", "torchvision", "faster_coco_eval"),
        gpu_gigabytes=4.0,
    ),
    Step("f", "determinism", "determinism:check_determinism", 80, gpu_gigabytes=4.0),
    Step("g", "cost by number of objects", "scaling:measure_scaling", 45, gpu_gigabytes=8.0),
    Step("h", "inference", "inference:measure_inference", 50, gpu_gigabytes=8.0),
    Step("i", "compute-sanitizer", "suite:run_sanitizer", 30, ("torch", "torchvision", "pytest", "hypothesis")),
)  # fmt: skip

HOST_GIGABYTES = 4.0  # free memory of the machine that every step needs; 1 with --quick
TARGET = (2, 11)  # the oldest PyTorch that the libraries run on; setup.py has it, too
WHEELS = {"faster_coco_eval": "faster-coco-eval", "skimage": "scikit-image"}  # by import name, where it differs


def select_steps(text: str) -> tuple[Step, ...]:
    """The steps of `text`, letters with commas between them, in the order of the plan; all of them for "".

    Raises:
        UserError: an unknown letter.
    """
    letters = [letter.strip().lower() for letter in text.split(",") if letter.strip()]
    known = {step.letter for step in STEPS}
    for letter in letters:
        if letter not in known:
            raise UserError(f"--steps={text}: unknown step {letter!r}; known: {','.join(sorted(known))}")
    return tuple(step for step in STEPS if not letters or step.letter in letters)
