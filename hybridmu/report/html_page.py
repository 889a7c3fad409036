"""Report as one HTML file without outside references, for a screen of any width, in the light, the dark, and on paper.

Every report extends `base.html.j2`: its headline comes first, one sentence with numbers, and `style.css` is theirs all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jinja2

Mark = Literal["", "good", "middle", "bad"]


@dataclass(frozen=True)
class Cell:
    """A text with a mark.

    Attributes:
        text: What it says; it says in words too what the mark means.
        mark: `good` only where something that was stated before is met: a budget, a deadline, a proof.
    """

    text: str
    mark: Mark


def render(template: str, *, headline: str, mark: Mark = "", **values: Any) -> str:
    """Return a template of this folder filled with values; text is escaped, plots are marked safe in the template.

    Args:
        template: File name.
        headline: What the report says, in one sentence with numbers.
        mark: Of the headline, as that of a `Cell`; none where nothing was stated before.
        values: What it shows.

    Returns:
        HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hybridmu", "report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(headline=headline, mark=mark, **values)
