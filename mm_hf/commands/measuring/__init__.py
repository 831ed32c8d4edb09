"""Parts of `mm_hf evaluate`."""
