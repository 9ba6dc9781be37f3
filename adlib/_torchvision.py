"""The only place that imports torchvision, and only on a call: a job that reads prepared data does not need it."""

import sys
from types import ModuleType

import torch


_operators = []  # the declarations below live as long as this list keeps a reference to them


def import_torchvision() -> ModuleType:
    """Returns the module torchvision, even if its compiled half does not fit the installed torch.

    The usual torchvision wheel next to a CPU build of torch stops at import with "operator torchvision::nms does not
    exist", since its compiled half needs CUDA libraries. Models, datasets and transforms need only the Python half,
    which imports once two operators are declared. Any other error of the import is passed on.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        # Otherwise Python would find the partly imported modules again.
        for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
            del sys.modules[name]
        if not _operators:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _operators.append(library)
        import torchvision
    return torchvision
