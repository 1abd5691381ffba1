"""Networks of timm (https://github.com/huggingface/pytorch-image-models) as bodies of backbones."""

from typing import Any

from torch import Tensor, nn

from maskrcnn.config import UserError
from maskrcnn.model.config import TIMM, BackboneConfig


class TimmBody(nn.Module):
    """A network of timm: `[B, C, H, W]` → a list of `num_levels` maps with strides finest_stride × 1, 2, 4, 8.

    `stem`, `width`, `norm` and `norm_eps` of the options belong to ResNets and are not used. For pretrained weights,
    timm adapts the first convolution to the number of channels.

    Args:
        config: options; `name` is timm:NAME.
        channels: number C of channels of the images.

    Attributes:
        channels: number of channels of each map.

    Raises:
        UserError: If timm is not installed or has no such network, or the network has no maps with these strides.
    """

    def __init__(self, config: BackboneConfig, channels: int) -> None:
        super().__init__()
        name = config.name.removeprefix(TIMM)
        timm = _import_timm(config.name)
        if not timm.is_model(name):  # this also rejects the names of hubs and files, which create_model would read
            near = timm.list_models(f"*{name.split('.')[0][:8]}*")[:3]
            hint = f"; some names: {', '.join(near)}" if near else "; timm.list_models() lists the names"
            raise UserError(f"backbone {config.name}: timm {timm.__version__} has no network {name}{hint}")
        if config.norm != "batch":
            raise UserError(f"backbone {config.name}: norm = {config.norm} is for ResNets; use norm = batch")
        strides, options = _find_strides(timm, name)
        wanted = [config.finest_stride << i for i in range(config.num_levels)]
        if not set(wanted) <= set(strides):
            raise UserError(
                f"backbone {config.name}: has maps of strides {strides}, not {wanted}; choose "
                "detector.backbone.finest_stride and num_levels"
            )
        places = [strides.index(stride) for stride in wanted]
        try:
            self.network = timm.create_model(
                name, out_indices=places, in_chans=channels, pretrained=config.weights == "imagenet", **options
            )
        except OSError as error:  # of the download
            raise UserError(
                f"cannot download the weights of {config.name} ({' '.join(str(error).split())[:200]}); train from "
                "scratch with --pretrained=none"
            ) from error
        self.channels: list[int] = self.network.feature_info.channels()
        self._is_channels_last = str(getattr(self.network, "output_fmt", "")).endswith("NHWC")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the maps."""
        maps: list[Tensor] = self.network(x)
        return [each.permute(0, 3, 1, 2) for each in maps] if self._is_channels_last else maps


def _find_strides(timm: Any, name: str) -> tuple[list[int], dict[str, Any]]:
    """Return the strides of all maps of a network, and the options of `timm.create_model` that return maps."""
    for options in ({"feature_cls": "getter"}, {}):  # the first removes layers behind the last map, where timm can
        try:
            network = timm.create_model(name, features_only=True, **options)
        except (RuntimeError, AttributeError, TypeError, NotImplementedError, AssertionError):
            continue
        return list(network.feature_info.reduction()), {"features_only": True, **options}
    raise UserError(f"backbone {TIMM}{name}: timm returns no feature maps of this network")


def _import_timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"backbone {name} needs the library timm: pip install timm") from error
    return timm
