"""The old name of job.py; goes with the last module that imports it."""

import sys

from repro import job


sys.modules[__name__] = job
