# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which parameters of a net become Bayesian and which stay point parameters."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

from torch import nn

from ..layout import Layout

Predicate: TypeAlias = "Callable[[str, nn.Module, nn.Parameter], bool]"
Rule: TypeAlias = "str | type[nn.Module] | Predicate"

# Their scale and shift set the units of a layer rather than being exchangeable weights.
NORM_LAYERS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # the only common base of all batch and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)


class Owned(NamedTuple):
    """A parameter with its name, the module that holds it, and its further names if tied."""

    name: str
    module: nn.Module
    parameter: nn.Parameter
    aliases: tuple[str, ...]


def owned_parameters(net: nn.Module) -> Iterator[Owned]:
    """Every parameter of ``net`` once, in ``named_parameters`` order."""
    names: dict[int, list[str]] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for name, parameter in net.named_parameters():
        module = net.get_submodule(name.rpartition(".")[0])
        yield Owned(name, module, parameter, tuple(names[id(parameter)][1:]))


def repeated_names(net: nn.Module, layout: Layout) -> list[str]:
    """
    The names in a layout that reach the same attribute of the same module as an earlier one,
    since a module stands in several places. Tied attributes of different modules are not such.
    """
    repeated, seen = [], set()
    for entry in layout:
        for name in (entry.name, *entry.aliases):
            path, _, local = name.rpartition(".")
            slot = (id(net.get_submodule(path)), local)
            if slot in seen:
                repeated.append(name)
            seen.add(slot)
    return repeated


def select_parameters(net: nn.Module, bayesian: Rule | Iterable[Rule] | None) -> list[Owned]:
    """
    The parameters that are to be Bayesian.

    Example::

        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        >>> [owned.name for owned in select_parameters(net, None)]
        ['0.weight', '0.bias', '2.weight', '2.bias']
        >>> [owned.name for owned in select_parameters(net, "2.*")]
        ['2.weight', '2.bias']

    :param bayesian: a shell-style pattern of parameter names, a module type, a predicate
        ``(name, module, parameter) -> bool``, or several of these, any of which may match.
        Default: all but the scale and shift of norm layers and frozen parameters.
    :raises ValueError: if the net has no parameters, none is selected, or a pattern or type
        matches nothing.
    :raises TypeError: if a rule is of another kind.
    """
    owned = list(owned_parameters(net))
    if not owned:
        raise ValueError(f"net: expected a module with parameters, {type(net).__name__} has none")
    for item in owned:
        if isinstance(item.parameter, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"net: the parameter {item.name!r} has no shape yet; run the net once on some data"
            )
    if bayesian is None:
        selected = [
            item
            for item in owned
            if item.parameter.requires_grad and not isinstance(item.module, NORM_LAYERS)
        ]
        if not selected:
            raise ValueError(
                "net: all of its parameters are frozen or belong to norm layers; "
                "say with `bayesian` which of them to take"
            )
        return selected
    rules = list(bayesian) if isinstance(bayesian, (list, tuple, set)) else [bayesian]
    if not rules:
        raise ValueError("bayesian: expected at least one rule, got none")
    matched: set[str] = set()
    for rule in rules:
        names = {item.name for item in owned if _matches(rule, item)}  # type: ignore[arg-type]
        if not names:
            raise ValueError(
                f"bayesian: {_words(rule)} matches none of the parameters "
                f"{[item.name for item in owned]}"
            )
        matched |= names
    return [item for item in owned if item.name in matched]


def _matches(rule: Rule, item: Owned) -> bool:
    if isinstance(rule, str):
        return any(fnmatch.fnmatchcase(name, rule) for name in (item.name, *item.aliases))
    if isinstance(rule, type) and issubclass(rule, nn.Module):
        return isinstance(item.module, rule)
    if callable(rule) and not isinstance(rule, type):
        return bool(rule(item.name, item.module, item.parameter))
    raise TypeError(
        f"bayesian: expected a name pattern, a module type or a predicate, got {rule!r}"
    )


def _words(rule: object) -> str:
    return rule.__name__ if isinstance(rule, type) else repr(rule)
