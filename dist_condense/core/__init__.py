"""Parts of the methods, as functions of tensors: no Ray, no files, no configuration."""
