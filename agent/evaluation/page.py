"""A page of headings, tables, figures and videos, written once and told as HTML or as Markdown.

The HTML stands alone: style, figures and videos are inside, nothing is fetched. It follows the reader's
light or dark setting and prints in black on white.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """A cell of a table with a mark: good, bad, warn, dim or strong. What is below its first line is smaller
    print."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Text:
    words: str
    mark: str = ""


@dataclass(frozen=True)
class Heading:
    words: str
    level: int = 2
    mark: str = ""


@dataclass(frozen=True)
class Notes:
    """What a reader must not overlook."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Numbers:
    """A row of big numbers: (value, what it is)."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """The first column is text, the others are aligned right, but for those in `left`."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: Sequence[int] = (0,)
    about: str = ""


@dataclass(frozen=True)
class Figure:
    """svg: inline; None where it could not be drawn (the tables beside it say the same)."""

    svg: str | None
    about: str


@dataclass(frozen=True)
class Video:
    mp4: bytes
    about: str


@dataclass(frozen=True)
class Squares:
    """Small marked squares in rows, ten and ten together: (label, [(mark, tooltip), ...])."""

    rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]


@dataclass(frozen=True)
class Fold:
    """Shown when the reader asks for it."""

    title: str
    blocks: Sequence[Block]


Block = Text | Heading | Notes | Numbers | Table | Figure | Video | Squares | Fold
SIGNS = {"good": "#", "bad": ".", "warn": "!", "": "-"}


@dataclass
class Page:
    title: str
    subtitle: str = ""
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block | None) -> None:
        self.blocks += [block for block in blocks if block is not None]

    def html(self) -> str:
        """The whole file."""
        style = Path(__file__).with_name("page.css").read_text()
        body = "\n".join(map(_html, self.blocks))
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
            f'<header><h1>{escape(self.title)}</h1>\n<p class="dim">{escape(self.subtitle)}</p></header>\n'
            f"{body}\n</main>\n</body>\n</html>\n"
        )

    def markdown(self) -> str:
        """The same without figures and videos."""
        parts = [f"# {self.title}", self.subtitle, *map(_markdown, self.blocks)]
        return "\n\n".join(part for part in parts if part) + "\n"


# -- HTML


def _html(block: Block) -> str:
    match block:
        case Text(words, mark):
            return f"<p{_class(mark)}>{escape(words)}</p>"
        case Heading(words, level, mark):
            return f"<h{level}{_class(mark)}>{escape(words)}</h{level}>"
        case Notes(lines):
            return '<ul class="notes">' + "".join(f"<li>{escape(x)}</li>" for x in lines) + "</ul>"
        case Numbers(pairs):
            cells = (f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in pairs)
            return f'<div class="numbers">{"".join(cells)}</div>'
        case Table():
            return _html_table(block)
        case Figure(svg, about):
            drawn = f'<figure role="img" aria-label="{escape(about)}">{svg}'
            return f"{drawn}<figcaption>{escape(about)}</figcaption></figure>" if svg else ""
        case Video(mp4, about):
            data = base64.b64encode(mp4).decode()
            source = f'<source type="video/mp4" src="data:video/mp4;base64,{data}">'
            return (
                f'<figure><video controls muted playsinline preload="metadata">{source}</video>'
                f"<figcaption>{escape(about)}</figcaption></figure>"
            )
        case Squares(rows):
            return _html_squares(rows)
        case Fold(title, blocks):
            inside = "\n".join(map(_html, blocks))
            return f"<details><summary>{escape(title)}</summary>\n{inside}\n</details>"


def _class(mark: str) -> str:
    return f' class="{mark}"' if mark else ""


def _html_table(table: Table) -> str:
    def cell(number: int, value: str | Cell, tag: str = "td") -> str:
        value = value if isinstance(value, Cell) else Cell(value)
        marks = " ".join(filter(None, ("left" if number in table.left else "", value.mark)))
        first, _, below = escape(value.text).partition("\n")
        below = f"<small>{below}</small>" if below else ""
        return f"<{tag}{_class(marks)}>{first}{below}</{tag}>"

    head = "".join(cell(i, c, "th") for i, c in enumerate(table.columns))
    rows = "\n".join("<tr>" + "".join(cell(i, c) for i, c in enumerate(row)) + "</tr>" for row in table.rows)
    about = f"<caption>{escape(table.about)}</caption>" if table.about else ""
    return (
        f'<div class="wide"><table>{about}<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>'
    )


def _html_squares(rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    lines = []
    for label, marks in rows:
        tens = [marks[i : i + 10] for i in range(0, len(marks), 10)]
        groups = "".join(
            "<span>" + "".join(f'<i{_class(m)} title="{escape(tip)}"></i>' for m, tip in ten) + "</span>"
            for ten in tens
        )
        lines.append(f"<div><b>{escape(label)}</b><p>{groups}</p></div>")
    return f'<div class="squares">{"".join(lines)}</div>'


# -- Markdown


def _markdown(block: Block) -> str:
    match block:
        case Text(words, _):
            return _plain(words)
        case Heading(words, level, _):
            return f"{'#' * level} {_plain(words)}"
        case Notes(lines):
            return "\n".join(f"> - {_plain(line)}" for line in lines)
        case Numbers(pairs):
            return "\n".join(f"- **{_plain(value)}** {_plain(what)}" for value, what in pairs)
        case Table(columns, rows, left, about):
            plain = [[_plain(c.text if isinstance(c, Cell) else c) for c in row] for row in rows]
            lines = [list(map(_plain, columns)), [":--" if i in left else "--:" for i in range(len(columns))]]
            table = "\n".join("| " + " | ".join(line) + " |" for line in lines + plain)
            return f"{_plain(about)}\n\n{table}" if about else table
        case Squares(rows):
            width = max(len(label) for label, _ in rows)
            lines = (f"{label:<{width}}  " + "".join(SIGNS[m] for m, _ in marks) for label, marks in rows)
            return "```text\n" + "\n".join(lines) + "\n```"
        case Fold(title, blocks):
            return "\n\n".join([f"**{_plain(title)}**", *filter(None, map(_markdown, blocks))])
    return ""  # figures and videos


def _plain(words: str) -> str:
    return words.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
