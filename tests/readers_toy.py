"""Broken annotation files by chance, and what every reader owes to them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from maskrcnn.config import UserError

_SIGNS = [b"\0", b"\xff\xfe", b"", b" ", b"\n", b"\r", b'"', b",", b",,", b";", b"<", b">", b"</", b"&", b"&#0;", b"'"]
_NUMBERS = [b"-1", b"0", b"nan", b"inf", b"-inf", b"1e999", b"1e308", b"9" * 30, b"9" * 5000, b"1.5", b"0x10"]
_PATHS = [b"../", b"/etc/passwd", b"C:\\", b"..\\", b"x" * 300, b"\xc3\xa9", b"\xe2\x80\xa8"]
_PIECES = [*_SIGNS, *_NUMBERS, *_PATHS, b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"<a>" * 2000]


def mutations(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` versions of a file, each with one to four changes.

    Bytes are flipped, cut, doubled, moved or put in, and, as that leaves files well-formed, numbers exchanged.
    """
    draw = random.Random(seed)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            _change(changed, draw)
        yield bytes(changed)


def _change(content: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(content) + 1)
    end = min(len(content), at + draw.choice([1, 1, 2, 5, 20, 100]))
    kind = draw.randrange(9)
    if kind == 0 and at < len(content):
        content[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del content[at:end]
    elif kind == 2:
        content[at:at] = content[at:end] * draw.randint(1, 3)
    elif kind == 3:
        other = draw.randrange(len(content) + 1)
        content[other:other] = content[at:end]
    elif kind >= 6 and (numbers := list(re.finditer(rb"\d+", content))):
        start, end = draw.choice(numbers).span()
        content[start:end] = draw.choice(_NUMBERS) if kind == 6 else b"%d" % draw.choice([0, 1, 2, 12, 30, 100, 65_536])
    else:
        content[at : at + draw.randrange(4)] = draw.choice(_PIECES)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value) and "\r" not in str(error.value)
    return str(error.value).replace("\\\\", "\\").replace("\\", "/")


def loads(open_data: Callable[[], Any]) -> bool:
    """Whether data opens and all of its images load; they must then be sound, and else the error one line."""
    try:
        data = open_data()
        assert len(data) == len(data.image_ids) == len(set(data.image_ids)) == len(data.image_names)
        for index in range(len(data)):
            check_sound(data, *data[index])
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return False
    return True


def check_sound(data: Any, image: torch.Tensor, instances: Any) -> None:
    height, width = image.shape[1:]
    boxes = instances.boxes
    assert instances.size == (height, width) and image.dtype == torch.uint8
    assert boxes.dtype == torch.float32 and torch.isfinite(boxes).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
    assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    assert instances.labels.dtype == instances.ids.dtype == torch.int64
    assert ((instances.labels >= 1) & (instances.labels <= len(data.class_names))).all()
    assert len(set(instances.ids.tolist())) == len(instances)
    assert (instances.masks is not None) == data.has_masks
