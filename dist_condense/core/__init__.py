"""Building blocks of the methods as functions of tensors; they use neither Ray nor files nor the configuration."""
