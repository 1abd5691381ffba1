"""Mosaics and pasted objects: what is pasted where, what it hides, and where the parts come from."""

import itertools
from dataclasses import replace

import pytest
import torch
from mixing_toy import (
    BACKGROUND,
    SIZE,
    assert_same,
    assert_sound,
    bare,
    blocks,
    colour_of,
    coloured,
    cut,
    orientations,
    painted,
    seeded,
)

from augment import mixing
from augment.mixing import CopyPaste, Mosaic
from maskrcnn.structures.edges import CUTS, PAD_MODES, Edges
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.warping import Sample

# ---- pasted objects


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pasted_objects_are_in_the_image_exactly_at_their_masks(dtype: torch.dtype) -> None:
    def textured(index: int) -> Sample:
        image, truth = coloured(index)
        pixels = torch.randint(0, 256, image.shape, generator=seeded(index), dtype=torch.uint8)
        return (pixels if dtype == torch.uint8 else pixels / 255), truth

    (image, truth), donors = textured(0), [textured(1), textured(2)]
    transform, num_pasted = CopyPaste(6, donors, max_overlap=0, feather=0), 0
    for seed in range(20):
        moved_image, moved = transform(image, truth, seeded(seed))
        assert_sound((moved_image, moved))
        assert moved_image.dtype == dtype
        untouched = torch.ones(SIZE, dtype=torch.bool)
        for index in range(len(truth), len(moved)):
            donor_image, donor = donors[int(moved.ids[index]) // 100 - 1]
            old = int(torch.nonzero(donor.ids == moved.ids[index]))
            mask = moved.masks.to_dense()[index]
            untouched &= ~mask
            now = torch.cat([cut(moved_image, moved, index) * cut(mask, moved, index), cut(mask, moved, index)[None]])
            was = cut(donor.masks.to_dense()[old], donor, old)
            was = torch.cat([cut(donor_image, donor, old) * was, was[None]])
            assert any(torch.equal(now, each) for each in orientations(was))
            assert moved.labels[index] == donor.labels[old]
            num_pasted += 1
        assert torch.equal(moved_image[:, untouched], image[:, untouched])
        assert torch.equal(moved.ids[: len(truth)], truth.ids)
    assert num_pasted > 30


def test_all_orientations_and_numbers_of_objects_come() -> None:
    image, truth = blocks(size=(30, 30))
    donor_image, donor = blocks((2, 3, 6, 5), size=(30, 30))
    donor_image[0, 3:5, 2:6] = torch.arange(8).reshape(2, 4) / 8
    seen = set()
    for seed in range(80):
        moved_image, moved = CopyPaste(1, [(donor_image, donor)], feather=0)(image, truth, seeded(seed))
        assert len(moved) == 1
        seen.add(tuple(map(tuple, cut(moved_image[0], moved, 0).tolist())))
    assert seen == {tuple(map(tuple, each.tolist())) for each in orientations(donor_image[0, 3:5, 2:6])}
    many = CopyPaste(4, [coloured(1)], max_overlap=1)
    empty = blocks(size=SIZE)
    assert {len(many(*empty, seeded(seed))[1]) for seed in range(40)} >= {1, 2, 3}


def test_masks_below_lose_what_is_covered() -> None:
    image, truth = coloured(0)
    transform, lost = CopyPaste(12, [coloured(1)], max_overlap=1, feather=0), 0
    for seed in range(20):
        moved_image, moved = transform(image, truth, seeded(seed))
        assert_sound((moved_image, moved))
        masks = moved.masks.to_dense()
        assert masks.sum(dim=0).max() == 1, "two objects claim a pixel"
        for mask, number in zip(masks, moved.ids.tolist(), strict=True):
            shown = moved_image[:, mask]
            assert ((shown - colour_of(number)[:, None]).abs() < 1e-6).all()
        old = {int(number): int(area) for number, area in zip(truth.ids, truth.masks.areas(), strict=True)}
        lost += sum(int(a) < old.get(int(i), 0) for i, a in zip(moved.ids, moved.masks.areas(), strict=True))
    assert lost > 10


def test_only_masks_that_something_is_pasted_on_are_looked_at_by_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of objects the others would cost most."""
    window_pixels, calls = mixing.window_pixels, []

    def watched(given: torch.Tensor) -> object:
        calls.append(len(given))
        return window_pixels(given)

    monkeypatch.setattr(mixing, "window_pixels", watched)
    sample = blocks(*((x, y, x + 3, y + 3) for x in range(0, 60, 4) for y in range(0, 60, 4)), size=(60, 60))
    _, mixed = CopyPaste(1, max_overlap=1, feather=0)(*sample, seeded(0))
    assert len(mixed) >= 225 and sum(calls) <= 5


@pytest.mark.parametrize("limit", [0.0, 0.3, 1.0])
def test_places_that_overlap_too_much_are_not_taken(limit: float) -> None:
    image, truth = coloured(0)
    taken, shares = truth.masks.to_dense().any(dim=0), []
    transform = CopyPaste(1, [coloured(1)], max_overlap=limit)
    for seed in range(120):
        _, moved = transform(image, truth, seeded(seed))
        shares += [float(taken[mask].float().mean()) for mask in moved.masks[moved.ids >= 100].to_dense()]
    assert len(shares) > 50 and max(shares) <= limit
    assert max(shares) >= 0.8 * limit


def test_nothing_is_pasted_where_there_is_no_room() -> None:
    full = blocks((0, 0, 8, 8))
    assert_same(CopyPaste(3, [blocks((1, 1, 4, 3))], max_overlap=0.5)(*full, seeded(0)), full)
    larger = blocks((0, 0, 9, 3), size=(20, 20))
    assert_same(CopyPaste(3, [larger], max_overlap=1)(*full, seeded(0)), full)


@pytest.mark.parametrize("cut_rule", CUTS)
@pytest.mark.parametrize(("fraction", "is_cut"), [(0.3, True), (0.25, False), (0.2, False)])
def test_edges_say_what_becomes_of_hidden_objects(cut_rule: str, fraction: float, is_cut: bool) -> None:
    """An object of 64 pixels of which 16 stay."""
    transform = CopyPaste(1, [blocks((0, 0, 8, 6), first=5)], 1, 0, Edges(cut=cut_rule, min_visible_fraction=fraction))
    for seed in range(10):
        moved = transform(*blocks((0, 0, 8, 8)), seeded(seed))[1]
        assert moved.ids.tolist() == ([5] if is_cut and cut_rule == "drop" else [0, 5])
        assert moved.ignore.tolist()[:-1] == [is_cut and cut_rule == "ignore"] * (len(moved) - 1)
        assert not moved.ignore[-1]


@pytest.mark.parametrize("cut_rule", CUTS)
def test_objects_hidden_entirely_are_dropped(cut_rule: str) -> None:
    transform = CopyPaste(1, [blocks((0, 0, 8, 8), first=5)], 1, 0, Edges(cut=cut_rule, min_visible_fraction=0))
    assert transform(*blocks((1, 1, 4, 4), (5, 5, 6, 6)), seeded(0))[1].ids.tolist() == [5]


def test_what_is_pasted_can_be_hidden_by_what_is_pasted_after() -> None:
    donor = blocks((0, 0, 8, 8), (0, 0, 8, 6))
    donor = donor[0], replace(donor[1], ids=torch.tensor([5, 6]))
    transform = CopyPaste(2, [donor], 1, 0, Edges(cut="ignore", min_visible_fraction=0.3))
    outcomes = set()
    for seed in range(40):
        moved = transform(*blocks(), seeded(seed))[1]
        outcomes.add(tuple(zip(moved.ids.tolist(), moved.ignore.tolist(), strict=True)))
    assert {((5, True), (6, False)), ((5, False),)} <= outcomes
    assert outcomes <= {((5, True), (6, False)), ((5, False),), ((6, False),)}


def test_objects_to_ignore_and_empty_ones_are_not_pasted() -> None:
    own, donor = blocks((0, 0, 2, 2), size=(20, 20)), blocks((1, 1, 4, 3), (9, 9, 9, 9), size=(20, 20), first=5)
    ignored = donor[0], replace(donor[1], ignore=torch.tensor([True, False]))
    assert_same(CopyPaste(3, [ignored])(*own, seeded(0)), own)
    kept = replace(own[1], ignore=torch.tensor([True]))
    assert CopyPaste(3, [donor])(own[0], kept, seeded(0))[1].ignore.tolist() == [True, False]


def test_objects_without_masks_are_pasted_as_rectangles() -> None:
    own, donor = bare(coloured(0)), bare(coloured(1))
    for seed in range(10):
        image, moved = CopyPaste(3, [donor], max_overlap=1, feather=0)(*own, seeded(seed))
        assert moved.masks is None and torch.equal(moved.boxes[: len(own[1])], own[1].boxes)
        for index in range(len(own[1]), len(moved) - 1, -1):
            old = int(torch.nonzero(donor[1].ids == moved.ids[index]))
            was = cut(donor[0], donor[1], old)
            assert any(torch.equal(cut(image, moved, index), each) for each in orientations(was))
    assert len(moved) > len(own[1])


def test_without_a_source_the_objects_are_the_image_s_own() -> None:
    own = coloured(0)
    ids = set()
    for seed in range(10):
        moved = CopyPaste(3, max_overlap=0)(*own, seeded(seed))[1]
        ids |= set(moved.ids[len(own[1]) :].tolist())
    assert ids and ids <= set(own[1].ids.tolist())


@pytest.mark.parametrize("feather", [0.5, 2.0])
def test_edges_blend_in_outside_the_object_alone(feather: float) -> None:
    own, donor = blocks(size=(40, 40)), blocks((10, 10, 22, 22), size=(40, 40), first=4)
    image, moved = CopyPaste(1, [donor], feather=feather)(*own, seeded(3))
    x1, y1, x2, y2 = moved.boxes[0].int().tolist()
    assert (x2 - x1, y2 - y1) == (12, 12)
    row = image[0, (y1 + y2) // 2] if x2 < 36 else image[0, (y1 + y2) // 2].flip(0)
    end = x2 if x2 < 36 else 40 - x1
    assert ((cut(image, moved, 0) - colour_of(4)[:, None, None]).abs() < 1e-6).all()
    assert torch.equal(
        row[end + 4 * int(feather + 0.5) :], torch.full_like(row[end + 4 * int(feather + 0.5) :], BACKGROUND)
    )
    # The donor's background is that of this image: the alpha shows only where the donor differs.
    bright = donor[0].clone()
    bright[:, donor[0][0] == BACKGROUND] = 0.9
    image = CopyPaste(1, [(bright, donor[1])], feather=feather)(*own, seeded(3))[0]
    row = image[0, (y1 + y2) // 2] if x2 < 36 else image[0, (y1 + y2) // 2].flip(0)
    outside = row[end : end + 4]
    assert 0.5 * (0.9 - BACKGROUND) > outside[0] - BACKGROUND > 0.05 and (outside.diff() <= 0).all()


def test_without_feather_soft_masks_blend_by_their_levels() -> None:
    own, (_, donor) = blocks(), blocks((3, 3, 5, 4), first=4)
    soft = replace(donor, masks=replace(donor.masks, data=torch.tensor([255, 153], dtype=torch.uint8)))
    image, moved = CopyPaste(1, [(torch.ones(3, 8, 8), soft)], feather=0)(*own, seeded(0))
    shown = cut(image[0], moved, 0).flatten().sort().values
    assert torch.allclose(shown, torch.tensor([BACKGROUND + 0.6 * (1 - BACKGROUND), 1.0]))


@pytest.mark.parametrize("own_is_float", [False, True])
def test_images_of_the_other_type_are_converted(own_is_float: bool) -> None:
    def typed(sample: Sample, is_float: bool) -> Sample:
        return (sample[0] if is_float else sample[0].mul(255).round().to(torch.uint8)), sample[1]

    own, donor = typed(coloured(0), own_is_float), typed(coloured(1), not own_is_float)
    alike = typed(coloured(1), own_is_float)
    for make in (lambda source: CopyPaste(5, source, 0.0), Mosaic):
        image, moved = make([donor])(*own, seeded(1))
        expected, other = make([alike])(*own, seeded(1))
        assert image.dtype == own[0].dtype
        assert (image.float() - expected.float()).abs().max() <= (1 / 500 if own_is_float else 1)
        assert torch.equal(moved.boxes, other.boxes)


# ---- mosaics


def flat(value: float, size: tuple[int, int], count: int = 0) -> Sample:
    """An image of one value; object number i lies in row i, from side to side."""
    windows = [(0, i, size[1], i + 1) for i in range(count)]
    return torch.full((3, *size), value), blocks(*windows, size=size, first=int(100 * value))[1]


def test_four_images_meet_at_a_point_in_the_middle_half() -> None:
    own, source = flat(0.1, (40, 60)), [flat(value, (90, 90)) for value in (0.2, 0.3, 0.4)]
    points, drawn = set(), set()
    for seed in range(60):
        image, _ = Mosaic(source)(*own, seeded(seed))
        height, width = int((image[0, :, 0] == 0.1).sum()), int((image[0, 0] == 0.1).sum())
        assert 10 <= height <= 30 and 15 <= width <= 45
        assert (image[:, :height, :width] == 0.1).all()
        for rows, columns in itertools.product(
            (slice(0, height), slice(height, None)), (slice(0, width), slice(width, None))
        ):
            assert image[:, rows, columns].unique().numel() == 1
            drawn.add(round(float(image[0, rows, columns][0, 0]), 1))
        points.add((height, width))
    assert drawn == {0.1, 0.2, 0.3, 0.4} and len(points) > 50


def test_windows_are_drawn_from_everywhere() -> None:
    sample = painted(blocks(size=(40, 40))[1])
    gradient = torch.arange(160, dtype=torch.float32).div(160).expand(3, 160, 160)
    lefts = []
    for seed in range(60):
        image, _ = Mosaic([(gradient, blocks(size=(160, 160))[1])])(*sample, seeded(seed))
        lefts.append(float(image[0, -1, -1]) * 160)
    assert min(lefts) < 40 and max(lefts) > 145


@pytest.mark.parametrize("pad_mode", PAD_MODES)
@pytest.mark.parametrize("size", [(24, 30), (96, 112), (200, 130)])
def test_colours_stay_with_their_masks_in_a_mosaic(pad_mode: str, size: tuple[int, int]) -> None:
    own, source = coloured(0), [coloured(index, size) for index in (1, 2, 3)]
    every = torch.cat([own[1].ids, *(each[1].ids for each in source)])
    for seed in range(20):
        image, moved = Mosaic(source, edges=Edges(pad_mode))(*own, seeded(seed))
        assert_sound((image, moved))
        assert torch.isin(moved.ids, every).all()
        assert (moved.labels == 1 + moved.ids % 100 % 3).all()
        for mask, number in zip(moved.masks.to_dense(), moved.ids.tolist(), strict=True):
            assert (image[:, mask] - colour_of(number)[:, None]).abs().max() < 1e-6


@pytest.mark.parametrize("cut_rule", CUTS)
def test_objects_that_a_quarter_cuts_are_up_to_the_edges(cut_rule: str) -> None:
    sample = flat(0.1, (40, 40), count=40)
    for seed in range(10):
        moved = Mosaic([sample], edges=Edges(cut=cut_rule, min_visible_fraction=0.5))(*sample, seeded(seed))[1]
        share = (moved.boxes[:, 2] - moved.boxes[:, 0]) / 40
        assert torch.equal(moved.ignore, (share < 0.5) if cut_rule == "ignore" else torch.zeros(len(moved)).bool())
        assert cut_rule != "drop" or (share >= 0.5).all()


def test_the_share_of_mosaics_is_what_was_asked_for() -> None:
    own, source = flat(0.1, (12, 12)), [flat(0.2, (12, 12))]
    made = sum(bool((Mosaic(source, 0.3)(*own, seeded(seed))[0] != 0.1).any()) for seed in range(400))
    assert 0.2 < made / 400 < 0.4
    assert all(Mosaic(source, 0.0)(*own, seeded(seed))[0] is own[0] for seed in range(5))


# ---- both


MIXERS = [lambda source: CopyPaste(4, source, 0.5), Mosaic]


@pytest.mark.parametrize("make", MIXERS)
def test_same_generator_seed_gives_the_same_sample_and_nothing_given_is_changed(make) -> None:
    own, source = coloured(0), [coloured(1), coloured(2)]
    first = make(source)(*own, seeded(7))
    assert_same(first, make(source)(*own, seeded(7)))
    assert not torch.equal(first[0], make(source)(*own, seeded(8))[0])
    for index, sample in enumerate([own, *source]):
        assert_same(sample, coloured(index))


@pytest.mark.parametrize("make", MIXERS)
def test_other_images_come_from_all_of_the_source(make) -> None:
    own, source = coloured(0), [coloured(index) for index in range(1, 5)]
    seen = {int(number) // 100 for seed in range(40) for number in make(source)(*own, seeded(seed))[1].ids}
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("make", MIXERS)
@pytest.mark.parametrize("own_size", [(1, 1), (1, 9), (5, 4), (30, 30)])
@pytest.mark.parametrize("other_size", [(1, 1), (9, 1), (30, 30)])
def test_images_of_a_pixel_are_mixed_too(make, own_size: tuple[int, int], other_size: tuple[int, int]) -> None:
    own, other = blocks((0, 0, 1, 1), size=own_size), blocks((0, 0, 1, 1), size=other_size, first=1)
    for seed in range(10):
        mixed = make([other])(*own, seeded(seed))
        assert_sound(mixed)
        assert mixed[1].size == own_size


@pytest.mark.parametrize("make", MIXERS)
def test_samples_without_objects_are_mixed_with_any(make) -> None:
    def nothing(with_masks: bool) -> Sample:
        return torch.zeros(3, *SIZE), Instances.empty(SIZE, with_masks)

    for with_masks in (False, True):
        for other in (coloured(1), bare(coloured(1))):
            for seed in range(5):
                received = make([other])(*nothing(with_masks), seeded(seed))[1]
                given = make([nothing(with_masks)])(*other, seeded(seed))[1]
                for mixed in filter(len, (received, given)):
                    assert (mixed.masks is None) == (other[1].masks is None) and mixed.ids is not None
        assert len(make([nothing(True)])(*nothing(with_masks), seeded(0))[1]) == 0


@pytest.mark.parametrize("make", MIXERS)
def test_objects_with_masks_are_not_mixed_with_objects_without(make) -> None:
    with pytest.raises(ValueError, match="masks"):
        make([bare(coloured(1))])(*coloured(0), seeded(0))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: CopyPaste(0), "max_objects"),
        (lambda: CopyPaste(1, max_overlap=-0.1), "max_overlap"),
        (lambda: CopyPaste(1, max_overlap=1.1), "max_overlap"),
        (lambda: CopyPaste(1, feather=-1), "feather"),
        (lambda: CopyPaste(1, feather=float("inf")), "feather"),
        (lambda: CopyPaste(1, feather=float("nan")), "feather"),
        (lambda: CopyPaste(1, []), "source"),
        (lambda: Mosaic([]), "source"),
        (lambda: Mosaic([coloured(0)], 1.5), "probability"),
        (lambda: Mosaic([coloured(0)], float("nan")), "probability"),
    ],
)
def test_arguments_that_make_no_sense_are_named(make, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make()
