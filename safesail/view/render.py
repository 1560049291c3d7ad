"""Pages out of what they show: one Jinja environment, in which every text is escaped and made visible."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from safesail.version import __version__
from safesail.view.charts import ScoreMarks, histogram, score_axis, score_words
from safesail.view.desk import Desk
from safesail.view.links import Links
from safesail.view.text import count, figure, finalized, significant, token_text

HERE = Path(__file__).parent
STATIC = HERE / "static"

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
}
"""What a page may load: its own scripts and styles, from files; nothing inline and nothing from elsewhere."""


def policy(*, exported: bool) -> str:
    """As a header, or for a page that is a file and may lie on a web server: there `'self'` alone names no file."""
    given = dict(POLICY)
    if exported:
        given |= {
            name: f"{given[name]} file:" for name in ("script-src", "style-src", "img-src", "form-action")
        }
        given["connect-src"] = "'none'"
    else:
        given["frame-ancestors"] = "'none'"  # a page's own tag may not say this
    return "; ".join(f"{name} {value}" for name, value in given.items())


def marks_of(score: Any) -> ScoreMarks:
    """What a score of a list or of a page has on its axis."""
    value = score.score if hasattr(score, "score") else score.value
    return ScoreMarks(value, score.low, score.high, score.chance, score.lookup)


@cache
def environment() -> Environment:
    """The templates."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"figure": figure, "significant": significant, "count": count, "token": token_text}
    ours: dict[str, Any] = {
        "score_axis": score_axis, "score_words": score_words, "marks_of": marks_of, "histogram": histogram,
        "version": __version__,
    }  # fmt: skip
    made.globals.update(ours)
    return made


NAVIGATION = (("index", "Features"), ("map", "Map"), ("saes", "SAEs"), ("costs", "Costs"))
"""Pages in the head of every page. A page that is added stands here, in `server.PAGES` and, if it needs no server, in
`export`."""


def render(template: str, desk: Desk, links: Links, **shown: Any) -> str:
    """A page as HTML."""
    return (
        environment()
        .get_template(template)
        .render(
            desk=desk,
            links=links,
            navigation=NAVIGATION,
            policy=policy(exported=True) if links.exported else None,
            **shown,
        )
    )
