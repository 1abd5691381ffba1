"""What a run computes on: device, precision, memory format, threads."""

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
    """Where and how tensors are computed. Final logits and boxes stay float32 by the model's own care."""

    device: torch.device
    amp: bool = False
    channels_last: bool = False

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, in place, with convolution weights channels-last where that is faster."""
        model.to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def autocast(self) -> AbstractContextManager[None]:
        """bfloat16 where it is safe, if the run uses it; needs no loss scaling, unlike float16."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp)


def set_up_machine(config: TrainingConfig) -> Machine:
    """Choose device and precision, and set PyTorch's threads and determinism for the whole process.

    Raises `UserError` when the device does not exist.
    """
    if config.torch_threads:
        torch.set_num_threads(config.torch_threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats exactly only with this
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
    device = choose_device(config.device)
    amp = _has_fast_bfloat16(device) if config.amp is None else config.amp
    channels_last = (amp or device.type == "cpu") if config.channels_last is None else config.channels_last
    return Machine(device, amp, channels_last)


def choose_device(text: str) -> torch.device:
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` or `1`; `UserError` where it does not exist."""
    text = text.strip().lower()
    if "," in text:
        raise UserError(f"--device={text}: several GPUs are not available yet; give one, such as --device=0")
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if text == "cpu":
        return torch.device("cpu")
    number = text.removeprefix("cuda").removeprefix(":") or "0"
    if not number.isdecimal():
        raise UserError(f"--device={text}: unknown device; use auto, cpu, cuda, or the number of a GPU")
    if not torch.cuda.is_available():
        raise UserError(f"--device={text}: PyTorch finds no CUDA GPU here; use --device=cpu or --device=auto")
    if int(number) >= torch.cuda.device_count():
        raise UserError(f"--device={text}: there are {torch.cuda.device_count()} GPUs here, counted from 0")
    return torch.device("cuda", int(number))


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by the hardware; emulated, it is slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    instructions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in instructions)
