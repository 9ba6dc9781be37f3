"""The summary, the gallery's notebooks, classes and gaps as HTML pages, and an index of them.

    report.write("build/report")     # -> build/report/index.html, two_stage.html, ...

They need neither network nor scripts: equations are MathML, pictures are embedded. Code is folded, except training.
"""

import re
from pathlib import Path

import nbformat
from math_core import LatexError, LatexToMathML
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from repro.register import CHECKOUT, load
from repro.rows import write_whole


TEMPLATE = """
{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block extra_css %}<style>
main { max-width: 75em; margin: auto; } summary { font-family: monospace; padding-top: 5px; }
</style>{% endblock %}
{% block input %}{% set lines = cell.source.strip().splitlines() or [''] %}
<details{{ ' open' if 'step(' in cell.source }}>
<summary>{{ lines[0] | e }}{{ ' … %d more' % (lines | length - 1) if lines | length > 1 }}</summary>{{ super() }}
</details>{% endblock %}
{% block data_png %}<img alt="picture" src="data:image/png;base64,{{ output.data['image/png'] }}">{% endblock %}
"""


def write(folder: Path | str) -> Path:
    """Write the report of results/ into a folder; returns its index. Raises FileNotFoundError without a gallery."""
    results = CHECKOUT / "results"
    gallery = [path for name in ("summary", *load()) if (path := results / "gallery" / f"{name}.ipynb").is_file()]
    if len(gallery) < 2 or gallery[0].stem != "summary":
        raise FileNotFoundError("results/gallery holds no notebooks: run make gallery first")
    tables = re.split(r"(?m)^(?=## )", (results / "summary.md").read_text(encoding="utf-8"))[1]  # its first section
    title = "adlib: papers on autoencoder anomaly detection, reproduced"
    for name, page in pages([*gallery, results / "classes.md", results / "gaps.md"], title, tables).items():
        write_whole(Path(folder, f"{name}.html"), page.encode(), durable=False)
    return Path(folder, "index.html")


def pages(parts: list[Path], title: str, text: str) -> dict[str, str]:
    """stem -> HTML of executed notebooks and Markdown files, and of `index`, which has links to them and a text."""
    notebooks = {part.stem: _notebook(part.read_text(encoding="utf-8"), part.suffix) for part in parts}
    headings = [re.search(r"(?m)^# (.+)", "\n".join(cell.source for cell in nb.cells)) for nb in notebooks.values()]
    titles = {name: heading[1] if heading else name for name, heading in zip(notebooks, headings, strict=True)}
    links = "\n".join(f"- [{heading}]({name}.html)" for name, heading in titles.items())
    notebooks = {"index": _notebook(f"# {title}\n\n{links}\n\n{text}", ".md"), **notebooks}
    bar = " · ".join(f"[{name}]({name}.html)" for name in notebooks)
    convert = _converter(notebooks)
    for notebook in notebooks.values():
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(bar, id="bar"))
    return {name: convert(notebook, titles.get(name, title)) for name, notebook in notebooks.items()}


def _notebook(text, suffix):
    if suffix == ".ipynb":
        return nbformat.reads(text, as_version=4)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="text")])


def _converter(names):
    """A function from a notebook and its title to HTML, in which links lead to the pages `names` and to the web."""
    mathml = LatexToMathML(fancy_error=False)

    def equation(latex, block):
        if "\\tag" in latex:  # math-core numbers an equation only here, and only in ASCII
            latex = f"\\begin{{equation}}{latex.replace('–', '-')}\\end{{equation}}"
        try:
            return mathml.convert_with_local_state(latex, displaystyle=block)
        except LatexError as error:
            raise ValueError(f"no equation: {latex}: {error}") from error

    class Renderer(IPythonRenderer):
        def block_math(self, body):
            return equation(body, block=True)

        def inline_math(self, body):
            return equation(body, block=False)

        def link(self, text, url, title=None):
            name = Path(url.partition("#")[0]).stem
            if re.match("https?:", url):
                return super().link(text, url, title)
            return super().link(text, f"{name}.html", title) if name in names else text

    renderer = MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True))
    exporter = HTMLExporter(raw_template=TEMPLATE, filters={"markdown2html": renderer.render})
    return lambda notebook, title: exporter.from_notebook_node(notebook, {"metadata": {"name": title}})[0]
