# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Time several callables in turn, and print what came out.

On a shared machine an absolute time says little, and two times measured one after the other
may come from different machines, as it were. So the callables take turns, block by block
(A B C A B C ...), and only ratios within a round are quoted.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

#: Seconds per call, one entry a round, for each callable by name.
Timings = dict[str, list[float]]


def parse_args(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, and keep torch to one thread.

    :param str description: What ``--help`` says about the benchmark.
    :param argv: Arguments; those of the process by default.
    :return: A namespace with the flag ``quick``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    return args


def _block(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def time_in_turn(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    block_seconds: float = 0.03,
    warmup: int = 3,
    min_rounds: int = 3,
) -> Timings:
    """Time callables in turn, in short blocks, until a time budget is spent.

    Each callable is first called ``warmup`` times untimed, and once more to choose how often
    it is called in a block, so that every block lasts about ``block_seconds``.

    :param calls: The callables by name; each does one unit of work.
    :param float seconds: Wall time to spend on the rounds, in seconds.
    :param float block_seconds: Aimed-at length of one block, in seconds.
    :param int warmup: Number of untimed calls of each callable.
    :param int min_rounds: Number of rounds to run even if the budget is spent.
    :return: For each name, the seconds per call in each round.
    """
    repeats = {}
    for name, call in calls.items():
        for _ in range(warmup):
            call()
        repeats[name] = max(1, round(block_seconds / _block(call, 1)))
    timings: Timings = {name: [] for name in calls}
    stop = time.perf_counter() + seconds
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < stop:
        for name, call in calls.items():
            timings[name].append(_block(call, repeats[name]))
        rounds += 1
    return timings


def ratio(timings: Timings, numerator: str, denominator: str) -> float:
    """Give the median, over rounds, of one callable's time over another's in that round.

    :param Timings timings: The result of :func:`time_in_turn`.
    :param str numerator: Name of the callable on top.
    :param str denominator: Name of the callable below.
    :return: How many times longer the first takes.
    """
    pairs = zip(timings[numerator], timings[denominator], strict=True)
    return statistics.median(top / below for top, below in pairs)


def print_timings(title: str, timings: Timings, reference: str) -> None:
    """Print median and quartiles in milliseconds, and the ratio to a reference.

    :param str title: Heading of the table.
    :param Timings timings: The result of :func:`time_in_turn`.
    :param str reference: Name of the callable that the others are compared with.
    """
    rows = []
    for name, times in timings.items():
        quartiles = statistics.quantiles(times, n=4)
        cells = [f"{1e3 * t:.2f}" for t in (statistics.median(times), quartiles[0], quartiles[2])]
        rows.append([name, *cells, f"{ratio(timings, name, reference):.2f}"])
    num_rounds = len(timings[reference])
    print_table(
        f"{title} ({num_rounds} rounds)",
        ["what", "median ms", "25 %", "75 %", f"over {reference}"],
        rows,
    )


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown, aligned: the first column to the left, the others to the right.

    :param str title: Heading of the table.
    :param header: Names of the columns.
    :param rows: The cells, row by row.
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    first, *others = widths
    lines.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in others)])
    print(f"\n{title}\n")
    for line in lines:
        left, *rest = line
        cells = [left.ljust(first), *map(str.rjust, rest, others)]
        print("| " + " | ".join(cells) + " |")


def mean_and_error(values: Sequence[float], form: str = "+.3f") -> str:
    """Give paired differences as ``mean ± standard error``; without the error where there is one.

    :param values: The differences; an empty text if there are none.
    :param form: How the mean is written.
    """
    if not values:
        return ""
    mean = f"{statistics.fmean(values):{form}}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def print_json(figures: Mapping[str, float]) -> None:
    """Print the figures as one line of JSON, rounded to four significant digits.

    A benchmark calls this last.

    :param figures: The figures by the names that their issue gives.
    """
    print()
    print(json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()}))
