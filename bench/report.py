"""BENCHMARKS.md and the closing lines, from what the parts found. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import Figure, Part, shown

_HEAD = """# Benchmarks

Written by `make bench`; do not edit. Medians of the runs, with the smallest and the largest of them. The machine may be
shared, so absolute rates vary from day to day by a third or more: ratios were taken between runs next to each other, and
only those compare.

"""


def markdown(
    parts: Sequence[Part], *, machine: str, date: str, command: str, seconds: float
) -> str:
    """The text of BENCHMARKS.md."""
    lines = [f"- machine: {machine}", f"- date: {date}", f"- command: `{command}`, {seconds:.0f} s"]
    text = _HEAD + "\n".join(lines) + "\n" + _goals([x for part in parts for x in part.figures])
    for part in parts:
        text += f"\n## {part.title}\n\n{part.method}\n\n"
        header = ("figure", "median", "smallest … largest", "unit", "runs", "")
        text += _table([header, *map(_row, part.figures)])
        for caption, rows in part.tables.items():
            text += f"\n{caption}:\n\n{_table(rows)}"
    return text


def closing_lines(parts: Sequence[Part]) -> list[str]:
    """One `name: value` line per figure, by its median."""
    return [f"{each.name}: {each.median:.6g}" for part in parts for each in part.figures]


def _goals(figures: Sequence[Figure]) -> str:
    """What the project set out to reach, and whether it does."""
    rows = [
        (
            f"`{each.name}`",
            f"{shown(each.median)} {each.unit}".removesuffix(" ratio"),
            str(each.goal),
            "yes" if each.goal.is_reached_by(each.median) else f"no: {each.median / each.goal.value:.0%} of it",
        )
        for each in figures
        if each.goal
    ]  # fmt: skip
    return (
        f"\n## Goals\n\n{_table([('figure', 'median', 'goal', 'reached'), *rows])}" if rows else ""
    )


def _row(figure: Figure) -> tuple[str, ...]:
    spread = f"{shown(min(figure.values))} … {shown(max(figure.values))}"
    runs = len(figure.values)
    spread = spread if runs > 1 else ""
    return f"`{figure.name}`", shown(figure.median), spread, figure.unit, str(runs), figure.note


def _table(rows: Sequence[Sequence[object]]) -> str:
    header, *body = [[str(cell) for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
