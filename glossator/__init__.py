"""Glossator writes the glossary of a neural network. The public names; nothing else."""

from glossator.errors import GlossatorError

__version__ = "0.1.0"
__all__ = ["GlossatorError", "__version__"]
