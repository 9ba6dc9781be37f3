"""What each job's process would do anew: imported, once for all, by the server from which they are forked."""

import gc

import nbformat
import papermill  # noqa: F401

import repro.job  # noqa: F401


nbformat.validate({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})  # compiles the schema
gc.freeze()  # pages that are not touched stay shared
