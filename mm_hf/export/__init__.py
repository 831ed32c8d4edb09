"""Models as graphs for a service without torch: `export_model`, and the file that answers with them, `runtime.py`."""

from .write import export_model


__all__ = ["export_model"]
