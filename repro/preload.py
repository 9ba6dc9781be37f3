"""Imports that all job processes need. The server from which they are forked imports this, once for all."""

import gc

import nbformat
import papermill  # noqa: F401

import repro.job  # noqa: F401


nbformat.validate({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})  # compiles the schema
gc.freeze()  # pages that are not touched stay shared
