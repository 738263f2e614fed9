"""Training: one loop for everything that learns, resumable at every step."""
