"""Errors of Ray and its processes, for commands that may use Ray without importing it."""

from ray.exceptions import RayError

from dist_condense.job.journal import RunFailed

RAY_ERRORS: tuple[type[Exception], ...] = (RayError, RunFailed)
