# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Open trees that were saved as NetCDF with whatever ArviZ is installed, 0.23 or 1.x, and run its
statistics and plots on them; prints what ran. Needs ArviZ, Matplotlib and h5netcdf only.

Usage: python arviz_check.py CHAINS.nc OTHER.nc GUIDE.nc
"""

import sys
import warnings

import arviz as az
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

NEW = int(az.__version__.split(".")[0]) >= 1


def log_weights(guide):
    """Log ratios of model and guide, of each draw."""
    stats = guide["sample_stats"]
    return stats["lp"] - stats["log_q"]


def pareto_k(guide):
    """The shape of the ratios' tail."""
    if NEW:
        # ArviZ 1.x takes minus the log ratios, as a log-likelihood is for leave-one-out.
        return float((-log_weights(guide)).azstats.psislw(dim=["chain", "draw"])[1])
    return float(az.psislw(log_weights(guide).values.reshape(-1))[1])


def approximate_loo(chains, guide):
    """Leave-one-out with the guide's draws weighted by importance, where ArviZ has it."""
    if not NEW:
        return None
    stats = guide["sample_stats"]
    return az.loo_approximate_posterior(guide, stats["lp"], stats["log_q"])


def elpd(found):
    """The expected log predictive density under its old or new name."""
    return float(found.elpd if NEW else found.elpd_loo)


def checks(chains, other, guide):
    """What is to run, by name."""
    names = ["noise", "weights_scale"]
    plots = {
        "plot_trace": lambda: az.plot_trace(chains, var_names=names),
        "plot_forest": lambda: az.plot_forest(chains, var_names=names),
        "plot_loo_pit": lambda: az.plot_loo_pit(chains, **({} if NEW else {"y": "obs"})),
    }
    if NEW:
        plots["plot_ppc_dist"] = lambda: az.plot_ppc_dist(chains, num_samples=20)
        plots["plot_ppc_dist, prior"] = lambda: az.plot_ppc_dist(
            chains, group="prior_predictive", num_samples=20
        )
    else:
        plots["plot_ppc"] = lambda: az.plot_ppc(chains, num_pp_samples=20)
        plots["plot_ppc, prior"] = lambda: az.plot_ppc(chains, group="prior", num_pp_samples=20)
    return {
        "loo": lambda: elpd(az.loo(chains)),
        "loo of the guide": lambda: elpd(az.loo(guide)),
        "loo_approximate_posterior": lambda: approximate_loo(chains, guide),
        "compare": lambda: list(az.compare({"column": chains, "fixed": other}).index),
        "summary": lambda: az.summary(chains).shape,
        "rhat": lambda: float(az.rhat(chains)["noise"]),
        "ess": lambda: float(az.ess(chains)["noise"]),
        "psislw": lambda: pareto_k(guide),
        **plots,
    }


def open_trees(paths):
    """As this ArviZ opens them."""
    return [az.from_netcdf(path) for path in paths]


def main(paths):
    """Run all; returns how many failed."""
    warnings.simplefilter("ignore")
    print(f"Python {sys.version.split()[0]}, ArviZ {az.__version__}, xarray {xr.__version__}")
    chains, other, guide = open_trees(paths)
    mean = {name: float(np.mean(value)) for name, value in chains["posterior"].items()}
    print("posterior means:", {name: round(value, 6) for name, value in sorted(mean.items())})
    failed = 0
    for name, run in checks(chains, other, guide).items():
        try:
            result = run()
        except Exception as error:
            failed += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}")
        else:
            shown = "" if name.startswith("plot") else f": {result}"
            print(f"ran {name}{shown}")
        plt.close("all")
    return failed


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:4])))
