"""What the tests of language models train tokenizers on and have them read."""

from envs.clevr_robot.task import ClevrRobotTask

CORPUS = [words for goal in ClevrRobotTask().goals("train")[:10] for words in goal.phrasings]
PROMPTS = ["push the red ball behind the blue ball", "a", "keep the green ball left of the cyan ball, please", "b c"]
VOCAB_SIZE = 320  # fewer than the corpus would give, so that every id is a token
