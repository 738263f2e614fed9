"""For folders of fewer photographs than 50,000: shorter than ImageNet's, with smaller batches and without a moving average."""

from .._recipe import Recipe

RECIPE = Recipe(epochs=40, batch=32, learning_rate=0.05, amp="bf16")
