"""Selection of real images: each method selects ``ipc`` images of every class, one class at a time."""
