"""A GPU that is none: tensors on the CPU that PyTorch is made to treat as a GPU's, so that a mix of devices shows.

    with PretendedGpu() as gpu:
        gpu.place(model)
        model(images.to("cuda"))

Inside, "cuda" is accepted wherever a device is. Results and their values are those of the CPU, but an operation on
tensors of both devices raises, as does reading a GPU's tensor as a NumPy array. Tensors without dimensions may be on
the CPU, as for most operations, but not for those of `torch.ops.maskrcnn`. `reads` counts what makes the host wait.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree

GPU = torch.device("cuda", 0)
READS = ("item", "tolist", "nonzero", "__bool__", "__int__", "__float__", "__index__", "unique")
# Arguments of these may be on another device.
FREE = ("copy_", "set_", "__set__", "_has_compatible_shallow_copy_type")
INDEXING = ("__getitem__", "__setitem__")


def is_on_gpu(tensor: Tensor) -> bool:
    return getattr(tensor, "_pretended", False)


class PretendedGpu(TorchFunctionMode):
    """See above."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def place(self, model: nn.Module) -> nn.Module:
        """Move a module's parameters and buffers, in place."""
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor._pretended = True
        return model

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        owner = args[0] if args and isinstance(args[0], Tensor) else None
        if name == "__get__":
            return self._property(function, args, kwargs)
        if name in ("to", "cuda", "cpu") and owner is not None:
            return self._move(function, name, args, kwargs)
        if name in ("numpy", "__array__") and owner is not None and is_on_gpu(owner):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if name in READS and owner is not None and is_on_gpu(owner):
            self.reads[name] += 1
        tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        device = kwargs.get("device")
        if device is not None and name != "autocast":
            kwargs = kwargs | {"device": None if owner is not None else "cpu"}
            on_gpu = torch.device(device).type == "cuda"
            if on_gpu and kwargs.get("generator") is not None:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        else:
            on_gpu = self._check(function, name, tensors)
        return self._mark(function(*args, **kwargs), on_gpu)

    def _property(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        (tensor, *_) = args
        name = function.__self__.__name__  # type: ignore[attr-defined]
        if is_on_gpu(tensor) and name in ("device", "is_cuda", "is_cpu"):
            return {"device": GPU, "is_cuda": True, "is_cpu": False}[name]
        return self._mark(function(*args, **kwargs), is_on_gpu(tensor))

    def _move(self, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor, *rest = args
        on_gpu = is_on_gpu(tensor) if name == "to" else name == "cuda"
        kept = []
        for value in rest:
            if isinstance(value, str | torch.device):
                on_gpu = torch.device(value).type == "cuda"
                kept.append("cpu")
            elif isinstance(value, Tensor):
                on_gpu, value = is_on_gpu(value), value.dtype
                kept.append(value)
            else:
                kept.append(value)
        if kwargs.get("device") is not None:
            on_gpu = torch.device(kwargs["device"]).type == "cuda"
        kwargs = {key: value for key, value in kwargs.items() if key != "device"}
        if is_on_gpu(tensor) and not on_gpu:
            self.reads["copy to the CPU"] += 1
        moved = tensor.to(*kept, **kwargs) if name == "to" and (kept or kwargs) else tensor
        moved = moved.view_as(moved) if moved is tensor else moved  # another object, with a mark of its own
        return self._mark(moved, on_gpu)

    def _check(self, function: Callable[..., Any], name: str, tensors: list[Tensor]) -> bool:
        """Whether the result is on the GPU; RuntimeError where arguments are on both devices."""
        places = [is_on_gpu(tensor) for tensor in tensors]
        if not any(places) or name in FREE:
            return bool(places) and places[0]
        ours = "maskrcnn" in str(function)
        if name in INDEXING and places[0]:
            return True
        for tensor, on_gpu in zip(tensors, places, strict=True):
            if not on_gpu and (tensor.ndim or ours or name in ("cat", "stack")):
                raise RuntimeError(
                    f"Expected all tensors to be on the same device: {resolve_name(function) or function} was given "
                    f"tensors of shapes {[list(each.shape) for each in tensors]}, on the GPU: {places}"
                )
        return True

    def _mark(self, result: Any, on_gpu: bool) -> Any:
        for value in pytree.tree_leaves(result):
            if isinstance(value, Tensor) and on_gpu:
                value._pretended = True
        return result
