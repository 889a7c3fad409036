"""Files of the repository beside docs/ that pages link to: they become pages of the site, and their links hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
# Page of the site → file that it is made of.
PAGES = {
    "index.md": "README.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/security.md": "SECURITY.md",
    "project/changelog.md": "CHANGELOG.md",
}
DECISIONS = "adr/index.md"
_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
_NAMED = re.compile(r"(?<![\w/\[`])(?<!\]\()docs/([\w-]+)\.md")
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}


def decisions() -> str:
    """Return the page that lists the architecture decision records."""
    lines = ["# Decisions\n", "Choices that are hard to undo: what was decided, why, and what follows.\n"]
    for path in sorted((ROOT / "docs/adr").glob("0*.md")):
        title = path.read_text().partition("\n")[0].removeprefix("# ")
        lines.append(f"* [{title.replace('. ', ': ', 1)}]({path.name})")
    return "\n".join(lines) + "\n"


def pages_linked(text: str) -> str:
    """Return the text of a page in a folder, in which `docs/NAME.md` in prose is a link."""
    return _NAMED.sub(r"[\1](../\1.md)", text)


def linked(markdown: str, page: str) -> str:
    """Return a page whose links into the repository lead to pages of the site.

    Args:
        markdown: The page.
        page: Its path on the site.
    """
    source = _source(page)

    def link(match: re.Match[str]) -> str:
        target = _target(source, match[2])
        if target is None:
            return match[0]
        here = PurePosixPath(page).parent
        return f"{match[1]}{os.path.relpath(_site_path(target), here)}{match[3] or ''}{match[4]}"

    parts = _FENCE.split(markdown)
    return "".join(part if number % 2 else _LINK.sub(link, part) for number, part in enumerate(parts))


def files_linked_to(pages: dict[str, str]) -> dict[str, str]:
    """Return further pages of the site: a listing of each file that pages link to and that is no page yet.

    Args:
        pages: Page → its Markdown.
    """
    found = {target for page, text in pages.items() for target in _targets(page, text)}
    return {f"repository/{name}.md": _listing(name) for name in sorted(found) if _site_path(name).startswith("rep")}


def _targets(page: str, markdown: str) -> Iterator[str]:
    for part in _FENCE.split(markdown)[::2]:
        for match in _LINK.finditer(part):
            target = _target(_source(page), match[2])
            if target is not None:
                yield target


def _source(page: str) -> str:
    return PAGES.get(page, f"docs/{page}")


def _target(source: str, link: str) -> str | None:
    """Return the file or folder of the repository that a link leads to; None: it holds on the site as it stands."""
    target = os.path.normpath(PurePosixPath(source).parent / link)
    inside = source.startswith("docs/") and target.startswith("docs/") and not link.endswith("/")
    return target if not inside and (ROOT / target).exists() else None


def _site_path(target: str) -> str:
    pages = {file: page for page, file in PAGES.items()} | {"docs/adr": DECISIONS}
    if target in pages:
        return pages[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else f"repository/{target}.md"


def _listing(name: str) -> str:
    path = ROOT / name
    return f"# {name}\n\n````{_LANGUAGES.get(path.suffix, 'text')}\n{path.read_text().rstrip()}\n````\n"
