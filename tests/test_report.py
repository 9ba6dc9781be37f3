"""The report, one HTML page: complete, self-contained, and shown by a real browser as it is meant, if there is one."""

import base64
import html
import json
import re
import shutil
import subprocess

import nbformat
import pytest
from adlib.__main__ import main

from repro import report


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report of the results in this checkout."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", f"OUT={path}"]) == 0
    return path


def toy(folder):
    new = nbformat.v4
    outputs = [
        new.new_output("stream", text="a < b\n"),
        new.new_output("display_data", data={"image/png": PIXEL}),
        new.new_output("display_data", data={"text/markdown": "| a |\n|---|\n| $x^2$ |", "text/plain": "no"}),
        new.new_output("execute_result", data={"text/plain": "<1>"}),
        new.new_output("error", ename="ValueError", evalue="<wrong>"),
    ]
    cells = [
        new.new_markdown_cell(
            "# A toy\n\n## 1. What it claims\n\nIt is $\\alpha < 1$ and costs \\$5.\n\n"
            "$$\\|x\\|_2 = \\tfrac12 \\tag{7–9}$$\n\n[there](other.md#two-words) [gone](../x.py) "
            "[far](https://example.org/a?b=1)"
        ),
        new.new_code_cell("import math\nx = 1 < 2", outputs=outputs),
        new.new_code_cell("for x in y:\n    optimizer.step()"),
    ]
    nbformat.write(new.new_notebook(cells=cells), folder / "toy.ipynb")
    (folder / "other.md").write_text("# Other\n\n## Two words\n\n- `make`: it & that\n")
    return report.page([folder / "toy.ipynb", folder / "other.md"], "A <title>")


def test_a_page_holds_prose_code_outputs_and_equations(tmp_path):
    page = toy(tmp_path)
    assert "<title>A &lt;title&gt;</title>" in page
    assert '<a href="#toy">A toy</a>' in page and '<h2 id="toy-1-what-it-claims">' in page
    assert len(re.findall("<math", page)) == 3 and "$" not in page.replace("$5", "").partition("<main>")[2]
    assert re.search(r'<div class="equation"><math display="block">.*‖.*</math><span>\(7–9\)</span></div>', page)
    assert "<details><summary>import math … 1 line more</summary>" in page
    assert "<details open><summary>for x in y: … 1 line more</summary>" in page
    assert "<pre>a &lt; b\n</pre>" in page and "<pre>&lt;1&gt;</pre>" in page
    assert "ValueError: &lt;wrong&gt;" in page and f"data:image/png;base64,{PIXEL}" in page
    assert ">no<" not in page  # the richer of two representations


def test_links_lead_to_sections_out_of_the_page_or_nowhere(tmp_path):
    page = toy(tmp_path)
    assert '<a href="#other-two-words">there</a>' in page and 'id="other-two-words"' in page
    assert '<a href="https://example.org/a?b=1">far</a>' in page
    assert "../x.py" not in page and "gone" in page


def test_an_equation_that_is_none_is_a_sentence():
    with pytest.raises(ValueError, match=r"no equation: .frac\{1$"):
        report.equation(r"\frac{1")


def test_the_report_of_the_results_is_whole_and_needs_nothing_else(whole):
    page = whole.read_text()
    assert not re.search(r"<script|<link|<iframe|@import|url\(", page)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))
    sections = re.findall(r'<section id="([^"]+)">', page)
    assert sections[0] == "summary" and {"two_stage", "patch_ae", "classes", "gaps"} <= set(sections)
    anchors = set(re.findall(r' id="([^"]+)"', page))
    assert not {target for target in re.findall(r'href="#([^"]+)"', page)} - anchors
    for text in re.findall(r"<(?:p|td|li)>([^<]*)", page):  # no LaTeX is left over
        assert "\\" not in text and "$$" not in text, text
    assert page.count("<math") > 150 and page.count("<img") > 40
    with pytest.raises(json.JSONDecodeError):
        json.loads(page)


def test_pictures_are_those_of_the_gallery(whole):
    page = whole.read_text()
    shown = {base64.b64decode(data)[:2000] for data in re.findall(r"data:image/png;base64,([^\"]+)", page)}
    assert len(shown) > 40 and all(data.startswith(b"\x89PNG") for data in shown)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_it_whole(whole, tmp_path):
    """Equations and pictures have sizes, and nothing sticks out of the page at its side."""
    probe = """<script>addEventListener("load", () => { document.title = JSON.stringify({
        equations: [...document.querySelectorAll("math")].filter(m => !m.closest("details")
            && m.getBoundingClientRect().width < 2).length,
        pictures: [...document.images].filter(i => !i.naturalWidth).length,
        wide: document.documentElement.scrollWidth - innerWidth, all: document.querySelectorAll("math").length}) })
        </script>"""
    copy = tmp_path / "probed.html"
    copy.write_text(whole.read_text().replace("</body>", f"{probe}</body>"))
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,900",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=20000",
            "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
    )
    seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    assert (seen["equations"], seen["pictures"]) == (0, 0) and seen["wide"] <= 0 and seen["all"] > 150
