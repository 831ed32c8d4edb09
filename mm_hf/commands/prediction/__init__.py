"""The parts of `mm_hf predict`: the rows that it reads, its answers, and the file that it writes."""
