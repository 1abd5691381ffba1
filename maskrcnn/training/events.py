"""Truncation of TensorBoard event files for runs resumed from an earlier step."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from maskrcnn.files import atomic_write

_HEADER = struct.Struct("<QI")  # TFRecord: length of the data, checksum, data, checksum
_CHECKSUM = 4  # bytes


def truncate_events(folder: Path, is_kept: Callable[[str, int], bool]) -> None:
    """Remove values, and records that a killed program wrote incompletely.

    Otherwise TensorBoard would show two points for a step that is recorded again.

    Args:
        folder: folder with event files.
        is_kept: called with the tag and the step of each value.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # the import takes a second

    for path in folder.glob("events.out.tfevents.*"):
        kept = []
        for record in _records(path.read_bytes()):
            event = Event.FromString(record[_HEADER.size : -_CHECKSUM])
            if all(is_kept(value.tag, event.step) for value in event.summary.value):
                kept.append(record)
        contents = b"".join(kept)
        if len(contents) < path.stat().st_size:
            with atomic_write(path) as temporary:
                temporary.write_bytes(contents)


def _records(data: bytes) -> Iterator[bytes]:
    start = 0
    while start + _HEADER.size <= len(data):
        end = start + _HEADER.size + _HEADER.unpack_from(data, start)[0] + _CHECKSUM
        if end > len(data):
            return
        yield data[start:end]
        start = end
