"""Options of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from maskrcnn.config import UserError, option

DEFAULT_NUM_STEPS, DEFAULT_NUM_EPOCHS = 640, 10  # the longer of the two, if no budget is set
BUDGET = ("num_steps", "num_epochs", "minutes")  # fields of `TrainingConfig`; at most one may be set

MAY_DIFFER_ON_RESUME = (
    "device",
    "num_workers",
    "torch_threads",
    "best_metric",
    "save_model_every_n_epochs",
    "checkpoint_every_n_seconds",
)
"""Fields of `TrainingConfig` that a resumed run may change.

On the same machine, with the same version of PyTorch and the same `torch_threads`, a resumed run ends with exactly the
same weights as an uninterrupted run. Otherwise sums are rounded in a different order, and the differences grow from
step to step.

The budget may not change, because the learning-rate schedule covers all steps.
"""


@dataclass(frozen=True)
class TrainingConfig:
    """Training."""

    num_steps: int | None = option(
        None,
        f"training steps (default: {DEFAULT_NUM_STEPS}, or {DEFAULT_NUM_EPOCHS} epochs if they have more)",
        flag="num_steps",
        minimum=1,
    )
    num_epochs: int | None = option(None, "training epochs, instead of num_steps", flag="num_epochs", minimum=1)
    minutes: float | None = option(
        None, "training time without evaluation (minutes), instead of num_steps", flag="minutes", minimum=0.001
    )
    batch_size: int = option(2, "images per step", flag="batch_size", minimum=1)
    crops_per_image: int = option(
        1,
        "random crops per training image and epoch; use more for large images",
        flag="crops_per_image",
        minimum=1,
    )

    optimizer: str = option("adamw", "optimizer", flag="optimizer", choices=("adamw", "sgd"))
    learning_rate: float = option(3e-3, "maximum learning rate", flag="learning_rate", minimum=0.0)
    pretrained_lr_factor: float = option(
        0.1, "learning-rate factor for pretrained parameters", flag="pretrained_lr_factor", minimum=0.0
    )
    momentum: float = option(0.9, "momentum of SGD", minimum=0.0, maximum=1.0)
    weight_decay: float = option(
        0.01, "weight decay (not for normalization layers and biases)", flag="weight_decay", minimum=0.0
    )
    clip_norm: float | None = option(5.0, "max. norm of the gradient (none: no clipping)", minimum=1e-6)
    schedule: str = option(
        "cosine", "learning-rate schedule after the warm-up", flag="schedule", choices=("cosine", "constant")
    )
    warmup_steps: int = option(
        20, "warm-up steps, in which the learning rate increases from 0", flag="warmup_steps", minimum=0
    )
    final_lr_factor: float = option(
        0.01, "learning-rate factor at the end of the cosine schedule", minimum=0.0, maximum=1.0
    )

    seed: int = option(0, "random seed of training", flag="seed", minimum=0, maximum=2**63 - 1)
    device: str = option("auto", "auto, cpu, cuda, or the index of a GPU", flag="device")
    num_workers: int = option(
        0, "data loader workers (0: load in the main process)", flag="num_threads", minimum=0, renamed="num_threads"
    )
    torch_threads: int = option(0, "CPU threads of PyTorch (0: PyTorch's default)", flag="torch_threads", minimum=0)
    amp: bool | None = option(None, "bfloat16 mixed precision (default: if the hardware supports it)", flag="amp")
    channels_last: bool | None = option(None, "channels-last memory format (default: if it is faster)")
    deterministic: bool = option(False, "use only deterministic operations on GPUs", flag="deterministic")

    eval_every_n_epochs: int | None = option(
        None,
        "evaluate on the validation images every n epochs (-1: only after the last; default: at most 10 times and 20% "
        "of the time)",
        flag="eval_every_n_epochs",
        minimum=-1,
    )
    best_metric: str = option(
        "auto",
        "metric that selects weights/best.pt (auto: mask_ap, box_ap, or the validation loss)",
        flag="best_metric",
    )
    save_model_every_n_epochs: int = option(
        -1, "also save weights/epoch-NNNN.pt every n epochs (-1: no)", flag="save_model_every_n_epochs", minimum=-1
    )
    checkpoint_every_n_seconds: float = option(
        60.0, "max. time between checkpoints weights/last.pt (seconds)", minimum=0.0
    )
    log_every_n_steps: int = option(10, "write the losses of every n-th step to metrics.jsonl (0: never)", minimum=0)

    def __post_init__(self) -> None:
        """Raise `UserError` if more than one budget is set."""
        given = [name for name in BUDGET if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"--{given[0]} and --{given[1]}: give one of them; each sets the length of training")
