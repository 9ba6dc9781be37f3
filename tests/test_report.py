"""The report: pages that are complete and need nothing else, and which a real browser, if there is one, shows whole."""

import html
import re

import nbformat
import pytest
from browser import look, needs_chromium

from repro import report


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of the results in this checkout."""
    path = report.write(tmp_path_factory.mktemp("report") / "new")
    assert path.name == "index.html"
    return path.parent


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The pages of a toy notebook and a toy Markdown file."""
    folder, new = tmp_path_factory.mktemp("toys"), nbformat.v4
    outputs = [
        new.new_output("stream", text="a < b\n"),
        new.new_output("display_data", data={"image/png": PIXEL, "text/plain": "no"}),
        new.new_output("display_data", data={"text/markdown": "| a |\n|---|\n| $x^2$ |", "text/plain": "no"}),
        new.new_output("execute_result", data={"text/plain": "<1>"}),
        new.new_output("error", ename="ValueError", evalue="wrong", traceback=["ValueError: <wrong>"]),
    ]
    cells = [
        new.new_markdown_cell("Profile **quick**"),
        new.new_markdown_cell(
            "# A toy\n\n## 1. What it claims\n\nIt is $\\alpha < 1$ and costs \\$5.\n\n"
            "$$\\|x\\|_2 = \\tfrac12 \\tag{7–9}$$\n\n[there](../results/other.md#two-words) [gone](../x.py) "
            "[far](https://example.org/a?b=1)"
        ),
        new.new_code_cell("import math\nx = 1 < 2", outputs=outputs),
        new.new_code_cell("for x in y:\n    optimizer.step()"),
    ]
    nbformat.write(new.new_notebook(cells=cells), folder / "toy.ipynb")
    (folder / "other.md").write_text("No heading, and `code`\n")
    return report.pages([folder / "toy.ipynb", folder / "other.md"], "A <title>", "## First\n\n[toy](toy.ipynb)")


def test_a_page_holds_prose_code_outputs_and_equations(toys):
    page = toys["toy"]
    text = html.unescape(re.sub(r"<[^>]*>", "", page.partition("<main>")[2]))
    assert "<title>A toy</title>" in page and re.search(r"<h2[^>]*>1. What it claims</h2>", page)
    assert len(re.findall("<math", page)) == 3 and "$" not in text.replace("$5", "") and "\\" not in text
    assert "‖" in text and "(7-9)" in text
    assert re.search(r"<details>\s*<summary>import math … 1 more</summary>", page)
    assert re.search(r'<details open="">\s*<summary>for x in y: … 1 more</summary>', page)
    for shown in ("Profile quick", "a < b", "<1>", "ValueError: <wrong>", "x = 1 < 2"):
        assert shown in text
    assert f"data:image/png;base64,{PIXEL}" in page and ">no<" not in page  # the richer of two representations


def test_an_index_leads_to_all_pages_and_each_page_to_all_others(toys):
    assert list(toys) == ["index", "toy", "other"]
    assert "<title>A &lt;title&gt;</title>" in toys["index"]
    assert '<li><a href="toy.html">A toy</a></li>' in toys["index"] and re.search(r"<h2[^>]*>First</h2>", toys["index"])
    for page in toys.values():
        assert [f'<a href="{name}.html">{name}</a>' in page for name in toys] == [True] * 3


def test_links_lead_to_pages_to_the_web_or_nowhere(toys):
    assert '<a href="other.html">there</a>' in toys["toy"]
    assert '<a href="https://example.org/a?b=1">far</a>' in toys["toy"]
    assert "../" not in toys["toy"].partition("<main>")[2] and "gone" in toys["toy"]


def test_an_equation_that_is_none_is_a_sentence(tmp_path):
    (tmp_path / "bad.md").write_text("so $\\frac{1$ is")
    with pytest.raises(ValueError, match=r"no equation: .frac\{1: .*"):
        report.pages([tmp_path / "bad.md"], "", "")


def test_a_report_without_a_gallery_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "CHECKOUT", tmp_path)
    with pytest.raises(FileNotFoundError, match="run make gallery first"):
        report.write(tmp_path)


def test_the_report_of_the_results_is_whole_and_needs_nothing_else(folder):
    pages = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert {"index.html", "summary.html", "two_stage.html", "patch_ae.html", "classes.html", "gaps.html"} <= set(pages)
    for page in pages.values():
        assert not re.search(r"<script|<link|<iframe|@import|url\((?!data:|'data:|\"data:)", page)
        assert all(source.startswith("data:image/png;base64,iVBOR") for source in re.findall(r'src="([^"]*)"', page))
        links = re.findall(r'href="([^"]+)"', page)
        assert "index.html" in links and not {link for link in links if not re.match("https:", link)} - set(pages)
        for text in re.findall(r"<(?:p|td|li)>([^<]*)", page):  # no LaTeX is left over
            assert "\\" not in text and "$$" not in text, text
    assert sum(page.count("<math") for page in pages.values()) > 150
    assert sum(page.count("<img") for page in pages.values()) > 40
    assert pages["index.html"].count("<table") >= 5


@needs_chromium
@pytest.mark.parametrize("name", ["index", "summary", "cbigan"])
def test_a_browser_shows_it_whole(folder, name, tmp_path):
    """Equations and pictures have sizes, and nothing sticks out of the page at its side."""
    find = """({
        equations: [...document.querySelectorAll("math")].filter(m => m.getBoundingClientRect().width < 2).length,
        pictures: [...document.images].filter(i => !i.naturalWidth).length,
        wide: document.documentElement.scrollWidth - innerWidth})"""
    seen = look((folder / f"{name}.html").read_text(encoding="utf-8"), find, tmp_path)
    assert (seen["equations"], seen["pictures"]) == (0, 0) and seen["wide"] <= 0
