"""Links of the README, the pages of results/ and all notebooks: what they lead to is there, headings included."""

import json
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "results").glob("*.md"),
    *(ROOT / "notebooks").glob("*.ipynb"),
    *(ROOT / "results" / "gallery").glob("*.ipynb"),
]


def prose(path):
    """The Markdown of a page, code left out."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"(?ms)^```.*?^```|`[^`\n]+`\n?(?!\])", "", text)


def anchors(path):
    """What a forge makes of the headings: lower case, punctuation dropped, hyphens for spaces."""
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"(?m)^#+ +(.+?) *$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path):
    found = re.findall(r"\]\(([^()\s]+)\)", prose(path)) + re.findall(r"<(https?://[^>]+)>", prose(path))
    found += re.findall(r'(?:href|src)="([^"]+)"', prose(path))
    for target in found:
        if re.match(r"https?://", target):
            assert re.fullmatch(r"https://[\w.-]+\.[a-z]{2,}(/[\w.~%/#?=&+-]*)?", target), target
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name} links to {target}, which is not there"
        assert there.is_relative_to(ROOT), f"{path.name} links to {target}, outside of the checkout"
        assert not anchor or anchor in anchors(there), f"{path.name} links to {target}, a heading that is not there"


def test_links_were_found_at_all():
    assert len(re.findall(r"\]\(results/classes.md#", (ROOT / "README.md").read_text())) >= 5
    assert "feature_ae-mnist-official-auroc" in anchors(ROOT / "results" / "classes.md")
