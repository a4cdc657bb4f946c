"""Write a report once, read it twice: one self-contained HTML file, and Markdown for a repository.

A `Document` is plain data. All its text is plain text: characters with a meaning in HTML or
Markdown are escaped.
"""

import base64
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from dg.runtime.files import write_text

PICTURE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
}


CHART = 560  # pixels on a page, at which the type of a chart is as large as the text


@dataclass(frozen=True)
class Table:
    """Cells of any type, shown as `str` shows them; format numbers before.

    align      one of l, c, r per column; default: the first left, the others right
    highlight  index of the row to emphasise
    """

    columns: Sequence[str]
    rows: Sequence[Sequence]
    align: str = ""
    highlight: int | None = None
    caption: str = ""

    def __post_init__(self):
        if not self.align:
            object.__setattr__(self, "align", "l" + "r" * (len(self.columns) - 1))
        if len(self.align) != len(self.columns) or set(self.align) - set("lcr"):
            raise ValueError(
                f"align needs one of l, c, r for each of {len(self.columns)} columns, got "
                f"{self.align!r}"
            )
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a table of {len(self.columns)} columns has a row of {len(row)} cells: "
                    f"{list(row)}"
                )


@dataclass(frozen=True)
class Picture:
    """A PNG, JPEG or GIF file with its caption.

    wide  whether it fills the page, as a grid of images does, and not a part of it, as a chart
    """

    path: str | Path
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Code:
    """Commands or output, kept as they are."""

    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph set apart: a caveat, a deviation, how to read the figure above."""

    text: str


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; a plain string is a paragraph."""

    title: str
    items: Sequence["str | Table | Picture | Code | Note"] = ()


@dataclass(frozen=True)
class Document:
    """The whole report: the answer in a few sentences, what it is about, then the sections."""

    title: str
    lead: str = ""
    about: str = ""
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = ""


