"""The detector and its training on another device than the CPU: on a pretended GPU, and on a GPU with `-m gpu`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ops_toy
import pytest
import torch
from detector_toy import HEADS, disks, one_class, toy_detector
from pretended_gpu import PretendedGpu, is_on_gpu
from test_ops_native import NAMES, POOLING, small_pooling
from torch import Tensor
from torch.utils import _pytree as pytree

from maskrcnn.model.detector import Detector
from maskrcnn.model.presets import britefury, torchvision
from maskrcnn.ops import _native
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks
from maskrcnn.training.config import TrainingConfig
from maskrcnn.training.loading import KeyedSamples
from maskrcnn.training.loop import Callbacks, Training
from maskrcnn.training.machine import Machine, set_up_machine
from maskrcnn.training.runlog import RunLog

SIZES = ((64, 80), (80, 64))
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def samples(device: str = "cpu") -> tuple[list[Tensor], list[Instances]]:
    """Two images of different sizes with disks, one of them to be ignored."""
    pairs = [disks(size, 6, seed) for seed, size in enumerate(SIZES)]
    truths = [replace(one_class(t), ignore=torch.arange(len(t)) == 2) for _, t in pairs]
    return [image.to(device) for image, _ in pairs], [each.to(device) for each in truths]


# ---- a pretended GPU


@pytest.fixture(params=["kernels", "definitions"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedGpu]:
    """With the operations' kernels for it, and with the plain definitions that serve where those are missing."""
    if request.param == "kernels" and "cpu" not in _native.LOADED:
        pytest.skip("the native core is not built")
    kernels = {"cpu", "cuda"} if request.param == "kernels" else set()
    monkeypatch.setattr(_native, "LOADED", frozenset(kernels))
    with PretendedGpu() as mode:
        yield mode


def test_the_pretended_gpu_finds_what_a_gpu_would(gpu: PretendedGpu) -> None:
    here, there = torch.ones(3), torch.ones(3).to("cuda")
    assert there.device.type == "cuda" and here.device.type == "cpu" and (there + 1).is_cuda
    assert not is_on_gpu(here) and is_on_gpu(torch.zeros(2, device="cuda")) and is_on_gpu(there.new_zeros(4))
    assert torch.equal((there * torch.tensor(2.0)).cpu(), here * 2)
    assert is_on_gpu(there[torch.tensor([0, 1])]) and not is_on_gpu(there.cpu())
    for wrong in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: here[torch.zeros(1, dtype=torch.int64, device="cuda")],
        lambda: torch.where(there > 0, here, 0.0),
        lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
    ):
        with pytest.raises(RuntimeError):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)
    assert there.sum().item() == 3 and gpu.reads["item"] == 1


VARIATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "focal loss, hard negatives": {"rpn__focal_loss": True, "box__hard_negatives": True, "per_sample_loss": False},
    "nearest ties, class agnostic": {
        "rpn__forced_ties": "nearest", "box__class_agnostic": True, "mask__class_agnostic": True, "mask__norm": True,
        "mask__soft_targets": False, "mask__rois_per_image": 3, "image__normalization": "imagenet",
    },
    "resized, padded": {"image__resize": "square", "image__max_size": 96, "image__pad_to_batch": True},
}  # fmt: skip


