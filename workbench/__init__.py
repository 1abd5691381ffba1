"""Parts shared by the programs: experiments, data and tables; and `train`, which trains a detector from Python."""

from workbench.training import train

__all__ = ["train"]
