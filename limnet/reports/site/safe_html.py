"""HTML of notebooks with what a page needs of it: no scripts, styles, forms or foreign files."""

import re

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString, Tag

TEXT = """p h2 h3 h4 h5 h6 ul li dl dt dd blockquote pre code em strong b i del s sup sub kbd hr br
table thead tbody tfoot tr caption"""
KEPT = {  # tag -> attributes that stay
    **dict.fromkeys(re.findall(r"\w+", TEXT), frozenset()),
    **{"a": {"href"}, "ol": {"start"}, "td": {"colspan", "rowspan"}},
    **{"th": {"colspan", "rowspan", "scope"}, "span": {"class"}, "div": {"class"}},
}
# with all that is in them
DROPPED = re.compile(
    "script|style|iframe|frame|object|embed|applet|svg|math|template|noscript|form|input|button|"
    "select|textarea|option|title|head|link|meta|base|audio|video|canvas|source"
)
CODE_CLASS = re.compile(r"highlight|[a-z][a-z0-9]{0,2}")  # those of Pygments
LINK = re.compile(r"(https?://|mailto:)[^\s\"<>]+")
NUMBER = re.compile(r"[-+−]?[\d,]*\.?\d+(e[-+]?\d+)?( ?%)?|-|–|NaN|nan|None", re.IGNORECASE)


def safe_html(html: str) -> str:
    """The same text with the tags of `KEPT` alone; tables scroll, their numbers are marked.

    The tree is written anew, so that nothing of the form it came in is left.
    """
    soup = BeautifulSoup(html, "html.parser")
    for tag in soup.find_all(lambda tag: DROPPED.fullmatch(tag.name)):
        tag.decompose()
    for text in soup.find_all(string=lambda text: isinstance(text, PreformattedString)):
        text.extract()  # comments, declarations and the like
    for anchor in soup.find_all("a", class_="anchor-link"):
        anchor.decompose()  # nbconvert's mark behind headings
    for tag in soup.find_all(True):
        _keep(tag)
    for table in soup.find_all("table"):
        _mark_numbers(table)
        table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    return str(soup)


def _keep(tag: Tag) -> None:
    """Rename, rewrite or unwrap one tag."""
    if tag.name == "h1":
        tag.name = "h2"
    if tag.name == "img":  # pictures come as outputs; a file of elsewhere is no part of the site
        tag.replace_with(NavigableString(f"[picture: {tag.get('alt') or 'without a name'}]"))
        return
    if tag.name not in KEPT:
        tag.unwrap()
        return
    attributes = {name: tag.attrs[name] for name in KEPT[tag.name] if name in tag.attrs}
    if "class" in attributes:
        names = attributes.pop("class")
        names = [name for name in names if CODE_CLASS.fullmatch(name)]
        attributes |= {"class": names} if names else {}
    for name in ("colspan", "rowspan", "start"):
        if name in attributes and not re.fullmatch(r"\d{1,3}", str(attributes[name])):
            del attributes[name]
    tag.attrs = attributes
    if tag.name == "a" and not LINK.fullmatch(str(tag.get("href", ""))):
        tag.unwrap()
    elif tag.name == "a":
        tag.attrs["rel"] = "noreferrer"


def _mark_numbers(table: Tag) -> None:
    """Class "n" for numbers and their headings, "twin" where heading or row says synthetic."""
    rows = [row.find_all(["td", "th"], recursive=False) for row in table.find_all("tr")]
    heads = [row for row in rows if all(cell.name == "th" for cell in row)]
    columns: dict[int, list[bool]] = {}
    twins = {
        place
        for row in heads
        if not any(cell.get("colspan") for cell in row)
        for place, cell in enumerate(row)
        if "synthetic" in cell.get_text()
    }
    for row in rows:
        twin_row = any("synthetic" in cell.get_text() for cell in row) and row not in heads
        for place, cell in enumerate(row):
            if cell.name == "td":
                is_number = NUMBER.fullmatch(cell.get_text(strip=True)) is not None
                columns.setdefault(place, []).append(is_number)
                twin = " twin" * (twin_row or place in twins)
                cell.attrs |= {"class": f"n{twin}"} if is_number else {}
    for row in heads:
        for place, cell in enumerate(row):
            if all(columns.get(place, [False])) and not cell.get("colspan"):
                cell.attrs["class"] = "n"
