"""What `mm_hf predict` is made of: the rows it reads, what it says of them, and the file it writes."""
