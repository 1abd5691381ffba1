"""Batches of samples addressed by (epoch, index), with keyed randomness.

The random transform of a sample depends only on (seed, epoch, index), not on the number of workers, the order, or
previous draws. Therefore a run can be resumed at any step.
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
from maskrcnn.processes import block_interrupts, start_worker
from maskrcnn.structures.instances import Instances

Transform = Callable[[Tensor, Instances, torch.Generator], tuple[Tensor, Instances]]
"""Random transform: `(image [C, H, W], instances, generator) -> (image, instances)`."""


class ImageDataset(Protocol):
    """Interface of a data set for training."""

    @property
    def image_ids(self) -> list[int]:
        """Id of each image."""
        ...

    @property
    def image_names(self) -> list[str]:
        """Name of each image."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]: ...


class TrainingSample(NamedTuple):
    """Transformed image with its objects.

    Attributes:
        image: `[C, H, W]`, uint8, uint16 or float32.
        instances: its objects.
        image_id: id of the image in the data set.
    """

    image: Tensor
    instances: Instances
    image_id: int


class Batch(NamedTuple):
    """Samples of one training step.

    Attributes:
        images: `[C, H, W]` each, of any sizes.
        instances: objects of each image.
        ids: ids of the images in the data set.
    """

    images: list[Tensor]
    instances: list[Instances]
    ids: list[int]

    def to(self, device: torch.device) -> Batch:
        """Move images and objects to a device."""
        images = [image.to(device, non_blocking=True) for image in self.images]
        return Batch(images, [instances.to(device) for instances in self.instances], self.ids)


def key_seed(*key: int | str) -> int:
    """Hash a key to a seed in [0, 2^63), the same on all machines."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_keyed_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded with `key_seed`."""
    return torch.Generator().manual_seed(key_seed(*key))


