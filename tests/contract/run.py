"""`python -m tests.contract.run FILE [--area NAME] [--all]`: every row of a contract file against our code.

Prints per area how many rows passed, failed and are unmapped (what has no adapter), and every row that is not as it
must be. Exit 1 if a `keep` or `harden` row failed or is unmapped.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path

from tests.contract.rows import Judged, Verdict, judge, read


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract.run", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--area", help="this area alone")
    parser.add_argument("--all", action="store_true", help="tell of every row")
    options = parser.parse_args(argv)
    # What our services log while they play a row is theirs.
    logging.getLogger().addHandler(logging.NullHandler())
    meta, rows = read(options.file)
    judged = [judge(row, meta) for row in rows if options.area in (None, row["area"])]
    tell(judged, every=options.all)
    return 1 if any(each.binds and each.verdict is not Verdict.PASSED for each in judged) else 0


def tell(judged: list[Judged], *, every: bool = False) -> None:
    """Print the table, and the rows that are not as they must be ("differs": a row that only informs)."""
    for each in judged:
        if every or each.verdict is Verdict.FAILED or (each.binds and each.verdict is Verdict.UNMAPPED):
            word = "differs" if each.verdict is Verdict.FAILED and not each.binds else each.verdict
            print(f"{word:9}{each.row['parity']:9}{each.row['id']:24}{each.why}")
    print(f"{'area':20}{'passed':>8}{'failed':>8}{'unmapped':>10}   informative (passed/failed/unmapped)")
    for area in sorted({each.row["area"] for each in judged}):
        print(f"{area:20}{_counts([each for each in judged if each.row['area'] == area])}")
    print(f"{'total':20}{_counts(judged)}")


def _counts(judged: list[Judged]) -> str:
    binding = Counter(each.verdict for each in judged if each.binds)
    others = Counter(each.verdict for each in judged if not each.binds)
    told = "/".join(str(others[verdict]) for verdict in Verdict) if others else "-"
    return (
        f"{binding[Verdict.PASSED]:>8}{binding[Verdict.FAILED]:>8}{binding[Verdict.UNMAPPED]:>10}   {told}"
    )


if __name__ == "__main__":
    sys.exit(main())
