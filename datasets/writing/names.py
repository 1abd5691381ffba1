"""File names that are valid on every operating system."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

MAX_BYTES = 120  # leaves room for suffixes and object numbers
_FORBIDDEN = re.compile('[<>:"/\\\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def make_safe_name(name: str) -> str:
    """Make a file name that is valid on every operating system, not hidden and not empty."""
    safe = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", name)).strip().rstrip(". ")
    if safe.startswith(".") or _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    return safe.encode("utf-8")[:MAX_BYTES].decode("utf-8", "ignore").rstrip(". ") or "image"


def make_file_names(names: Mapping[str, Sequence[str]], one_folder: bool) -> dict[str, list[str]]:
    """Make unique, safe file names for the images of each part, in the same order.

    Names are unique even if case is ignored. With `one_folder` they are unique across parts: if they would not be, they
    are prefixed with the name of their part.
    """
    safe = {part: [make_safe_name(name) for name in each] for part, each in names.items()}
    if one_folder:
        folded = [{name.casefold() for name in each} for each in safe.values()]
        if len(set().union(*folded)) < sum(map(len, folded)):
            safe = {part: [make_safe_name(f"{part}_{name}") for name in each] for part, each in safe.items()}
    taken: set[str] = set()
    found = {}
    for part, each in safe.items():
        found[part] = _make_unique(each, taken)
        if not one_folder:
            taken.clear()
    return found


def _make_unique(names: Sequence[str], taken: set[str]) -> list[str]:
    """Append numbers to names that are `taken`, and add the results to `taken`."""
    wanted = {name.casefold() for name in names}
    found = []
    for name in names:
        number, chosen = 1, name
        while chosen.casefold() in taken or (number > 1 and chosen.casefold() in wanted):
            number += 1
            chosen = f"{name}_{number}"
        taken.add(chosen.casefold())
        found.append(chosen)
    return found
