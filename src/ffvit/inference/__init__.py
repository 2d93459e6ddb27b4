"""Evaluation and prediction: predictions, metrics with their uncertainty, calibration, engines."""
