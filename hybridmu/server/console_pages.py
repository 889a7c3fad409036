"""Pages of the console, rendered on the server; without scripts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import jinja2
import markupsafe
from fastapi.responses import HTMLResponse

from hybridmu.core.metrics import METRICS, figure, shown
from hybridmu.server.headers import PAGE_POLICY
from hybridmu.server.request_life import spoken

STYLE = (resources.files("hybridmu") / "server" / "pages" / "style.css").read_text()
# Without a referrer browsers would not say either which site sent a form.
PAGE_HEADERS = {"Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "same-origin"}
_COLOURS = {"FAILED": "bad", "PURGED": "good", "SERVED": "good", "CANCELLED": ""}


class Exact:
    """A text that a form gets back as it came, character for character: it will be sent again.

    Args:
        text: The text.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __html__(self) -> str:
        """Return the text as HTML."""
        return str(markupsafe.escape(self._text))


def render_page(name: str, code: int = 200, **values: Any) -> HTMLResponse:
    """Return a page of the console.

    Args:
        name: Of its template.
        code: The answer's status code.
        **values: What the template shows.
    """
    text = _TEMPLATES.get_template(f"{name}.html.j2").render(**{"token": None, "refresh": None, **values})
    return HTMLResponse(text, code, PAGE_HEADERS)


def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("hybridmu", "server/pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_plain,
    )
    templates.filters |= {
        "moment": _moment,
        "minute": _minute,
        "iso": _iso,
        "after": _after,
        "late": _late,
        "exact": Exact,
        "colour": lambda s: _COLOURS.get(s, "middle"),
    }
    return templates


def _plain(value: Any) -> Any:
    """Return a value as a page shows it: a name can't turn the direction of what stands beside it.

    Example:
        >>> _plain("desk \u202ekrow") == "desk \ufffdkrow"
        True
    """
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in value)


def _moment(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _minute(at: float | None) -> str:
    """Return a time of a list, whose heading says that it is in UTC."""
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def _iso(at: float) -> str:
    """Return a time as programs read it."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _after(times: tuple[float | None, float]) -> str:
    """Return how long something took.

    Example:
        >>> _after((7325.0, 100.0)), _after((100.5, 100.0)), _after((None, 100.0))
        ('2 h 00 min', '0.5 s', '')
    """
    at, since = times
    return "" if at is None else spoken(at - since)


def quality_shown(quality: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what the overview shows of a version's quality, by the test table or else by validation rows.

    Args:
        quality: As in `System.status`; None when it was not measured.
    """
    split = next((name for name in ("test", "validation") if name in (quality or {})), None)
    if quality is None or split is None:
        return None
    found = quality[split]
    first, second = shown(found["ensemble"])
    alone = {sub["shard"]: figure(first, sub[first]) for sub in found["sub_models"]}
    figures = [(METRICS[name].words, figure(name, found["ensemble"][name])) for name in (first, second)]
    return {"split": split, "alone": alone, "figures": figures}


def quality_changes(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (table, metric, before, after) of a request, as far as both were measured."""
    before, after = report["quality"]["before"] or {}, report["quality"]["after"] or {}
    found = []
    for name in ("test", "validation"):
        if name in before and name in after:
            metric = shown(after[name]["ensemble"])[0]
            then, now = (figure(metric, one[name]["ensemble"][metric]) for one in (before, after))
            found.append((name, METRICS[metric].words, then, now))
    return found


def _late(report: Mapping[str, Any], now: float) -> bool:
    """Return whether a request is not exact and purged at its deadline."""
    over = report["deadline_at"] is not None and report["purged_at"] is None and report["deadline_at"] < now
    return over and report["state"] != "CANCELLED"


_TEMPLATES = _templates()
