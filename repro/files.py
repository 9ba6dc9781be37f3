"""The old name of what is in rows.py now; goes with the last module that imports it."""

from repro.rows import read_table, write_whole


__all__ = ["read_table", "write_whole"]
