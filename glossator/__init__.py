"""Glossator writes the glossary of a neural network. The public names; nothing else."""

from glossator.errors import GlossatorError, StoreError, UsageError
from glossator.types import Estimate, Explanation, FeatureId, FeatureRecord, Prediction, Windows

__version__ = "0.1.0"
__all__ = [
    "Estimate",
    "Explanation",
    "FeatureId",
    "FeatureRecord",
    "GlossatorError",
    "Prediction",
    "StoreError",
    "UsageError",
    "Windows",
    "__version__",
]
