"""Check that nothing that a run writes is in a folder whose folders are classes of images."""

from collections.abc import Iterator
from pathlib import Path

from dist_condense.data.catalogue import is_url
from dist_condense.settings.config import RunConfig
from dist_condense.settings.selecting import place
from dist_condense.settings.tracking_address import resolve_uri, sqlite_file


def problems(config: RunConfig) -> Iterator[str]:
    """Yield an error message for each folder of the run that is in ``dataset.root``, if test images are held out there.

    Every folder in this root is a class, so the run's images would be read by later runs.
    """
    data = config.dataset
    if data.test_fraction is None or data.root is None or is_url(data.root):
        return
    root = Path(data.root).expanduser().resolve()
    database = sqlite_file(resolve_uri(config.tracking.uri, config.output))
    written = {
        "tracking.checkpoints": config.tracking.checkpoints,
        "output": config.output,
        "evaluation.sets": place(config),
        "tracking.uri": database and database.parent,
    }
    for key, folder in written.items():
        if folder and not is_url(str(folder)) and Path(folder).expanduser().resolve().is_relative_to(root):
            yield f"{key}: {folder} is in dataset.root, whose folders are classes of images; give one outside of it"
            if key == "output":  # the places of the others follow from it, unless they are given
                return
