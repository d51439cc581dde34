"""Learning-rate schedules: one class each, found by the registry of :mod:`weft.training.schedule`."""
