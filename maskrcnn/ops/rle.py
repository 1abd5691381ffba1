"""COCO's run-length encoding of masks stored as windows, in column-major order, with counts in COCO's text form.

Source: Lin et al., Microsoft COCO, arXiv 1405.0312; the text form is that of the COCO API's `maskApi.c`.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from maskrcnn.ops import reference_rle as reference
from maskrcnn.ops._native import native
from maskrcnn.ops.runs import counts_to_text
from maskrcnn.ops.types import Windows


def encode_rle(masks: Windows, size: tuple[int, int]) -> list[str]:
    """Encode each mask as compressed COCO counts on a canvas of `size` (H, W)."""
    text, offsets = native(reference.encode_rle, masks.windows.device)(*masks, *size)
    codes, ends = text.cpu().numpy().tobytes().decode("ascii"), offsets.tolist()
    return [codes[begin:end] for begin, end in itertools.pairwise(ends)]


def decode_rle(counts: Sequence[str | bytes | Sequence[int]], size: tuple[int, int]) -> Windows:
    """Decode COCO counts, compressed or not, to masks on a canvas of `size` (H, W).

    Raises:
        ValueError: If counts are not numbers, are negative, or do not sum to the canvas; names the mask.
    """
    texts = [_text_of(code) for code in counts]
    ends = torch.tensor([0, *(len(text) for text in texts)], dtype=torch.int64).cumsum(0)
    text = torch.from_numpy(np.frombuffer(b"".join(texts), dtype=np.uint8).copy())
    *masks, broken = native(reference.decode_rle, text.device)(text, ends, *size)
    if broken >= 0:
        raise ValueError(f"run-length code {int(broken)} does not fill an image of {size[0]} x {size[1]} pixels")
    return Windows(*masks)


def _text_of(code: object) -> bytes:
    """Convert counts of any type to COCO's text form; empty, which is invalid, if that is impossible."""
    if isinstance(code, bytes):
        return code
    if isinstance(code, str):
        return code.encode("ascii", "replace")
    try:
        values = np.asarray(code)
        return counts_to_text(values.astype(np.int64, casting="same_kind")) if values.ndim == 1 else b""
    except (TypeError, ValueError, OverflowError):
        return b""
