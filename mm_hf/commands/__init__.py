"""What `mm_hf <verb>` does beside training: one file a verb."""
