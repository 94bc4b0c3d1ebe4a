"""An executed notebook as blocks of a page: no scripts, no styles, nothing from elsewhere."""

import base64
import re
import struct
from html import escape
from typing import Any, NamedTuple

from nbconvert.filters import Highlight2HTML, markdown2html, strip_ansi

from limnet.reports.site.runs import joined, source_of
from limnet.reports.site.safe_html import safe_html

BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")
PICTURES = {"image/png": "png", "image/jpeg": "jpeg", "image/svg+xml": "svg+xml"}
LONG_TEXT = 20_000  # characters of a text output; the rest is in the notebook


class Block(NamedTuple):
    """A piece of the page: text, code (folded) or an output."""

    kind: str
    html: str  # safe
    title: str = ""


class Caption(NamedTuple):
    """What the notebook says about a figure."""

    title: str
    text: str
    part: str = ""  # which of several that one cell saved


def notebook_blocks(cells: list[dict[str, Any]]) -> list[Block]:
    """All cells in order; the first heading is left to the page."""
    blocks, heading = [], ""
    for cell in cells:
        source = source_of(cell)
        if cell.get("cell_type") == "markdown":
            if not blocks:
                source = re.sub(r"\A#\s+\S.*\n?", "", source)
            heading = heading_of(source) or heading
            blocks.append(Block("text", markdown_html(source)))
        elif cell.get("cell_type") == "code" and source.strip():
            blocks.append(Block("code", code_html(source), _code_title(cell)))
            outputs = (output_block(output, heading) for output in cell.get("outputs", []))
            blocks += [block for block in outputs if block]
    return [block for block in blocks if block.html.strip()]


def markdown_html(text: str) -> str:
    """Markdown as safe HTML; formulas stay as they are written, between dollars."""
    return safe_html(markdown2html(text))


def code_html(source: str) -> str:
    """Python with its words in classes for style.css."""
    return safe_html(Highlight2HTML()(source, language="ipython3"))


def output_block(output: dict[str, Any], heading: str) -> Block | None:
    """The richest form of an output that needs neither scripts nor a network."""
    kind = output.get("output_type")
    if kind == "stream":
        return Block("text-output", _text(joined(output.get("text", ""))))
    if kind == "error":
        lines = strip_ansi("\n".join(_lines(output.get("traceback"))))
        return Block("error", _text(lines or str(output.get("evalue", ""))))
    data = output.get("data")
    if not isinstance(data, dict):
        return None
    for mime in PICTURES:
        if mime in data and (picture := _picture(mime, joined(data[mime]), heading)):
            return Block("figure", picture)
    if "application/vnd.jupyter.widget-view+json" in data:
        return Block("note", "<p>A widget stands here when the notebook is open in JupyterLab.</p>")
    if "text/html" in data:
        return Block("html", safe_html(joined(data["text/html"])))
    if "text/markdown" in data:
        return Block("html", markdown_html(joined(data["text/markdown"])))
    plain = joined(data.get("text/plain", "")) or joined(data.get("text/latex", ""))
    return Block("text-output", _text(plain)) if plain else None


def heading_of(source: str) -> str:
    """The last heading of a Markdown cell; "" without."""
    headings = re.findall(r"^#+\s+(\S.*)$", source, flags=re.MULTILINE)
    return headings[-1].strip() if headings else ""


def caption(file: str, cells: list[dict[str, Any]]) -> Caption:
    """The heading and the words above the cell that saved this figure, else its name in words."""
    words = file.removesuffix(".png").replace("_", " ")
    for exactly in (True, False):
        text = ""
        for cell in cells:
            if cell.get("cell_type") == "markdown":
                text = source_of(cell)
            elif _saves(source_of(cell), file, exactly=exactly) and heading_of(text):
                said = re.sub(r"^#.*$", "", text, flags=re.MULTILINE).strip()
                return Caption(heading_of(text), said, "" if exactly else words)
            else:
                text = ""  # what stands above another cell is not about this one's figure
    return Caption(words[:1].upper() + words[1:], "")


def png_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels by the header; none of what is no PNG."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _saves(source: str, file: str, *, exactly: bool) -> bool:
    """Whether code names the file, or an f-string that could be its name."""
    names = re.findall(r"[\"']([^\"'\n]+\.png)[\"']", source)
    if exactly:
        return file in names
    patterns = (re.sub(r"\\\{.*?\\\}", ".+", re.escape(name)) for name in names if "{" in name)
    return any(re.fullmatch(pattern, file) for pattern in patterns)


def _code_title(cell: dict[str, Any]) -> str:
    tags = _lines(cell.get("metadata", {}).get("tags"))
    if "injected-parameters" in tags:
        return "Parameters of this run"
    return "Parameters" if "parameters" in tags else "Code"


def _lines(value: object) -> list[str]:
    """What should be a list of texts, as one."""
    return [str(line) for line in value] if isinstance(value, list) else []


def _text(text: str) -> str:
    text = strip_ansi(text).rstrip()
    left = len(text) - LONG_TEXT
    more = f"\n… {left:,} more characters stand in the notebook" if left > 0 else ""
    return f"<pre>{escape(text[:LONG_TEXT] + more)}</pre>" if text else ""


def _picture(mime: str, content: str, heading: str) -> str:
    """An image tag with the picture in it: in one, an SVG can neither run nor load anything."""
    if mime == "image/svg+xml":
        content = base64.b64encode(content.encode()).decode()
    elif not BASE64.fullmatch(content):
        return ""
    content = "".join(content.split())
    size = png_size(base64.b64decode(content[:64])) if mime == "image/png" else None
    sizes = f' width="{size[0]}" height="{size[1]}"' if size else ""
    alt = f"Figure under “{heading}”" if heading else "Figure"
    data = f"data:image/{PICTURES[mime]};base64,{content}"
    return f'<img src="{data}" alt="{escape(alt)}"{sizes}>'
