"""What an answer rests on, and what to ask for next."""
