"""Weights for other classes: layers that depend on the classes are matched by class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

CLASS_LAYERS = {
    "box_head.classes": 1,
    "box_head.deltas": 4,
    "mask_head.logits": 1,
}  # outputs per class, including background


def match_classes(
    own: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    known: Sequence[str] | None,
    class_names: Sequence[str],
) -> tuple[dict[str, Tensor], str | None]:
    """Fit the class-dependent layers of `weights` to a detector with the classes `class_names`.

    In these layers, each class gets the weights of the class with the same name, and the background those of the
    background if any class matches. Other classes keep the weights of the detector. Class-agnostic layers and all other
    layers are unchanged.

    Args:
        own: state dict of the detector.
        weights: weights to start from, with the names of the detector.
        known: names of their classes; None if unknown, then the classes are assumed to be the same if their number is.
        class_names: names of the detector's classes.

    Returns:
        The matched weights, and a line about what was matched and left out; None if the classes are the same.
    """
    num_known = _count_classes(weights)
    if num_known is None or "box_head.classes.bias" not in own:
        return dict(weights), None
    if list(class_names) == list(known or ()) or (known is None and num_known == len(class_names)):
        return dict(weights), None
    labels = {name: label for label, name in enumerate(known or (), start=1)}
    pairs = [(label, labels[name]) for label, name in enumerate(class_names, start=1) if name in labels]
    matched, layers = dict(weights), []
    for layer, rows in CLASS_LAYERS.items():
        names = [name for name in (f"{layer}.weight", f"{layer}.bias") if name in own and name in weights]
        if not names or len(weights[names[0]]) != rows * (num_known + 1):
            continue
        current, loaded = own[names[0]], weights[names[0]]
        if len(current) != rows * (len(class_names) + 1) or current.shape[1:] != loaded.shape[1:]:
            continue  # another architecture, which is reported when the weights are loaded
        layers.append(layer)
        for name in names:
            matched[name] = own[name].detach().clone()
            for to, source in [(0, 0), *pairs] if pairs else []:
                matched[name][to * rows : (to + 1) * rows] = weights[name][source * rows : (source + 1) * rows]
    return matched, _describe(layers, [class_names[label - 1] for label, _ in pairs], class_names)


def _count_classes(weights: Mapping[str, Tensor]) -> int | None:
    scores = weights.get("box_head.classes.bias")
    return None if scores is None else len(scores) - 1


def _describe(layers: Sequence[str], matched: Sequence[str], class_names: Sequence[str]) -> str:
    where = ", ".join(layers)
    new = [name for name in class_names if name not in matched]
    if not matched:
        return f"other classes: all layers are loaded except those that depend on the classes ({where})"
    if not new:
        return f"other classes or another order: the layers that depend on the classes ({where}) are matched by name"
    return (
        f"other classes: the layers that depend on the classes ({where}) are matched by name for {', '.join(matched)}; "
        f"they are left out for {', '.join(new)}"
    )
