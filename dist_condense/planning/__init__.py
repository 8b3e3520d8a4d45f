"""Estimates of a run's cost before it starts, from the amount of its work and the measured rates of a device."""
