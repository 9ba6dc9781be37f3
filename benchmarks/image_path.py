"""How many functions are between an image file and a result row?

    python benchmarks/image_path.py [CHECKOUT] [DATASET CLASS]

Runs notebooks/baselines.ipynb of a checkout (this one, if none is given) in this process, and counts the functions of
the repository's own modules that are called: from the file to the tensors of `data.one_class`, and from there to the
saved rows. CHECKOUT may be an earlier commit, which is counted in the same way. Nothing is timed.
Give an empty folder as $ADLIB_CACHE, so that images are read from their files.
"""

import os
import sys
import tempfile
from pathlib import Path


def own_function(code, checkout: Path) -> tuple[str, str] | None:
    """Returns module and name of a function of adlib/ or repro/; None for all other code and for module bodies."""
    file = Path(code.co_filename)
    if not file.is_absolute() or not file.is_relative_to(checkout):
        return None
    module = file.relative_to(checkout)
    if module.parts[0] not in ("adlib", "repro") or code.co_name.startswith("<"):
        return None
    return str(module), code.co_qualname


def trace(checkout: Path, dataset: str, normal_class: str) -> dict[str, set]:
    """Returns the functions called on each of the two parts of the way, as pairs of module and name."""
    import nbformat

    called = {"file to tensor": set(), "tensor to row": set()}
    part = [None]  # the part of the way that runs now

    def on_call(frame, event, _):
        found = own_function(frame.f_code, checkout)
        if found is None:
            return
        name = frame.f_code.co_name
        if event == "call" and name == "one_class" and part[0] is None:
            part[0] = "file to tensor"
        if event == "call" and part[0]:
            called[part[0]].add(found)
        if event == "return" and name == "one_class":
            part[0] = "tensor to row"
        if event == "return" and name == "save":
            part[0] = None
            sys.setprofile(None)

    with tempfile.TemporaryDirectory() as folder:
        values = {"dataset": dataset, "normal_class": normal_class, "out_dir": folder, "oracle_nu": [0.1]}
        namespace = {"display": lambda *_: None}
        for cell in nbformat.read(checkout / "notebooks" / "baselines.ipynb", 4).cells:
            if cell.cell_type != "code":
                continue
            if "one_class" in cell.source or part[0]:
                sys.setprofile(on_call)
            exec(compile(cell.source, "baselines.ipynb", "exec"), namespace)
            sys.setprofile(None)
            if "parameters" in cell.metadata.get("tags", []):
                namespace.update(values)
            if called["tensor to row"] and part[0] is None:  # the rows are saved
                break
    return called


if __name__ == "__main__":
    words = sys.argv[1:]
    here = Path(__file__).resolve().parents[1]
    checkout = Path(words.pop(0)).resolve() if len(words) % 2 else here
    dataset, normal_class = words or ("digits", "3")
    os.environ.setdefault("MPLBACKEND", "agg")
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    for part, functions in trace(checkout, dataset, normal_class).items():
        modules = sorted({module for module, _ in functions})
        print(f"{part}: {len(functions)} functions, {len(modules)} modules ({', '.join(modules)})")
