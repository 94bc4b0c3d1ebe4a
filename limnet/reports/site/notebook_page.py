"""An executed notebook as HTML by nbconvert: no scripts, no styles, nothing from elsewhere."""

import re
import struct
from typing import Any, NamedTuple

import bleach
import nbformat
from bleach.sanitizer import ALLOWED_PROTOCOLS
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

TEMPLATE = """{% extends 'basic/index.html.j2' %}
{% block input_group %}
<details class="code"><summary>Code</summary>{{ super() }}</details>
{% endblock %}"""
SHOWN = ["image/png", "image/jpeg", "image/svg+xml", "text/html", "text/markdown", "text/plain"]
TAGS = """a b blockquote br caption code dd del details div dl dt em h2 h3 h4 h5 h6 hr i img kbd li
ol p pre span strong sub summary sup table tbody td th thead tr ul"""
ATTRIBUTES = {  # values that are allowed, whole
    "alt": r"(?s).*",
    "class": r"[\w\s-]*",
    "colspan": r"\d{1,3}",
    "height": r"\d{1,5}",
    "href": r"(https?://|mailto:)[^\s\"<>]+",
    "src": r"data:image/(png|jpeg|svg\+xml);base64,[A-Za-z0-9+/=\s]*",  # no file of elsewhere
    "width": r"\d{1,5}",
}


class Caption(NamedTuple):
    """What the notebook says about a figure."""

    title: str
    text: str
    part: str = ""  # which of several that one cell saved


def notebook_html(notebook: dict[str, Any]) -> str:
    """The whole notebook by nbconvert, its code folded; the page has the first heading itself."""
    content = nbformat.from_dict(notebook)
    for cell in content.cells[:1]:
        cell.source = re.sub(r"\A#\s+\S.*\n?", "", cell.source)
    exporter = HTMLExporter(
        raw_template=TEMPLATE,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    exporter.config.NbConvertBase.display_data_priority = SHOWN
    return safe_html(exporter.from_notebook_node(content)[0])


def markdown_html(text: str) -> str:
    """Markdown as safe HTML; formulas stay as they are written, between dollars."""
    return safe_html(markdown2html(text))


def safe_html(html: str) -> str:
    """The same text with harmless tags alone; a picture stays only if it lies in the page."""
    soup = BeautifulSoup(html.replace("<h1", "<h2").replace("</h1", "</h2"), "html.parser")
    for tag in soup(["script", "style", "iframe"]):
        tag.decompose()  # their text would stay
    for table in soup("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
    return bleach.clean(str(soup), TAGS.split(), _is_harmless, {*ALLOWED_PROTOCOLS, "data"}, True)


def _is_harmless(tag: str, name: str, value: str) -> bool:
    return name in ATTRIBUTES and re.fullmatch(ATTRIBUTES[name], value) is not None


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
            if cell["cell_type"] == "markdown":
                text = cell["source"]
            elif _saves(cell["source"], file, exactly=exactly) and heading_of(text):
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
