"""Networks that give class scores of small images: torchvision's with stems for 32 and 64 pixels.

Their state-dict keys are torchvision's where torchvision has the network. `taps` names the modules
whose outputs are its features: "low", "mid" and "high" are maps at a half, a quarter and an eighth
of the image's side where the network has them, "pooled" the vector before the classifier.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, mobilenet_v2, mobilenet_v3_small
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from tune_kd.errors import UsageError
from tune_kd.models.layers import Classifier, Dropout, norm_of_mobilenet_v3


class SmallImageResNet(ResNet):  # type: ignore[misc] # torchvision has no types
    """torchvision's ResNet, widths 64-128-256-512 (four times that with bottlenecks), for small images.

    The stem is a 3x3 convolution of stride 1 without pooling: torchvision's own, meant for 224
    pixels, leaves one pixel of 32. He et al. 2016, table 1, with the stem of its section 4.2.
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        num_classes: int,
        channels: int = 3,
        dropout: float = 0.0,
        bottleneck: bool = False,
    ) -> None:
        block = Bottleneck if bottleneck else BasicBlock
        super().__init__(block, list(layers), num_classes=num_classes)
        self.conv1 = _conv3x3(channels, 64)
        self.maxpool = nn.Identity()
        self.fc = Classifier(512 * block.expansion, num_classes, dropout=dropout)
        self.taps = {
            "lowest": "layer1",
            "low": "layer2",
            "mid": "layer3",
            "high": "layer4",
            "pooled": "avgpool",
        }


