"""Images with labels, from memory, folders or by name."""
