"""Training by recipe: from a command line to a finished run, by Accelerate (`train`) or the Trainer (`finetune`)."""
