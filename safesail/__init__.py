"""Safe-SAIL: interpret the features of sparse autoencoders for safety work."""

__all__ = ["__version__"]

__version__ = "0.1.0"
