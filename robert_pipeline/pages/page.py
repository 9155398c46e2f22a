"""The skeleton of every page: text, tables and figures in, one HTML document out.

Whatever comes from data goes through `text`, so that no label or path can become markup. A page asks for nothing from
outside: styles are inside, figures are inline SVG.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

STYLE = """
:root { color-scheme: light dark;
  --ink: #1b1d21; --paper: #ffffff; --quiet: #5d636d; --line: #d8dbe0; --wash: #f4f5f7;
  --series-0: #1f6feb; --series-1: #c2570c; --series-2: #0f8a68; --series-3: #8a4fd3; --series-4: #6b7280; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e8eb; --paper: #15171a; --quiet: #a0a6b0; --line: #363a41; --wash: #1e2125;
  --series-0: #6cabff; --series-1: #f0975a; --series-2: #4cc9a0; --series-3: #bb97f0; --series-4: #a3a9b3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .25rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { max-width: 46rem; margin: .25rem 0 .75rem; }
.lead { font-size: 1.1rem; }
.note, figcaption, dt { color: var(--quiet); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .3rem 1rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; font-size: .85rem; color: var(--quiet); }
.number { text-align: right; white-space: nowrap; }
tr.first td { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0; }
dd { margin: 0; overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
figure { margin: .75rem 0; }
figure svg { display: block; max-width: 100%; height: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; }
details { margin: .75rem 0; } summary { cursor: pointer; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; } svg .quiet { fill: var(--quiet); font-size: 12px; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .axis { stroke: var(--quiet); stroke-width: 1; }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading, a sentence on how to read what follows, and HTML."""

    heading: str
    note: str = ""
    body: str


def text(value: object) -> str:
    """As text that can stand anywhere in HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def page(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """One document: title, the sentences that say it all, and the sections. `lead` and notes are plain text."""
    parts = [f"<h1>{text(title)}</h1>", *(f'<p class="lead">{text(sentence)}</p>' for sentence in lead)]
    for section in sections:
        parts.append(f"<h2>{text(section.heading)}</h2>")
        if section.note:
            parts.append(f'<p class="note">{text(section.note)}</p>')
        parts.append(section.body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, words: int = 1, stress_first: bool = False
) -> str:
    """A table; the first `words` columns are left-aligned words, the others numbers."""

    def cells(values: Sequence[object], tag: str) -> str:
        openings = (f"<{tag}>" if place < words else f'<{tag} class="number">' for place in range(len(values)))
        return "".join(f"{opening}{text(value)}</{tag}>" for opening, value in zip(openings, values, strict=True))

    lines = [f"<tr>{cells(columns, 'th')}</tr>"]
    for number, row in enumerate(rows):
        opening = '<tr class="first">' if stress_first and number == 0 else "<tr>"
        lines.append(f"{opening}{cells(row, 'td')}</tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values, one pair a line."""
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs) + "</dl>"


def figure(svg: str, caption: str = "") -> str:
    """A drawing with what it shows in words."""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{below}</figure>"


def folded(summary: str, body: str) -> str:
    """HTML that is shown when asked for."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"
