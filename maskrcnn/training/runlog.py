"""Run folders and their logs. Folders are never overwritten, and all metrics are in `metrics.jsonl`."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.files import sync_file, sync_folder, write_text
from maskrcnn.text import escape, format_count
from maskrcnn.training.environment import describe_environment
from maskrcnn.training.events import truncate_events

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def create_run(output_dir: str | os.PathLike[str], name: str) -> Path:
    """Create the folder of a new run, `output_dir/name-N`, where N follows the highest existing number.

    Programs that start at the same time get different folders.

    Raises:
        UserError: If the folder cannot be created.
    """
    parent = Path(output_dir)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max(_numbers(parent, name), default=0)
        while True:
            folder = parent / f"{name}-{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                sync_folder(parent)
                return folder
    except OSError as error:
        raise _not_writable(parent, error) from error


@contextmanager
def remove_if_empty(folder: Path) -> Iterator[None]:
    """Remove the folder of a new run if the context raises an error and the folder is empty."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the folder is not empty
            folder.rmdir()
        raise


def _numbers(parent: Path, name: str) -> Iterable[int]:
    endings = (path.name.removeprefix(f"{name}-") for path in parent.glob(f"{name}-*"))
    return (int(ending) for ending in endings if ending.isdecimal())


def _not_writable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {path}: {error.strerror or error}; choose another --output_dir")


class RunLog:
    """Log of a run: `metrics.jsonl`, `train.log`, TensorBoard events, configuration, and environment.

    All methods that write raise `UserError` if the folder is not writable.

    Args:
        folder: folder of the run.
        console: prints a line.
        log_file: additional file for the lines of `train.log`.
        tensorboard: whether to write TensorBoard events.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        console: Callable[[str], None] = print,
        log_file: str | os.PathLike[str] | None = None,
        tensorboard: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.console = console
        self.log_files = [self.folder / "train.log"] + ([Path(log_file)] if log_file else [])
        self.tensorboard = tensorboard
        self._writer: SummaryWriter | None = None

    @property
    def weights(self) -> Path:
        """Folder of the weights."""
        return self.folder / "weights"

    @property
    def metrics_file(self) -> Path:
        """`metrics.jsonl`, with one JSON object per line."""
        return self.folder / "metrics.jsonl"

    def start(self, config_toml: str, **environment: str) -> None:
        """Write `config.toml` and `environment.json`; keyword arguments are added to the latter."""
        try:
            self.weights.mkdir(exist_ok=True)
            write_text(self.folder / "config.toml", config_toml)
            description = describe_environment() | environment
            write_text(self.folder / "environment.json", json.dumps(description, indent=2) + "\n")
        except OSError as error:
            raise _not_writable(self.folder, error) from error

    def info(self, line: str) -> None:
        """Print a line, and write it to `train.log`."""
        self.console(escape(line))
        self.write_line(line)

    def write_line(self, line: str) -> None:
        """Write a line to `train.log` with the current time."""
        line = escape(line)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for path in self.log_files:
            _append(path, f"{stamp}  {line}\n")

    def record(self, kind: str, *, epoch: int, step: int, split: str | None = None, **values: float) -> None:
        """Add a line to `metrics.jsonl` and its numbers to TensorBoard, under `kind/` or `split/`.

        Args:
            kind: "step", "train", or "validation" for losses, or "evaluation" for metrics.
            epoch: epoch, from 1.
            step: number of steps so far.
            split: evaluated split, "validation" or "test"; None for training images.
            **values: values by name; values that are not finite are written as null.
        """
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        source = {"kind": kind} | ({"split": split} if split is not None else {})
        line = source | {"epoch": epoch, "step": step} | finite
        _append(self.metrics_file, json.dumps(line, allow_nan=False) + "\n")
        if self.tensorboard:
            for name, value in values.items():
                self._events().add_scalar(f"{split or kind}/{name}", value, step)

    def add_image(self, name: str, image: Tensor, step: int) -> None:
        """Write an image `[3, H, W]` (uint8, or float32 in [0, 1]) to TensorBoard."""
        if self.tensorboard:
            self._events().add_image(name, image.detach().cpu(), step)

    def add_hyperparameters(self, options: Mapping[str, float | str], metrics: Iterable[str]) -> None:
        """Write the options of the run to TensorBoard's HParams, beside its final metrics.

        Args:
            options: values by name.
            metrics: tags of the scalars that measure the result, such as "test/mask_ap".
        """
        if not self.tensorboard:
            return
        from torch.utils.tensorboard.summary import hparams

        writer = self._events().file_writer
        assert writer is not None
        for summary in hparams(dict(options), dict.fromkeys(metrics, 0.0)):
            writer.add_summary(summary)

    def truncate(self, epoch: int, step: int) -> None:
        """Discard what was recorded after `epoch` epochs and `step` steps; a resumed run records it again."""
        lines, num_bad = _parse_metrics(self.metrics_file)
        kept = [line for line in lines if _is_before(line, epoch, step)]
        recorded = {(line["kind"], line["step"]) for line in kept}
        kinds = {line["kind"] for line in lines}
        epoch_ends = {line["step"] for line in kept if line["kind"] != "step"}  # steps at which images are added

        def is_kept(tag: str, step: int) -> bool:
            kind = tag.partition("/")[0]
            return (kind, step) in recorded if kind in kinds else step in epoch_ends

        self.close()
        try:
            write_text(self.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))
            truncate_events(self.folder / "tensorboard", is_kept)
        except OSError as error:
            raise _not_writable(self.folder, error) from error
        if num_bad:
            self.info(f"{self.metrics_file}: skipped {format_count(num_bad, 'unreadable lines')}")

    def sync(self) -> None:
        """Flush all records to the disk, so that a power failure cannot leave weights without their metrics."""
        if self._writer is not None:
            self._writer.flush()
        try:
            for path in (self.metrics_file, self.folder / "train.log"):
                if path.exists():
                    sync_file(path)
            sync_folder(self.folder)
        except OSError as error:
            raise _not_writable(self.folder, error) from error

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _events(self) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # the import takes a second

            try:
                self._writer = SummaryWriter(self.folder / "tensorboard")
            except OSError as error:
                raise _not_writable(self.folder, error) from error
        return self._writer


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the lines of `metrics.jsonl`; damaged lines (after a kill or a power failure) are skipped."""
    return _parse_metrics(path)[0]


def _parse_metrics(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], int]:
    """Return the lines and the number of damaged ones, not counting empty lines and an unfinished last line."""
    if not Path(path).is_file():
        return [], 0
    texts = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    lines = [line for text in texts if (line := _parse_line(text)) is not None]
    return lines, sum(bool(text.strip()) for text in texts) - len(lines)


def _parse_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    complete = isinstance(line, dict) and all(isinstance(line.get(key), int) for key in ("epoch", "step"))
    return line if complete and isinstance(line.get("kind"), str) else None


def _is_before(line: dict[str, Any], epoch: int, step: int) -> bool:
    """Return whether a line precedes a checkpoint; all kinds except `step` are written at the end of an epoch."""
    if line["kind"] == "step":
        return bool(line["step"] <= step)
    return bool(line["epoch"] <= epoch)


def _append(path: Path, text: str) -> None:
    """Append to a file, which is opened each time, so that nothing is lost in a buffer or locked on Windows."""
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise _not_writable(path, error) from error
