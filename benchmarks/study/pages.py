"""The pages whose tables are made from the CSV files in docs/study/, and from nothing else.

Tables stand between markers `<!-- table NAME ARGUMENT -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.study import benchmarks, command_line, encoding, scaletables, study_tables
from benchmarks.suite import adapters, features, learners, records, sums

# Relative to the project's root.
PAGES = (
    "docs/adapters.md",
    "docs/benchmarks.md",
    "docs/closed-form.md",
    "docs/learners.md",
    "docs/quality.md",
    "docs/results.md",
    "docs/scale.md",
    "docs/serving.md",
    "docs/text-and-pictures.md",
)
TABLES: dict[str, Callable[[Path, str], str]] = {
    **study_tables.TABLES,
    **scaletables.TABLES,
    **benchmarks.TABLES,
    "encode": encoding.encode,
    "command_line": command_line.command_line,
    "suite": records.suite,
    "shards": records.shards,
    "adapters": adapters.adapters,
    "adapters_served": adapters.served,
    "features": features.features,
    "learners": learners.learners,
    "sums": sums.sums,
    "closed_form": records.closed_form,
}

_BLOCK = re.compile(r"(<!-- table (\w+)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, folder: Path) -> str:
    """Return a page with every marked table made again.

    Args:
        text: With markers.
        folder: Of the CSV files.

    Returns:
        The same text around other tables.

    Raises:
        ValueError: A marker names no table.
    """

    def block(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"unknown table {match[2]!r}; known: {', '.join(sorted(TABLES))}")
        return f"{match[1]}\n{TABLES[match[2]](folder, match[3] or '')}\n\n{match[4]}"

    return _BLOCK.sub(block, text)
