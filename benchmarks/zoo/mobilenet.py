# SPDX-License-Identifier: Apache-2.0
"""MobileNetV2 (Sandler et al., 2018), MobileNetV3 (Howard et al., 2019) and EfficientNet-B0 (Tan
and Le, 2019)."""

from __future__ import annotations

import math

from torch import Tensor, nn

# (expansion, channels, repeats, stride) and (expansion, channels, repeats, stride, kernel)
MOBILENETV2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
EFFICIENTNET_B0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)

# (kernel, hidden channels, channels, squeeze-excite, hard-swish, stride)
MOBILENETV3_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


def _channels(count: int, width: float) -> int:
    return max(8, int(count * width + 4) // 8 * 8)


def _conv(
    inputs: int,
    outputs: int,
    activation: nn.Module | None,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs)
    return nn.Sequential(conv, norm, *([activation] if activation else []))


class SqueezeExcite(nn.Module):
    """Channel attention: the input times a gate computed from its global average."""

    def __init__(
        self,
        channels: int,
        squeezed: int,
        *,
        activation: nn.Module | None = None,
        gate: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            activation or nn.SiLU(),
            nn.Conv2d(squeezed, channels, 1),
            gate or nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class InvertedResidual(nn.Module):
    """Expand with a 1x1, filter with a depthwise, project with a linear 1x1 convolution."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expansion: int,
        stride: int,
        kernel: int,
        activation: nn.Module,
        squeeze: bool,
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [_conv(inputs, hidden, activation)] if expansion != 1 else []
        layers.append(
            _conv(hidden, hidden, activation, kernel=kernel, stride=stride, groups=hidden)
        )
        if squeeze:
            layers.append(SqueezeExcite(hidden, max(1, inputs // 4)))
        layers.append(_conv(hidden, outputs, None))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def _network(
    table: tuple[tuple[int, ...], ...],
    activation: nn.Module,
    *,
    squeeze: bool,
    width: float,
    depth: float,
    head: int,
    classes: int,
) -> nn.Module:
    channels = _channels(32, width)
    layers: list[nn.Module] = [_conv(3, channels, activation, kernel=3, stride=2)]
    for expansion, count, repeats, first_stride, *kernel in table:
        outputs = _channels(count, width)
        for index in range(math.ceil(repeats * depth)):
            layers.append(
                InvertedResidual(
                    channels,
                    outputs,
                    expansion=expansion,
                    stride=first_stride if index == 0 else 1,
                    kernel=kernel[0] if kernel else 3,
                    activation=activation,
                    squeeze=squeeze,
                )
            )
            channels = outputs
    layers.append(_conv(channels, head, activation))
    classifier = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(head, classes)]
    return nn.Sequential(*layers, *classifier)


def mobilenetv2(
    *, width: float = 1.0, depth: float = 1.0, head: int = 1280, classes: int = 1000
) -> nn.Module:
    """MobileNetV2; (1, 3, 224, 224) to (1, classes) logits."""
    return _network(
        MOBILENETV2,
        nn.ReLU6(inplace=True),
        squeeze=False,
        width=width,
        depth=depth,
        head=head,
        classes=classes,
    )


def efficientnet_b0(
    *, width: float = 1.0, depth: float = 1.0, head: int = 1280, classes: int = 1000
) -> nn.Module:
    """EfficientNet-B0; (1, 3, 224, 224) to (1, classes) logits."""
    return _network(
        EFFICIENTNET_B0,
        nn.SiLU(inplace=True),
        squeeze=True,
        width=width,
        depth=depth,
        head=head,
        classes=classes,
    )


class _BottleneckV3(nn.Module):
    """An inverted residual with its own hidden width, and the attention before the projection."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        kernel: int,
        stride: int,
        squeeze: bool,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        layers = [_conv(inputs, hidden, activation)] if hidden != inputs else []
        layers.append(
            _conv(hidden, hidden, activation, kernel=kernel, stride=stride, groups=hidden)
        )
        if squeeze:
            small = _channels(hidden, 0.25)
            gate = nn.Hardsigmoid()
            layers.append(SqueezeExcite(hidden, small, activation=nn.ReLU(), gate=gate))
        layers.append(_conv(hidden, outputs, None))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenetv3_large(
    *, width: float = 1.0, layers: slice = slice(None), head: int = 1280, classes: int = 1000
) -> nn.Module:
    """MobileNetV3-Large; (1, 3, 224, 224) to (1, classes) logits. `layers` picks rows of the
    table."""
    channels = _channels(16, width)
    body: list[nn.Module] = [_conv(3, channels, nn.Hardswish(), kernel=3, stride=2)]
    for kernel, hidden, outputs, squeeze, hard, stride in MOBILENETV3_LARGE[layers]:
        body.append(
            _BottleneckV3(
                channels,
                _channels(hidden, width),
                _channels(outputs, width),
                kernel=kernel,
                stride=stride,
                squeeze=squeeze,
                activation=nn.Hardswish() if hard else nn.ReLU(),
            )
        )
        channels = _channels(outputs, width)
    last = 6 * channels
    body += [_conv(channels, last, nn.Hardswish()), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    classifier = [nn.Linear(last, head), nn.Hardswish(), nn.Linear(head, classes)]
    return nn.Sequential(*body, *classifier)
