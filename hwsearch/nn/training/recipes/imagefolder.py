"""For folders of photographs, such as ImageNet: long, with a moving average of the weights."""

from .._recipe import Recipe

RECIPE = Recipe(epochs=90, batch=256, amp="bf16", weight_decay=5e-5, warm_up=0.05, ema=0.9999)
