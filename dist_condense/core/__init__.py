"""The methods' parts, on tensors only: no Ray, no files, no configuration."""
