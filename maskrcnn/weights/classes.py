"""Weights of a detector that knows other classes: layers that depend on the classes are matched by class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

CLASS_LAYERS = {"box_head.classes": 1, "box_head.deltas": 4, "mask_head.logits": 1}  # outputs per class, background too


def match_classes(
    own: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    known: Sequence[str] | None,
    class_names: Sequence[str],
) -> tuple[dict[str, Tensor], str | None]:
    """Fit the class-dependent layers of `weights` to a detector with the classes `class_names`.

    Of these layers, a class takes the weights of the class with its name; the background those of the background
    where any class is known. What is left keeps the detector's own weights. Layers that are class-agnostic, and all
    others, stay as they are.

    Args:
        own: the detector's state dict.
        weights: the weights to start from, under the detector's names.
        known: names of their classes; None where they are not known: then as many classes are taken for the same.
        class_names: names of the detector's classes.

    Returns:
        The fitted weights, and a sentence about what was matched and left out, None where the classes are the same.
    """
    num_known = _count_classes(weights)
    if num_known is None or "box_head.classes.bias" not in own:
        return dict(weights), None
    if list(class_names) == list(known or ()) or (known is None and num_known == len(class_names)):
        return dict(weights), None
    places = {name: place for place, name in enumerate(known or (), start=1)}
    pairs = [(label, places[name]) for label, name in enumerate(class_names, start=1) if name in places]
    fitted, layers = dict(weights), []
    for layer, rows in CLASS_LAYERS.items():
        names = [name for name in (f"{layer}.weight", f"{layer}.bias") if name in own and name in weights]
        if not names or len(weights[names[0]]) != rows * (num_known + 1):
            continue
        mine, theirs = own[names[0]], weights[names[0]]
        if len(mine) != rows * (len(class_names) + 1) or mine.shape[1:] != theirs.shape[1:]:
            continue  # another architecture, which is found and named when the weights are loaded
        layers.append(layer)
        for name in names:
            fitted[name] = own[name].detach().clone()
            for to, place in [(0, 0), *pairs] if pairs else []:
                fitted[name][to * rows : (to + 1) * rows] = weights[name][place * rows : (place + 1) * rows]
    return fitted, _describe(layers, [class_names[label - 1] for label, _ in pairs], class_names)


def _count_classes(weights: Mapping[str, Tensor]) -> int | None:
    scores = weights.get("box_head.classes.bias")
    return None if scores is None else len(scores) - 1


def _describe(layers: Sequence[str], matched: Sequence[str], class_names: Sequence[str]) -> str:
    where = ", ".join(layers)
    new = [name for name in class_names if name not in matched]
    if not matched:
        return f"other classes: all layers are taken but those that depend on the classes ({where})"
    if not new:
        return f"other classes or another order: the layers that depend on the classes ({where}) are matched by name"
    return (
        f"other classes: the layers that depend on the classes ({where}) are matched by name for {', '.join(matched)}; "
        f"they are left out for {', '.join(new)}"
    )
