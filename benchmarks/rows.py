# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A net whose posterior has a full covariance over the incoming weights of each unit.

Between mean-field and a covariance of all weights; with one matrix for all units of a layer it
would be the matrix-variate posterior of Louizos and Welling (2016), "Structured and Efficient
Variational Deep Learning with Matrix Gaussian Posteriors". Pre-activations of a row of data are
then independent normals, so that noise is drawn for them and not for the weights (Kingma, Salimans
and Welling 2015, "Variational Dropout and the Local Reparameterization Trick").
"""

import torch
from torch import Tensor, nn

from benchmarks.moments import FIRST_SCALE, MODE, SHAPE


class RowNet(nn.Module):
    """Linear layers with ReLU between them; a unit's bias is one of its incoming weights.

    :param torch.nn.Sequential net: Its weights are the posterior's first means.
    """

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        layers = [layer for layer in net if isinstance(layer, nn.Linear)]
        self.means = nn.ParameterList(
            torch.cat([layer.weight.detach(), layer.bias.detach()[:, None]], 1) for layer in layers
        )
        # The diagonal holds logarithms.
        self.factors = nn.ParameterList(
            torch.diag_embed((FIRST_SCALE * layer.in_features**-0.5 * torch.ones_like(mean)).log())
            for layer, mean in zip(layers, self.means, strict=True)
        )

    def cholesky(self, number: int) -> Tensor:
        """Give the factors of one layer's covariances, shape ``[outputs, inputs, inputs]``."""
        factor = self.factors[number]
        return factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).exp())

    def forward(self, x: Tensor) -> Tensor:
        """Draw outputs, with noise for every row of data, for inputs of shape ``[B, D]``."""
        for number, mean in enumerate(self.means):
            x = torch.cat([x.relu() if number else x, x.new_ones(len(x), 1)], 1)
            variance = torch.matmul(x, self.cholesky(number)).square().sum(-1).T
            x = x @ mean.T + variance.sqrt() * torch.randn(len(x), len(mean))
        return x

    def kl(self) -> Tensor:
        """Find the divergence from the prior N(0, s), with the best s for each layer.

        As in :class:`benchmarks.moments.MomentNet`, from the same hyperprior.
        """
        total = torch.zeros(())
        for number, mean in enumerate(self.means):
            factor = self.cholesky(number)
            squares, size = mean.square().sum() + factor.square().sum(), mean.numel()
            worth = 2 * (SHAPE + 1)  # of the hyperprior, in weights
            prior = (squares + worth * MODE / (mean.shape[1] - 1)) / (size + worth)
            log_det = self.factors[number].diagonal(dim1=-2, dim2=-1).sum()
            total = total + 0.5 * (size * (prior.log() - 1) + squares / prior) - log_det
        return total

    def run(self, x: Tensor, num_draws: int) -> Tensor:
        """Run nets with drawn weights, the same for all rows: outputs ``[S, B]``."""
        outputs = []
        for _ in range(num_draws):
            hidden = x
            for number, mean in enumerate(self.means):
                noise = torch.randn(*mean.shape, 1)
                weight = mean + (self.cholesky(number) @ noise)[..., 0]
                inputs = hidden.relu() if number else hidden
                hidden = torch.cat([inputs, x.new_ones(len(x), 1)], 1) @ weight.T
            outputs.append(hidden[:, 0])
        return torch.stack(outputs)
