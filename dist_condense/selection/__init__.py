"""Sets of real images: each selection chooses some images of every class, one class at a time."""
