"""One page of everything: the summary, the gallery's notebooks, classes and gaps, as a single HTML file.

    report.write("build/report.html")

It needs neither network nor scripts: equations are MathML, pictures lie within. Code is folded to its first line, but
for training loops.
"""

import functools
import html
import json
import re
from pathlib import Path

from repro.files import write_whole
from repro.register import CHECKOUT, load


STYLE = """
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; color: #1a202c; }
nav { position: fixed; top: 0; bottom: 0; width: 13em; overflow: auto; padding: 1.5em 1em; background: #f7fafc;
      box-sizing: border-box; font-size: 0.9em; }
nav a { display: block; padding: 0.25em 0; color: #2b6cb0; text-decoration: none; }
main { margin-left: 13em; padding: 1em 2.5em 4em; max-width: 58em; }
section + section { border-top: 1px solid #cbd5e0; margin-top: 4em; padding-top: 1em; }
h1 { font-size: 1.7em; } h2 { font-size: 1.3em; margin-top: 2em; } h3 { font-size: 1.1em; }
a { color: #2b6cb0; }
pre { font: 13px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-x: auto; margin: 0.5em 0; }
code { font: 0.88em ui-monospace, "DejaVu Sans Mono", monospace; }
details { margin: 0.5em 0; border-left: 3px solid #e2e8f0; padding-left: 0.8em; }
summary { cursor: pointer; color: #718096; font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.86em; margin: 1em 0; }
th, td { border: 1px solid #e2e8f0; padding: 0.25em 0.6em; text-align: left; vertical-align: top; }
th { background: #f7fafc; } img { max-width: 100%; }
.equation { display: flex; align-items: center; margin: 1em 0; padding: 0.3em 0; overflow: auto hidden; }
.equation math { flex: 1; } .equation span { padding-left: 1em; color: #4a5568; }
@media (max-width: 60em) { nav { position: static; width: auto; } main { margin: 0; padding: 1em; } }
@media print { nav { display: none; } main { margin: 0; } }
"""


def write(path):
    """Write the report of results/ to a file; returns its path.

    Raises FileNotFoundError where there is no gallery, ValueError for an equation that is none, and where nbconvert or
    math-core are not installed.
    """
    folder = CHECKOUT / "results"
    papers = [name for name in load() if (folder / "gallery" / f"{name}.ipynb").is_file()]
    if not papers or not (folder / "gallery" / "summary.ipynb").is_file():
        raise FileNotFoundError("results/gallery holds no notebooks: run make gallery first")
    parts = [folder / "gallery" / f"{name}.ipynb" for name in ("summary", *papers)]
    parts += [folder / "classes.md", folder / "gaps.md"]
    write_whole(path, page(parts, "adlib: papers on autoencoder anomaly detection, reproduced").encode(), durable=False)
    return Path(path)


def page(parts, title):
    """The whole HTML of executed notebooks and Markdown files, one section each, in order."""
    names, sections, links = [path.stem for path in parts], [], []
    for path in parts:
        text = path.read_text(encoding="utf-8")
        render = _renderer(path.stem, names)
        body = notebook(json.loads(text), render) if path.suffix == ".ipynb" else render(text)
        found = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.DOTALL)
        sections.append(f'<section id="{path.stem}">\n{body}\n</section>')
        links.append(f'<a href="#{path.stem}">{found[1] if found else path.stem}</a>')
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}{_code_style()}</style>\n</head>\n<body>\n<nav>\n{chr(10).join(links)}\n</nav>\n<main>\n"
        f"{chr(10).join(sections)}\n</main>\n</body>\n</html>\n"
    )


def notebook(content, render):
    """The cells of an executed notebook, a dict, as HTML; render: Markdown -> HTML."""
    found = []
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found.append(render(source))
        elif cell["cell_type"] == "code":
            found.append(_code(source))
            found += [_output(output, render) for output in cell.get("outputs", [])]
    return "\n".join(found)


def _code(source):
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    first, *rest = source.strip().splitlines() or [""]
    more = f" … {len(rest)} line{'s' * (len(rest) > 1)} more" if rest else ""
    shown = highlight(source, PythonLexer(), HtmlFormatter())
    state = " open" if re.search(r"step\(", source) else ""  # the training loop is what a reader came for
    return f"<details{state}><summary>{html.escape(first)}{more}</summary>{shown}</details>"


def _output(output, render):
    """One output of a cell: the richest of what it holds."""
    if output["output_type"] == "stream":
        return f"<pre>{html.escape(''.join(output['text']))}</pre>"
    if output["output_type"] == "error":
        return f"<pre>{html.escape(output['ename'])}: {html.escape(output['evalue'])}</pre>"
    data = {kind: "".join(value) if isinstance(value, list) else value for kind, value in output["data"].items()}
    if "image/png" in data:
        return f'<p><img alt="picture" src="data:image/png;base64,{data["image/png"].strip()}"></p>'
    if "text/markdown" in data:
        return render(data["text/markdown"])
    return f"<pre>{html.escape(data.get('text/plain', ''))}</pre>"


def _code_style():
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style="friendly").get_style_defs(".highlight").replace("#f0f0f0", "#fff")


@functools.cache
def _mathml():
    try:
        from math_core import LatexToMathML
    except ImportError:
        raise ValueError("a report needs the package math-core: install the extra `dev`") from None
    return LatexToMathML()


def equation(latex, block=False):
    """LaTeX as MathML Core; of a block with its \\tag, the number, at its right. Raises ValueError for what is none."""
    number = re.search(r"\\tag\{(.*?)\}", latex)
    try:
        found = _mathml().convert_with_local_state(re.sub(r"\\tag\{.*?\}", "", latex), displaystyle=block)
    except Exception as error:  # its own kind, whose text is a drawing in colors
        raise ValueError(f"no equation: {latex}") from error
    if not block:
        return found
    return f'<div class="equation">{found}' + (f"<span>({number[1]})</span></div>" if number else "</div>")


def _renderer(name, names):
    """Markdown -> HTML for the section `name`; links to files of the checkout lead to sections, or nowhere."""
    try:
        from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
    except ImportError:
        raise ValueError("a report needs the package nbconvert: install the extra `dev`") from None

    class Renderer(IPythonRenderer):
        def block_math(self, body):
            return equation(body, block=True)

        def inline_math(self, body):
            return equation(body)

        def heading(self, text, level, **attrs):
            plain = html.unescape(re.sub(r"<[^>]+>", "", text))
            anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            return f'<h{level} id="{name}-{anchor}">{text}</h{level}>\n'

        def link(self, text, url, title=None):
            file, _, anchor = url.partition("#")
            if re.match("https?:", url):
                return f'<a href="{html.escape(url)}">{text}</a>'
            target = Path(file).stem if file else name
            if target not in names:
                return text
            return f'<a href="#{target}{f"-{anchor}" if anchor else ""}">{text}</a>'

        def table(self, text):
            return f'<div class="wide"><table>\n{text}</table></div>\n'

    return MarkdownWithMath(renderer=Renderer(escape=False)).render