@pytest.mark.parametrize("variation", VARIATIONS)
@pytest.mark.parametrize("head", HEADS)
def test_no_tensor_of_the_detector_is_on_the_wrong_device(head: str, variation: str, gpu: PretendedGpu) -> None:
    detector = gpu.place(toy_detector(head, **VARIATIONS[variation]))
    images, truths = samples("cuda")
    losses = detector(images, truths)
    assert all(is_on_gpu(loss) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for found in detector.eval()(images):
        assert is_on_gpu(found.boxes) and is_on_gpu(found.labels) and is_on_gpu(found.scores)
        assert found.masks is None or is_on_gpu(found.masks.data)
        there = found.to("cpu")
        assert not is_on_gpu(there.boxes) and not is_on_gpu(there.ignore)


@pytest.mark.parametrize("make", [britefury, torchvision], ids=lambda preset: preset.__name__)
def test_no_tensor_of_the_presets_is_on_the_wrong_device(make: Any, gpu: PretendedGpu) -> None:
    config = make()
    config = replace(
        config,
        image=replace(config.image, min_size=64, max_size=96),
        rpn=replace(config.rpn, post_nms_top_n_training=20, post_nms_top_n_inference=20, pre_nms_top_n_inference=50),
        box=replace(config.box, rois_per_image=16, max_detections=10, widths=(32,)),
        mask=replace(config.mask, channels=16),
    )
    detector = gpu.place(Detector(config, 1, "mask_rcnn"))
    images, truths = samples("cuda")
    losses = detector(images, truths)
    assert all(is_on_gpu(loss) for loss in losses.values())
    detector.eval()(images)


def test_images_without_objects_stay_on_their_device(gpu: PretendedGpu) -> None:
    detector = gpu.place(toy_detector())
    images, truths = samples("cuda")
    nothing = [each[:0] for each in truths]
    assert all(is_on_gpu(loss) for loss in detector(images, nothing).values())
    only_ignored = [replace(each, ignore=torch.ones_like(each.ignore)) for each in truths]
    assert all(is_on_gpu(loss) for loss in detector(images, only_ignored).values())
    empty = [Instances.empty(size, with_masks=True).to("cuda") for size in SIZES]
    assert all(is_on_gpu(loss) for loss in detector(images, empty).values())


def test_masks_stay_on_their_device(gpu: PretendedGpu) -> None:
    _, (truths, _) = samples("cuda")
    masks, (height, width) = truths.masks, truths.size
    assert masks is not None
    changed = [
        masks.crop(3, -2, 40, 50), masks.flip(horizontal=True), masks.flip(vertical=True), masks.transpose(),
        masks.resize((100, 70)), masks.warp(torch.tensor([[0.9, 0.2, 1.0], [-0.2, 0.9, 3.0]]), (64, 80)),
        masks[torch.tensor([2, 0], device="cuda")], masks[1:3], CroppedMasks.cat([masks, masks]),
        CroppedMasks.from_dense(masks.to_dense()), CroppedMasks.from_label_image(masks.to_label_image()[0]),
        CroppedMasks.from_boxes(truths.boxes, truths.size),
        masks.replace_at(torch.tensor([1], device="cuda"), masks[:1]),
    ]  # fmt: skip
    for each in changed:
        assert all(is_on_gpu(part) for part in each.parts)
    assert all(is_on_gpu(part) for part in masks.iou(masks)) and is_on_gpu(masks.boxes()) and is_on_gpu(masks.areas())
    assert len(masks.to_rle()) == len(masks) and masks.window(0).device.type == "cuda"
    dense = Instances.from_torchvision(truths.to_torchvision(), (height, width))
    assert is_on_gpu(dense.boxes) and dense.masks is not None and is_on_gpu(dense.masks.data)
    assert is_on_gpu(Instances.cat([truths, truths]).boxes)


def train_toy(
    folder: Path, head: str, machine: Machine, config: TrainingConfig, steps: int, **changes: Any
) -> Training:
    """Training of a tiny detector for `steps` steps, on two images again and again."""
    (folder / "weights").mkdir(parents=True)
    data = Disks(steps)
    log = RunLog(folder, console=lambda line: None, tensorboard=False)
    detector = toy_detector(head, **changes)
    return Training(detector, KeyedSamples(data), config, machine, log, Callbacks())


class Disks:
    """`samples()` as a data set, as often as there are steps."""

    def __init__(self, steps: int) -> None:
        self.pairs = [*zip(*samples(), strict=True)]
        self.image_ids = list(range(2 * steps))
        self.image_names = [str(number) for number in self.image_ids]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:
        return self.pairs[index % 2]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_no_tensor_of_a_training_step_is_on_the_wrong_device(optimizer: str, gpu: PretendedGpu, tmp_path: Path) -> None:
    machine = Machine(torch.device("cuda", 0))
    training = train_toy(tmp_path, "mask_rcnn", machine, TrainingConfig(optimizer=optimizer, num_epochs=1), 2)
    gpu.place(training.model)
    assert training.run().finished


# ---- one device beside the other


def stable_training(device: str, head: str, folder: Path, deterministic: bool = False) -> Training:
    """Ten steps in float32 in which nothing is drawn: samplers take everything there is."""
    machine = set_up_machine(
        TrainingConfig(device=device, amp=False, channels_last=False, deterministic=deterministic, torch_threads=1)
    )
    everything = 10**6
    return train_toy(
        folder,
        head,
        machine,
        TrainingConfig(num_epochs=1, learning_rate=1e-3, warmup_steps=0, schedule="constant", log_every_n_steps=0),
        10,
        rpn__anchors_per_image=everything,
        rpn__pre_nms_top_n_inference=everything,
        rpn__pre_nms_top_n_training=0,
        rpn__post_nms_top_n_training=everything,
        rpn__nms_threshold=1.0,
        box__rois_per_image=everything,
        mask__rois_per_image=0,
        backbone__norm="group",
    )


def losses_of(training: Training) -> list[dict[str, float]]:
    """The losses of every step."""
    found: list[dict[str, float]] = []
    training.callbacks = Callbacks(on_step=lambda run: found.append(dict(run.losses)))
    training.run()
    return found


@pytest.fixture
def plain_float32() -> Iterator[None]:
    """Without TensorFloat-32, which rounds convolutions to ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("device", DEVICES)
def test_ten_steps_of_training_are_those_of_the_cpu(
    device: str, head: str, tmp_path: Path, plain_float32: None
) -> None:
    expected = losses_of(stable_training("cpu", head, tmp_path / "expected"))
    with torch.backends.mkldnn.flags(enabled=False):  # sums in another order, as another device's
        found = losses_of(stable_training(device, head, tmp_path / "found"))
    assert len(found) == 10
    for step, (got, wanted) in enumerate(zip(found, expected, strict=True)):
        for name in wanted:
            assert got[name] == pytest.approx(wanted[name], rel=2e-3, abs=1e-5), f"{name} of step {step}"


@pytest.fixture
def not_deterministic_afterwards() -> Iterator[None]:
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("device", DEVICES)
def test_deterministic_training_repeats_to_the_last_bit(
    device: str, head: str, tmp_path: Path, not_deterministic_afterwards: None
) -> None:
    weights = []
    for name in ("first", "second"):
        config = TrainingConfig(device=device, deterministic=True, num_epochs=1, learning_rate=1e-3)
        training = train_toy(tmp_path / name, head, set_up_machine(config), config, 5)
        assert training.run().finished
        weights.append({key: value.cpu() for key, value in training.model.state_dict().items()})
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


@pytest.mark.parametrize("device", DEVICES)
def test_detections_are_those_of_the_cpu(device: str, plain_float32: None) -> None:
    detector, (images, _) = toy_detector().eval(), samples()
    wanted = detector(images)
    with torch.backends.mkldnn.flags(enabled=False):
        found = [each.to("cpu") for each in detector.to(device)([image.to(device) for image in images])]
    for got, expected in zip(found, wanted, strict=True):
        assert abs(len(got) - len(expected)) <= 0.05 * len(expected) + 1  # of equal scores either may come first
        torch.testing.assert_close(got.scores[:20], expected.scores[:20], rtol=1e-3, atol=1e-4)


# ---- operations on a GPU


def on_gpu(values: Any) -> Any:
    return pytree.tree_map(lambda value: value.detach().cuda() if isinstance(value, Tensor) else value, values)


@pytest.fixture
def built() -> None:
    if "cuda" not in _native.LOADED:
        pytest.skip("no CUDA device, or the native core is not built for it")


@pytest.mark.gpu
@pytest.mark.parametrize("name", POOLING)
def test_gradcheck_on_a_gpu(name: str, built: None) -> None:
    features, *rest = on_gpu(small_pooling(name))
    several = isinstance(features, list)
    leaves = [feature.requires_grad_() for feature in (features if several else [features])]
    operation = getattr(torch.ops.maskrcnn, name)
    assert torch.autograd.gradcheck(lambda *maps: operation(list(maps) if several else maps[0], *rest), leaves)


@pytest.mark.gpu
@pytest.mark.parametrize("name", POOLING)
def test_opcheck_with_gradients_on_a_gpu(name: str, built: None) -> None:
    features, *rest = on_gpu(small_pooling(name))
    features = pytree.tree_map(lambda feature: feature.requires_grad_(), features)
    torch.library.opcheck(getattr(torch.ops.maskrcnn, name).default, (features, *rest))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_repeats_exactly_on_a_gpu(name: str, built: None) -> None:
    for arguments in ops_toy.draws(name, 5):
        there = on_gpu(arguments)
        results = [pytree.tree_leaves(getattr(torch.ops.maskrcnn, name)(*there)) for _ in range(3)]
        for again in results[1:]:
            for one, other in zip(results[0], again, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
