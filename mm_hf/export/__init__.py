"""Exports models as graphs for a service without torch: `export_model`, and `runtime.py`, which answers with them."""

from .write import export_model


__all__ = ["export_model"]
