from ._agent import Agent as Agent
from ._learner import Learning as Learning
from .amc import AMC as AMC
from .haq import HAQ as HAQ
