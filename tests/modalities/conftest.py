"""Every modality there is: those of the package, and the place of `examples/custom_modality.py`."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def place(imported):
    """The modality from outside is known while a file of tests runs."""
    return imported("custom_modality")
