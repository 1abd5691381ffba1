"""Device, precision, memory format, and threads of a run."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from maskrcnn.config import UserError
from maskrcnn.training.config import TrainingConfig


@dataclass(frozen=True)
class Machine:
    """Device and number formats of a run. The model computes final logits and boxes in float32 in any case.

    Attributes:
        device: device of the model.
        amp: whether to use bfloat16 mixed precision.
        channels_last: whether to use the channels-last memory format.
    """

    device: torch.device
    amp: bool = False
    channels_last: bool = False

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and to the memory format, in place."""
        model.to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context for mixed precision in bfloat16, which, unlike float16, requires no loss scaling."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp)


def set_up_machine(config: TrainingConfig) -> Machine:
    """Choose device and precision, and set PyTorch's threads and determinism for the whole process.

    Raises:
        UserError: If the device does not exist.
    """
    if config.torch_threads:
        torch.set_num_threads(config.torch_threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required for deterministic cuBLAS
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
    device = choose_device(config.device)
    amp = _has_fast_bfloat16(device) if config.amp is None else config.amp
    channels_last = (amp or device.type == "cpu") if config.channels_last is None else config.channels_last
    return Machine(device, amp, channels_last)


def choose_device(text: str) -> torch.device:
    """Parse a device: `auto` (a GPU if available), `cpu`, `cuda`, `cuda:1`, or `1`.

    Raises:
        UserError: If it does not exist.
    """
    text = text.strip().lower()
    if "," in text:
        raise UserError(f"--device={text}: several GPUs are not available yet; give one, such as --device=0")
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if text == "cpu":
        return torch.device("cpu")
    number = text.removeprefix("cuda").removeprefix(":") or "0"
    if not number.isdecimal():
        raise UserError(f"--device={text}: unknown device; use auto, cpu, cuda, or the index of a GPU")
    if not torch.cuda.is_available():
        raise UserError(f"--device={text}: PyTorch finds no CUDA GPU here; use --device=cpu or --device=auto")
    if int(number) >= torch.cuda.device_count():
        raise UserError(f"--device={text}: there are {torch.cuda.device_count()} GPUs here, counted from 0")
    return torch.device("cuda", int(number))


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware supports bfloat16; emulated bfloat16 is slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    instructions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in instructions)
