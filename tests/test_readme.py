"""The README as a forge shows it, in a browser if there is one: the first screen answers, and nothing sticks out."""

import html
from pathlib import Path

import pytest
from browser import look, needs_chromium
from nbconvert.filters.markdown_mistune import markdown2html_mistune


README = Path(__file__).resolve().parents[1] / "README.md"
# The rules of a forge's page that decide what fits: sizes, margins, wide tables and code that scroll in themselves.
STYLE = """
body { margin: 0; font: 16px/1.5 "Noto Sans", "DejaVu Sans", Helvetica, Arial, sans-serif; overflow-wrap: break-word; }
article { max-width: 896px; margin: 0 auto; padding: 32px; box-sizing: border-box; }
@media (max-width: 767px) { article { padding: 16px; } }
h1 { font-size: 2em; line-height: 1.25; margin: 0 0 16px; padding-bottom: .3em; }
h2 { font-size: 1.5em; line-height: 1.25; margin: 24px 0 16px; padding-bottom: .3em; }
p, table, pre, ul { margin: 0 0 16px; }
img { max-width: 100%; }
code { font: 85% "DejaVu Sans Mono", monospace; padding: .2em .4em; white-space: break-spaces; }
pre { padding: 16px; overflow: auto; font-size: 85%; line-height: 1.45; background: #f6f8fa; }
pre code { padding: 0; white-space: pre; font-size: 100%; }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse; }
td, th { padding: 6px 13px; border: 1px solid #d1d9e0; }
"""
FIND = """[...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, box = element => element.getBoundingClientRect().toJSON()
    const command = page.querySelector("pre"), table = page.querySelector("table")
    const room = page.documentElement.clientWidth, all = [...page.querySelectorAll("article *")]
    const isFree = element => !element.parentElement.closest("table, pre")  // else it scrolls with these
    return {
        wide: page.documentElement.scrollWidth - room,
        out: all.filter(element => isFree(element) && box(element).right > room).map(element => element.outerHTML),
        broken: [...page.images].filter(image => !image.naturalWidth).map(image => image.src),
        picture: box(page.images[0]), command: box(command), hidden: command.scrollWidth - command.clientWidth,
        answers: [...table.querySelectorAll("tbody tr")].map(row => box(row)),
    }
})"""


@needs_chromium
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_first_screen_holds_picture_command_and_answers_and_nothing_sticks_out(width, height, tmp_path):
    body = markdown2html_mistune(README.read_text(encoding="utf-8"))
    page = f'<base href="{README.parent.as_uri()}/"><style>{STYLE}</style><article>{body}</article>'
    frame = f'<iframe srcdoc="{html.escape(page)}" width="{width}" height="{height}" style="border: 0"></iframe>'
    [seen] = look(f"<!doctype html><title></title><body>{frame}</body>", FIND, tmp_path)
    assert (seen["wide"], seen["out"], seen["broken"]) == (0, [], [])
    assert seen["picture"]["bottom"] <= height
    assert seen["command"]["bottom"] <= height and seen["hidden"] == 0
    assert len(seen["answers"]) == 5 and all(answer["right"] <= width for answer in seen["answers"])  # nothing scrolls
    two_lines = 54
    assert seen["answers"][0]["top"] + two_lines <= height  # the first words of a question
    if width > 1000:
        assert seen["answers"][1]["bottom"] <= height
