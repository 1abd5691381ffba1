"""A tiny detector learns two images: every gradient points the right way."""

import torch
from detector_toy import disks, toy_detector

from maskrcnn.ops.boxes import box_iou


def test_a_tiny_detector_finds_what_it_was_trained_on() -> None:
    samples = [disks((64, 80), 5, seed=11), disks((80, 64), 5, seed=12)]
    images, truths = [image for image, _ in samples], [t for _, t in samples]
    detector = toy_detector(
        backbone__norm="group", backbone__fpn_channels=32, backbone__num_levels=2, rpn__anchor_sizes=((8.0,), (16.0,))
    )
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    first = None
    for _ in range(80):
        losses = detector(images, truths)
        loss = sum(losses.values())
        first = first or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * first
    found = detector.eval()(images)
    hits = total = 0
    for result, wanted in zip(found, truths, strict=True):
        sure = result[result.scores > 0.5]
        assert len(sure) <= 2 * len(wanted)
        hits += int((box_iou(wanted.boxes, sure.boxes).amax(dim=1) > 0.5).sum())
        total += len(wanted)
        rows, _, iou = wanted.masks.iou(sure.masks)
        assert len(torch.unique(rows[iou > 0.5])) >= 0.6 * len(wanted)
    assert hits > 0.8 * total
