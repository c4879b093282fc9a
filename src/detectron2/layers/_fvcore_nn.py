"""What the library takes from `fvcore.nn`, which scripts its focal loss when it is imported.

Everything outside of this package gets it from here, so that whoever imports it first, PyTorch says
nothing to the user of what it deprecates.
"""

from detectron2.ops.loops import no_torchscript_warnings

with no_torchscript_warnings():
    from fvcore import nn
    from fvcore.nn.jit_handles import get_shape
    from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats

__all__ = ["get_bn_modules", "get_shape", "nn", "update_bn_stats"]
