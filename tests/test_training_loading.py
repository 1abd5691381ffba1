"""Samples depend on (seed, epoch, index) alone."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_toy import ToyImages, jitter

from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances
from maskrcnn.training import loading
from maskrcnn.training.loading import (
    Batch,
    KeyedSamples,
    LoadingError,
    ShuffledBatches,
    count_steps_per_epoch,
    key_seed,
    load_evaluation_batches,
    load_training_batches,
    make_keyed_generator,
)


def assert_same_batches(first: list[Batch], second: list[Batch]) -> None:
    for a, b in zip(first, second, strict=True):
        assert a.ids == b.ids
        assert all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))
        assert all(torch.equal(x.boxes, y.boxes) for x, y in zip(a.instances, b.instances, strict=True))


def batches(first_step: int, count: int, num_workers: int = 0) -> list[Batch]:
    samples = KeyedSamples(ToyImages(), jitter, seed=5)
    return list(itertools.islice(load_training_batches(samples, 2, first_step, num_workers), count))


def test_background_loaders_change_nothing() -> None:
    assert_same_batches(batches(0, 9), batches(0, 9, num_workers=2))


def test_workers_end_with_the_batches_and_others_live_on() -> None:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    other = context.Process(target=time.sleep, args=(60,), daemon=True)
    other.start()
    try:
        samples = KeyedSamples(SlowImages(), jitter, seed=5)
        with closing(load_training_batches(samples, 2, num_workers=2)) as loaded:
            next(loaded)
            workers = set(multiprocessing.active_children()) - {other}
            assert len(workers) == 2
            started = time.monotonic()
        assert time.monotonic() - started < 4  # PyTorch alone waits for the batches that are being made
        assert not any(worker.is_alive() for worker in workers) and other.is_alive()
    finally:
        other.terminate()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("raised", [RuntimeError("DataLoader worker"), ConnectionResetError(104, "reset"), EOFError()])
def test_whatever_a_dead_worker_breaks_is_one_error(monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    iterate = loading._iterate

    def broken(loader: Iterable[Batch]) -> Iterator[Batch]:
        loaded = iterate(loader)
        yield next(loaded)
        os.kill(max(multiprocessing.active_children(), key=lambda child: child.pid or 0).pid or 0, signal.SIGKILL)
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(loading, "_iterate", lambda loader: started(broken(loader)))
        samples = KeyedSamples(ToyImages(), jitter, seed=5)
        with closing(load_training_batches(samples, 2, num_workers=2)) as loaded:
            next(loaded)
            with pytest.raises(LoadingError, match=r"worker ended early \(process \d+, exit code -9\).* \(now 2\)$"):
                next(loaded)
        patch.setattr(loading, "_iterate", lambda loader: failing(raised))
        with closing(load_training_batches(samples, 2)) as loaded, pytest.raises(type(raised)):
            next(loaded)  # no worker has ended: the error is another


def started(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same, with the workers running already."""
    return itertools.chain([next(batches)], batches)


def failing(error: Exception) -> Iterator[Batch]:
    raise error
    yield


class SlowImages(ToyImages):
    """All images but the first two take long."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Instances]:
        time.sleep(0 if SlowImages.number_read() < 2 else 30)
        return super().__getitem__(index)

    reads = 0

    @classmethod
    def number_read(cls) -> int:
        """How many this process has read before."""
        cls.reads += 1
        return cls.reads - 1


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_batches_from_a_later_step_are_the_same(step: int) -> None:
    assert_same_batches(batches(0, 9)[step:], batches(step, 9 - step))


def test_what_was_drawn_before_changes_nothing() -> None:
    before = batches(0, 2)
    torch.rand(17)
    assert_same_batches(before, batches(0, 2))


def test_epochs_and_seeds_differ() -> None:
    first, second = KeyedSamples(ToyImages(), jitter, 0), KeyedSamples(ToyImages(), jitter, 1)
    images = [first[0, 3].image, first[1, 3].image, second[0, 3].image]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(images, 2))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 60))
def test_every_epoch_sees_every_sample_once(num_samples: int, batch_size: int, first_step: int) -> None:
    steps = count_steps_per_epoch(num_samples, batch_size)
    all_keys = list(itertools.islice(ShuffledBatches(num_samples, batch_size, 0), steps * 3))
    for epoch in range(3):
        keys = list(itertools.chain.from_iterable(all_keys[epoch * steps : (epoch + 1) * steps]))
        assert sorted(keys) == [(epoch, index) for index in range(num_samples)]
    later = list(itertools.islice(ShuffledBatches(num_samples, batch_size, 0, first_step), 5))
    assert later == list(itertools.islice(ShuffledBatches(num_samples, batch_size, 0), first_step, first_step + 5))


def test_an_epoch_shows_each_image_in_crops_of_its_own() -> None:
    one, three = (KeyedSamples(ToyImages(), jitter, 5, crops) for crops in (1, 3))
    assert (len(one), len(three), three.num_images) == (7, 21, 7)
    assert [three[0, index].image_id for index in range(21)] == [100 + index // 3 for index in range(21)]
    crops = [three[0, index].image for index in range(6, 9)] + [three[1, 6].image]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(crops, 2))
    for samples, index in ((one, 6), (three, 18), (three, 20)):
        image, _ = jitter(*ToyImages()[6], make_keyed_generator(5, "sample", 0, index))
        assert torch.equal(samples[0, index].image, image)
    steps = count_steps_per_epoch(21, 2)
    for start in (0, steps):
        ids = [i for batch in itertools.islice(load_training_batches(three, 2, start), steps) for i in batch.ids]
        assert sorted(ids) == [100 + index // 3 for index in range(21)]
    assert three.names([104]) == one.names([104])


def test_evaluation_goes_through_the_data_set_in_order_and_again() -> None:
    loader = load_evaluation_batches(KeyedSamples(ToyImages()), 3)
    for _ in range(2):
        assert [batch.ids for batch in loader] == [[100, 101, 102], [103, 104, 105], [106]]


def test_keys_give_the_same_number_everywhere() -> None:
    assert key_seed(0, "step", 1, 2) == 184749658296298036
    assert len({key_seed(a, b) for a in range(30) for b in range(30)}) == 900
    assert key_seed(1, 23) != key_seed(12, 3)


def test_empty_data_set_is_an_error() -> None:
    with pytest.raises(UserError, match="no images"):
        KeyedSamples(ToyImages(0))
