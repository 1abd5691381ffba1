"""Samples addressed by (epoch, index), in batches, with randomness that is keyed.

What a sample looks like in an epoch depends on (seed, epoch, index) alone: neither on the number of loaders, nor on
the order, nor on what was drawn before. So a run can go on at any step.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskrcnn.config import UserError
from maskrcnn.processes import interrupts_blocked, start_worker
from maskrcnn.structures.instances import Instances

Transform = Callable[[Tensor, Instances, torch.Generator], tuple[Tensor, Instances]]
"""`(image [3, H, W], instances, generator) -> (image, instances)`"""


class ImageDataset(Protocol):
    """What training asks of a data set."""

    @property
    def image_ids(self) -> list[int]: ...

    @property
    def image_names(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]: ...


class Sample(NamedTuple):
    """An image `[3, H, W]` (uint8, or float32 in [0, 1]), its objects, and its number in the data set."""

    image: Tensor
    instances: Instances
    image_id: int


class Batch(NamedTuple):
    """Images of one step (sizes may differ), their objects, and their numbers in the data set."""

    images: list[Tensor]
    instances: list[Instances]
    ids: list[int]

    def to(self, device: torch.device) -> Batch:
        """The batch with images and objects on `device`."""
        images = [image.to(device, non_blocking=True) for image in self.images]
        return Batch(images, [instances.to(device) for instances in self.instances], self.ids)


def key_seed(*key: int | str) -> int:
    """A number in [0, 2^63) that is the same for the same key everywhere, and unrelated for any other key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose draws depend on `key` alone."""
    return torch.Generator().manual_seed(key_seed(*key))


class KeyedSamples(Dataset[Sample]):
    """A data set after its random transform, addressed by `(epoch, index)`.

    Each image is `crops_per_image` samples, image × crops_per_image + k: crops of its own where the transform crops.
    Where data set and transform offer it (`read_by_window`, `takes_windows`), only what a crop shows of a large image
    is read. Without a transform the epoch changes nothing. An empty data set raises `UserError`.
    """

    def __init__(
        self, dataset: ImageDataset, transform: Transform | None = None, seed: int = 0, crops_per_image: int = 1
    ) -> None:
        if len(dataset) == 0:
            raise UserError("the data set has no images; check its folder")
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.crops_per_image = crops_per_image
        self.image_ids = list(dataset.image_ids)

    @property
    def num_images(self) -> int:
        return len(self.dataset)

    def __len__(self) -> int:
        return self.num_images * self.crops_per_image

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        number = index // self.crops_per_image
        read = self.dataset.__getitem__
        if getattr(self.transform, "takes_windows", False):
            read = getattr(self.dataset, "read_by_window", read)
        image, instances = read(number)
        if self.transform is not None:
            generator = keyed_generator(self.seed, "sample", epoch, index)
            image, instances = self.transform(image, instances, generator)
        return Sample(image, instances, self.image_ids[number])

    def names(self, image_ids: Iterable[int]) -> list[str]:
        """The names of the images with these numbers."""
        name_of = dict(zip(self.image_ids, self.dataset.image_names, strict=True))
        return [name_of[image_id] for image_id in image_ids]


def epoch_order(num_samples: int, seed: int, epoch: int) -> list[int]:
    """The indices of all samples in the order of this epoch (counted from 0)."""
    order: list[int] = torch.randperm(num_samples, generator=keyed_generator(seed, "order", epoch)).tolist()
    return order


def num_steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Steps that see every sample once; the last batch may be smaller."""
    return -(-num_samples // batch_size)


class ShuffledBatches:
    """Endless batches of `(epoch, index)` keys, from any step on (counted from 0)."""

    def __init__(self, num_samples: int, batch_size: int, seed: int, first_step: int = 0) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.first_step = first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, skipped = divmod(self.first_step, num_steps_per_epoch(self.num_samples, self.batch_size))
        while True:
            keys = [(epoch, index) for index in epoch_order(self.num_samples, self.seed, epoch)]
            for start in range(skipped * self.batch_size, self.num_samples, self.batch_size):
                yield keys[start : start + self.batch_size]
            epoch, skipped = epoch + 1, 0


class LoadingError(UserError):
    """A batch could not be loaded; the run is as it was after the step before."""


def training_batches(
    samples: KeyedSamples, batch_size: int, first_step: int = 0, num_loaders: int = 0
) -> Generator[Batch]:
    """Endless shuffled batches from `first_step` on; with loaders, they are made ahead in other processes.

    Raises:
        LoadingError: an image cannot be read, or a worker process has ended.
    """
    keys = ShuffledBatches(len(samples), batch_size, samples.seed, first_step)
    others = set(multiprocessing.active_children())
    workers: set[BaseProcess] = set()
    try:
        batches = _iterate(_loader(samples, keys, num_loaders))
        workers = set(multiprocessing.active_children()) - others
        yield from batches
    except UserError as error:  # a worker hands it over with its whole traceback as message; the last line is its own
        last = str(error).rstrip().split("\n")[-1]
        raise LoadingError(last.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")) from error
    except (RuntimeError, OSError, EOFError) as error:  # whatever PyTorch was doing when a worker ended
        ended = _ended(workers)
        if not ended:
            raise
        raise LoadingError(
            f"a data loader worker ended early ({', '.join(ended)}): killed, or out of memory; --resume goes on, with "
            f"fewer workers by --num_threads (now {num_loaders})"
        ) from error
    finally:
        for worker in workers:  # nobody needs the batches that they make ahead, and PyTorch would wait for these
            worker.terminate()


def _ended(workers: Collection[BaseProcess]) -> list[str]:
    """Those that have ended, or do so within a second: the error may be there first."""
    ready = connection.wait([worker.sentinel for worker in workers], timeout=1.0)
    ended = [worker for worker in workers if worker.sentinel in ready]
    for worker in ended:
        worker.join(1.0)  # its files are closed a moment before it has an exit code
    return [f"process {worker.pid}, exit code {worker.exitcode}" for worker in ended]


def _iterate(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The loader's batches, without PyTorch's handler of SIGCHLD.

    The handler raises an error about a dead worker wherever the main thread is, even while weights change or are saved.
    Without it the next batch raises the error.
    """
    child_ended = getattr(signal, "SIGCHLD", None)  # Windows has none
    if child_ended is None or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(child_ended)
    with interrupts_blocked():
        batches = iter(loader)
    signal.signal(child_ended, signal.SIG_DFL if before is None else before)
    return batches


def evaluation_batches(samples: KeyedSamples, batch_size: int, num_loaders: int = 0) -> Iterable[Batch]:
    """All samples once, in the order of the data set; can be gone through again and again."""
    starts = range(0, len(samples), batch_size)
    keys = [[(0, index) for index in range(start, min(start + batch_size, len(samples)))] for start in starts]
    return _loader(samples, keys, num_loaders)


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch of samples; nothing is padded or stacked."""
    images, instances, ids = zip(*samples, strict=True)
    return Batch(list(images), list(instances), list(ids))


def _loader(samples: KeyedSamples, keys: Iterable[list[tuple[int, int]]], num_loaders: int) -> Iterable[Batch]:
    return DataLoader(
        samples,
        batch_sampler=keys,  # any iterable; its items go to samples[...] one by one
        collate_fn=collate,
        num_workers=num_loaders,
        worker_init_fn=_start_worker,
        persistent_workers=num_loaders > 0,
    )


def _start_worker(worker: int) -> None:
    start_worker()
