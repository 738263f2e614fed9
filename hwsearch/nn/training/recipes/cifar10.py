"""For the 50,000 small photographs of CIFAR-10, and for all data whose name has no recipe."""

from .._recipe import Recipe

RECIPE = Recipe(epochs=12, batch=128, learning_rate=0.2, amp="bf16")
