# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The nets that benchmarks share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Number of classes that the MLP and the ResNet predict.
NUM_CLASSES = 10
#: What bayesian-torch's README gives its ``dnn_to_bnn``.
BAYESIAN_TORCH = {
    "prior_mu": 0.0,
    "prior_sigma": 1.0,
    "posterior_mu_init": 0.0,
    "posterior_rho_init": -3.0,
    "type": "Reparameterization",
    "moped_enable": False,
    "moped_delta": 0.5,
}


def mlp(activation: str = "tanh") -> nn.Sequential:
    """Build the MLP 10-50-50-10 (3,610 weights in 6 tensors).

    :param str activation: ``"tanh"`` or ``"relu"``.
    :return: A net from inputs of shape ``[B, 10]`` to logits of shape ``[B, 10]``.
    :raises KeyError: If the activation is neither of the two.
    """
    unit = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]
    return nn.Sequential(
        nn.Linear(10, 50), unit(), nn.Linear(50, 50), unit(), nn.Linear(50, NUM_CLASSES)
    )


def relu_net(num_inputs: int, hidden: tuple[int, ...], num_outputs: int = 1) -> nn.Sequential:
    """Build a net of linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(num_inputs, width), nn.ReLU()]
        num_inputs = width
    return nn.Sequential(*layers, nn.Linear(num_inputs, num_outputs))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to a (projected) shortcut.

    :param int channels_in: Number of input channels.
    :param int channels_out: Number of output channels.
    :param int stride: Stride of the first convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape ``[B, C_in, H, W]`` to ``[B, C_out, H / stride, W / stride]``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """A CIFAR-style ResNet of widths 16-32-64: with one block each, 77,370 weights in 11 tensors.

    Three blocks each make it a ResNet-20 of 270,906 weights. Batch-norm parameters come on top;
    every competitor keeps them as points.

    He, Zhang, Ren, Sun (2016), "Deep residual learning for image recognition", section 4.2.

    :param int blocks: In each of the three stages.
    :param int channels: Of the images.
    :param int width: Channels at first; twice and four times as many follow.
    :param int stride: Stride of the first convolution.
    :param bool mixed: Whether it computes in bfloat16, channels last, on processors.
    """

    def __init__(
        self,
        blocks: int = 1,
        channels: int = 3,
        width: int = 16,
        stride: int = 1,
        mixed: bool = False,
    ) -> None:
        super().__init__()
        self.mixed = mixed
        self.conv = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        stages = []
        for before, after, first in ((1, 1, 1), (1, 2, 2), (2, 4, 2)):
            stages.append(ResidualBlock(before * width, after * width, first))
            stages += [ResidualBlock(after * width, after * width, 1) for _ in range(blocks - 1)]
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(4 * width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape ``[B, channels, H, W]`` to logits of shape ``[B, 10]``."""
        if self.mixed:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            out = F.relu(self.bn(self.conv(x)))
            out = self.blocks(out).mean((-2, -1))
        return self.head(out.float())
