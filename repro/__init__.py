"""Runs the notebooks, stores their rows, compares them with the printed tables."""
