"""Evidence with every answer: which modality, where in it, and how far to believe that."""
