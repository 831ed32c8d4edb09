"""Builders of the offline encoders and of the demonstration data sets."""
