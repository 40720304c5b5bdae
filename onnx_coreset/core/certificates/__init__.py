"""Certificates: how far a layer and its shrunk self can be apart at worst, proven, and the worst input found."""

from onnx_coreset.core.certificates.certify import Certificate, Effort, certify
from onnx_coreset.core.certificates.domains import BallDomain, BoxDomain, Domain, EllipsoidDomain

__all__ = ["BallDomain", "BoxDomain", "Certificate", "Domain", "Effort", "EllipsoidDomain", "certify"]