def text_of(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first row are headings, the first column is aligned left, the
    others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def write_report(path_html, document):
    """Write `document` as one HTML file with pictures and styles inside: no script, nothing loaded
    from elsewhere.

    Reads well on a phone, in light and dark mode and on paper. ValueError for a picture that is
    missing or of another type than PNG, JPEG, GIF.
    """
    title = html.escape(document.title)
    parts = [f"<h1>{title}</h1>"]
    if document.lead:
        parts.append(f'<p class="lead">{html.escape(document.lead)}</p>')
    if document.about:
        parts.append(f'<p class="about">{html.escape(document.about)}</p>')
    for section in document.sections:
        items = "\n".join(map(_item_html, section.items))
        parts.append(f"<section>\n<h2>{html.escape(section.title)}</h2>\n{items}\n</section>")
    if document.footer:
        parts.append(f"<footer>{html.escape(document.footer)}</footer>")
    write_text(path_html, PAGE.format(title=title, style=STYLE, body="\n".join(parts)))


def write_markdown(path_md, document):
    """Write the same content as Markdown (tables as in GitHub's); pictures stay files, linked
    relative to `path_md`."""
    parts = [f"# {_escape_md(document.title)}"]
    parts += [f"**{_escape_md(document.lead)}**" if document.lead else ""]
    parts += [_escape_md(document.about)]
    for section in document.sections:
        parts.append(f"## {_escape_md(section.title)}")
        parts += [_item_md(item, Path(path_md).parent) for item in section.items]
    if document.footer:
        parts += ["---", _escape_md(document.footer)]
    write_text(path_md, "\n\n".join(part for part in parts if part) + "\n")


# HTML ---------------------------------------------------------------------------------------------


def _item_html(item):
    match item:
        case str():
            return f"<p>{html.escape(item)}</p>"
        case Note():
            return f"<aside>{html.escape(item.text)}</aside>"
        case Code():
            return f'<pre tabindex="0"><code>{html.escape(item.text.strip())}</code></pre>'
        case Picture():
            caption, kind = html.escape(item.caption), "wide" if item.wide else "chart"
            return (
                f'<figure><img class="{kind}" src="{_data_uri(item.path)}" alt="{caption}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
        case Table():
            return _table_html(item)
    raise TypeError(f"a section cannot hold a {type(item).__name__}")


def _table_html(table):
    def row(cells, tag):
        return (
            "<tr>"
            + "".join(
                f'<{tag} class="{align}">{html.escape(str(cell))}</{tag}>'
                for cell, align in zip(cells, table.align, strict=True)
            )
            + "</tr>"
        )

    rows = [row(cells, "td") for cells in table.rows]
    if table.highlight is not None:
        rows[table.highlight] = rows[table.highlight].replace("<tr>", '<tr class="best">', 1)
    caption = f"<figcaption>{html.escape(table.caption)}</figcaption>" if table.caption else ""
    return (
        '<figure><div class="scroll" '
        f'tabindex="0"><table>\n<thead>{row(table.columns, "th")}</thead>\n<tbody>\n'
        + "\n".join(rows)
        + f"\n</tbody></table></div>{caption}</figure>"
    )


def _data_uri(path):
    path = Path(path)
    if path.suffix.lower() not in PICTURE_TYPES:
        raise ValueError(f"{path} is not a PNG, JPEG or GIF picture")
    if not path.is_file():
        raise ValueError(f"the picture {path} does not exist")
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{PICTURE_TYPES[path.suffix.lower()]};base64,{content}"


# Markdown -----------------------------------------------------------------------------------------


def _escape_md(text):
    """Text on one line with a backslash before whatever Markdown would read as more than a
    character."""
    text = re.sub(r"[ \t\r\n]+", " ", text).strip(" ")  # keeps no-break spaces
    text = re.sub(r"([\\`*_\[\]<>|$~]|&(?=#?\w+;))", r"\\\1", text)
    # would start a list, a heading or a rule
    return re.sub(r"^(\d*)([-+#.)])(?=[-+#]*(\s|$))", r"\1\\\2", text)


def _item_md(item, folder):
    match item:
        case str():
            return _escape_md(item)
        case Note():
            return f"> {_escape_md(item.text)}"
        case Code():
            fence = "`" * max(
                3, 1 + max((len(run) for run in re.findall("`+", item.text)), default=0)
            )
            return f"{fence}\n{item.text.strip()}\n{fence}"
        case Picture():
            target = quote(Path(os.path.relpath(item.path, folder)).as_posix())
            width = "" if item.wide else f' width="{CHART}"'
            image = f'<img src="{target}"{width} alt="{html.escape(item.caption)}">'
            return f"{image}\n\n*{_escape_md(item.caption)}*"
        case Table():
            return _table_md(item)
    raise TypeError(f"a section cannot hold a {type(item).__name__}")


def unbroken(cell: str) -> str:
    """A cell whose numbers do not wrap at the spaces around ±."""
    return cell.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def _table_md(table):
    def row(cells, mark=""):
        cells = [_escape_md(unbroken(str(cell))) for cell in cells]
        return "| " + " | ".join(f"{mark}{cell}{mark}" if cell else "" for cell in cells) + " |"

    rules = {"l": ":---", "c": ":---:", "r": "---:"}
    lines = [row(table.columns), "| " + " | ".join(rules[align] for align in table.align) + " |"]
    lines += [
        row(cells, "**" if i == table.highlight else "") for i, cells in enumerate(table.rows)
    ]
    return "\n".join(lines) + (f"\n\n*{_escape_md(table.caption)}*" if table.caption else "")


# The page -----------------------------------------------------------------------------------------
# The content policy has the browser enforce what the docstring promises. Figures keep a white
# ground in dark mode.

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root { --ink: #20262e; --muted: #5f6976; --line: #e1e5ea; --ground: #ffffff; --panel: #f5f7f9;
  --accent: #0072b2; --best: #e8f0fa; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --muted: #a0aab6; --line: #343c46; --ground: #15191e; --panel: #1e242b;
    --accent: #7fb0ee; --best: #1f3047; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.2rem 1.1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: clamp(1.5rem, 5vw, 2rem); line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2.4rem 0 0.8rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
p, aside, figcaption { max-width: 46rem; }
p { margin: 0 0 1rem; }
.lead { font-size: 1.15rem; font-weight: 600; }
.about { color: var(--muted); }
figure { margin: 1.4rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff;
  border-radius: 6px; }
figure img.chart { width: 36rem; }
figure img.wide { max-height: 48rem; }
figcaption { margin-top: 0.5rem; font-size: 0.9rem; line-height: 1.5; color: var(--muted); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.6rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--muted); border-bottom: 2px solid var(--line);
  vertical-align: bottom; }
td { white-space: nowrap; }
td:first-child { white-space: normal; min-width: 7.5rem; }
.l { text-align: left; } .c { text-align: center; } .r { text-align: right; }
.best td { background: var(--best); font-weight: 650; }
pre { background: var(--panel); border-radius: 8px; padding: 0.8rem 1rem; margin: 1.2rem 0;
  font-size: 0.82rem; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
aside { border-left: 3px solid var(--accent); padding: 0.2rem 0 0.2rem 1rem; margin: 1.2rem 0;
  color: var(--muted); }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line);
  font-size: 0.85rem; color: var(--muted); }
@media (max-width: 40rem) {
  table { font-size: 0.82rem; }
  th, td { padding: 0.35rem 0.4rem; }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--ground); }
  .best td:first-child { background: var(--best); }
}
@media print {
  html { font-size: 10pt; }
  body { font-size: 1rem; }
  main { max-width: none; padding: 0; }
  figure, aside { break-inside: avoid; }
  h2 { break-after: avoid; }
  pre, .best td { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  figure img { max-height: 13cm; }
  .scroll { overflow: visible; }
}
"""
