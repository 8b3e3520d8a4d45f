"""Errors of Ray and its processes, in a module that commands import only if they use Ray."""

from ray.exceptions import RayError

from dist_condense.job.journal import RunFailed

RAY_ERRORS: tuple[type[Exception], ...] = (RayError, RunFailed)
