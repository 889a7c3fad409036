"""Map of all source files, from the first sentences of their docstrings; `python docs/file_map.py` writes it again."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
FOLDERS = ("hybridmu", "serve", "jobs", "benchmarks")
BEGIN, END = "<!-- files: python docs/file_map.py -->", "<!-- end -->"


def file_map() -> str:
    """Return the map as a Markdown block: a line per file and folder."""
    lines = [line for folder in FOLDERS for line in _folder(ROOT / folder, 0)]
    return "\n".join(["```", *lines, "```"])


def written(page: str) -> str:
    """Return a page with the map between its two marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{file_map()}\n{END}{rest.split(END, 1)[1]}"


def _folder(folder: Path, depth: int) -> list[str]:
    lines = [_line(f"{folder.name}/", _sentence(folder / "__init__.py"), depth)]
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir() and any(path.rglob("*.py")) and path.name not in {"__pycache__", "versions"}:
            lines += _folder(path, depth + 1)
        elif path.suffix == ".py" and path.name != "__init__.py":
            lines.append(_line(path.name, _sentence(path), depth + 1))
    return lines


def _line(name: str, says: str, depth: int) -> str:
    return f"{'  ' * depth}{name:<{max(1, 28 - 2 * depth)}} {says}".rstrip()


def _sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) if path.exists() else None
    return re.split(r"(?<=[^.]\.)\s|\n\n", " ".join((text or "").split("\n\n")[0].split()))[0].removesuffix(".")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
