"""Execute docs/condense.ipynb and store it with its outputs: python docs/make_notebook.py."""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("condense.ipynb")


def executed(folder: Path) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of an execution in ``folder``; raise at the first cell that fails.

    Times, and the version of Python, are left out, so that it changes only where a cell or a result does.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources, record_timing=False).execute()
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    return notebook


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        nbformat.write(executed(Path(folder)), NOTEBOOK)
