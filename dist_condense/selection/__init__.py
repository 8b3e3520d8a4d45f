"""Sets of real images: each selection method selects some images of every class, one class at a time."""
