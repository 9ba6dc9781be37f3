"""Does a committed row come out again? The same job on this machine, set beside the row and the spread of its seeds.

again = verify.committed(jobs(register, papers=["two_stage"], profile="quick"), "results")
sweep.reproduce(again, "build/verify")              # an empty folder
records = verify.compare(again, "results", "build/verify")
"""

import math
import statistics

from repro import results
from repro.sweep import outstanding, rows_path


def committed(jobs, folder):
    """Those of the jobs that have rows under `folder`, with the settings that the register gives them now."""
    return outstanding(jobs, folder)[1]


def compare(jobs, old_folder, new_folder):
    """Old and new rows of the jobs, side by side: a list of dicts, one for each metric that the old row has.

    job, method, metric, old, new (None: no such row came out), difference (new - old), spread, n_seeds, verdict, and
    old_run and new_run: device, torch and commit. spread is what two seeds of the same method differ by, 19 times in
    20: t s sqrt(2), where s is the standard deviation over n_seeds committed seeds and t Student's 97.5 % quantile for
    n_seeds - 1; None where there is one seed. verdict: "same" to the last printed digit; "within" the spread, or,
    where there is none, the tolerance of a printed number; else "outside"; "missing" without a new row.
    """
    records = []
    for job in jobs:
        old = [row for row in results.read(rows_path(old_folder, job)) if row["status"] == "ok"]
        fresh = {_key(row): row for row in results.read(rows_path(new_folder, job)) if row["job"] == job["id"]}
        for row in (row for row in old if row["job"] == job["id"]):
            again = fresh.get(_key(row))
            for metric in (metric for metric in results.METRICS if row[metric]):
                seeds = [float(one[metric]) for one in old if _key(one) == _key(row) and one[metric]]
                records.append(
                    {
                        "job": job,
                        "method": row["method"],
                        "metric": metric,
                        "old_run": _run(row),
                        "new_run": again and _run(again),
                        "n_seeds": len(seeds),
                        **_judged(float(row[metric]), again and float(again[metric]), seeds),
                    }
                )
    return records


def _judged(old, new, seeds):
    if new is None:
        return {"old": old, "new": None, "difference": None, "spread": None, "verdict": "missing"}
    n = len(seeds)
    spread = results.t_quantile(n) * statistics.stdev(seeds) * math.sqrt(2) if n > 1 else None
    difference = round(new - old, 6)
    allowed = results.TOLERANCE if spread is None else spread
    verdict = "same" if difference == 0 else "within" if abs(difference) <= allowed else "outside"
    return {"old": old, "new": new, "difference": difference, "spread": spread, "verdict": verdict}


def _key(row):
    """What two seeds of a method share."""
    return tuple(row[name] for name in results.KEY if name != "seed")


def _run(row):
    return f"{row['device']}, torch {row['torch']}, commit {row['commit'] or '?'}"


def table(records):
    """The records as lines of text, below a line for each job."""
    from repro.register import describe

    lines, before = [], None
    for record in records:
        if record["job"]["id"] != before:
            before = record["job"]["id"]
            lines += ["", describe(record["job"]), f"  old: {record['old_run']}", f"  new: {record['new_run'] or '-'}"]
            lines.append(f"  {'method':26}{'metric':18}{'old':>9}{'new':>10}{'difference':>12}  spread over seeds")
        new = "-" if record["new"] is None else f"{record['new']:.6f}"
        difference = "-" if record["difference"] is None else f"{record['difference']:+.6f}"
        spread = "one seed" if record["spread"] is None else f"{record['spread']:.4f} ({record['n_seeds']} seeds)"
        lines.append(
            f"  {record['method']:26}{record['metric']:18}{record['old']:9.6f}{new:>10}{difference:>12}  "
            f"{spread:20}{record['verdict']}"
        )
    counts = {}
    for record in records:
        counts[record["verdict"]] = counts.get(record["verdict"], 0) + 1
    return "\n".join([*lines, "", ", ".join(f"{count} {verdict}" for verdict, count in counts.items())])
