"""Imports that all jobs need. The server from which their processes are forked does them once."""

import gc

import nbformat
import papermill  # noqa: F401

import repro.job  # noqa: F401


nbformat.validate({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})  # compiles the schema
gc.freeze()  # pages that are not touched stay shared
