"""What a detector promises to those who call it: state, images, types, backbones and wrappers."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from detector_toy import HEADS, disks, one_class, toy_config, toy_detector
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils import _pytree as pytree

from maskrcnn.config import UserError
from maskrcnn.inference.pipeline import build_views, run_detector
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.loading import KeyedSamples
from maskrcnn.training.machine import set_up_machine
from workbench.evaluation import predict

SCENES = [disks((64, 96), seed=seed) for seed in range(2)]
IMAGES, TARGETS = [image for image, _ in SCENES], [one_class(targets) for _, targets in SCENES]


def contents(found: list[Instances]) -> list[Any]:
    masks = [each.masks.parts for each in found if each.masks is not None]
    return pytree.tree_leaves([[(each.boxes, each.labels, each.scores) for each in found], masks])


def assert_equal(found: list[Instances], wanted: list[Instances]) -> None:
    for one, other in zip(contents(found), contents(wanted), strict=True):
        assert torch.equal(one, other)


def state_of(module: nn.Module) -> tuple[dict[str, Tensor], list[bool]]:
    return copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]


def assert_unchanged(module: nn.Module, before: tuple[dict[str, Tensor], list[bool]]) -> None:
    state, modes = state_of(module)
    assert modes == before[1]
    assert [name for name in state if not torch.equal(state[name], before[0][name])] == []


def trained(head: str = "mask_rcnn", **changes: Any) -> Detector:
    """Two steps from random weights, so that running statistics differ from those of a batch."""
    detector = toy_detector(head, box__min_score=0.0, rpn__pre_nms_top_n_inference=60, **changes)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        sum(detector(IMAGES, TARGETS).values()).backward()
        optimizer.step()
    return detector


# ---- state


@pytest.mark.parametrize("head", HEADS)
def test_detection_in_training_mode_is_that_of_evaluation_mode_and_changes_nothing(head: str) -> None:
    detector = trained(head)
    before = state_of(detector)
    found = [detector(IMAGES), detector.detect(IMAGES), detector.propose(IMAGES), detector.features(IMAGES)]
    assert_unchanged(detector, before)
    detector.eval()
    for got, wanted in zip(
        found[:3], [detector(IMAGES), detector.detect(IMAGES), detector.propose(IMAGES)], strict=True
    ):
        assert_equal(got, wanted)
    assert all(torch.equal(*pair) for pair in zip(found[3], detector.features(IMAGES), strict=True))


def test_a_part_that_is_in_another_mode_than_the_whole_stays_in_it() -> None:
    detector = trained()
    detector.backbone.body.bn1.eval()
    before = state_of(detector)
    detector(IMAGES)
    assert_unchanged(detector, before)
    with pytest.raises(UserError):
        detector([torch.full((3, 8, 8), torch.nan)])
    assert_unchanged(detector, before)


@pytest.mark.parametrize("head", HEADS)
def test_losses_in_evaluation_mode_change_nothing(head: str) -> None:
    detector = trained(head).eval()
    before = state_of(detector)
    torch.manual_seed(0)
    losses = detector(IMAGES, TARGETS)
    assert_unchanged(detector, before)
    detector.train()
    torch.manual_seed(0)
    assert losses["loss_objectness"] != detector(IMAGES, TARGETS)["loss_objectness"]  # of batch statistics


# ---- types of parameters


@pytest.mark.parametrize(
    "convert",
    [
        lambda module: module.half(),
        lambda module: module.double(),
        lambda module: module.bfloat16(),
        lambda module: module.to(torch.float16),
        lambda module: module.to("cpu", torch.float64),
        lambda module: nn.Sequential(module).half(),
    ],
)
def test_conversion_to_another_type_is_rejected_in_one_line_and_changes_nothing(convert: Callable[..., Any]) -> None:
    detector = toy_detector("rpn")
    before = state_of(detector)
    with pytest.raises(UserError, match=r"^a Detector computes boxes in float32 .* torch.autocast$"):
        convert(detector)
    assert_unchanged(detector, before)


def test_moves_within_float32_are_not_rejected() -> None:
    detector = toy_detector("rpn")
    assert detector.float() is detector and detector.to("cpu") is detector
    assert detector.to(memory_format=torch.channels_last) is detector
    assert next(detector.to("meta").parameters()).device.type == "meta"


# ---- values of images


def as_uint16(image: Tensor) -> Tensor:
    return (image.to(torch.int32) * 257).to(torch.uint16)


@pytest.mark.parametrize(
    "convert", [as_uint16, lambda image: image / 255, lambda image: (image / 255).double()], ids=["uint16", "32", "64"]
)
def test_images_of_any_supported_type_are_the_same_image(convert: Callable[[Tensor], Tensor]) -> None:
    detector = trained().eval()
    for found, wanted in zip(detector([convert(image) for image in IMAGES]), detector(IMAGES), strict=True):
        torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-3, atol=1e-3)
    torch.manual_seed(0)
    losses = detector([convert(image) for image in IMAGES], TARGETS)
    torch.manual_seed(0)
    for name, loss in detector(IMAGES, TARGETS).items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-2, atol=1e-3)


def test_uint16_keeps_levels_that_uint8_cannot_hold() -> None:
    low, high = (torch.full((3, 64, 64), value, dtype=torch.int32) for value in (33_038, 33_209))
    image = torch.where(torch.arange(64) % 8 < 4, low, high).to(torch.uint16)
    seen = []
    detector = toy_detector("rpn")
    detector.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    detector([image])
    assert len(seen[0].unique()) == 2


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.int32), r"uint8, uint16 or floating-point in \[0, 1\], got torch.int32"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "got torch.int64"),
        (torch.zeros(3, 8, 8, dtype=torch.int16), "got torch.int16"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), "got torch.bool"),
        (IMAGES[0].float(), r"must be in \[0, 1\], got 0 to 2\d\d"),
        (torch.full((3, 8, 8), -1.0), r"got -1 to -1"),
        (torch.full((3, 8, 8), torch.inf), r"got inf to inf"),
        (torch.full((3, 8, 8), 2.0, dtype=torch.float16), "got 2 to 2"),
        (torch.where(torch.arange(8) == 3, torch.nan, torch.zeros(3, 8, 8)), "NaN"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_images_that_are_not_what_they_seem_are_rejected_by_index(training: bool, image: Tensor, message: str) -> None:
    detector = toy_detector("rpn").train(training)
    good = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match=f"^image 1: .*{message}"):
        detector([good, image])
    targets = [Instances.empty((8, 8)), Instances.empty((int(image.shape[1]), int(image.shape[2])))]
    with pytest.raises(UserError, match=f"^image 1: .*{message}"):
        detector([good, image], targets)


def test_values_that_resampling_moved_a_little_beyond_are_accepted() -> None:
    image = torch.linspace(-0.2, 1.2, 3 * 64 * 64).view(3, 64, 64)
    assert len(toy_detector("rpn")([image])) == 1


# ---- backbones


class Strided(nn.Module):
    """Maps at any strides."""

    def __init__(self, strides: list[int], channels: int = 16) -> None:
        super().__init__()
        self.strides, self.channels = strides, channels
        self.convs = nn.ModuleList(nn.Conv2d(3, channels, stride, stride=stride) for stride in strides)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [conv(pixels) for conv in self.convs]


@pytest.mark.parametrize("strides", [[4, 8, 16], [8, 16, 32], [1, 2, 4]])
def test_anchors_and_levels_follow_the_strides_of_a_backbone_that_is_given(strides: list[int]) -> None:
    torch.manual_seed(0)
    detector = Detector(toy_config(), 1, "mask_rcnn", Strided(strides, channels=24))
    size = (96, 160)
    targets = [one_class(disks(size)[1])]
    output = detector.rpn(detector.features([disks(size)[0]]), size)
    for level, stride in zip(output.levels, strides, strict=True):
        assert level.stride == (stride, stride) and (level.height, level.width) == (96 // stride, 160 // stride)
    sum(detector([disks(size)[0]], targets).values()).backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())
    assert len(detector([disks(size)[0]])) == 1
    assert detector.pad_multiple == strides[-1]


@pytest.mark.parametrize("strides", [[4, 8, 16], [2, 4, 4]])
def test_a_backbone_exchanged_for_one_with_other_strides_is_an_error(strides: list[int]) -> None:
    detector = toy_detector("rpn")
    detector.backbone = Strided(strides)
    for images, targets in ((IMAGES, TARGETS), (IMAGES, None)):
        with pytest.raises(UserError, match=r"built for strides \[2, 4, 8\].* pass the backbone to Detector"):
            detector(images, targets)


def test_a_backbone_exchanged_for_one_with_the_same_strides_works() -> None:
    detector = toy_detector("rpn")
    detector.backbone = Strided([2, 4, 8])
    assert len(detector(IMAGES)) == 2


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (nn.Conv2d(3, 8, 1), "must have `channels`"),
        (Strided([8, 4, 2]), r"positive and ascending, got \[8, 4, 2\]"),
        (Strided([0, 2, 4]), "positive and ascending"),
        (Strided([3, 6, 12]), r"powers of two that double, got \[3, 6, 12\]"),
        (Strided([2, 8, 16]), r"powers of two that double, got \[2, 8, 16\]"),
        (Strided([2, 4]), "each of the 2 levels"),
    ],
)
def test_a_backbone_that_does_not_fit_is_an_error_at_construction(backbone: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Detector(toy_config(), 1, "faster_rcnn", backbone)


def test_a_first_stage_alone_takes_strides_that_are_no_powers_of_two() -> None:
    detector = Detector(toy_config(), 1, "rpn", Strided([3, 6, 12]))
    assert len(detector(IMAGES)) == 2


# ---- wrappers


class Wrapper(nn.Module):
    """As DistributedDataParallel: what is not `forward` is not there."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


