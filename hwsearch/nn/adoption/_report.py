"""What is searchable, what is frozen, and why: as data and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np

from ._branches import Branch
from ._groups import Analysis, Extent, Group, Kernel


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Example:
        >>> import hwsearch, torch
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> report = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8)).report
        >>> {row.layer: row.why for row in report.rows if not row.searchable}
        {'2.weight': 'output of the network'}

    Attributes:
        layer: the weights of a kernel, or the place of a branch or block.
        op: what it is, for example ``"conv2d"``.
        width: channels that the kernel makes.
        group: the groups that these belong to.
        macs: multiply-accumulates for one image.
        searchable: whether any of these may change.
        why: the reasons where something is frozen.
        bits: the gene of its precision; empty where that cannot be chosen.
    """

    layer: str
    op: str
    width: int
    group: str
    macs: float
    searchable: bool
    why: str
    bits: str = ""


@dataclass(frozen=True)
class Report:
    """Rows for all kernels with weights, all branches and all blocks.

    Example:
        >>> import hwsearch, torch
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> print(hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8)).report)
        layer     op      width  group              why
        0.weight  conv2d  32     g0     searchable
        2.weight  conv2d  4      g2     frozen      output of the network
        100 % of 0.0 MMACs are in kernels whose widths are searchable.

    Attributes:
        rows: in the order of the network.
        macs: multiply-accumulates of the whole network for one image.
        share: the part of them in kernels of which the width that they make or the one that they read is searchable.
        unknown: what no rule covers and therefore froze something, each with its line of source.
    """

    rows: tuple[Row, ...]
    macs: float
    share: float
    unknown: tuple[str, ...]

    def _table(self) -> list[tuple[str, ...]]:
        """The rows in words, the heading first."""
        states = ("frozen", "searchable")
        lines = [(row.layer, row.op, str(row.width or ""), row.group, states[row.searchable], row.bits, row.why) for row in self.rows]
        table: list[tuple[str, ...]] = [("layer", "op", "width", "group", "", "precision", "why"), *lines]
        return table if any(row.bits for row in self.rows) else [(*line[:5], *line[6:]) for line in table]

    def _below(self) -> list[str]:
        """What is said below the table."""
        share = f"{100 * self.share:.0f} % of {self.macs / 1e6:.1f} MMACs are in kernels whose widths are searchable."
        return [share, *(f"Frozen: {each}." for each in self.unknown)]

    def __str__(self) -> str:
        table = self._table()
        sizes = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(size) for cell, size in zip(line, sizes, strict=True)).rstrip() for line in table]
        return "\n".join([*lines, *self._below()])

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in self._table())
        return f"<table>{rows}</table>{''.join(f'<p>{escape(line)}</p>' for line in self._below())}"


def make_report(analysis: Analysis, branches: tuple[Branch, ...], bits: Mapping[str, str]) -> Report:
    """The report of an analysis.

    Args:
        analysis: groups and kernels.
        branches: residual branches and blocks.
        bits: the gene of the precision of each kernel that has one, by the name of its weights.
    """
    by = {group.id: group for group in analysis.groups}
    widths = {group.id: group.width for group in analysis.groups}
    opened: dict[str, list[Group]] = {}
    for group in analysis.groups:
        for name, _ in group.opened:
            opened.setdefault(name, []).append(group)
    rows = []
    for kernel in analysis.kernels:
        if kernel.name and kernel.out is not None:
            made = opened.get(kernel.name, [])
            why = "; ".join(dict.fromkeys(group.reason for group in made if group.reason))
            free = any(group.searchable for group in made)
            names = ", ".join(group.id for group in made)
            rows.append(Row(kernel.name, kernel.op, kernel.out(widths), names, kernel.macs(widths), free, why, bits.get(kernel.name, "")))
    for branch in branches:
        kind = "branch" if branch.passing is None else "block"
        rows.append(Row(branch.module or branch.node, kind, 0, branch.id, 0.0, branch.searchable, branch.reason))
    total = sum(kernel.macs(widths) for kernel in analysis.kernels)
    free_macs = sum(kernel.macs(widths) for kernel in analysis.kernels if _free(kernel, by))
    return Report(tuple(rows), total, free_macs / total if total else 0.0, _unknown(analysis))


def _unknown(analysis: Analysis) -> tuple[str, ...]:
    """What no rule covers, where that froze channels of a layer, and not a mask or positions alone."""
    units = np.concatenate([np.empty(0, dtype=np.int64), *(group.units for group in analysis.groups)])
    atoms = analysis.flow.atoms
    froze = {reason for labels, reason in atoms.frozen if np.isin(atoms.find(labels), units).any()}
    return tuple(dict.fromkeys(reason for reason in analysis.flow.unknown.values() if reason in froze))


def _free(kernel: Kernel, by: dict[str, Group]) -> bool:
    """Whether the width that a kernel makes or reads is searchable."""
    extents: tuple[Extent | None, ...] = (kernel.out, kernel.into) if kernel.name else kernel.extents
    return any(by[group].searchable for each in extents if each is not None for group, _ in each.parts)
