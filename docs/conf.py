# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How Sphinx builds the documentation: `make docs`. Nothing is fetched from the network."""

import importlib.metadata
import inspect
import logging
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.logging import getLogger
from sphinx.util.nodes import make_refnode

HERE = Path(__file__).parent
logger = getLogger(__name__)

# ArviZ 0.23 announces its own 1.0, which is no matter of these pages.
warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
logging.getLogger("arviz.preview").setLevel(logging.WARNING)

project = "pyro_groupprior"
author = "Contributors to the pyro_groupprior project"
copyright = author
release = importlib.metadata.version(project)
version = release

extensions = [
    "myst_nb",  # pages in Markdown, and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "_generated"]

# Pages
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are stored as they were run
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"
html_theme = "furo"
html_title = project
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["formulas.css"]

# Modules
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # those of torch and scikit-learn are theirs
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# Names in our docstrings that are nowhere are errors; those of others are not looked up.
nitpicky = True
OTHERS = (
    "builtins|collections|contextlib|copy|functools|matplotlib|np|numpy|pandas|pathlib|pd|pyro|sklearn"
    "|torch|types|typing|xarray|xr|nn"
)
SHORT = "Axes|Distribution|ELBO|MCMCKernel|Module|Path|Tensor|callable"
nitpick_ignore_regex = [
    ("py:.*", rf"({OTHERS})(\..*)?"),
    ("py:.*", SHORT),
    ("py:.*", r"pyro_groupprior\..*\._\w+"),  # bases that are nobody's business
]


def generated(name: str, text: str) -> None:
    """A piece of a page, to be included."""
    folder = HERE / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def copy_notebooks(*_: Any) -> None:
    """Notebooks live beside the demo; Sphinx wants its sources in one folder. There may be none."""
    folder = HERE / "tutorials"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found = sorted((HERE.parent / "tutorials").glob("*.ipynb"))
    for path in found:
        shutil.copy2(path, folder)
    entries = "\n".join(f"tutorials/{path.stem}" for path in found)
    listed = f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"
    generated("notebooks.md", listed if found else "There are none yet.\n")


def documented(thing: Any) -> str:
    """
    The name under which a class or function of ours is in the reference: that of the file or folder
    right below the package, whichever of its files it is in.
    """
    room = thing.__module__.removeprefix("pyro_groupprior.").split(".")[0]
    return f"pyro_groupprior.{room}.{thing.__qualname__}"


def list_names(*_: Any) -> None:
    """The table of what is at the top level, each name with its docstring's first sentence."""
    package = importlib.import_module("pyro_groupprior")
    rows = ["| name | what it is |", "|---|---|"]
    for name in sorted(package.__all__, key=str.lower):
        thing = getattr(package, name)
        if inspect.ismodule(thing):
            continue
        role = "class" if inspect.isclass(thing) else "func"
        said = " ".join(str(inspect.getdoc(thing)).split("\n\n")[0].split()).replace("``", "`")
        said = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", said)
        said = re.split(r"(?<=[\w)`])[.;:] ", said.rstrip(".;:"))[0]
        rows.append(f"| {{py:{role}}}`{name} <{documented(thing)}>` | {said} |")
    generated("names.md", "\n".join(rows) + "\n")


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """
    The place in the reference of a name that a docstring uses as its own file does: by the path at
    the top level, or by itself.
    """
    if node.get("refdomain") != "py":
        return None
    target, objects = node["reftarget"], env.domains["py"].objects
    if target.startswith("pyro_groupprior."):
        package, thing = target.split(".", 1)
        found = getattr(importlib.import_module(package), thing, None)
        names = [] if found is None else [documented(found)]
    else:
        names = [name for name in objects if name.endswith(f".{target}")]
        names = [name for name in names if not objects[name].aliased]
    if len(names) != 1 or names[0] not in objects:
        return None
    entry = objects[names[0]]
    return make_refnode(
        app.builder, node["refdoc"], entry.docname, entry.node_id, content, names[0]
    )


def skip(app: Any, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what others have put into our classes: fields of tuples, scikit-learn's setters."""
    if type(thing).__name__ == "_tuplegetter" or re.fullmatch(r"set_\w+_request", name):
        return True
    return None


def without_summary(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """A module's one sentence gives way to what its page says."""
    if what == "module" and sum(map(bool, lines)) == 1:
        lines.clear()


def without_object(app: Any, tree: Any) -> None:
    """That a class is an object need not be said."""
    for paragraph in list(tree.findall(nodes.paragraph)):
        if paragraph.astext() == "Bases: object":
            paragraph.parent.remove(paragraph)


def miss_nothing(app: Any, env: Any) -> None:
    """Every name in the ``__all__`` of the package and its folders is in the reference."""
    package = importlib.import_module("pyro_groupprior")
    objects = env.domains["py"].objects
    for name in package.__all__:
        thing = getattr(package, name)
        if not inspect.ismodule(thing):
            names = [documented(thing)]
        else:
            names = [f"{thing.__name__}.{each}" for each in getattr(thing, "__all__", ())]
        for missing in sorted(set(names) - objects.keys()):
            logger.warning("%s: no page in docs/api has it, or it has no docstring", missing)


def setup(app: Any) -> None:
    app.connect("builder-inited", copy_notebooks)
    app.connect("builder-inited", list_names)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", without_summary)
    app.connect("doctree-read", without_object)
    app.connect("env-check-consistency", miss_nothing)
