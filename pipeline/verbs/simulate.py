"""The simulated Polymarket."""

from __future__ import annotations

import click

from pipeline.verbs.frame import verb
from pipeline.verbs.options import FiniteRange


def _faults(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> list:
    from sandbox.faults import parse_fault

    try:
        return [parse_fault(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class _ListsFaults(click.Command):
    """A command whose help ends with the faults that there are."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them as a table, name by name."""
        from sandbox.faults import FAULTS

        with formatter.section("Faults"):
            formatter.write_dl(
                [(name, f"{it.what} ({', '.join(it.sources)})") for name, it in FAULTS.items()]
            )


@click.command(cls=_ListsFaults)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=18200, show_default=True, help="Loopback port."
)
@click.option("--seed", default=1, show_default=True, help="Seed of the world.")
@click.option(
    "--markets", type=click.IntRange(1), default=200, show_default=True, help="Number of markets."
)
@click.option(
    "--matches",
    type=click.IntRange(1),
    default=20_000,
    show_default=True,
    help="Matches before it starts.",
)
@click.option(
    "--block-time",
    type=FiniteRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="Seconds between blocks.",
)
@click.option(
    "--matches-per-block",
    type=FiniteRange(0),
    default=5.0,
    show_default=True,
    help="New matches per block.",
)
@click.option(
    "--fault", "faults", metavar="NAME[:PROBABILITY]", multiple=True, callback=_faults,
    help="Let this go wrong, at each request or with a probability; see below. Repeatable.",
)  # fmt: skip
@click.pass_context
def sandbox(
    context: click.Context,
    port: int,
    seed: int,
    markets: int,
    matches: int,
    block_time: float,
    matches_per_block: float,
    faults: list[tuple[str, float]],
) -> None:
    """Serve a simulated Polymarket on loopback, with new blocks, until stopped."""
    from pipeline.verbs.demo import serve_sandbox

    with verb(context):
        serve_sandbox(port, seed, markets, matches, block_time, matches_per_block, faults)


@click.command()
@click.option("--seed", default=7, show_default=True, help="Seed of the simulated Polymarket.")
@click.option(
    "--matches",
    type=click.IntRange(1),
    default=20_000,
    show_default=True,
    help="Matches before the first cycle.",
)
def demo(seed: int, matches: int) -> None:
    """Load a simulated Polymarket, derive everything, and compare it with the truth."""
    from pipeline.verbs.demo import run_demo

    with verb(click.Context(demo, obj=True)) as settings:
        run_demo(settings, seed=seed, matches=matches)


COMMANDS = (sandbox, demo)
