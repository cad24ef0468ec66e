"""Networks that give class scores of every pixel, made of torchvision's parts.

A dense network computes scores at a stride of its own, `coarse`, and resizes them to the image,
`resize`. Only the coarse ones are kept on the logit cache: resizing them again gives the same
scores.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, mobilenet_v3_small, resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead

from tune_kd.models.layers import Dropout, norm_of_mobilenet_v3

SMALL_TAPS = {"low": "backbone.1", "mid": "backbone.3", "high": "backbone.8"}


def resize(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores [B, K, h, w] at an image's size, bilinear; as they are where they have it."""
    if tuple(scores.shape[2:]) == size:
        return scores
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


class Dense(nn.Module):
    """A backbone's maps, dropout on the deepest one, a head, and resizing."""

    def __init__(self, backbone: nn.Module, head: nn.Module, *, dropout: float) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, head
        self.dropout = Dropout(dropout)

    def coarse(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] to scores [B, K, h, w] at the network's own stride."""
        maps = self.backbone(x)
        maps["high"] = self.dropout(maps["high"])
        scores: Tensor = self.classifier(maps)
        return scores

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] to scores [B, K, H, W]."""
        height, width = x.shape[2:]
        return resize(self.coarse(x), (height, width))


class _Deepest(nn.Module):
    """A head that reads the deepest map alone; its keys are the head's own."""

    def __init__(self, head: nn.Sequential) -> None:
        super().__init__()
        for name, module in head.named_children():
            self.add_module(name, module)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        x = maps["high"]
        for module in self.children():
            x = module(x)
        return x


class ASPPHead(nn.Module):
    """Atrous pyramid on the deepest map (Chen et al. 2017, figure 5), then a skip from the finest one."""

    def __init__(self, *, low: int, high: int, num_classes: int, width: int = 128) -> None:
        super().__init__()
        self.pyramid = ASPP(high, [6, 12], width)
        self.pyramid.project[3] = nn.Identity()  # torchvision's own dropout; ours is before it
        self.skip = _projection(low, 32, kernel=1)
        self.join = _projection(width + 32, width, kernel=3)
        self.scores = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """Scores at the stride of `maps["low"]`."""
        low = maps["low"]
        deep = F.interpolate(self.pyramid(maps["high"]), size=low.shape[2:], mode="bilinear")
        scores: Tensor = self.scores(self.join(torch.cat([deep, self.skip(low)], 1)))
        return scores


def _projection(inputs: int, outputs: int, *, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def fcn_resnet50(*, num_classes: int, channels: int = 3, dropout: float = 0.0) -> nn.Module:
    """FCN (Long et al. 2015) on a ResNet-50 whose last two stages are dilated: scores at stride 8."""
    net = resnet50(replace_stride_with_dilation=[False, True, True])
    net.conv1 = _first(net.conv1, channels)
    backbone = IntermediateLayerGetter(net, {"layer4": "high"})
    head = FCNHead(2048, num_classes)
    head[3] = nn.Identity()  # torchvision's own dropout; ours is before it
    model = Dense(backbone, _Deepest(head), dropout=dropout)
    model.taps = {"low": "backbone.layer1", "mid": "backbone.layer2", "high": "backbone.layer3"}  # type: ignore[assignment]
    return model


def lraspp_mobilenet_v3_large(
    *, num_classes: int, channels: int = 3, dropout: float = 0.0
) -> nn.Module:
    """LR-ASPP on MobileNetV3-Large (Howard et al. 2019, section 6.4): scores at stride 8, 3.2 M parameters."""
    backbone = _maps(mobilenet_v3_large, channels, low=4, high=16)
    model = Dense(backbone, LRASPPHead(40, 960, num_classes, 128), dropout=dropout)
    model.taps = {"low": "backbone.3", "mid": "backbone.6", "high": "backbone.12"}  # type: ignore[assignment]
    return model


def lraspp_mobilenet_v3_small(
    *, num_classes: int, channels: int = 3, dropout: float = 0.0
) -> nn.Module:
    """LR-ASPP on MobileNetV3-Small: scores at stride 8, 1.1 M parameters."""
    backbone = _maps(mobilenet_v3_small, channels, low=2, high=12)
    model = Dense(backbone, LRASPPHead(24, 576, num_classes, 128), dropout=dropout)
    model.taps = SMALL_TAPS  # type: ignore[assignment]
    return model


def aspp_mobilenet_v3_small(
    *, num_classes: int, channels: int = 3, dropout: float = 0.0
) -> nn.Module:
    """MobileNetV3-Small with an atrous pyramid and a skip: scores at stride 4, 2.7 M parameters."""
    backbone = _maps(mobilenet_v3_small, channels, low=1, high=12)
    head = ASPPHead(low=16, high=576, num_classes=num_classes)
    model = Dense(backbone, head, dropout=dropout)
    model.taps = SMALL_TAPS  # type: ignore[assignment]
    return model


def _maps(build: Callable[..., Any], channels: int, *, low: int, high: int) -> nn.Module:
    """Return a dilated MobileNetV3's layers, and the numbers of the two whose maps a head reads."""
    features = build(dilated=True, norm_layer=norm_of_mobilenet_v3).features
    features[0][0] = _first(features[0][0], channels)
    backbone: nn.Module = IntermediateLayerGetter(features, {str(low): "low", str(high): "high"})
    return backbone


def _first(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Return the stem's convolution for another number of channels."""
    if channels == conv.in_channels:
        return conv
    stem = nn.Conv2d(
        channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        bias=False,
    )
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem
