# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path
from typing import Any

import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.guides import SiteGuide
from tests.guides.models import GUIDES, X, Y


def _model(width: int = 3, grouping: str = "layer") -> pgp.BayesianModule:
    torch.manual_seed(width)
    net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))
    return pgp.BayesianModule(net, pgp.likelihoods.Normal(), grouping=grouping)


@pytest.mark.parametrize(("kind", "options"), GUIDES)
def test_there_and_back(kind: type[SiteGuide], options: dict[str, Any], tmp_path: Path) -> None:
    guide, again = (kind(_model(30), **options) for _ in range(2))
    guide.setup(X, Y)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    pgp.save_guide(tmp_path / "guide", guide)
    pgp.load_guide(tmp_path / "guide", again, X, Y)
    torch.manual_seed(0)
    first = guide.draws(5)
    torch.manual_seed(0)
    for name, value in again.draws(5).items():
        assert torch.equal(value, first[name])
    # All numbers that are used, and a header.
    size = (tmp_path / "guide").stat().st_size
    assert 4 * guide.num_numbers < size < 4 * guide.num_numbers + 4096


def test_groups_may_be_more_than_now(tmp_path: Path) -> None:
    guide, again = (pgp.AutoMeanField(_model(3, name)) for name in ("column", "layer"))
    guide.setup(X, Y)
    again.setup(X, Y)
    pgp.save_guide(tmp_path / "guide", guide)
    pgp.load_guide(tmp_path / "guide", again)
    assert again.locs["weights_scale"].shape == guide.locs["weights_scale"].shape


def test_bad_input(tmp_path: Path) -> None:
    path, guide = tmp_path / "guide", pgp.AutoMeanField(_model())
    with pytest.raises(RuntimeError, match="the guide has no parameters yet"):
        pgp.save_guide(path, guide)
    assert not path.exists()
    guide.setup(X, Y)
    pgp.save_guide(path, guide)
    with pytest.raises(ValueError, match="holds AutoMeanField, expected AutoLowRank"):
        pgp.load_guide(path, pgp.AutoLowRank(_model()), X, Y)
    other = pgp.AutoMeanField(_model(4))
    other.setup(X, Y)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"expected shape \(21,\) of 'locs.weights', got \(16,\)"):
        pgp.load_guide(path, other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    fixed = pgp.BayesianModule(nn.Linear(3, 1), pgp.likelihoods.Normal(), scale=1.0)
    with pytest.raises(ValueError, match=r"is of another guide: .* is in one of both only"):
        pgp.load_guide(path, pgp.AutoMeanField(fixed), X, Y)
    blocks = [
        pgp.AutoBlockNormal(_model(), blocks=index)
        for index in (torch.arange(16) // 4, torch.arange(16) % 4)
    ]
    blocks[0].setup(X, Y)
    pgp.save_guide(tmp_path / "blocks", blocks[0])
    with pytest.raises(ValueError, match="its weights, or their blocks, are others"):
        pgp.load_guide(tmp_path / "blocks", blocks[1], X, Y)
    with torch.no_grad():
        guide.locs["weights"][3] = torch.nan
    pgp.save_guide(tmp_path / "nan", guide)
    with pytest.raises(ValueError, match=r"has NaN or inf in 'locs.weights'"):
        pgp.load_guide(tmp_path / "nan", guide)
    with pytest.raises(TypeError, match="guide: expected one of this package, got AutoNormal"):
        pgp.save_guide(path, AutoNormal(_model()))  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="is damaged"):
        pgp.load_guide(path, guide)
