"""Read X-ray films and bring them to the views that a model was trained on. No trained model is used here."""
