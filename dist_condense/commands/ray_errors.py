"""What is raised when Ray, or a process of its, fails: for commands that work over Ray without knowing it."""

from ray.exceptions import RayError

from dist_condense.job.journal import RunFailed

RAY_ERRORS: tuple[type[Exception], ...] = (RayError, RunFailed)
