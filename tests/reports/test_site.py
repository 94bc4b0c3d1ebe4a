import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from limnet.reports.results import comparison, published, write_results
from limnet.reports.site import build_site, site
from limnet.reports.site.cells import duration, number, plain
from limnet.reports.site.comparison import gains_grid, measured, methods_grid, paper_table
from limnet.reports.site.contents import FIGURES, NOTEBOOKS, TABLES
from limnet.reports.site.notebook_page import caption, notebook_html, safe_html
from limnet.reports.site.runs import Ground, Result, ground_of, read_notebook, read_run

TWIN = "the synthetic twin of BTCV (2 cases), NOT on BTCV"
REAL = "BTCV, 2 of its 30 cases"
ORGANS = ("Left Kidney", "Right Kidney", "Aorta", "Spleen", "Esophagus", "Liver")
PIXEL = bytes.fromhex(  # a PNG of one pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c63600000000200015d0b2a0b0000000049454e44ae426082"
)


def origin(ran_on, **more):
    about = {"commit": "0123456789abcdef", "dirty": False, "utc": "2026-01-02T03:04:05+00:00"}
    about |= {"wall_seconds": 61.5, "device": "2 x CPU", "parameters": {"cases": 2}}
    about |= {"versions": {"torch": "2.13.0"}, "python": "3.11.7", "threads": 2}
    return {**about, "ran_on": ran_on, **more}


def write_table_4(reports, ran_on, *, dice=0.9, **more):
    label = "ours" if ran_on == REAL else "ours (synthetic twins)"
    rows = [
        {"column": organ, "method": label, "collection": "BTCV", "case": case, "round": played}
        | {"dice": dice + shift + 0.01 * (played - 2), "seconds": 0.5}
        for organ in ORGANS
        for case, shift in (("img0001", -0.05), ("img0002", 0.05))
        for played in (1, 2)
    ]
    table = comparison(published("table_4"), dict.fromkeys(ORGANS, dice), label=label)
    folder = reports / "54_table_4_btcv"
    write_results(folder, "table_4", table, origin(ran_on, **more))
    write_results(folder, "table_4_cases", rows, origin(ran_on, **more))
    return folder


