from ._algorithms import best_of as best_of
from ._algorithms import check_algorithm as check_algorithm
from ._algorithms import check_verifier as check_verifier
from ._algorithms import example_space as example_space
from ._algorithms import problems as problems
from ._algorithms import rugged as rugged
from ._backends import check_backend as check_backend
from ._backends import example_blocks as example_blocks
