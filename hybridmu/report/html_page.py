"""Report as one HTML file without outside references."""

from __future__ import annotations

from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """Return a template of this folder filled with values; text is escaped, plots are marked safe in the template.

    Args:
        template: File name.
        values: What it shows.

    Returns:
        HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hybridmu", "report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(**values)