def write_notebook(folder, *cells, **metadata):
    notebook = {"nbformat": 4, "nbformat_minor": 4, "metadata": metadata, "cells": list(cells)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{folder.name}.ipynb").write_text(json.dumps(notebook))


def text_cell(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code_cell(source, *outputs):
    about = {"cell_type": "code", "metadata": {}, "execution_count": 1}
    return about | {"source": source, "outputs": list(outputs)}


def shown(**data):
    return {
        "output_type": "display_data",
        "metadata": {},
        "data": {k.replace("_", "/"): v for k, v in data.items()},
    }


class Page(HTMLParser):
    """Tags, links, ids and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.ids, self.text = [], [], set(), ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.ids |= {attributes["id"]} if "id" in attributes else set()
        self.links += [(tag, attributes[n]) for n in ("href", "src") if attributes.get(n)]

    def handle_data(self, data):
        self.text += f"{data} "


def pages(folder):
    return {path.name: Page(path) for path in folder.glob("*.html")}


def words(page):
    return " ".join(page.text.split())


@pytest.fixture
def reports(tmp_path):
    """A run on a twin, one of real data with hostile text, and one of no table."""
    folder = write_table_4(tmp_path / "reports", TWIN, dirty=True)
    (folder / "figure_5.png").write_bytes(PIXEL)
    write_notebook(
        folder,
        text_cell("# Table IV: BTCV\n\nWhat it is; [elsewhere](https://example.org), [not](../x)."),
        text_cell("## Figure 5: masks\n\nThe first case."),
        code_cell('figure.savefig(report / "figure_5.png")', shown(image_png="iVBORw0KGgo=")),
        code_cell("table", shown(text_html="<script>alert(1)</script><b onclick='x'>bold</b>")),
    )
    evil = '<img src="https://example.org/x.png" onerror="alert(2)">'
    rows = [{"what": evil, "value": 1.5}, {"what": "b", "value": None}]
    write_results(tmp_path / "reports/70_other", "numbers", rows, origin("12 of my cases"))
    (tmp_path / "reports/cache").mkdir()
    return tmp_path / "reports"


def test_every_link_leads_to_a_file_of_the_site(reports):
    found = pages(build_site(reports))
    assert {"index.html", "table-1.html", "table-6.html", "model-card.html"} <= set(found)
    assert {"notebook-54_table_4_btcv.html", "notebook-70_other.html"} <= set(found)
    for name, page in found.items():
        for tag, link in page.links:
            address = urlsplit(link)
            if address.scheme:
                assert (tag, address.scheme) in {("a", "https"), ("a", "http")} or (
                    address.scheme == "data" and tag in {"img", "link"}
                ), (name, tag, link)
                continue
            target = reports / "site" / unquote(address.path or name)
            assert target.is_file(), (name, link)
            assert not address.fragment or address.fragment in found[target.name].ids, (name, link)


def test_nothing_is_loaded_from_a_network_and_nothing_runs(reports):
    folder = build_site(reports)
    for name, page in pages(folder).items():
        kinds = {tag for tag, _ in page.tags}
        assert not kinds & {"script", "style", "iframe", "object", "embed", "form", "base"}, name
        for tag, attributes in page.tags:
            assert not [key for key in attributes if key.startswith("on") or key == "style"], tag
        policy = [a["content"] for tag, a in page.tags if a.get("http-equiv")]
        assert policy and "default-src 'none'" in policy[0]
    style = (folder / "style.css").read_text()
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style


def test_the_overview_says_what_was_run_and_how_to_run_the_rest(reports):
    index = words(pages(build_site(reports))["index.html"])
    assert "1 of 6 tables run 0 on real data alone 1 with synthetic twins" in index
    assert "Table IV BTCV, unseen organs synthetic twins 58.1 90.0 twin +31.9 twin" in index
    assert "2026-01-02 03:04 commit 01234567 + changes took 62 s device 2 x CPU" in index
    assert "Table VI EndoVis18, surgical scenes not run yet 39.0 make reproduce-table-6" in index
    assert "Figure 1 the networks a drawing: nothing to run" in index
    assert "Figure 5 masks on BTCV synthetic twins" in index
    assert "Figure 3 DSC over the rounds not run yet make reproduce-table-2" in index
    assert "Other notebooks 70 other data as stated" in index


def test_twins_numbers_are_marked_on_every_page_and_real_ones_are_not(reports):
    def marked(name):
        tags = pages(reports / "site")[name].tags
        ours = [a["class"].split() for tag, a in tags if "ours" in a.get("class", "").split()]
        return [("twin" in each) for each in ours if "n" in each]

    build_site(reports)
    assert all(marked("index.html")) and all(marked("table-4.html"))
    assert "NOT on BTCV" in words(pages(reports / "site")["notebook-54_table_4_btcv.html"])
    write_table_4(reports, REAL)
    build_site(reports)
    assert marked("table-4.html") and not any(marked("table-4.html") + marked("index.html"))
    page = words(pages(reports / "site")["table-4.html"])
    assert "real data" in page and "synthetic" not in page


def test_a_tables_page_has_paper_ours_difference_and_interval(reports):
    page = words(pages(build_site(reports))["table-4.html"])
    assert "organ paper ours twin difference 95 % interval cases 0 to 100" in page
    assert "Liver 42.4 90.0 +47.6 85.0 to 95.0 2 mean 58.1 90.0 +31.9 – –" in page
    assert "DSC in percent after round 2, every case" in page
    assert "img0001 twin ours (synthetic twins) 85.0 85.0" in page
    assert "SAM-Med3D (6 points) 78.5 61.6 37.3 55.9 36.0 52.4 53.6" in page
    assert "data sha256" not in page and "parameters cases 2" in page and "torch 2.13.0" in page
    assert "Figure 5: masks. The first case." in page


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "cut off or no JSON"),
        (lambda text: "[]", "of another version: it must be an object"),
        (lambda text: '{"rows": [], "provenance": {}}', "it must hold provenance and rows"),
        (lambda text: text.replace("paper (LIM-Net)", "theirs"), "a row must have 'paper"),
        (lambda text: re.sub(r'"difference": [^,\n]+', '"difference": 1, "x": "y"', text), None),
    ],
)
def test_a_result_that_cannot_be_read_is_shown_as_such(reports, damage, reason):
    path = reports / "54_table_4_btcv/table_4.json"
    path.write_text(damage(path.read_text()))
    found = pages(build_site(reports))
    for name in ("index.html", "table-4.html"):
        assert "nreadable" in words(found[name]) or "unreadable" in words(found[name])
        assert reason is None or reason in words(found[name]), name
    assert "70" in words(found["index.html"])


def test_a_notebook_that_is_cut_off_or_stopped_is_shown_as_such(reports):
    path = reports / "54_table_4_btcv/54_table_4_btcv.ipynb"
    path.write_text(path.read_text()[:80])
    error = {
        "output_type": "error",
        "ename": "",
        "evalue": "",
        "traceback": ["\x1b[31mValueError\x1b[0m: no <data>"],
    }
    stopped = {"papermill": {"exception": True}}
    write_notebook(reports / "56_table_6", code_cell("run()", error), **stopped)
    found = pages(build_site(reports))
    assert "is cut off or no JSON" in words(found["notebook-54_table_4_btcv.html"])
    assert "no <data>" in words(found["notebook-56_table_6.html"])
    assert "surgical scenes stopped 39.0 a cell of the notebook failed" in words(
        found["index.html"]
    )


def test_text_of_a_run_is_escaped(reports):
    page = (build_site(reports) / "notebook-70_other.html").read_text()
    assert "&lt;img src=&#34;https://example.org/x.png&#34;" in page and "<img" not in page
    own = (reports / "site/notebook-54_table_4_btcv.html").read_text()
    assert "alert(1)" not in own and "<b>bold</b>" in own and 'href="../x"' not in own


def test_cases_of_another_run_give_no_interval(reports):
    write_results(
        reports / "54_table_4_btcv",
        "table_4_cases",
        [{"column": "Liver", "method": "ours (synthetic twins)", "case": "a", "round": 1}
         | {"dice": 0.1}],
        origin(TWIN),
    )  # fmt: skip
    page = words(pages(build_site(reports))["table-4.html"])
    assert "the two files are of different runs" in page and "Every case" not in page


def test_the_site_appears_whole_or_not_at_all(reports, monkeypatch):
    before = {p.name: p.read_bytes() for p in build_site(reports).iterdir() if p.is_file()}

    def stops(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(site, "machines_grid", stops)
        with pytest.raises(OSError, match="no space"):
            build_site(reports)
    after = {p.name: p.read_bytes() for p in (reports / "site").iterdir() if p.is_file()}
    assert after == before
    assert {p.name for p in reports.iterdir()} == {"54_table_4_btcv", "70_other", "cache", "site"}
    (reports / "site/old.html").write_text("")
    assert not (build_site(reports) / "old.html").exists()  # replaced, not mixed


def test_a_folder_that_is_no_site_is_not_replaced(reports, tmp_path):
    with pytest.raises(ValueError, match="must be new or a site"):
        build_site(reports, tmp_path)
    assert (reports / "70_other/numbers.csv").is_file()


def test_without_any_run_the_site_still_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNET_REPORTS", str(tmp_path))
    folder = build_site()
    assert folder == tmp_path / "site"
    assert "0 of 6 tables run" in words(Page(folder / "index.html"))


@pytest.mark.parametrize(
    ("ran_on", "ground"),
    [
        (TWIN, Ground.TWINS),
        (REAL, Ground.REAL),
        (f"{REAL}; {TWIN}", Ground.PART),
        ("100 slices of a synthetic CT", Ground.PHANTOMS),
        ("43 held-out cases in LIMNET_DATA", Ground.REAL),
        ("the paper's text", Ground.UNKNOWN),
        (None, Ground.UNKNOWN),
    ],
)
def test_a_runs_own_words_say_what_its_numbers_are_of(ran_on, ground):
    assert ground_of(ran_on) is ground


def test_a_run_whose_results_do_not_name_their_data_is_what_its_notebook_shows(tmp_path):
    folder = tmp_path / "40_click"
    write_results(folder, "numbers", [{"dice": 0.5}], {"utc": "2026-01-02"})
    assert read_run(folder).ground is Ground.UNKNOWN
    said = shown(text_markdown=["**This ran on img0001 ", "(BTCV twin (synthetic)).**"])
    write_notebook(folder, code_cell("display(said)", said))
    assert read_run(folder).ground is Ground.PHANTOMS


def fusion_run(ran_on, collections):
    ours = {"KIDNEY (Organ)": 0.9, "KIDNEY (Tumor)": 0.8, "Lung": 0.99, "Colon": 0.6}
    beside = {"ours w/o MRF": dict.fromkeys(ours, 0.5)}
    rows = comparison(published("table_2"), ours, beside=beside).to_dict("records")
    cases = [
        {"column": name, "collection": collection}
        for name, collection in zip(ours, collections, strict=True)
    ]
    result, of_cases = Result("table_2", {"ran_on": ran_on}, rows), Result("cases", {}, cases)
    return measured(result, of_cases)


def test_of_a_run_in_part_on_twins_their_columns_alone_are_marked():
    twin = "MSD Lung twin (synthetic)"
    run = fusion_run(f"{REAL}; {TWIN}", ["KiTS19", "KiTS19", twin, "MSD Colon"])
    assert [run.mark(name) for name in ("Lung", "Colon", None)] == ["twin", "", "twin"]
    grid = methods_grid("table_2", paper_table("table_2"), run)
    best = {row[0].text: [c.text for c in row if "best" in c.kind] for row in grid.rows}
    assert best["Ours-MRF"] == ["97.3", "89.2", "83.3", "81.4"] and best["ours"] == []


def test_gains_are_in_relative_percent_as_the_papers_text_has_them():
    run = fusion_run(REAL, ["KiTS19"] * 4)
    grid = gains_grid("table_2", paper_table("table_2"), run)
    assert [row[1].text for row in grid.rows] == ["+0.52", "+5.19", "+0.36", "+5.58"]
    assert [row[2].text for row in grid.rows] == ["+80.00", "+60.00", "+98.00", "+20.00"]
    assert gains_grid("table_5", paper_table("table_5"), None).rows[1][1].text == "+10.94"
    assert gains_grid("table_4", paper_table("table_4"), None) is None


def test_real_numbers_compete_for_the_best_of_a_column():
    grid = methods_grid("table_2", paper_table("table_2"), fusion_run(REAL, ["KiTS19"] * 4))
    assert [cell.text for row in grid.rows for cell in row if "best" in cell.kind] == [
        "97.3", "89.2", "81.4", "99.0",
    ]  # fmt: skip


HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><a>x</a></svg>",
    '<a href="javascript:alert(1)">x</a>',
    '<a href=" java\tscript:alert(1)">x</a>',
    '<a href="data:text/html,<script>alert(1)</script>">x</a>',
    '<iframe src="data:text/html;base64,PHNjcmlwdD4="></iframe>',
    '<form action="https://example.org"><button formaction=x>y</button></form>',
    '<p style="background: url(https://example.org)" onclick="alert(1)">x</p>',
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    '<img src="https://example.org/x.png"><link rel=stylesheet href="https://example.org">',
    "<meta http-equiv=refresh content='0; url=https://example.org'><base href=//example.org>",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_hostile_notebook_runs_or_loads(tmp_path, text):
    mimes = ("text/html", "text/markdown", "text/plain", "text/latex", "image/svg+xml")
    mimes += ("application/javascript", "image/png", "application/vnd.jupyter.widget-view+json")
    outputs = [{"output_type": "display_data", "metadata": {}, "data": {m: text}} for m in mimes]
    outputs += [{"output_type": "stream", "name": "stdout", "text": [text]}]
    outputs += [{"output_type": "error", "ename": text, "evalue": text, "traceback": [text]}]
    write_notebook(tmp_path / "70_x", text_cell(f"# T\n\n{text}"), code_cell(text, *outputs))
    html = notebook_html(read_notebook(tmp_path / "70_x/70_x.ipynb"))
    (tmp_path / "page.html").write_text(html)
    for tag, attributes in Page(tmp_path / "page.html").tags:
        assert tag not in {"script", "style", "iframe", "svg", "math", "form", "button", "link"}
        assert tag not in {"meta", "base", "object", "embed"}
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        assert attributes.get("href", "https://").startswith(("https://", "http://", "mailto:"))
        assert attributes.get("src", "data:image/").startswith("data:image/")


def test_html_keeps_its_text_pictures_and_tables():
    assert safe_html("<h1>T</h1><p>1 &lt; 2</p>") == "<h2>T</h2><p>1 &lt; 2</p>"
    picture = '<img src="data:image/png;base64,AA==">'
    assert safe_html(picture) == picture
    table = "<table><tbody><tr><td>1</td></tr></tbody></table>"
    assert safe_html(table) == f'<div class="scroll">{table}</div>'


def test_a_figures_caption_is_what_stands_above_the_cell_that_saves_it():
    cells = [
        text_cell("## Masks\n\nOf each column."),
        code_cell('figure.savefig(report / f"{column.target}_{column.data_set}.png")'),
        code_cell('figure.savefig(report / "rounds.png")'),
    ]
    assert caption("tumour_lung.png", cells) == ("Masks", "Of each column.", "tumour lung")
    assert caption("rounds.png", cells) == ("Rounds", "", "")


def test_links_and_other_programs_files_are_no_results(tmp_path):
    folder = tmp_path / "40_click"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(PIXEL)
    (folder / "figure.png").symlink_to(tmp_path / "secret.png")
    (folder / "journal.json").write_text("{}")
    (folder / "no.png").write_text("no picture")
    run = read_run(folder)
    assert (run.results, run.unreadable, run.figures) == ({}, {}, ())


def test_numbers_are_printed_with_a_true_minus_and_gaps_as_a_dash():
    assert [number(-1.25), number(0.5, 2, signed=True), number(-0.01, signed=True)] == [
        "−1.2", "+0.50", "0.0",
    ]  # fmt: skip
    assert [number(None), number(float("nan")), number(True)] == ["–"] * 3
    assert [duration(46), duration(720), duration(7500), duration("x")] == [
        "46 s", "12 min", "2 h 5 min", "–",
    ]  # fmt: skip
    assert [plain(12345), plain(0.12345), plain(3.0), plain(False)] == [
        "12,345",
        "0.123",
        "3",
        "no",
    ]


def test_the_commands_are_targets_of_the_makefile():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    for item in (*TABLES, *FIGURES, *NOTEBOOKS):
        target = item.command.removeprefix("make ")
        assert not target or target.startswith("run-") or f"\n{target}:" in makefile, target
