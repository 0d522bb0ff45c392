"""Measure trained models on unseen cases."""
