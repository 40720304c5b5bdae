"""Certificates across depth: how far the outputs of a network and of its shrunk self can be apart, over a domain."""

from onnx_coreset.core.certificates.depth.certify import EndToEnd, certify_ends, gaps
from onnx_coreset.core.certificates.depth.networks import FeedForward, Pair
from onnx_coreset.core.certificates.depth.scaling import Scaling, scaled_box

__all__ = ["EndToEnd", "FeedForward", "Pair", "Scaling", "certify_ends", "gaps", "scaled_box"]
