"""TensorBoard's event files of a run that goes on from an earlier step."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from maskrcnn.files import written_beside

_HEADER = struct.Struct("<QI")  # TFRecord: length of the data, checksum; after the data another checksum
_CHECKSUM = 4


def cut_events(folder: Path, is_kept: Callable[[str, int], bool]) -> None:
    """Remove the values for which `is_kept(tag, step)` is false, and what a killed program has half written.

    TensorBoard would show a step that is recorded again as a second point.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # takes a second to import

    for path in folder.glob("events.out.tfevents.*"):
        kept = []
        for record in _records(path.read_bytes()):
            event = Event.FromString(record[_HEADER.size : -_CHECKSUM])
            if all(is_kept(value.tag, event.step) for value in event.summary.value):
                kept.append(record)
        contents = b"".join(kept)
        if len(contents) < path.stat().st_size:
            with written_beside(path) as beside:
                beside.write_bytes(contents)


def _records(data: bytes) -> Iterator[bytes]:
    start = 0
    while start + _HEADER.size <= len(data):
        end = start + _HEADER.size + _HEADER.unpack_from(data, start)[0] + _CHECKSUM
        if end > len(data):
            return
        yield data[start:end]
        start = end
