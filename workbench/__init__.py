"""Parts shared by the programs: experiments, data and tables; and `train`, which trains a detector from Python."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.training import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    if name != "train":
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    from workbench.training import train

    return train