class KeyedSamples(Dataset[TrainingSample]):
    """Data set with a random transform, addressed by `(epoch, index)`.

    If the data set has `read_by_window` and the transform `takes_windows`, only the cropped window of a large image is
    read.

    Args:
        dataset: the data set.
        transform: random transform, if any.
        seed: random seed.
        crops_per_image: number of samples per image, each transformed separately; sample `index` is of image
            `index // crops_per_image`.

    Raises:
        UserError: If the data set is empty.
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
        """Number of images."""
        return len(self.dataset)

    def __len__(self) -> int:
        return self.num_images * self.crops_per_image

    def __getitem__(self, key: tuple[int, int]) -> TrainingSample:
        epoch, index = key
        number = index // self.crops_per_image
        read = self.dataset.__getitem__
        if getattr(self.transform, "takes_windows", False):
            read = getattr(self.dataset, "read_by_window", read)
        image, instances = read(number)
        if self.transform is not None:
            generator = make_keyed_generator(self.seed, "sample", epoch, index)
            image, instances = self.transform(image, instances, generator)
        return TrainingSample(image, instances, self.image_ids[number])

    def names(self, image_ids: Iterable[int]) -> list[str]:
        """Return the names of images with the given ids."""
        name_of = dict(zip(self.image_ids, self.dataset.image_names, strict=True))
        return [name_of[image_id] for image_id in image_ids]


def compute_epoch_order(num_samples: int, seed: int, epoch: int) -> list[int]:
    """Return the shuffled indices of all samples for an epoch (starting at 0)."""
    order: list[int] = torch.randperm(num_samples, generator=make_keyed_generator(seed, "order", epoch)).tolist()
    return order


def count_steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Return the number of steps per epoch; the last batch may be smaller."""
    return -(-num_samples // batch_size)


class ShuffledBatches:
    """Endless shuffled batches of `(epoch, index)` keys, starting at `first_step` (from 0)."""

    def __init__(self, num_samples: int, batch_size: int, seed: int, first_step: int = 0) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.first_step = first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, skipped = divmod(self.first_step, count_steps_per_epoch(self.num_samples, self.batch_size))
        while True:
            keys = [(epoch, index) for index in compute_epoch_order(self.num_samples, self.seed, epoch)]
            for start in range(skipped * self.batch_size, self.num_samples, self.batch_size):
                yield keys[start : start + self.batch_size]
            epoch, skipped = epoch + 1, 0


class LoadingError(UserError):
    """A batch could not be loaded; the state of the run is that after the previous step."""


def load_training_batches(
    samples: KeyedSamples, batch_size: int, first_step: int = 0, num_workers: int = 0
) -> Generator[Batch]:
    """Load endless shuffled batches.

    Args:
        samples: samples of the training set.
        batch_size: number of samples per batch.
        first_step: step to start at, from 0.
        num_workers: number of data loader workers; 0 loads in this process.

    Raises:
        LoadingError: If an image cannot be read or a worker has ended.
    """
    keys = ShuffledBatches(len(samples), batch_size, samples.seed, first_step)
    others = set(multiprocessing.active_children())
    workers: set[BaseProcess] = set()
    try:
        batches = _iterate(_make_loader(samples, keys, num_workers))
        workers = set(multiprocessing.active_children()) - others
        yield from batches
    except UserError as error:  # the message from a worker is its traceback, with the original message in the last line
        last = str(error).rstrip().split("\n")[-1]
        raise LoadingError(last.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")) from error
    except (RuntimeError, OSError, EOFError) as error:  # depends on what PyTorch was doing when the worker ended
        ended = _describe_ended(workers)
        if not ended:
            raise
        raise LoadingError(
            f"a data loader worker ended early ({', '.join(ended)}): killed, or out of memory; continue with --resume, "
            f"with fewer workers if needed: --num_threads (now {num_workers})"
        ) from error
    finally:
        for worker in workers:  # PyTorch would wait for prefetched batches that are not needed
            worker.terminate()


def _describe_ended(workers: Collection[BaseProcess]) -> list[str]:
    """Describe the workers that have ended, or end within a second, as the error may arrive first."""
    ready = connection.wait([worker.sentinel for worker in workers], timeout=1.0)
    ended = [worker for worker in workers if worker.sentinel in ready]
    for worker in ended:
        worker.join(1.0)  # the sentinel is ready slightly before the exit code is known
    return [f"process {worker.pid}, exit code {worker.exitcode}" for worker in ended]


def _iterate(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Iterate over batches without PyTorch's handler of SIGCHLD.

    The handler raises an error about a dead worker anywhere in the main thread, even while weights are updated or
    saved. Without it, loading the next batch raises the error.
    """
    child_ended = getattr(signal, "SIGCHLD", None)  # Windows has none
    if child_ended is None or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(child_ended)
    with block_interrupts():
        batches = iter(loader)
    signal.signal(child_ended, signal.SIG_DFL if before is None else before)
    return batches


def load_evaluation_batches(samples: KeyedSamples, batch_size: int, num_workers: int = 0) -> Iterable[Batch]:
    """Load all samples in the order of the data set; the result can be iterated repeatedly."""
    starts = range(0, len(samples), batch_size)
    keys = [[(0, index) for index in range(start, min(start + batch_size, len(samples)))] for start in starts]
    return _make_loader(samples, keys, num_workers)


def collate(samples: Sequence[TrainingSample]) -> Batch:
    """Collect samples in a batch, without padding or stacking."""
    images, instances, ids = zip(*samples, strict=True)
    return Batch(list(images), list(instances), list(ids))


def _make_loader(samples: KeyedSamples, keys: Iterable[list[tuple[int, int]]], num_workers: int) -> Iterable[Batch]:
    return DataLoader(
        samples,
        batch_sampler=keys,  # any iterable of lists of keys is accepted
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=_start_worker,
        persistent_workers=num_workers > 0,
    )


def _start_worker(worker: int) -> None:
    start_worker()
