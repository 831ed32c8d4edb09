"""Training by recipe: from a command line to a finished run, with Accelerate (`train`) or the Trainer (`finetune`)."""
