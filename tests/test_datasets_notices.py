"""Notices of what reading changed: shown before every image was read, and stored in a run folder."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datasets import notices
from datasets.checks import Tally, TallyByImage
from datasets.deep_images import RULE, DeepImages
from datasets.notices import Extent, Preview, describe_notices, preview, write_notices
from datasets.selection import Subset
from datasets.splits import collect_counts
from maskrcnn.config import UserError
from maskrcnn.structures.instances import Instances

CLIPPED, EMPTY = "boxes clipped to the image", "empty masks dropped"


class Clock:
    """Stands for the module `time`: it is as late as `now` says."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Toy:
    """Each image has two objects, of which one is clipped, and takes 0.1 s; some images cannot be read."""

    class_names, has_masks = ("object",), False

    def __init__(self, count: int, bad: tuple[int, ...] = (), clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self.image_ids, self.image_names = list(range(count)), [str(number) for number in range(count)]
        opening = Tally()
        opening.add(EMPTY, "file", 5)
        self._tallies, self._bad, self.read = TallyByImage(count, opening), bad, list[int]()

    @property
    def counts(self) -> Counter[str]:
        return self._tallies.counts

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        self.read.append(index)
        self._clock.now += 0.1
        if index in self._bad:
            raise UserError("bad")
        self._tallies.of(index).add(CLIPPED, "file")
        boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 8, 8]])
        return torch.zeros(3, 8, 8, dtype=torch.uint8), Instances((8, 8), boxes, torch.ones(2, dtype=torch.int64))


def test_a_small_set_is_read_whole_and_its_notices_are_final() -> None:
    splits = {"training": Toy(7), "test": Toy(3, bad=(1,))}
    seen = preview(splits)
    assert seen.partial == {} and sorted(splits["training"].read) == list(range(7))
    assert list(describe_notices(collect_counts(splits), seen)) == [
        f"all images: 10 {EMPTY} (5 training, 5 test)",
        f"all images: 9 {CLIPPED} (7 training, 2 test)",  # the bad image raises where it is used
    ]


def test_totals_within_rules_are_summed_and_one_is_singular() -> None:
    counts = {"training": {"of 12 objects are ignored": 1}, "test": {"of 1,300 objects are ignored": 2, CLIPPED: 1}}
    assert list(describe_notices(counts)) == [
        "all images: 3 of 1,312 objects are ignored (1 training, 2 test)",
        "test images: 1 box clipped to the image",
    ]
    assert list(describe_notices({"training": {"of 12 objects are ignored": 1}})) == [
        "training images: 1 of 12 objects is ignored"
    ]


def test_of_a_large_set_evenly_spaced_images_are_read_and_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "PREVIEW_SECONDS", 1e9)
    toy = Toy(1000)
    seen = preview({"training": toy})
    assert sorted(toy.read) == list(range(0, 1000, 5))
    assert seen.partial == {"training": Extent(200, 1000, 400)}
    assert list(describe_notices(collect_counts({"training": toy}), seen)) == [
        f"training images: 5 {EMPTY}",  # known without reading any image
        f"training images: 200 {CLIPPED} (read so far: 200 of 1,000 training images, 400 objects)",
    ]


def test_the_preview_ends_when_its_time_is_over_with_images_from_all_over_the_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(notices, "time", clock)
    toy = Toy(400, clock=clock)
    assert 10 <= preview({"training": toy}).partial["training"].images == len(toy.read) <= 12
    assert max(b - a for a, b in itertools.pairwise([0, *sorted(toy.read), 400])) <= 100


def test_the_time_that_small_splits_leave_goes_to_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(notices, "time", clock)
    splits = {name: Toy(count, clock=clock) for name, count in (("training", 300), ("validation", 1), ("test", 50))}
    partial = preview(splits).partial
    assert list(partial) == ["training", "test"] and clock.now < 1.4
    assert 4 <= partial["test"].images <= 6 and 4 <= partial["training"].images <= 6


def test_splits_of_one_reader_share_a_line_that_names_what_was_read_of_each() -> None:
    toy = Toy(10)
    splits = {"training": Subset(toy, range(8)), "validation": Subset(toy, range(8, 10))}
    seen = Preview(collect_counts(splits), {"training": Extent(3, 8, 6)})
    for index in (0, 1, 2, 8, 9):
        toy[index]
    assert list(describe_notices(collect_counts(splits), seen)) == [
        f"training and validation images: 5 {EMPTY}",
        f"training and validation images: 5 {CLIPPED} (read so far: 3 of 8 training images, 6 objects)",
    ]


@pytest.mark.parametrize("shared", [True, False])
def test_wrapped_splits_of_one_reader_count_it_once_and_their_own_images_each(shared: bool) -> None:
    train, test = (Toy(3), Toy(3))
    parts = [Subset(train, [0, 1]), Subset(train if shared else test, [2])]
    deep = [DeepImages(part, levels=(0.0, 1.0)) for part in parts]
    for number in (0, 1):
        deep[0]._tallies.of(number).add(RULE, "file")
    splits = {"training": Subset(deep[0], [0]), "validation": Subset(deep[0], [1]), "test": deep[1]}
    once = f"training, validation and test images: 5 {EMPTY}"
    twice = f"all images: 10 {EMPTY} (5 training and validation, 5 test)"
    assert set(describe_notices(collect_counts(splits))) == {
        once if shared else twice,
        f"training and validation images: 2 {RULE}",
    }
    assert deep[0].counts == {EMPTY: 5, RULE: 2} and deep[1].counts == {EMPTY: 5}


def test_counts_in_a_run_folder_only_grow(tmp_path: Path) -> None:
    whole, part = {"training": Toy(6)}, {"training": Toy(6)}
    for index in range(6):
        whole["training"][index]
    write_notices(tmp_path, whole, Preview())
    first = json.loads((tmp_path / "data.json").read_text())
    assert first == {
        "images": {"training": 6},
        "images_read": {"training": 6},
        "notices": {"training": {EMPTY: 5, CLIPPED: 6}},
    }
    part["training"][0]  # in a process that takes the run up again
    counts = write_notices(tmp_path, part, Preview(partial={"training": Extent(1, 6, 2)}))
    assert counts == {"training": {EMPTY: 5, CLIPPED: 6}}
    assert json.loads((tmp_path / "data.json").read_text()) == first


@pytest.mark.parametrize("text", ["", "[]", '{"images_read": 3}', '{"images_read": {}, "notices": {"a": {"b": "c"}}}'])
def test_a_damaged_file_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.json").write_text(text)
    write_notices(tmp_path, {"test": Toy(2)}, Preview())
    assert json.loads((tmp_path / "data.json").read_text())["notices"] == {"test": {EMPTY: 5}}