class CifarResNet(nn.Module):
    """He et al. 2016, section 4.2: a ResNet of 6n+2 layers, n blocks for each of three widths.

    The shortcuts that change the width are 1x1 convolutions, as distillation's references have them
    (ResNet-8: 78,042 parameters at 10 classes), not the paper's parameter-free ones. `widths` are
    those of the stem and of the three stages; the references' "x4" has (32, 64, 128, 256).
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int,
        channels: int = 3,
        dropout: float = 0.0,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
    ) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        assert (blocks >= 1, remainder) == (True, 0), depth
        stem, low, mid, high = widths
        self.conv1 = _conv3x3(channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(stem, low, blocks=blocks, stride=1)
        self.layer2 = _stage(low, mid, blocks=blocks, stride=2)
        self.layer3 = _stage(mid, high, blocks=blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = Classifier(high, num_classes, dropout=dropout)
        self.taps = {"low": "layer1", "mid": "layer2", "high": "layer3", "pooled": "avgpool"}
        _he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] to scores [B, num_classes]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.fc(self.avgpool(x).flatten(1))
        return scores


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with batch normalisation, at full, half and quarter size: for 8x8 digits."""

    def __init__(
        self,
        widths: tuple[int, int, int],
        *,
        num_classes: int,
        channels: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        low, mid, high = widths
        self.stage1 = _convolution(channels, low, stride=1)
        self.stage2 = _convolution(low, mid, stride=2)
        self.stage3 = _convolution(mid, high, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = Classifier(high, num_classes, dropout=dropout)
        self.taps = {"low": "stage1", "mid": "stage2", "high": "stage3", "pooled": "avgpool"}
        _he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] to scores [B, num_classes]."""
        x = self.stage3(self.stage2(self.stage1(x)))
        scores: Tensor = self.fc(self.avgpool(x).flatten(1))
        return scores


class Grid(nn.Module):
    """Tokens [B, 1 + h * w, C] as a map [B, C, h, w], the class token left out: what a level taps."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, tokens: Tensor) -> Tensor:
        """Return a view, no copy."""
        map_: Tensor = tokens[:, 1:].transpose(1, 2).unflatten(2, (self.height, self.width))
        return map_


class SmallViT(VisionTransformer):  # type: ignore[misc] # torchvision has no types
    """torchvision's Vision Transformer with patches of 4 pixels, width 192 and 3 heads (ViT-Tiny).

    Dosovitskiy et al. 2021, section 3.1; widths of Touvron et al. 2021, table 1. `dropout` is that
    of the embedding, of attention's output and of the MLPs. Levels are the tokens after a third,
    two thirds and all of the layers, as maps.
    """

    def __init__(
        self,
        layers: int,
        *,
        num_classes: int,
        channels: int = 3,
        dropout: float = 0.0,
        size: tuple[int, int] = (32, 32),
    ) -> None:
        height, width = size
        if height != width or height % 4:
            raise UsageError(
                f"a ViT takes square images whose side is a multiple of 4, not {height}x{width}; "
                "choose another network or task"
            )
        super().__init__(
            image_size=height,
            patch_size=4,
            num_layers=layers,
            num_heads=3,
            hidden_dim=192,
            mlp_dim=768,
            num_classes=num_classes,
        )
        if channels != 3:
            self.conv_proj = nn.Conv2d(channels, 192, kernel_size=4, stride=4)
        _replace_dropout(self, dropout)
        self.low, self.mid, self.high = (Grid(height // 4, width // 4) for _ in range(3))
        self._tapped = {layers // 3: self.low, 2 * layers // 3: self.mid, layers: self.high}
        self.taps = {"low": "low", "mid": "mid", "high": "high"}

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, H, W] to scores [B, num_classes]."""
        tokens = self._process_input(x)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.encoder.dropout(tokens + self.encoder.pos_embedding)
        for number, layer in enumerate(self.encoder.layers, start=1):
            tokens = layer(tokens)
            if number in self._tapped:
                self._tapped[number](tokens)  # for its hook alone
        scores: Tensor = self.heads(self.encoder.ln(tokens)[:, 0])
        return scores


def small_mobilenet_v2(*, num_classes: int, channels: int = 3, dropout: float = 0.0) -> nn.Module:
    """MobileNetV2 of torchvision (Sandler et al. 2018, table 2) with a stem of stride 1."""
    model: nn.Module = mobilenet_v2(num_classes=num_classes)
    _stem(model, channels)
    _replace_dropout(model, dropout)
    model.taps = {"low": "features.3", "mid": "features.6", "high": "features.13"}  # type: ignore[assignment]
    return model


def small_mobilenet_v3(*, num_classes: int, channels: int = 3, dropout: float = 0.0) -> nn.Module:
    """MobileNetV3-Small of torchvision (Howard et al. 2019, table 2) with a stem of stride 1."""
    model: nn.Module = mobilenet_v3_small(num_classes=num_classes, norm_layer=norm_of_mobilenet_v3)
    _stem(model, channels)
    _replace_dropout(model, dropout)
    model.taps = {"low": "features.1", "mid": "features.3", "high": "features.8"}  # type: ignore[assignment]
    return model


def _stem(model: nn.Module, channels: int) -> None:
    """Set the first convolution with stride 1: with 2, nothing is left of 32 pixels after five halvings."""
    conv = model.get_submodule("features.0.0")
    assert isinstance(conv, nn.Conv2d)
    conv.stride = (1, 1)
    if channels != conv.in_channels:
        stem = nn.Conv2d(channels, conv.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out")
        model.get_submodule("features.0").register_module("0", stem)


def _replace_dropout(model: nn.Module, rate: float) -> None:
    """All of torchvision's dropout layers as ours, of one rate, which a trial sets."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                parent.register_module(name, Dropout(rate))


def _conv3x3(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size (stride 1), initialised as in He et al. 2015."""
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _convolution(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    conv = _conv3x3(inputs, outputs, stride=stride)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _stage(inputs: int, outputs: int, *, blocks: int, stride: int) -> nn.Sequential:
    """Build basic blocks; the first one changes width and size, with a 1x1 convolution as its shortcut."""
    shortcut: nn.Module | None = None
    if stride != 1 or inputs != outputs:
        conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


def _he_normal(model: nn.Module) -> None:
    """He et al. 2015: normal with variance 2 / fan_out, in all convolutions, as torchvision does."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
