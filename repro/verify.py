"""Compares the rows of jobs that ran again with their earlier rows."""

from pathlib import Path

import numpy as np
import pandas as pd

from repro.compare import by_metric, frame
from repro.register import describe
from repro.rows import KEY, read
from repro.verdicts import TOLERANCE, t_quantile


def verify(jobs: list[dict], old_folder: Path | str, new_folder: Path | str) -> pd.DataFrame:
    """Old and new rows of the jobs, side by side: one line for each metric that an old row has.

    Columns: job (its id), method, metric, old, new (NaN: no such row came out), difference (new - old), spread,
    n_seeds, verdict, and old_run and new_run: device, torch and commit. spread: two seeds of the same method differ by
    less, 19 times in 20: t s sqrt(2), where s is the standard deviation over n_seeds committed seeds and t Student's
    97.5 % quantile for n_seeds - 1; NaN for one seed. verdict: "same" to the last printed digit; "within" the spread
    or, without one, the tolerance of a printed number; else "outside"; "missing".
    """
    ids, papers = [job["id"] for job in jobs], dict.fromkeys(job["paper"] for job in jobs)

    def of(folder):
        good = [row for paper in papers for row in read(Path(folder, f"{paper}.csv")) if row["status"] == "ok"]
        rows = by_metric(frame(good))
        run = rows["device"] + ", torch " + rows["torch"] + ", commit " + rows["commit"].replace("", "?")
        return rows.assign(run=run)

    old, new = of(old_folder), of(new_folder)
    key = [*(name for name in KEY if name != "seed"), "metric"]  # what two seeds of a method share
    seeds = old.groupby(key)["value"]
    old = old.assign(n_seeds=seeds.transform("size"), spread=seeds.transform("std") * 2**0.5)  # NaN of one seed
    old["spread"] *= old["n_seeds"].map(t_quantile)
    old = old[old["job"].isin(ids)].sort_values("job", key=lambda job: job.map(ids.index), kind="stable")
    both = old.merge(new[[*key, "job", "value", "run"]], "left", [*key, "job"], suffixes=("", "_new"))
    both["difference"] = (both["value_new"] - both["value"]).round(6)
    size, allowed = both["difference"].abs(), both["spread"].fillna(TOLERANCE)
    both["verdict"] = np.select([size.isna(), size == 0, size <= allowed], ["missing", "same", "within"], "outside")
    both = both.rename(columns={"value": "old", "value_new": "new", "run": "old_run", "run_new": "new_run"})
    return both["job method metric old new difference spread n_seeds verdict old_run new_run".split()]


def verify_text(records: pd.DataFrame, jobs: list[dict]) -> str:
    """The records of `verify` as text, under a heading for each job, and the counts of the verdicts."""
    jobs, lines = {job["id"]: job for job in jobs}, []
    for job, part in records.groupby("job", sort=False):
        runs = part.iloc[0][["old_run", "new_run"]].fillna("-")
        lines += ["", describe(jobs[job]), f"  old: {runs['old_run']}", f"  new: {runs['new_run']}"]
        shown = part.drop(columns=["job", "old_run", "new_run"])
        lines.append(shown.to_string(index=False, na_rep="-", float_format="{:.6f}".format))
    counts = records["verdict"].value_counts(sort=False)
    return "\n".join([*lines, "", ", ".join(f"{count} {verdict}" for verdict, count in counts.items())])
