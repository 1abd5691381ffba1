"""File names that every system takes."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

MAX_BYTES = 120  # leaves room for suffixes and for the object's number
_FORBIDDEN = re.compile('[<>:"/\\\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(name: str) -> str:
    """The name without folders, signs that some system refuses, and what would hide the file; never empty."""
    safe = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", name)).strip().rstrip(". ")
    if safe.startswith(".") or _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    return safe.encode("utf-8")[:MAX_BYTES].decode("utf-8", "ignore").rstrip(". ") or "image"


def file_names(names: Mapping[str, Sequence[str]], one_folder: bool) -> dict[str, list[str]]:
    """Safe names of the images of each part, in their order.

    They differ, in capitals and small letters too, within a part and, with `one_folder`, between all parts: where
    they would not, they begin with their part's name.
    """
    safe = {part: [safe_name(name) for name in each] for part, each in names.items()}
    if one_folder:
        folded = [{name.casefold() for name in each} for each in safe.values()]
        if len(set().union(*folded)) < sum(map(len, folded)):
            safe = {part: [safe_name(f"{part}_{name}") for name in each] for part, each in safe.items()}
    taken: set[str] = set()
    found = {}
    for part, each in safe.items():
        found[part] = _distinct(each, taken)
        if not one_folder:
            taken.clear()
    return found


def _distinct(names: Sequence[str], taken: set[str]) -> list[str]:
    """The names, those that are `taken` with a number; adds them to these."""
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
