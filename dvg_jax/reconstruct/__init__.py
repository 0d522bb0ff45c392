"""Reconstruct a CT from X-ray files with a trained model, and write it."""
