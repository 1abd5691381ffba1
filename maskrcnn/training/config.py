"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from maskrcnn.config import UserError, option

DEFAULT_NUM_STEPS, DEFAULT_NUM_EPOCHS = 640, 10  # the larger of both, where nothing is set
BUDGET = ("num_steps", "num_epochs", "minutes")  # fields of `TrainingConfig`, of which one may be set

MAY_DIFFER_ON_RESUME = (
    "device",
    "num_threads",
    "torch_threads",
    "best_metric",
    "save_model_every_n_epochs",
    "checkpoint_every_n_seconds",
)
"""Fields of `TrainingConfig` that a resumed run may change.

With the same machine, PyTorch and `torch_threads` a resumed run ends with the same bits as one that nothing stopped.
With others, sums are rounded in another order; such differences grow from step to step, as those of another seed do.

Not the budget: the learning rate follows a curve over all steps, so a run of 60 epochs is no prolonged run of 30.
"""


@dataclass(frozen=True)
class TrainingConfig:
    """Training."""

    num_steps: int | None = option(
        None,
        f"training steps (default: {DEFAULT_NUM_STEPS}, or {DEFAULT_NUM_EPOCHS} epochs where these are more)",
        flag="num_steps",
        minimum=1,
    )
    num_epochs: int | None = option(
        None, "passes over the training images, in place of num_steps", flag="num_epochs", minimum=1
    )
    minutes: float | None = option(
        None, "minutes of training (evaluation not counted), in place of num_steps", flag="minutes", minimum=0.001
    )
    batch_size: int = option(2, "images a step", flag="batch_size", minimum=1)
    crops_per_image: int = option(
        1,
        "random crops of each training image in an epoch; more for large images",
        flag="crops_per_image",
        minimum=1,
    )

    optimizer: str = option("adamw", "the optimiser", flag="optimizer", choices=("adamw", "sgd"))
    learning_rate: float = option(3e-3, "highest learning rate", flag="learning_rate", minimum=0.0)
    pretrained_lr_factor: float = option(
        0.1, "learning-rate factor of pretrained parameters", flag="pretrained_lr_factor", minimum=0.0
    )
    momentum: float = option(0.9, "momentum of sgd", minimum=0.0, maximum=1.0)
    weight_decay: float = option(0.01, "weight decay (not on norm layers and biases)", flag="weight_decay", minimum=0.0)
    clip_norm: float | None = option(5.0, "largest norm of the gradient (none: no clipping)", minimum=1e-6)
    schedule: str = option(
        "cosine", "the learning rate after the warm-up", flag="schedule", choices=("cosine", "constant")
    )
    warmup_steps: int = option(20, "steps over which the learning rate rises from 0", flag="warmup_steps", minimum=0)
    final_lr_factor: float = option(0.01, "learning-rate factor at the end of the cosine", minimum=0.0, maximum=1.0)

    seed: int = option(
        0, "the number that all randomness of training is keyed by", flag="seed", minimum=0, maximum=2**63 - 1
    )
    device: str = option("auto", "auto, cpu, cuda, or the number of a GPU", flag="device")
    num_threads: int = option(
        0, "background loaders of training images (0: load between steps)", flag="num_threads", minimum=0
    )
    torch_threads: int = option(0, "CPU threads of PyTorch (0: PyTorch's choice)", flag="torch_threads", minimum=0)
    amp: bool | None = option(None, "compute in bfloat16 where it is safe (default: if the machine has it)", flag="amp")
    channels_last: bool | None = option(None, "keep images channels-last in memory (default: where it is faster)")
    deterministic: bool = option(False, "only operations that repeat exactly on a GPU, too", flag="deterministic")

    eval_every_n_epochs: int | None = option(
        None,
        "evaluate on validation images every n epochs (-1: only after the last; default: at most 10 times and a fifth "
        "of the time)",
        flag="eval_every_n_epochs",
        minimum=-1,
    )
    best_metric: str = option(
        "auto", "what weights/best.pt is best in (auto: mask_ap, or box_ap, or the validation loss)", flag="best_metric"
    )
    save_model_every_n_epochs: int = option(
        -1, "also keep weights/epoch-NNNN.pt every n epochs (-1: no)", flag="save_model_every_n_epochs", minimum=-1
    )
    checkpoint_every_n_seconds: float = option(60.0, "longest time between two savings of weights/last.pt", minimum=0.0)
    log_every_n_steps: int = option(10, "write the losses of every n-th step to metrics.jsonl (0: none)", minimum=0)

    def __post_init__(self) -> None:
        """Raise `UserError` where more than one of the budgets is set."""
        given = [name for name in BUDGET if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"--{given[0]} and --{given[1]}: give one of them; each sets the length of training")
