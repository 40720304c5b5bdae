"""Mean and covariance of hidden features: in closed form under normal inputs, from samples otherwise."""

from onnx_coreset.core.gram.layers import layer_moments, spreads
from onnx_coreset.core.gram.moments import Moments, sampled
from onnx_coreset.core.gram.normal import closed

__all__ = ["Moments", "closed", "layer_moments", "sampled", "spreads"]