class Data:
    image_ids = (7, 9)
    image_names = ("a", "b")

    def __len__(self) -> int:
        return len(SCENES)

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        return IMAGES[index], TARGETS[index]


@pytest.mark.parametrize("views", ["none", "d4"])
@pytest.mark.parametrize("proposals_only", [False, True])
@pytest.mark.parametrize("wrap", [Wrapper, AveragedModel, torch.nn.DataParallel])
def test_wrapped_detectors_predict_what_the_bare_ones_do(
    wrap: Callable[[nn.Module], nn.Module], proposals_only: bool, views: str
) -> None:
    from maskrcnn.inference.config import ViewsConfig

    detector = trained("faster_rcnn")
    machine = set_up_machine(TrainingConfig(device="cpu", amp=False))
    settings = ViewsConfig(views=views)
    bare, wrapped = (
        predict(module, KeyedSamples(Data()), machine, 2, settings, proposals_only)
        for module in (detector, wrap(detector))
    )
    assert list(wrapped) == [7, 9]
    assert_equal([*wrapped.values()], [*bare.values()])


def test_the_average_of_weights_is_what_detects() -> None:
    detector = trained("faster_rcnn")
    average = AveragedModel(detector, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    average.update_parameters(detector)  # the first copies
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(1.1)
    average.update_parameters(detector)
    plain = toy_detector("faster_rcnn", box__min_score=0.0, rpn__pre_nms_top_n_inference=60)
    plain.load_state_dict(average.module.state_dict())
    assert_equal(run_detector(average, IMAGES), plain(IMAGES))
    with pytest.raises(AssertionError):
        assert_equal(run_detector(average, IMAGES), run_detector(detector, IMAGES))


def test_views_of_a_wrapped_detector_keep_its_strides() -> None:
    from maskrcnn.inference.config import ViewsConfig

    detector, settings = toy_detector("rpn"), ViewsConfig(tile=32, overlap=0.3)
    tiles = [[view.tile for view in build_views(each, settings, (96, 128))] for each in (detector, Wrapper(detector))]
    assert tiles[0] == tiles[1]
