"""Datasets by name: uint8 tensors, class names, masks, and the one-class splits of the papers.

    split = data.one_class("mnist", "8", protocol="official", seed=0, size=32)
    split.train, split.test, split.is_anomalous      # uint8 (N, 1, 32, 32), uint8 (M, 1, 32, 32), bool (M,)
    images = data.load("folder:screws", "test", size=128)

Names are those of `names.py`, or folder:PATH and npz:PATH for your own images; `sources.py` says where they are found.
"""
# ruff: noqa: F401

from repro.data.coil100 import COIL100_OBJECTS
from repro.data.names import CLASS_NAMES, PROTOCOLS, SUPERCLASSES, check_protocol, class_index, class_names, source
from repro.data.one_class import GOOD, OneClass, examples, one_class
from repro.data.sources import is_stand_in, load, missing, prepare, there
from repro.data.splits import Images
